//! What Slurm says of jobs: `squeue` of those that are not over, `sacct`, where a
//! site keeps accounts, of those that are.

/// What `squeue` is to be called with: all jobs of who asks, each element of an
/// array on its own line.
pub const SQUEUE: [&str; 5] = ["--me", "--noheader", "--array", "--states=all", "--format=%F|%K|%T|%r|%M|%N|%k"];

/// A job that the queue knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The job, or the array.
    pub job: String,
    /// Which element of it.
    pub element: Option<u32>,
    /// Slurm's word, such as `PENDING`.
    pub state: String,
    /// Why it waits, or ended.
    pub reason: String,
    /// How long it has run.
    pub time: String,
    /// Where it runs.
    pub nodes: String,
    /// What it was submitted as.
    pub comment: String,
}

impl Queued {
    /// Whether it is not over: those that are stay for some minutes.
    pub fn is_live(&self) -> bool {
        const LIVE: [&str; 8] = [
            "PENDING",
            "CONFIGURING",
            "RUNNING",
            "COMPLETING",
            "SUSPENDED",
            "REQUEUED",
            "REQUEUE_HOLD",
            "SPECIAL_EXIT",
        ];
        LIVE.contains(&self.state.as_str())
    }

    /// Whether it waits for its turn.
    pub fn waits(&self) -> bool {
        ["PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING"].contains(&self.state.as_str())
    }

    /// Its number as Slurm's commands take it.
    pub fn id(&self) -> String {
        id(&self.job, self.element)
    }
}

/// The number of a job, or of an element of an array, as Slurm's commands take it.
pub fn id(job: &str, element: Option<u32>) -> String {
    element.map_or_else(|| job.to_owned(), |element| format!("{job}_{element}"))
}

/// The lines of `squeue` with [`SQUEUE`]. What does not look like one is left out:
/// plugins of sites print lines of their own.
pub fn parse(text: &str) -> Vec<Queued> {
    let line = |line: &str| {
        let mut fields = line.splitn(7, '|').map(|field| field.trim().to_owned());
        let (job, element) = (fields.next()?, fields.next()?);
        if job.is_empty() || !job.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Queued {
            job,
            element: element.parse().ok(),
            state: fields.next()?,
            reason: fields.next()?,
            time: fields.next()?,
            nodes: fields.next()?,
            comment: fields.next()?,
        })
    };
    text.lines().filter_map(line).collect()
}

/// What `sacct` is to be called with, beside the jobs.
pub const SACCT: [&str; 4] = ["--noheader", "--allocations", "--parsable2", "--format=JobID,State,ExitCode,NodeList"];

/// How a job ended, of a line of `sacct` with [`SACCT`]: number and words.
pub fn parse_accounts(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let mut fields = line.split('|');
        let (job, state, code, nodes) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let on = if nodes.is_empty() || nodes == "None assigned" { String::new() } else { format!(" on {nodes}") };
        Some((job.to_owned(), format!("{}, exit {code}{on}", state.to_lowercase())))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_squeue_are_read() {
        let text = "12|3|RUNNING|None|1:05|n1|spin:sample-0:/s/.slurm/demo\n\
                    13|N/A|PENDING|Dependency|0:00||spin:pair-0:/s/.slurm/demo\n\
                    slurm plugin: hello\n\
                    14|N/A|FAILED|NonZeroExitCode|0:10|n2|(null)\n";
        let jobs = parse(text);
        let seen: Vec<_> = jobs.iter().map(|job| (job.id(), job.is_live(), job.waits())).collect();
        assert_eq!(seen, [("12_3".into(), true, false), ("13".into(), true, true), ("14".into(), false, false)]);
        assert_eq!((jobs[0].nodes.as_str(), jobs[0].comment.as_str()), ("n1", "spin:sample-0:/s/.slurm/demo"));
    }

    #[test]
    fn lines_of_sacct_are_read() {
        let seen = parse_accounts("12_3|TIMEOUT|0:0|n1\n13|CANCELLED by 0|0:0|None assigned\n");
        let expected = [("12_3", "timeout, exit 0:0 on n1"), ("13", "cancelled by 0, exit 0:0")];
        assert_eq!(seen, expected.map(|(job, words)| (job.to_owned(), words.to_owned())));
    }
}
