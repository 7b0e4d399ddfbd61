//! What of a plan the store has: done, stale and why, or missing.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Plan;
use crate::diff::differences;
use crate::facts::{EvaluationFacts, Facts as _};
use crate::graph::{Graph, ModelId, Product, UnitInputs};
use crate::import;
use crate::run::MT_BENCH;
use spin_store::error::{Result, StoreError};
use spin_store::store::{Artifact, Recipe, Reference, Version};

/// How many differences between what is and what was are told.
const TOLD: usize = 6;

/// What the store has of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is there as the run file has it.
    Done {
        /// Its reference.
        reference: String,
    },
    /// One is there under its name that was made from something else.
    Stale {
        /// The newest.
        reference: String,
        /// What is another now.
        changed: Vec<String>,
    },
    /// None is there.
    Missing,
    /// Something it depends on cannot be read.
    Unknown {
        /// Why.
        problem: String,
    },
}

impl State {
    /// In a word.
    pub fn word(&self) -> &'static str {
        match self {
            State::Done { .. } => "done",
            State::Stale { .. } => "stale",
            State::Missing => "missing",
            State::Unknown { .. } => "unknown",
        }
    }

    /// Why it is not done, where that is known.
    pub fn why(&self) -> &[String] {
        match self {
            State::Stale { changed, .. } => changed,
            State::Unknown { problem } => std::slice::from_ref(problem),
            State::Done { .. } | State::Missing => &[],
        }
    }

    /// For other programs.
    pub fn to_json(&self) -> Value {
        let mut value = json!({"state": self.word()});
        if let State::Done { reference } | State::Stale { reference, .. } = self {
            value["reference"] = json!(reference);
        }
        if !self.why().is_empty() {
            value["why"] = json!(self.why());
        }
        value
    }
}

/// What a store has of a plan. Sources outside of it are looked at, those of
/// leaderboard tasks excepted: of evaluations it is known whether model and
/// settings are still those, not whether task files and data are.
pub struct Survey<'a> {
    graph: &'a Graph<'a>,
    states: BTreeMap<Product, State>,
}

impl<'a> Survey<'a> {
    /// Looks for every artifact of the plan.
    pub fn new(graph: &'a Graph<'a>, plan: &Plan) -> Survey<'a> {
        let mut survey = Survey { graph, states: BTreeMap::new() };
        for step in &plan.steps {
            for node in &step.makes {
                let state = survey.look(&node.product).unwrap_or_else(|error| match error {
                    StoreError::Missing { .. } => State::Missing,
                    error => State::Unknown { problem: error.to_string() },
                });
                survey.states.insert(node.product.clone(), state);
            }
        }
        survey
    }

    /// What there is of an artifact.
    pub fn state(&self, product: &Product) -> &State {
        self.states.get(product).unwrap_or(&State::Missing)
    }

    fn look(&self, product: &Product) -> Result<State> {
        if let Some(source) = self.graph.import_source(product)? {
            return self.import(product, &source);
        }
        let inputs = match self.waits_for(self.graph.planned_inputs(product)?.into_iter().map(|input| input.product)) {
            // Now that they are there, they say which they are.
            waits if waits.is_empty() => self.graph.inputs(product)?,
            waits => return self.not_yet(product, waits),
        };
        let counted = self.graph.counted_by(product)?;
        let waits = self.waits_for(inputs.into_iter().map(|input| input.product).chain(counted));
        if !waits.is_empty() {
            return self.not_yet(product, waits);
        }
        match product {
            Product::Evaluation(model, unit) => self.evaluation(product, model, unit),
            _ => self.by_recipe(product, &self.graph.recipe(product)?),
        }
    }

    /// Those that are not done, in words.
    fn waits_for(&self, products: impl Iterator<Item = Product>) -> Vec<String> {
        let name = |product: &Product| format!("{}/{}", product.kind(), self.graph.name_of(product));
        let open = products.filter(|product| !matches!(self.state(product), State::Done { .. }));
        let mut told: Vec<String> = Vec::new();
        for product in open {
            let text = format!("{} is {}", name(&product), self.state(&product).word());
            if !told.contains(&text) {
                told.push(text);
            }
        }
        told
    }

    fn not_yet(&self, product: &Product, changed: Vec<String>) -> Result<State> {
        Ok(match self.newest(product)? {
            Some(found) => State::Stale { reference: found.manifest.reference(), changed },
            None => State::Missing,
        })
    }

    fn newest(&self, product: &Product) -> Result<Option<Artifact>> {
        let name = self.graph.name_of(product);
        if self.graph.store.versions(product.kind(), &name)?.is_empty() {
            return Ok(None);
        }
        self.graph.store.get(&Reference { kind: product.kind(), name, version: Version::Latest }).map(Some)
    }

    fn by_recipe(&self, product: &Product, recipe: &Recipe) -> Result<State> {
        if let Some(found) = self.graph.store.find(recipe)? {
            return Ok(State::Done { reference: found.manifest.reference() });
        }
        Ok(match self.newest(product)? {
            Some(found) => State::Stale {
                reference: found.manifest.reference(),
                changed: differences(&found.manifest, recipe, TOLD),
            },
            None => State::Missing,
        })
    }

    fn import(&self, product: &Product, source: &import::Source) -> Result<State> {
        let name = self.graph.name_of(product);
        let imported = import::recall(self.graph.store, product.kind(), &name, source)?;
        if source.is_on_hub() {
            // What the name meant when it was imported is what is used.
            return Ok(match (imported, self.newest(product)?) {
                (Some(found), _) => State::Done { reference: found.manifest.reference() },
                (None, Some(found)) => State::Stale {
                    reference: found.manifest.reference(),
                    changed: vec!["it is of another source".into()],
                },
                (None, None) => State::Missing,
            });
        }
        let recipe = match (self.graph.recipe(product), &imported) {
            (Ok(recipe), _) => recipe,
            // What was imported of a source that is gone is used.
            (Err(error), Some(found)) if import::is_gone(&error) => {
                return Ok(State::Done { reference: found.manifest.reference() });
            }
            (Err(error), _) => return Err(error),
        };
        match imported {
            // The import that stages use is of other files than are there now,
            // whether those were imported before or not.
            Some(found) if found.manifest.identity != recipe.identity() => Ok(State::Stale {
                reference: found.manifest.reference(),
                changed: differences(&found.manifest, &recipe, TOLD),
            }),
            _ => self.by_recipe(product, &recipe),
        }
    }

    /// An evaluation is compared by model and settings: its tasks and data are
    /// taken to be those that it was made from.
    fn evaluation(&self, product: &Product, model: &ModelId, unit: &str) -> Result<State> {
        let Some(found) = self.newest(product)? else { return Ok(State::Missing) };
        let m = &found.manifest;
        let done = State::Done { reference: m.reference() };
        let answers = m.parents.iter().filter(|parent| parent.role == "answers");
        let answers: Vec<Artifact> = answers.map(|parent| self.graph.store.parent(parent)).collect::<Result<_>>()?;
        let weights = self.graph.model(model)?.manifest.content;
        let is_others = |answers: &Artifact| {
            answers.manifest.parents.iter().any(|parent| parent.role == "model" && parent.content != weights)
        };
        if answers.iter().any(is_others) {
            let changed = vec!["the answers are of another model".into()];
            return Ok(State::Stale { reference: m.reference(), changed });
        }
        if unit == MT_BENCH {
            return Ok(done);
        }
        let limit = self.graph.run.eval.limit as u64;
        let documents = EvaluationFacts::of(&found)?.documents;
        let inputs = UnitInputs {
            name: unit,
            tasks: m.params["tasks"].clone(),
            data: m.parents.iter().filter(|parent| parent.is_outside()).cloned().collect(),
            generates: !answers.is_empty(),
            is_whole: limit == 0 || documents.into_values().all(|count| count <= limit),
        };
        let recipe = self.graph.evaluation_recipe(model, &inputs, answers.first())?;
        self.by_recipe(product, &recipe)
    }
}
