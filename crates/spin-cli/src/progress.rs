//! Progress: a bar with the time left on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::log::{LogFormat, log_format, progress};

/// How often a plain line is written when standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(20);

/// Counts up to a total.
#[derive(Debug)]
pub struct Progress {
    label: String,
    unit: &'static str,
    total: u64,
    done: u64,
    bar: Option<ProgressBar>,
    start: Instant,
    at_start: u64,
    last_line: Instant,
}

impl Progress {
    /// Starts at `done` of `total` (work found finished counts as done but
    /// not towards the speed).
    pub fn new(label: impl Into<String>, unit: &'static str, done: u64, total: u64) -> Self {
        let label = label.into();
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = (terminal && log_format() == LogFormat::Text).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
            let template = "{prefix} {wide_bar} {pos}/{len} {msg} {elapsed}<{eta}";
            bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
            bar.set_prefix(label.clone());
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Progress { label, unit, total, done, bar, start: now, at_start: done, last_line: now }
    }

    /// Moves to `done`, with a short message such as the current loss.
    pub fn set(&mut self, done: u64, message: &str) {
        self.done = done;
        match &self.bar {
            Some(bar) => {
                bar.set_message(message.to_owned());
                bar.set_position(done);
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                self.tell(message);
            }
            None => {}
        }
    }

    /// A line for people that does not tear the bar.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| crate::say(text)),
            None => crate::say(text),
        }
    }

    /// A line for people where there is no bar to look at.
    pub fn say_without_bar(&self, text: &str) {
        if self.bar.is_none() {
            crate::say(text);
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn tell(&self, message: &str) {
        let elapsed = self.start.elapsed().as_secs_f64();
        let speed = (self.done - self.at_start) as f64 / elapsed.max(1e-9);
        let left = (self.total - self.done.min(self.total)) as f64 / speed.max(1e-9);
        let text = format!(
            "{}: {}/{} {}, {speed:.1}/s, {elapsed:.0} s so far, {left:.0} s left {message}",
            self.label, self.done, self.total, self.unit
        );
        let numbers = json!({
            "label": self.label, "unit": self.unit, "done": self.done, "total": self.total,
            "per_second": speed, "seconds": elapsed, "seconds_left": left,
        });
        progress(&text, numbers.as_object().cloned().unwrap_or_default());
    }
}
