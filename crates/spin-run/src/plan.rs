//! What there is to do for a run: its commands, what each makes, and of what.
//!
//! Everything that drives a run is a view of this plan: the shell text of
//! `spin-store plan`, the JSON for other schedulers, what `spin-run` runs and
//! what it says of the store. Its edges are those of the [graph](crate::graph).

mod estimate;
mod forecast;
mod schedule;
mod status;

use serde_json::{Value, json};

use crate::Maker;
use crate::graph::{Decoding, Graph, Input, ModelId, PairsOf, Product, Split};
use spin_store::error::Result;

pub(crate) use estimate::parts;
pub use estimate::{Cost, Resources};
pub use forecast::parameters;
pub use schedule::Agenda;
pub use status::{State, Survey};

/// What is asked of a plan beside the run file.
#[derive(Clone, Debug)]
pub struct Options {
    /// Overrides of keys, as they were given: every command gets them.
    pub set: Vec<String>,
    /// Where models compute, `cpu`, `cuda` or `cuda:N`; of `cpu` no command is
    /// told, for it is their default.
    pub device: String,
    /// In how many shares answers are generated, at most.
    pub shards: u32,
    /// The CPU's peak of matrix products, from which times are reckoned.
    pub peak_gflops: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Options { set: Vec::new(), device: "cpu".into(), shards: 1, peak_gflops: None }
    }
}

/// An artifact of the plan.
#[derive(Clone, Debug)]
pub struct Node {
    /// Which it is.
    pub product: Product,
    /// `kind/name`.
    pub name: String,
    /// Who makes it.
    pub maker: Maker,
    /// What it is made from; of an evaluation, as far as is known without its
    /// data.
    pub inputs: Vec<Input>,
}

/// A command of the plan.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name, unique in the plan, of letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What it makes; nothing for tables, and for the steps on the way to
    /// evaluations, whose artifacts depend on tasks and data.
    pub makes: Vec<Node>,
    /// The steps, by their place, whose artifacts it reads.
    pub after: Vec<usize>,
    /// Whether it looks at files outside of the store, or only prints: then the
    /// store alone cannot tell that there is nothing to do.
    pub looks_outside: bool,
    /// Processes that can share the work: of more than one each is given
    /// `--shard K/N`.
    pub shards: u32,
    /// What it takes.
    pub resources: Resources,
}

impl Step {
    /// Its command lines, one for each share.
    pub fn commands(&self) -> Vec<Vec<String>> {
        let shard = |k: u32| [self.command.clone(), vec!["--shard".into(), format!("{k}/{}", self.shards)]].concat();
        match self.shards {
            1 => vec![self.command.clone()],
            shards => (1..=shards).map(shard).collect(),
        }
    }
}

/// All there is to do for a run, in an order in which it can be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The run's name.
    pub run: String,
    /// The commands.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The plan of a run. It follows from the run file; what the store has adds
    /// what is known of costs and sizes.
    ///
    /// # Errors
    /// When overrides of an iteration or a baseline do not fit.
    pub fn new(graph: &Graph<'_>, options: &Options) -> Result<Plan> {
        let mut building = Building { graph, options, steps: Vec::new() };
        building.rounds()?;
        building.baselines()?;
        building.scores()?;
        building.evaluations()?;
        let mut plan = Plan { run: graph.run.run.clone(), steps: building.steps };
        estimate::fill(graph, options, &mut plan)?;
        Ok(plan)
    }

    /// The command lines in order.
    pub fn commands(&self) -> Vec<Vec<String>> {
        self.steps.iter().flat_map(Step::commands).collect()
    }

    /// The command lines for a POSIX shell.
    pub fn to_shell(&self) -> String {
        self.commands().iter().map(|words| shell_line(words) + "\n").collect()
    }

    /// The plan for other programs.
    pub fn to_json(&self) -> Value {
        let node = |node: &Node| {
            let inputs = node.inputs.iter().map(|input| json!({"role": input.role, "artifact": self.name(input)}));
            let stage = node.maker.id();
            json!({"artifact": node.name, "stage": stage.name, "stage_version": stage.version,
                "inputs": inputs.collect::<Value>()})
        };
        let step = |step: &Step| {
            json!({
                "name": step.name,
                "command": step.command,
                "after": step.after.iter().map(|&i| &self.steps[i].name).collect::<Vec<_>>(),
                "makes": step.makes.iter().map(node).collect::<Value>(),
                "looks_outside": step.looks_outside,
                "shards": step.shards,
                "resources": step.resources.to_json(),
            })
        };
        json!({"run": self.run, "steps": self.steps.iter().map(step).collect::<Value>()})
    }

    /// `kind/name` of an input.
    fn name(&self, input: &Input) -> String {
        format!("{}/{}", input.product.kind(), input.product.name_in(&self.run))
    }
}

/// Words as a line for a POSIX shell.
pub fn shell_line(words: &[String]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b);
    let quoted = |word: &String| match !word.is_empty() && word.bytes().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

struct Building<'a> {
    graph: &'a Graph<'a>,
    options: &'a Options,
    steps: Vec<Step>,
}

impl Building<'_> {
    /// Adds the step that makes `products`; `name` is its own.
    fn step(&mut self, name: String, products: Vec<Product>) -> Result<()> {
        let (program, flags) = self.graph.maker_of(&products[0]);
        let mut makes = Vec::new();
        let mut after = Vec::new();
        for product in products {
            let inputs = self.graph.planned_inputs(&product)?;
            let read = inputs.iter().map(|input| input.product.clone()).chain(self.graph.counted_by(&product)?);
            after.extend(read.filter_map(|product| self.maker_of(&product)));
            makes.push(Node {
                name: format!("{}/{}", product.kind(), self.graph.name_of(&product)),
                maker: self.graph.stage_of(&product),
                product,
                inputs,
            });
        }
        let looks_outside = makes.iter().any(|node| node.product.looks_outside());
        self.push(name, program, flags, after);
        let step = self.steps.last_mut().expect("it was pushed");
        (step.makes, step.looks_outside) = (makes, looks_outside);
        Ok(())
    }

    /// Adds a step that makes nothing that is known here.
    fn push(&mut self, name: String, program: &str, flags: Vec<String>, mut after: Vec<usize>) {
        after.sort_unstable();
        after.dedup();
        let mut command: Vec<String> = program.split(' ').map(str::to_owned).collect();
        command.push(self.graph.run.path.display().to_string());
        command.extend(flags);
        // What loads no model may be where no GPU is.
        if self.options.device != "cpu" && estimate::computes(&command) {
            command.extend(["--device".into(), self.options.device.clone()]);
        }
        command.extend(self.options.set.iter().flat_map(|set| ["--set".into(), set.clone()]));
        let (makes, shards, resources) = (Vec::new(), 1, Resources::default());
        self.steps.push(Step { name, command, makes, after, looks_outside: true, shards, resources });
    }

    /// The step that makes an artifact, among those that stand already: one of
    /// the same step is no input of it.
    fn maker_of(&self, product: &Product) -> Option<usize> {
        self.steps.iter().position(|step| step.makes.iter().any(|node| node.product == *product))
    }

    fn rounds(&mut self) -> Result<()> {
        let run = self.graph.run;
        let mut imports = Vec::new();
        if run.data.is_some() {
            imports.extend([Split::Train, Split::Test].map(Product::Demonstrations));
        }
        let with_preferences = run.baseline.iter().filter(|baseline| baseline.preferences.is_some());
        imports.extend(with_preferences.map(|baseline| Product::Preferences(baseline.name.clone())));
        imports.push(Product::Base);
        self.step("import".into(), imports)?;
        if run.sft.is_some() {
            self.trains("sft".into(), None, ModelId::Iteration(0))?;
        }
        for t in 0..run.rounds() {
            self.step(format!("sample-{t}"), vec![Product::Samples(t)])?;
            self.step(format!("pair-{t}"), vec![Product::Pairs(PairsOf::Iteration(t))])?;
            self.trains(format!("fit-{t}"), Some(PairsOf::Iteration(t)), ModelId::Iteration(t + 1))?;
        }
        Ok(())
    }

    /// A training, with the reference of its pairs.
    fn trains(&mut self, name: String, pairs: Option<PairsOf>, model: ModelId) -> Result<()> {
        let reference = match self.graph.has_reference(&model)? {
            true => pairs,
            false => None,
        };
        let mut products: Vec<Product> = reference.map(Product::Reference).into_iter().collect();
        products.extend([Product::Model(model.clone()), Product::Metrics(model)]);
        self.step(name, products)
    }

    fn baselines(&mut self) -> Result<()> {
        for baseline in &self.graph.run.baseline {
            let name = &baseline.name;
            let pairs = baseline.preferences.is_some().then(|| PairsOf::Baseline(name.clone()));
            if let Some(pairs) = &pairs {
                self.step(format!("pair-{name}"), vec![Product::Pairs(pairs.clone())])?;
            }
            self.trains(format!("fit-{name}"), pairs, ModelId::Baseline(name.clone()))?;
        }
        Ok(())
    }

    fn scores(&mut self) -> Result<()> {
        if self.graph.run.data.is_none() {
            return Ok(());
        }
        let mut scored = Vec::new();
        for model in self.graph.models() {
            if self.graph.run.bench.generates() {
                let answers = [Decoding::Sampled, Decoding::Greedy];
                let answers = answers.map(|decoding| Product::BenchSamples(model.clone(), decoding));
                self.step(format!("bench-sample-{model}"), answers.into())?;
            }
            self.step(format!("bench-{model}"), vec![Product::Scores(model)])?;
            scored.push(self.steps.len() - 1);
        }
        self.push("table".into(), "spin-bench table", Vec::new(), scored);
        Ok(())
    }

    fn evaluations(&mut self) -> Result<()> {
        let units = self.graph.evaluation_units();
        if units.is_empty() {
            return Ok(());
        }
        for model in self.graph.models() {
            let mut before = self.maker_of(&self.graph.weights(&model));
            // The second round is for conversations of two turns.
            for round in 0..1 + usize::from(self.graph.run.eval.has_conversations()) {
                let again = if round == 0 { "" } else { "-again" };
                for (name, program, flag) in
                    [("eval-requests", "spin-bench eval", "--requests"), ("eval-sample", "spin-sample", "--eval")]
                {
                    let flags = [model.flags(), vec![flag.to_owned()]].concat();
                    self.push(format!("{name}{again}-{model}"), program, flags, before.into_iter().collect());
                    before = Some(self.steps.len() - 1);
                }
            }
            let products = units.iter().map(|unit| Product::Evaluation(model.clone(), unit.clone())).collect();
            self.step(format!("eval-{model}"), products)?;
            let step = self.steps.last_mut().expect("it was pushed");
            step.after.extend(before.filter(|before| !step.after.contains(before)));
        }
        Ok(())
    }
}
