//! What the artifacts of a run are called.

use std::fmt;

use spin_store::kind::Kind;

/// A model of the run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelId {
    /// The model that enters iteration `t`; `Iteration(0)` is θ0.
    Iteration(usize),
    /// A `[[baseline]]`.
    Baseline(String),
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelId::Iteration(t) => write!(f, "iter-{t}"),
            ModelId::Baseline(name) => f.write_str(name),
        }
    }
}

impl ModelId {
    /// The flags that select it on a stage's command line.
    pub fn flags(&self) -> Vec<String> {
        match self {
            ModelId::Iteration(t) => vec!["--iteration".into(), t.to_string()],
            ModelId::Baseline(name) => vec!["--baseline".into(), name.clone()],
        }
    }
}

/// Which demonstrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// Trained on.
    Train,
    /// Scored on.
    Test,
}

impl Split {
    /// Its name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Test => "test",
        }
    }
}

/// How answers for scoring are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decoding {
    /// The likeliest token at each step.
    Greedy,
    /// Sampled at temperature 1.
    Sampled,
}

impl Decoding {
    /// Its name in artifacts and tables.
    pub fn name(self) -> &'static str {
        match self {
            Decoding::Greedy => "greedy",
            Decoding::Sampled => "sampled",
        }
    }
}

/// Which pairs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PairsOf {
    /// Those of this round: the human answers against the opponent's.
    Iteration(usize),
    /// Those of a baseline's preference set: chosen against rejected answers.
    Baseline(String),
}

impl PairsOf {
    /// The name of the pairs, and of their reference, after the run's.
    pub(super) fn id(&self) -> ModelId {
        match self {
            PairsOf::Iteration(t) => ModelId::Iteration(*t),
            PairsOf::Baseline(name) => ModelId::Baseline(name.clone()),
        }
    }
}

/// An artifact of a run, by what it is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Product {
    /// Imported demonstrations.
    Demonstrations(Split),
    /// The imported preference set of a baseline.
    Preferences(String),
    /// The imported base model.
    Base,
    /// A model that the run trains.
    Model(ModelId),
    /// What was measured while it was trained.
    Metrics(ModelId),
    /// The opponent's answers of a round.
    Samples(usize),
    /// Pairs to train on.
    Pairs(PairsOf),
    /// The opponent's log-probabilities of pairs.
    Reference(PairsOf),
    /// A model's answers to the held-out prompts.
    BenchSamples(ModelId, Decoding),
    /// A model's scores on the held-out rows.
    Scores(ModelId),
    /// A model's results in a leaderboard task or group, or the judge's words
    /// where that is MT-Bench.
    Evaluation(ModelId, String),
}

impl Product {
    /// Its kind of artifact.
    pub fn kind(&self) -> Kind {
        match self {
            Product::Demonstrations(_) => Kind::Demonstrations,
            Product::Preferences(_) => Kind::Preferences,
            Product::Base | Product::Model(_) => Kind::Model,
            Product::Metrics(_) => Kind::Metrics,
            Product::Samples(_) | Product::BenchSamples(..) => Kind::Samples,
            Product::Pairs(_) => Kind::Pairs,
            Product::Reference(_) => Kind::Reference,
            Product::Scores(_) => Kind::Scores,
            Product::Evaluation(_, unit) if unit == crate::run::MT_BENCH => Kind::Judgments,
            Product::Evaluation(..) => Kind::Evaluations,
        }
    }

    /// Whether it is made from files outside of the store, so that only who
    /// looks at those knows that it is up to date.
    pub fn looks_outside(&self) -> bool {
        matches!(self, Product::Demonstrations(_) | Product::Preferences(_) | Product::Base | Product::Evaluation(..))
    }

    /// Its name in the store, in a run of this name.
    pub fn name_in(&self, run: &str) -> String {
        format!("{run}/{}", self.id())
    }

    fn id(&self) -> String {
        match self {
            Product::Demonstrations(split) => split.name().into(),
            Product::Base => "base".into(),
            Product::Samples(t) => ModelId::Iteration(*t).to_string(),
            Product::Preferences(baseline) => baseline.clone(),
            Product::Model(model) | Product::Metrics(model) | Product::Scores(model) => model.to_string(),
            Product::Pairs(pairs) | Product::Reference(pairs) => pairs.id().to_string(),
            Product::BenchSamples(model, decoding) => format!("bench/{model}/{}", decoding.name()),
            Product::Evaluation(model, unit) => format!("{model}/{unit}"),
        }
    }
}

/// An artifact that another is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// What it is used as, e.g. `model` or `samples iter-0`.
    pub role: String,
    /// Which it is.
    pub product: Product,
}

impl Input {
    pub(super) fn new(role: impl Into<String>, product: Product) -> Input {
        Input { role: role.into(), product }
    }
}
