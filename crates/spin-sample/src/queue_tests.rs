use std::path::{Path, PathBuf};
use std::sync::Mutex;

use spin_run::schema::Row as _;
use spin_store::Store;
use spin_text::TemplateChoice;

use super::*;
use crate::choose::SamplingParams;
use crate::parts::parts;

/// The tokenizer of the demo ships.
fn codec() -> Codec {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/raw/demo/model");
    Codec::from_dir_with(&dir, TemplateChoice::Alpaca).unwrap()
}

#[derive(Default)]
struct Seen {
    notes: Mutex<Vec<String>>,
    parts: Mutex<Vec<usize>>,
    last: Mutex<(u64, u64)>,
}

impl GenerationWatch for Seen {
    fn progress(&self, done: u64, all: u64, _tokens: u64) {
        *self.last.lock().unwrap() = (done, all);
    }

    fn part(&self, part: &PartDone) {
        self.parts.lock().unwrap().push(part.part);
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
}

/// Seven rows in parts of three, the last of one.
struct Place {
    dir: tempfile::TempDir,
    codec: Codec,
    rows: Vec<Row>,
    plan: Vec<Vec<parts::Job>>,
    seen: Seen,
    stop: AtomicBool,
}

impl Place {
    fn new() -> Place {
        let row = |i: usize| Row {
            row_id: i.to_string(),
            ids: vec![5; 1 + i % 3].into(),
            decoding: SamplingParams::PLAIN,
            max_new_tokens: 4,
            stop_ids: [1].into(),
            stop: None,
        };
        Place {
            dir: tempfile::tempdir().unwrap(),
            codec: codec(),
            rows: (0..7).map(row).collect(),
            plan: parts(0..7, 1, 3),
            seen: Seen::default(),
            stop: AtomicBool::new(false),
        }
    }

    fn work(&self) -> WorkDir {
        Store::open(self.dir.path()).unwrap().work("identity").unwrap()
    }

    fn part(&self, work: &WorkDir, part: usize) -> PathBuf {
        work.path(&table::part_name(part))
    }

    /// Works with a queue of all parts.
    fn with<T>(&self, allowed: usize, body: impl FnOnce(&Queue<'_>) -> T) -> (T, Ended) {
        let source = Source { rows: &self.rows, plan: &self.plan, codec: &self.codec, seed: 1, stream: "test" };
        let work = self.work();
        let worker = Worker { work: &work, holder: "this test", facts: json!({"engine": "none"}), allowed };
        let queue = Queue::new(&source, worker, vec![0, 1, 2], (0, 7), &self.stop, &self.seen);
        let result = body(&queue);
        (result, queue.end())
    }
}

fn answer(job: &Job) -> Generated {
    Generated { ids: vec![7, 1], stopped: true, logps: -(job.number as f64), ..Generated::default() }
}

fn broken() -> SampleError {
    SampleError::Engine("broken".into())
}

#[test]
fn parts_are_written_when_they_are_whole() {
    let place = Place::new();
    let work = place.work();
    let ((), ended) = place.with(0, |queue| {
        let jobs: Vec<Job> = std::iter::from_fn(|| queue.next()).collect();
        // The longest prompts of a part first.
        let lengths: Vec<_> = jobs.iter().map(|job| job.wanted.prompt_ids.len()).collect();
        assert_eq!(lengths, [3, 2, 1, 3, 2, 1, 1]);
        assert!(!queue.has_work());
        for (count, job) in jobs.into_iter().enumerate() {
            assert_eq!(place.part(&work, 0).exists(), count >= 3);
            let generated = answer(&job);
            queue.done(job, Ok(generated));
        }
    });
    assert!(ended.error.is_none() && ended.held.is_empty());
    assert_eq!(*place.seen.parts.lock().unwrap(), [0, 1, 2]);
    assert_eq!(*place.seen.last.lock().unwrap(), (7, 7));
    let samples: Vec<Sample> = (0..3).flat_map(|part| Sample::read_part(&place.part(&work, part)).unwrap()).collect();
    assert_eq!(samples.iter().map(|s| s.row_id.as_str()).collect::<Vec<_>>(), ["0", "1", "2", "3", "4", "5", "6"]);
    assert!(samples.iter().all(|s| s.finish_reason == "stop" && s.response_ids == [7, 1]));
    // All of it is there for the next call.
    place.with(0, |queue| assert!(queue.next().is_none()));
    assert_eq!(*place.seen.last.lock().unwrap(), (7, 7));
}

#[test]
fn a_row_that_fails_is_tried_again_and_then_has_no_answer() {
    let place = Place::new();
    let ((), ended) = place.with(1, |queue| {
        let first = queue.next().unwrap();
        let row_id = first.wanted.row_id.clone();
        queue.done(first, Err(broken()));
        let again = queue.next().unwrap();
        assert_eq!(again.wanted.row_id, row_id);
        queue.done(again, Err(broken()));
        while let Some(job) = queue.next() {
            assert_ne!(job.wanted.row_id, row_id);
            let generated = answer(&job);
            queue.done(job, Ok(generated));
        }
    });
    assert!(ended.error.is_none());
    let samples = Sample::read_part(&place.part(&place.work(), 0)).unwrap();
    let failed: Vec<_> = samples.iter().filter(|s| s.finish_reason == "error").collect();
    assert_eq!(failed.len(), 1);
    assert!(failed[0].response_ids.is_empty() && failed[0].response.is_empty());
    assert_eq!(place.seen.notes.lock().unwrap().len(), 2);
}

#[test]
fn too_many_failures_end_the_work() {
    for (allowed, text) in [(0, "failed while generating (broken)"), (1, "2 of 7 answers failed twice")] {
        let place = Place::new();
        let ((), ended) = place.with(allowed, |queue| {
            for _ in 0..2 * (allowed + 1) {
                let job = queue.next().unwrap();
                queue.done(job, Err(broken()));
            }
            assert!(queue.next().is_none() && !queue.has_work() && queue.stopped());
        });
        let error = ended.error.unwrap();
        assert!(error.to_string().contains(text), "{error}");
        assert!(!place.part(&place.work(), 0).exists());
    }
}

#[test]
fn what_is_put_back_comes_next_and_a_stop_ends_it() {
    let place = Place::new();
    place.with(0, |queue| {
        let job = queue.next().unwrap();
        let number = job.number;
        queue.put_back(job);
        assert_eq!(queue.next().unwrap().number, number);
        place.stop.store(true, Ordering::Relaxed);
        assert!(queue.next().is_none() && queue.stopped() && !queue.has_work());
    });
}

#[test]
fn parts_of_others_are_left_to_them() {
    let place = Place::new();
    let work = place.work();
    let lock = work.lock_as(&lock_name(1), "somebody else").unwrap();
    let (rows, ended) = place.with(0, |queue| {
        let rows = std::iter::from_fn(|| queue.next()).map(|job| job.wanted.row_id);
        rows.collect::<Vec<_>>()
    });
    assert_eq!(rows, ["2", "1", "0", "6"]);
    assert_eq!(ended.held, [(1, "somebody else".to_owned())]);
    assert!(place.seen.notes.lock().unwrap()[0].contains("part 1 is held by somebody else"));
    drop(lock);
    let (rows, ended) = place.with(0, |queue| std::iter::from_fn(|| queue.next()).count());
    assert_eq!((rows, ended.held.len()), (7, 0));
}

#[test]
fn damaged_parts_and_those_of_others_are_made_again() {
    let place = Place::new();
    let all = |place: &Place| {
        place.with(0, |queue| {
            let mut rows = 0;
            while let Some(job) = queue.next() {
                let generated = answer(&job);
                queue.done(job, Ok(generated));
                rows += 1;
            }
            rows
        })
    };
    assert_eq!(all(&place).0, 7);
    assert_eq!(all(&place).0, 0);
    let work = place.work();
    let good = std::fs::read(place.part(&work, 1)).unwrap();
    // A flip in the middle of the part, then a part without its record.
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(place.part(&work, 1), &bad).unwrap();
    std::fs::remove_file(work.path(&spin_store::work::record_name(&table::part_name(2)))).unwrap();
    assert_eq!(all(&place).0, 4);
    assert_eq!(std::fs::read(place.part(&work, 1)).unwrap(), good);
    // The answers of other settings, with their records.
    let other = Store::open(place.dir.path()).unwrap().work("other").unwrap();
    let rows = Sample::read_part(&place.part(&work, 0)).unwrap();
    other.write_part(&table::part_name(0), 0, &rows, &Value::Null).unwrap();
    for name in [table::part_name(0), spin_store::work::record_name(&table::part_name(0))] {
        std::fs::copy(other.path(&name), work.path(&name)).unwrap();
    }
    assert_eq!(all(&place).0, 3);
}

#[test]
fn a_part_that_cannot_be_read_is_an_error_of_the_machine() {
    let place = Place::new();
    // A directory stands for a disk that does not read.
    std::fs::create_dir(place.part(&place.work(), 0)).unwrap();
    let ((), ended) = place.with(0, |queue| assert!(queue.next().is_none()));
    let error = ended.error.unwrap();
    assert!(error.to_string().contains("failed to read") && error.to_string().contains("part-00000"), "{error}");
}
