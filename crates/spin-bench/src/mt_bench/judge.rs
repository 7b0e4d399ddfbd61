//! Asking a judge about all answers, with retries and resumption.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use spin_run::schema::{Judgment, Message};
use spin_store::StoreError;

use super::{Answers, ERROR_OUTPUT, JUDGE_MAX_TOKENS, Prompts, Question, Request, rating};
use spin_net::retry::{Retry, Stop, until};

/// Shorthand for results of this module.
pub type Result<T, E = MtBenchError> = std::result::Result<T, E>;

/// If this many judgments fail before one succeeds, the run stops: the key,
/// the address or the model's name is wrong, or the server is down.
const GIVE_UP_AFTER: usize = 3;

/// A model that rates answers.
pub trait Judge: Sync {
    /// Its name, for the record.
    fn name(&self) -> &str;

    /// Asks once.
    ///
    /// # Errors
    /// Why there is no answer; [`JudgeError::is_transient`] decides whether it
    /// is asked again. [`JudgeError::Stopped`] within a second after
    /// [`Stop::is_asked`] became true.
    fn complete(
        &self,
        messages: &[Message],
        temperature: f64,
        max_tokens: u32,
        stop: &Stop<'_>,
    ) -> Result<String, JudgeError>;
}

/// Why a judge gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// Nothing that can be asked.
    #[error("{url:?} is no address ({reason}); give a base URL such as https://api.openai.com/v1")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// 401 or 403.
    #[error("{url} refused the key (status {status}): {body}; give a valid API key")]
    Auth {
        /// The address asked.
        url: String,
        /// The status.
        status: u16,
        /// What the server said.
        body: String,
    },
    /// 404.
    #[error(
        "{url} does not exist or has no model {model:?} (status 404): {body}; check the base URL (it usually ends in /v1) and the model's name"
    )]
    NotFound {
        /// The address asked.
        url: String,
        /// The model asked for.
        model: String,
        /// What the server said.
        body: String,
    },
    /// A status that will not change by asking again.
    #[error("{url} refused the request (status {status}): {body}; correct what it names")]
    Refused {
        /// The address asked.
        url: String,
        /// The status.
        status: u16,
        /// What the server said.
        body: String,
    },
    /// 408, 429 or 5xx.
    #[error("{url} is busy or broken (status {status}): {body}; try again later")]
    Busy {
        /// The address asked.
        url: String,
        /// The status.
        status: u16,
        /// What the server said.
        body: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// No connection, a broken one, or no answer in time.
    #[error("{url} cannot be reached: {reason}; is the server running, and the network up?")]
    Unreachable {
        /// The address asked.
        url: String,
        /// The reason.
        reason: String,
    },
    /// A success that is none.
    #[error("{url} answered with {problem}")]
    Nonsense {
        /// The address asked.
        url: String,
        /// What is wrong.
        problem: String,
        /// The body's beginning.
        raw: String,
    },
    /// A stop was asked for while it was silent.
    #[error("stopped")]
    Stopped,
}

impl JudgeError {
    /// Whether asking again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, JudgeError::Busy { .. } | JudgeError::Unreachable { .. })
    }

    /// Whether the key is to blame: the program can then say where it reads it.
    pub fn is_auth(&self) -> bool {
        matches!(self, JudgeError::Auth { .. })
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            JudgeError::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What can go wrong with a run of judgments as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MtBenchError {
    /// From the files, or from keeping a judgment.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A question is not answered.
    #[error("question {question_id} has no answer; generate the answers again")]
    NoAnswer {
        /// The question's number.
        question_id: u32,
    },
    /// A judgment at hand is of another judge or other answers.
    #[error(
        "the stored judgment of question {question_id}, turn {turn}, is of another {what}; remove the stored judgments or judge with what they were made with"
    )]
    OtherJudgment {
        /// The question's number.
        question_id: u32,
        /// 1 or 2.
        turn: u32,
        /// What differs.
        what: &'static str,
    },
    /// A stop was asked for; the judgments so far are kept.
    #[error("stopped; run it again")]
    Interrupted,
    /// Nothing worked from the start.
    #[error("the first {failures} judgments failed, the last because {source}")]
    Stopped {
        /// How many.
        failures: usize,
        /// Why the last one did.
        source: JudgeError,
    },
}

impl MtBenchError {
    /// Whether the input is to blame, rather than the machine or the network:
    /// exit code 3 instead of 1.
    pub fn is_bad_input(&self) -> bool {
        match self {
            MtBenchError::Store(e) => e.is_bad_input(),
            MtBenchError::Stopped { source, .. } => !source.is_transient(),
            MtBenchError::Interrupted => false,
            _ => true,
        }
    }
}

/// How judgments are asked for.
#[derive(Clone, Copy, Debug)]
pub struct JudgeOptions<'a> {
    /// Requests under way at a time, at least 1.
    pub workers: usize,
    /// When to ask again.
    pub retry: Retry,
    /// Becomes true when a stop is asked for.
    pub stop: &'a AtomicBool,
}

/// Has both turns of all questions judged; gives the judgments by question and
/// turn, those of `done` included.
///
/// `on_judgment` gets each new judgment as it comes, in no particular order,
/// so that a killed run can go on: what is given back as `done` is not asked
/// for again, unless it is an error. A judgment that cannot be had after all
/// tries becomes a row with its error, and the run goes on.
///
/// # Errors
/// When an answer is missing, a judgment in `done` has another prompt or
/// judge, `on_judgment` fails, the first three judgments fail with none that
/// succeeds, or a stop was asked for before all were made.
pub fn judge_all(
    questions: &[Question],
    answers: &Answers,
    prompts: &Prompts,
    judge: &dyn Judge,
    options: &JudgeOptions<'_>,
    done: &[Judgment],
    on_judgment: &mut dyn FnMut(&Judgment) -> Result<(), StoreError>,
) -> Result<Vec<Judgment>> {
    let done: HashMap<(u32, u32), &Judgment> =
        done.iter().filter(|j| j.error.is_none()).map(|j| ((j.question_id, j.turn), j)).collect();
    let (mut judgments, mut requests) = (Vec::new(), Vec::new());
    for question in questions {
        let question_id = question.question_id;
        let answers = answers.get(&question_id).ok_or(MtBenchError::NoAnswer { question_id })?;
        for turn in [1, 2] {
            let request = prompts.request(question, answers, turn);
            match done.get(&(question_id, turn)) {
                Some(judgment) => {
                    check_same(judgment, &request, judge.name())?;
                    judgments.push((*judgment).clone());
                }
                None => requests.push(request),
            }
        }
    }
    judgments.extend(ask_all(&requests, judge, options, on_judgment)?);
    judgments.sort_by_key(|j| (j.question_id, j.turn));
    Ok(judgments)
}

/// Whether a stored judgment is what this request would bring.
fn check_same(judgment: &Judgment, request: &Request, judge: &str) -> Result<()> {
    let what = if judgment.judge != judge {
        "judge"
    } else if judgment.prompt_name != request.prompt_name || judgment.system != request.system {
        "prompt"
    } else if judgment.user_prompt != request.user_prompt {
        "answer"
    } else {
        return Ok(());
    };
    Err(MtBenchError::OtherJudgment { question_id: request.question_id, turn: request.turn, what })
}

fn ask_all(
    requests: &[Request],
    judge: &dyn Judge,
    options: &JudgeOptions<'_>,
    on_judgment: &mut dyn FnMut(&Judgment) -> Result<(), StoreError>,
) -> Result<Vec<Judgment>> {
    let (next, stop) = (AtomicUsize::new(0), Stop::new(options.stop));
    // Without a buffer no worker runs ahead of the decision to stop.
    let (sender, receiver) = mpsc::sync_channel(0);
    let work = |sender: mpsc::SyncSender<_>| {
        while !stop.is_set() {
            let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let Some(outcome) = ask(request, judge, &options.retry, &stop) else { break };
            if sender.send(outcome).is_err() {
                break;
            }
        }
    };
    let mut judgments = Vec::with_capacity(requests.len());
    std::thread::scope(|scope| {
        for _ in 0..options.workers.clamp(1, requests.len().max(1)) {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        let (mut succeeded, mut result) = (false, Ok(()));
        // After a stop too: what was under way is paid for, so it is kept.
        for (judgment, error) in receiver {
            if let Err(e) = on_judgment(&judgment) {
                stop.set();
                return Err(e.into());
            }
            judgments.push(judgment);
            succeeded |= error.is_none();
            let failures = judgments.len();
            if let Some(source) = error
                && !succeeded
                && failures == GIVE_UP_AFTER
            {
                stop.set();
                result = Err(MtBenchError::Stopped { failures, source });
            }
        }
        result
    })?;
    if stop.is_asked() && judgments.len() < requests.len() {
        return Err(MtBenchError::Interrupted);
    }
    Ok(judgments)
}

/// Asks for one judgment until there is one, the tries are used up, or the run
/// is over (`None`).
fn ask(request: &Request, judge: &dyn Judge, retry: &Retry, stop: &Stop<'_>) -> Option<(Judgment, Option<JudgeError>)> {
    let messages = request.messages();
    let key = u64::from(request.question_id) << 32 | u64::from(request.turn) << 16;
    let mut tries = 0;
    let once = || {
        tries += 1;
        judge.complete(&messages, 0.0, JUDGE_MAX_TOKENS, stop)
    };
    let answer = until(stop, retry.tries, once, |e, failures| {
        e.is_transient().then(|| retry.delay(failures, e.retry_after(), key))
    })?;
    if matches!(answer, Err(JudgeError::Stopped)) {
        return None;
    }
    let (text, rating, error) = match answer {
        Ok(text) => {
            let rating = rating(&text);
            (text, rating, None)
        }
        Err(e) => {
            let text = match &e {
                JudgeError::Nonsense { raw, .. } => raw.clone(),
                _ => ERROR_OUTPUT.to_owned(),
            };
            (text, None, Some(e))
        }
    };
    let judgment = Judgment {
        question_id: request.question_id,
        category: request.category.clone(),
        turn: request.turn,
        judge: judge.name().to_owned(),
        prompt_name: request.prompt_name.clone(),
        system: request.system.clone(),
        user_prompt: request.user_prompt.clone(),
        judgment: text,
        rating,
        error: error.as_ref().map(JudgeError::to_string),
        tries,
    };
    Some((judgment, error))
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
