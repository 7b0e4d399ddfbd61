//! MT-Bench of a model of a run: prompts of both turns for `spin-sample`, then
//! the judge, whose words are kept.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use spin_run::ModelShape;
use spin_run::graph::{Graph, ModelId};
use spin_run::schema::{Judgment, RequestRow, Row, Sample};
use spin_store::manifest::Parent;
use spin_store::{Artifact, Context, Ending, Left, Making, Outcome, Staged, table};
use spin_text::{Codec, Message};

use super::judge::{Judge, JudgeOptions, judge_all};
use super::questions::{Answers, MtBench};
use super::{MAX_NEW_TOKENS, Summary};
use crate::error::{BenchError, Result};
use crate::harness::prompt::Subset;

/// The name of the unit in the store.
pub const NAME: &str = "mt_bench";

/// MT-Bench for one model.
pub struct Conversations<'a> {
    graph: &'a Graph<'a>,
    id: &'a ModelId,
    codec: Codec,
    bench: MtBench,
    data: Vec<Parent>,
}

/// How far it came.
#[derive(Debug)]
pub enum Progress {
    /// Prompts were published that wait for `spin-sample --eval`.
    Waiting(Box<Artifact>),
    /// Both turns are answered.
    Answered {
        /// The answers by question.
        answers: Answers,
        /// Where they are.
        artifacts: Box<[Artifact; 2]>,
    },
}

/// The directory with MT-Bench's files below that of the data sets.
fn directory(data: &Path) -> PathBuf {
    let fetched = data.join("lm-sys/FastChat/fastchat/llm_judge/data");
    if fetched.exists() { fetched } else { data.join(NAME) }
}

impl<'a> Conversations<'a> {
    /// Reads the questions.
    ///
    /// # Errors
    /// When they, the model or its chat template are missing or malformed.
    pub fn new(graph: &'a Graph<'a>, id: &'a ModelId) -> Result<Self> {
        let eval = &graph.run.eval;
        let dir = directory(&graph.run.resolve(&eval.data));
        let mut bench = MtBench::read(&dir)?;
        Subset::of(eval).apply(&mut bench.questions);
        let model = graph.model(id)?.verified_where(ModelShape::is_beside_weights)?;
        let codec = Codec::of_run(model.dir(), graph.chat()?)?;
        let parent = |(name, content): &(String, String)| Parent::file(format!("data {NAME}"), name, content);
        let data = bench.files.iter().map(parent).collect();
        Ok(Self { graph, id, codec, bench, data })
    }

    /// Goes as far as the answers that are there allow.
    ///
    /// # Errors
    /// When a prompt cannot be written, or the disk is full.
    pub fn advance(&self, context: &Context<'_>) -> Result<Progress> {
        let mut so_far: HashMap<u32, Vec<String>> = HashMap::new();
        let mut artifacts: Vec<Artifact> = Vec::new();
        for turn in 1..=2 {
            let requests = self.requests(turn, &so_far, artifacts.last(), context)?;
            let recipe = self.graph.answers_recipe(self.id, &requests)?;
            let Some(artifact) = self.graph.store.find(&recipe)? else {
                return Ok(Progress::Waiting(Box::new(requests)));
            };
            let samples = Sample::read_all(&artifact)?;
            let by_row: HashMap<&str, &Sample> = samples.iter().map(|s| (s.row_id.as_str(), s)).collect();
            for question in &self.bench.questions {
                let id = row_id(question.question_id, turn);
                let sample = by_row.get(id.as_str()).ok_or_else(|| BenchError::Row {
                    row_id: id.clone(),
                    table: artifact.reference(),
                    problem: "is missing".into(),
                    remedy: "delete the answers and run spin-sample --eval again".into(),
                })?;
                so_far.entry(question.question_id).or_default().push(sample.response.clone());
            }
            artifacts.push(artifact);
        }
        let mut answers = Answers::new();
        for (question, turns) in so_far {
            let turns: [String; 2] = turns.try_into().expect("one answer for each turn");
            answers.insert(question, turns);
        }
        let artifacts = Box::new(artifacts.try_into().expect("one artifact for each turn"));
        Ok(Progress::Answered { answers, artifacts })
    }

    /// The prompts of a turn; those of the second contain the first answers.
    fn requests(
        &self,
        turn: usize,
        so_far: &HashMap<u32, Vec<String>>,
        answers: Option<&Artifact>,
        context: &Context<'_>,
    ) -> Result<Artifact> {
        let longest = self.graph.run.eval.max_gen_toks.unwrap_or(MAX_NEW_TOKENS);
        let extent = (self.bench.questions.len(), longest);
        let recipe = self.graph.conversation_recipe(self.id, turn, &self.data, answers, extent)?;
        Ok(context.make(&recipe, |making| self.prompts(turn, so_far, longest, making))?.0)
    }

    fn prompts(
        &self,
        turn: usize,
        so_far: &HashMap<u32, Vec<String>>,
        longest: usize,
        making: &Making<'_>,
    ) -> Result<Staged> {
        let mut rows = Vec::with_capacity(self.bench.questions.len());
        for question in &self.bench.questions {
            let mut messages = Vec::new();
            if !self.graph.run.eval.system_instruction.is_empty() {
                messages.push(Message::system(&self.graph.run.eval.system_instruction));
            }
            messages.push(Message::user(&question.turns[0]));
            if let Some(first) = so_far.get(&question.question_id).and_then(|turns| turns.first()) {
                messages.push(Message::assistant(first));
                messages.push(Message::user(&question.turns[1]));
            }
            rows.push(RequestRow {
                row_id: row_id(question.question_id, turn),
                prompt_ids: self.codec.prompt_ids(&messages)?,
                until: Vec::new(),
                max_new_tokens: u32::try_from(longest).unwrap_or(u32::MAX),
                temperature: question.temperature(),
            });
        }
        let staged = making.staging()?;
        RequestRow::write_part(&staged.path().join(table::part_name(0)), &rows, &making.recipe.identity(), 0)?;
        let mut facts = Map::new();
        facts.insert("requests".into(), json!(rows.len()));
        Ok(Staged::new(staged, facts))
    }

    /// Asks the judge about every answer and publishes what it says. A killed
    /// run asks again only about those that had no judgment yet. Where some
    /// could not be had, the others are kept and nothing is published, so that
    /// a second run asks for the rest, unless `accept_errors` is set.
    ///
    /// # Errors
    /// When the judge refuses everything, or the disk is full.
    pub fn judge(
        &self,
        answers: &Answers,
        artifacts: &[Artifact; 2],
        judge: &dyn Judge,
        options: &JudgeOptions<'_>,
        context: &Context<'_>,
    ) -> Result<(Option<Artifact>, Summary)> {
        let config = self.graph.run.eval.judge.as_ref();
        let accepts = config.is_some_and(|config| config.accept_errors);
        let recipe = self.graph.judgments_recipe(self.id, judge.name(), &self.data, artifacts);
        let is_final = |found: &Artifact| Ok(accepts || Summary::of(&Judgment::read_all(found)?).errors == 0);
        let mut summary = None;
        let outcome = context.make_unless(&recipe, is_final, |making| {
            let (step, made) = self.ask(answers, judge, options, accepts, making)?;
            summary = Some(made);
            Ok::<_, BenchError>(step)
        })?;
        let artifact = match outcome {
            Outcome::Found(artifact) | Outcome::Made(artifact) => Some(artifact),
            Outcome::Left(_) => None,
        };
        let summary = match (summary, &artifact) {
            (Some(asked), _) => asked,
            (None, Some(found)) => Summary::of(&Judgment::read_all(found)?),
            (None, None) => unreachable!("what is asked is summed up"),
        };
        Ok((artifact, summary))
    }

    /// Asks about what has no judgment yet. With errors that are not accepted
    /// there is no table.
    fn ask(
        &self,
        answers: &Answers,
        judge: &dyn Judge,
        options: &JudgeOptions<'_>,
        accepts: bool,
        making: &Making<'_>,
    ) -> Result<(Ending, Summary)> {
        let work = &making.work;
        let mut done = match &making.earlier {
            Some(earlier) => Judgment::read_all(earlier)?,
            None => Vec::new(),
        };
        let file = |question: u32, turn: u32| format!("judgment-{question}-{turn}.parquet");
        for question in &self.bench.questions {
            for turn in [1, 2] {
                // One that is not as it was written is asked for again.
                let found = work.read_part::<Judgment>(&file(question.question_id, turn), 0)?;
                done.extend(found.whole().map(|part| part.rows).unwrap_or_default());
            }
        }
        let total = 2 * self.bench.questions.len() as u64;
        let mut count = done.iter().filter(|judgment| judgment.error.is_none()).count() as u64;
        making.context.watch.progress(count, total);
        let mut keep = |judgment: &Judgment| {
            let name = file(judgment.question_id, judgment.turn);
            work.write_part(&name, 0, std::slice::from_ref(judgment), &Value::Null)?;
            count += 1;
            making.context.watch.progress(count, total);
            Ok(())
        };
        let prompts = &self.bench.prompts;
        let judgments = judge_all(&self.bench.questions, answers, prompts, judge, options, &done, &mut keep)?;
        let summary = Summary::of(&judgments);
        if summary.errors > 0 && !accepts {
            let place = format!("{} answers have no judgment", summary.errors);
            return Ok((Ending::Leave(Left::Partial(place)), summary));
        }
        let staged = making.staging()?;
        let identity = making.recipe.identity();
        Judgment::write_part(&staged.path().join(table::part_name(0)), &judgments, &identity, 0)?;
        let mut facts = Map::new();
        facts.insert("results".into(), summary.to_json());
        Ok((Ending::Publish(Staged::new(staged, facts)), summary))
    }
}

fn row_id(question: u32, turn: usize) -> String {
    format!("{NAME}/{question}/{turn}")
}
