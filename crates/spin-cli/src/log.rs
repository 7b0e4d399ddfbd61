//! How messages reach people and schedulers: as lines of text, or as one JSON
//! object a line.

use std::io::{self, Write as _};
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::streams::printable;

/// The variable that says it where no flag does.
const VARIABLE: &str = "SPIN_LOG_FORMAT";

/// How messages are written to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// As they are, for people.
    Text,
    /// One object a line: time, level, program, message, and of progress how
    /// far it is.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<LogFormat, String> {
        match name {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("give text, or json for one object a line".into()),
        }
    }
}

/// The flag that every program has.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LogArgs {
    /// Write messages to standard error as text, or as json, one object a line [default: $SPIN_LOG_FORMAT, or text]
    #[arg(long, global = true, display_order = 900, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

impl LogArgs {
    /// The format of the flag, or else of the variable. Ends the program where
    /// that is none.
    pub(crate) fn start(self) {
        let format = self.log_format.unwrap_or_else(|| match std::env::var_os(VARIABLE) {
            None => LogFormat::Text,
            Some(name) => name.to_string_lossy().parse().unwrap_or_else(|problem| {
                crate::say(&format!("error: {VARIABLE} is {name:?}; {problem}"));
                std::process::exit(2);
            }),
        });
        let _ = FORMAT.set(format);
    }
}

/// The format of this program.
pub fn log_format() -> LogFormat {
    FORMAT.get().copied().unwrap_or(LogFormat::Text)
}

/// Has a program that this one starts write as this one does.
pub fn log_as_this(command: &mut std::process::Command) {
    if log_format() == LogFormat::Json {
        command.env(VARIABLE, "json");
    }
}

/// A line for people, on standard error. What begins with `error: ` or
/// `warning: ` is one. Control characters other than line breaks and tabs are
/// shown escaped: file names and messages of others must not speak to the
/// terminal. A standard error that takes nothing is ignored.
pub fn say(text: &str) {
    let line = match log_format() {
        LogFormat::Text => text.split('\n').map(printable).collect::<Vec<_>>().join("\n"),
        LogFormat::Json => record(text, Map::new()),
    };
    write(&line);
}

/// How far something is: a line of text, with the numbers it is made of for
/// those who want only them.
pub(crate) fn progress(text: &str, numbers: Map<String, Value>) {
    match log_format() {
        LogFormat::Text => say(text),
        LogFormat::Json => write(&record(text, numbers)),
    }
}

/// A line of a program that this one started, whose standard error it reads,
/// with the name of what that program does.
pub fn pass_on(name: &str, line: &str) {
    let own = match log_format() {
        LogFormat::Text => None,
        LogFormat::Json => serde_json::from_str::<Map<String, Value>>(line).ok(),
    };
    match own {
        Some(mut record) => {
            record.insert("step".into(), json!(name));
            write(&Value::Object(record).to_string());
        }
        None => say(&format!("[{name}] {line}")),
    }
}

fn write(line: &str) {
    // One write, so that lines of several processes do not mix.
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// A message as an object.
fn record(text: &str, beside: Map<String, Value>) -> String {
    let (level, message) = ["error", "warning"]
        .into_iter()
        .find_map(|level| Some((level, text.strip_prefix(level)?.strip_prefix(": ")?)))
        .unwrap_or(("info", text));
    let mut record = Map::new();
    record.insert("time".into(), json!(chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)));
    record.insert("level".into(), json!(level));
    record.insert("program".into(), json!(program()));
    record.insert("message".into(), json!(message));
    record.extend(beside);
    for (key, variable) in crate::SLURM {
        if let Ok(value) = std::env::var(variable) {
            record.insert(key.into(), json!(value));
        }
    }
    Value::Object(record).to_string()
}

/// The name that this program was started by.
fn program() -> String {
    let path = std::env::args_os().next().map(std::path::PathBuf::from);
    path.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_an_object_with_its_level() {
        let fields = |text: &str| {
            let record: Value = serde_json::from_str(&record(text, Map::new())).expect("an object");
            assert!(record["time"].as_str().is_some_and(|time| time.ends_with('Z')));
            (record["level"].clone(), record["message"].clone())
        };
        assert_eq!(fields("error: no\nmore"), (json!("error"), json!("no\nmore")));
        assert_eq!(fields("warning: odd \u{1b}[0m"), (json!("warning"), json!("odd \u{1b}[0m")));
        assert_eq!(fields("errors: 2"), (json!("info"), json!("errors: 2")));
    }
}
