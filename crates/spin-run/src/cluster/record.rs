//! The list of what was submitted: a line for each job, in the order of time.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use spin_store::{StoreError, fsutil};

use super::{ClusterError, Result};

/// A job that was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// When, in UTC.
    pub at: String,
    /// The step.
    pub step: String,
    /// Slurm's number of the job, or of the array.
    pub job: String,
    /// Its elements; none of a single job.
    pub elements: Vec<u32>,
    /// In how many shares the step was cut then.
    pub shards: u32,
    /// The step's command then.
    pub command: Vec<String>,
    /// What it waits for.
    pub after: Vec<String>,
}

/// The list, with the lock of who may submit.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// In the order of submission.
    pub jobs: Vec<Submitted>,
}

/// Held while one process submits or cancels; released when dropped, or with the
/// process.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "it is held")] File);

impl Record {
    /// Reads the list of a directory; an empty one where there is none.
    ///
    /// A last line that is not whole is what a killed submission leaves: its job
    /// is found by its comment in the queue.
    ///
    /// # Errors
    /// When it cannot be read, or a line is none of its.
    pub fn read(dir: &Path) -> Result<Record> {
        let path = dir.join("jobs.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            Err(e) => return Err(StoreError::io("read", &path)(e).into()),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let parse = |(index, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|e| ClusterError::Record {
                path: path.clone(),
                line: index + 1,
                problem: format!("is no record of a job ({e})"),
            })
        };
        let jobs = whole.lines().enumerate().map(parse).collect::<Result<_>>()?;
        Ok(Record { path, jobs })
    }

    /// Takes the lock of a run's jobs.
    ///
    /// # Errors
    /// When another process has it ([`std::fs::TryLockError::WouldBlock`] in the
    /// chain), or the directory cannot be written.
    pub fn hold(dir: &Path) -> Result<Hold> {
        fsutil::create_dir_all(dir)?;
        let path = dir.join("submit.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Hold(file)),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(StoreError::locked(path, "another spin-run submit or cancel").into())
            }
            Err(std::fs::TryLockError::Error(e)) => Err(StoreError::io("lock", &path)(e).into()),
        }
    }

    /// Adds a job, to the disk and here.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, job: Submitted) -> Result<()> {
        self.jobs.push(job);
        let lines = self.jobs.iter().map(|job| serde_json::to_string(job).expect("plain data") + "\n");
        let text: String = lines.collect();
        Ok(fsutil::write_atomic(&self.path, text.as_bytes())?)
    }

    /// The last job that was submitted for a step, or for an element of it.
    pub fn last(&self, step: &str, element: Option<u32>) -> Option<&Submitted> {
        let is_of = |job: &&Submitted| {
            job.step == step && element.map_or(job.elements.is_empty(), |element| job.elements.contains(&element))
        };
        self.jobs.iter().rev().find(is_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_kept_and_a_torn_line_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let job = |step: &str, job: &str, elements: &[u32]| Submitted {
            at: "2024-01-01T00:00:00Z".into(),
            step: step.into(),
            job: job.into(),
            elements: elements.to_vec(),
            shards: 1,
            command: vec!["spin-fit".into()],
            after: Vec::new(),
        };
        let mut record = Record::read(dir.path()).expect("an empty one");
        let hold = Record::hold(dir.path()).expect("nobody has it");
        assert!(Record::hold(dir.path()).is_err_and(|error| error.to_string().contains("another spin-run submit")));
        for (step, number, elements) in [("sample-0", "1", &[1, 2][..]), ("fit-0", "2", &[]), ("sample-0", "3", &[2])] {
            record.add(job(step, number, elements)).expect("writable");
        }
        drop(hold);
        let path = dir.path().join("jobs.jsonl");
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(&path, format!("{text}{{\"at\": \"20")).expect("writable");
        let again = Record::read(dir.path()).expect("a torn line is left out");
        assert_eq!(again.jobs, record.jobs);
        let last = |step, element| again.last(step, element).map(|job| job.job.as_str());
        assert_eq!(
            [last("sample-0", Some(1)), last("sample-0", Some(2)), last("fit-0", None)],
            ["1", "3", "2"].map(Some)
        );
        assert_eq!([last("sample-0", None), last("sample-0", Some(3)), last("pair-0", None)], [None; 3]);
        std::fs::write(&path, "{}\n").expect("writable");
        let error = Record::read(dir.path()).expect_err("no record");
        assert!(error.is_bad_input() && error.to_string().contains("line 1"), "{error}");
    }
}
