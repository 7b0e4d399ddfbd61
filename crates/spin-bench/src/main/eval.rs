//! `spin-bench eval`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use spin_bench::BenchError;
use spin_bench::harness::evaluator::Evaluator;
use spin_bench::harness::registry::Registry;
use spin_bench::mt_bench::stage::{self as mt_bench, Conversations};
use spin_bench::mt_bench::{JudgeOptions, MtBenchError, OpenAiJudge, Retry};
use spin_cli::{Exit, Place, say, stop_flag};
use spin_net::Name;
use spin_net::hub::Settings;
use spin_net::secret::Secret;
use spin_report::evaluations::Results;
use spin_report::mt_bench::Summary;
use spin_run::graph::{Graph, ModelId};
use spin_run::import::Importer;
use spin_run::run::{Dtype, EvalConfig, MT_BENCH, Profile, RunFile, as_params};
use spin_store::{Artifact, Context, Outcome, Store, digest};

use crate::open;
use crate::screen::Screen;

/// Flags of `eval`.
#[derive(clap::Args)]
pub struct Args {
    /// The run file, whose [eval] says what to score
    #[arg(value_name = "RUN.toml", required_unless_present = "model")]
    run: Option<PathBuf>,
    /// Override a key of the run file, e.g. --set eval.limit=100
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "run")]
    set: Vec<String>,
    /// Evaluate the model that enters this round, θN: of R rounds, N = R is the last model
    #[arg(long, value_name = "N", conflicts_with = "model")]
    iteration: Option<usize>,
    /// Evaluate a [[baseline]] of the run file
    #[arg(long, conflicts_with_all = ["iteration", "model"])]
    baseline: Option<String>,
    /// Evaluate a Hugging Face directory, or a model by its name on the hub (hf:OWNER/NAME[@REVISION]), without a run file
    #[arg(long, value_name = "DIR", conflicts_with = "run")]
    model: Option<PathBuf>,
    /// Name of the results of --model in the store; by default the directory's
    #[arg(long, requires = "model")]
    name: Option<String>,
    /// The store of --model
    #[arg(long, requires = "model", default_value = "data")]
    store: PathBuf,
    /// Tasks and groups, in place of eval.tasks: open-llm-leaderboard-v1, spin-paper, mmlu, bbh, gsm8k, ...
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,
    /// Whose rules: leaderboard-v1, spin-paper or current
    #[arg(long, value_parser = profile)]
    profile: Option<Profile>,
    /// Directory of the data sets
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Directory with task files of your own
    #[arg(long, value_name = "DIR")]
    include_path: Vec<PathBuf>,
    /// The first documents of each task only
    #[arg(long)]
    limit: Option<usize>,
    /// In place of the first documents, as many drawn at random by this seed
    #[arg(long, value_name = "SEED")]
    limit_seed: Option<u32>,
    /// Examples in each prompt, in place of the tasks' own number
    #[arg(long)]
    num_fewshot: Option<usize>,
    /// Longest generated answer, in place of the tasks' own
    #[arg(long)]
    max_gen_toks: Option<usize>,
    /// Element type of the weights: f32, bf16 or f16
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Write prompts through the model's chat template
    #[arg(long)]
    apply_chat_template: bool,
    /// With the chat template: examples as turns of their own
    #[arg(long, value_name = "BOOL")]
    fewshot_as_multiturn: Option<bool>,
    /// Where to compute: cpu, cuda for the first of CUDA_VISIBLE_DEVICES, or cuda:N
    #[arg(long, value_name = "cpu|cuda[:N]", default_value = "cpu", value_parser = Place::parse)]
    device: Place,
    /// Only publish the prompts of tasks that need generated answers, for `spin-sample --eval`
    #[arg(long, conflicts_with_all = ["output_path", "json"])]
    requests: bool,
    /// Also write results_*.json, in lm-evaluation-harness's layout, into this directory
    #[arg(long, value_name = "DIR")]
    output_path: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn profile(name: &str) -> Result<Profile, String> {
    [Profile::LeaderboardV1, Profile::SpinPaper, Profile::Current]
        .into_iter()
        .find(|profile| profile.name() == name)
        .ok_or_else(|| "there are leaderboard-v1, spin-paper and current".into())
}

/// Paths of flags count from where the user is, those of a run file from the
/// file.
fn here(path: &PathBuf) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("no path {}", path.display()))
}

/// A model's directory, or its name on the hub.
fn place(model: &PathBuf) -> anyhow::Result<PathBuf> {
    if Name::is_meant(model) { Ok(model.clone()) } else { here(model) }
}

/// The run file with the flags applied, or one made of flags alone.
fn run_file(args: &Args) -> anyhow::Result<RunFile> {
    let mut run = match (&args.run, &args.model) {
        (Some(path), _) => RunFile::load(path, &args.set)?,
        (None, Some(dir)) => {
            let eval = EvalConfig { data: PathBuf::from("data/benchmarks"), ..EvalConfig::default() };
            RunFile::of_directory(place(dir)?, args.name.as_deref(), here(&args.store)?, eval)
                .map_err(|e| BenchError::Settings(e.to_string()))?
        }
        (None, None) => anyhow::bail!("give a run file or --model DIR"),
    };
    let eval = &mut run.eval;
    if !args.tasks.is_empty() {
        eval.tasks.clone_from(&args.tasks);
    }
    eval.profile = args.profile.unwrap_or(eval.profile);
    if let Some(data) = &args.data {
        eval.data = here(data)?;
    }
    for dir in &args.include_path {
        eval.include.push(here(dir)?);
    }
    eval.limit = args.limit.unwrap_or(eval.limit);
    eval.limit_seed = args.limit_seed.or(eval.limit_seed);
    eval.num_fewshot = args.num_fewshot.or(eval.num_fewshot);
    eval.max_gen_toks = args.max_gen_toks.or(eval.max_gen_toks);
    eval.dtype = args.dtype.unwrap_or(eval.dtype);
    eval.apply_chat_template |= args.apply_chat_template;
    eval.fewshot_as_multiturn = args.fewshot_as_multiturn.unwrap_or(eval.fewshot_as_multiturn);
    if eval.tasks.is_empty() {
        let problem = "no tasks are named; name some with --tasks or eval.tasks, such as open-llm-leaderboard-v1";
        return Err(BenchError::Settings(problem.into()).into());
    }
    eval.check().map_err(|problem| BenchError::Settings(format!("in [eval]: {problem}")))?;
    if args.fewshot_as_multiturn.is_some() && !eval.apply_chat_template {
        let problem = "--fewshot-as-multiturn has no effect without a chat template; add --apply-chat-template";
        return Err(BenchError::Settings(problem.into()).into());
    }
    Ok(run)
}

/// Evaluates.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let run = run_file(args)?;
    // A model without a run file is imported here; a run is imported before.
    let store = match args.model {
        Some(_) => Store::open(&run.store_dir())?,
        None => Store::open_existing(&run.store_dir())?,
    };
    let graph = Graph::new(&run, &store);
    let id = match (&args.baseline, args.iteration) {
        (Some(name), _) => ModelId::Baseline(name.clone()),
        (None, t) => ModelId::Iteration(t.unwrap_or(0)),
    };
    let (stop, holder) = (stop_flag()?, spin_cli::whoami());
    let context = Context {
        environment: &|| run.noted(spin_cli::environment(spin_cli::features!("cuda"))),
        holder: &holder,
        device: args.device.kind(),
        stop: &stop,
        watch: &say,
        ..Context::silent(&store)
    };
    if args.model.is_some() {
        let hub = Settings::from_vars(&|name| std::env::var(name).ok()).map_err(BenchError::from)?;
        Importer { hub: Some(&hub), ..Importer::new(context) }.base(&run)?;
    }
    let eval = &run.eval;
    let include: Vec<PathBuf> = eval.include.iter().map(|dir| run.resolve(dir)).collect();
    let units = Registry::new(eval.profile, &run.resolve(&eval.data), &include)?.units(&eval.tasks)?;
    let device = open(args.device)?;
    let evaluator = Evaluator::new(&graph, &id, device)?;
    let label = graph.evaluation_name(&id, "");
    let label = label.trim_end_matches('/');
    let (mut artifacts, mut waiting): (Vec<(String, Artifact)>, Vec<String>) = Default::default();
    let mut judged = None;
    for unit in units {
        if unit.name == MT_BENCH {
            judged = Some(conversations(&graph, &id, args.requests, &context)?);
            if matches!(judged, Some(Judged::Stopped)) {
                say("stopped with the judgments so far kept; run it again");
                return Ok(Exit::Again);
            }
            continue;
        }
        let unit = evaluator.prepare(unit)?;
        for warning in &unit.warnings {
            say(&format!("warning: {warning}"));
        }
        if unit.generates()
            && let (requests, true) = evaluator.requests(&unit, &context)?
        {
            say(&format!("made {}: {} prompts", requests.reference(), requests.manifest.rows()));
        }
        if args.requests {
            continue;
        }
        let name = unit.name.clone();
        let screen = Screen::new(format!("evaluations/{label}/{name}"), "documents");
        let result = evaluator.evaluate(&unit, &Context { watch: &screen, ..context });
        screen.finish();
        match result {
            Ok((Outcome::Found(artifact), _)) => {
                say(&format!("already there: {}", artifact.reference()));
                artifacts.push((name, artifact));
            }
            Ok((Outcome::Made(artifact), stats)) => {
                let shared = match stats.tokens_computed {
                    0 => String::new(),
                    computed => {
                        format!(", {computed} of {} tokens computed, the others shared", stats.tokens_given)
                    }
                };
                say(&format!("made {}{shared}, {}", artifact.reference(), spin_cli::cost()));
                artifacts.push((name, artifact));
            }
            Ok((Outcome::Left(_), _)) => {
                say("stopped with the finished parts kept; run it again");
                return Ok(Exit::Again);
            }
            Err(BenchError::Store(error @ spin_store::StoreError::Missing { .. })) => {
                say(&format!("{name} waits for generated answers: {error}"));
                waiting.push(name);
            }
            Err(error) => return Err(error.into()),
        }
    }
    if args.requests {
        return Ok(Exit::Done);
    }
    let mut report = (String::new(), None);
    match judged {
        Some(Judged::Scored(summary)) => report = (summary.table(), Some(summary.to_json())),
        Some(Judged::Waiting) => waiting.push(MT_BENCH.into()),
        Some(Judged::Stopped) | None => {}
    }
    let settings = json!({"eval": as_params(eval)});
    let results = Results::read(label, eval.profile, settings, &artifacts)?;
    let mut document = results.to_json();
    if let Some(scores) = report.1 {
        document["mt_bench"] = scores;
    }
    if let Some(dir) = &args.output_path {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // Other tasks or settings are other results, and get another name.
        let digest = digest::of_json(&document["evaluations"]);
        let path = dir.join(format!("results_{}_{}.json", label.replace('/', "__"), &digest[..8]));
        let text = serde_json::to_string_pretty(&document)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        say(&format!("wrote {}", path.display()));
    }
    let text = match args.json {
        true => serde_json::to_string_pretty(&document)? + "\n",
        false if artifacts.is_empty() => report.0,
        false if report.0.is_empty() => results.table(),
        false => results.table() + "\n" + &report.0,
    };
    spin_cli::out(&text);
    if waiting.is_empty() {
        return Ok(Exit::Done);
    }
    say(&format!("not scored yet: {}", waiting.join(", ")));
    Ok(Exit::BadInput)
}

/// What became of MT-Bench.
enum Judged {
    Scored(Box<Summary>),
    Waiting,
    Stopped,
}

/// MT-Bench as far as it goes: prompts, or the judge when both turns are
/// answered.
fn conversations(
    graph: &Graph<'_>,
    id: &ModelId,
    only_requests: bool,
    context: &Context<'_>,
) -> anyhow::Result<Judged> {
    let bench = Conversations::new(graph, id)?;
    let (answers, artifacts) = match bench.advance(context)? {
        mt_bench::Progress::Waiting(requests) => {
            say(&format!("{MT_BENCH} waits for answers to {}: run spin-sample --eval", requests.reference()));
            return Ok(Judged::Waiting);
        }
        mt_bench::Progress::Answered { answers, artifacts } => (answers, artifacts),
    };
    if only_requests {
        return Ok(Judged::Waiting);
    }
    let Some(config) = &graph.run.eval.judge else {
        say(&format!(
            "{MT_BENCH}: both turns are answered; to have them judged, add [eval.judge] with model and base_url"
        ));
        return Ok(Judged::Waiting);
    };
    let key = std::env::var_os(&config.api_key_env).map(|key| key.to_string_lossy().into_owned());
    let key = Secret::optional(key.as_deref(), &config.api_key_env).map_err(BenchError::from)?;
    let judge = OpenAiJudge::new(&config.base_url, &config.model, key, Duration::from_secs(config.timeout));
    let options = JudgeOptions { workers: config.workers.max(1), retry: Retry::default(), stop: context.stop };
    let screen = Screen::new(MT_BENCH.into(), "judgments");
    let result = bench.judge(&answers, &artifacts, &judge, &options, &Context { watch: &screen, ..*context });
    screen.finish();
    if matches!(result, Err(BenchError::MtBench(MtBenchError::Interrupted))) {
        return Ok(Judged::Stopped);
    }
    let (artifact, summary) = result.map_err(|error| match &error {
        BenchError::MtBench(MtBenchError::Stopped { source, .. }) if source.is_auth() => {
            anyhow::Error::from(error).context(format!("the key is read from ${}", config.api_key_env))
        }
        _ => error.into(),
    })?;
    match artifact {
        Some(artifact) => say(&format!("judgments: {}", artifact.reference())),
        None => {
            let errors = summary.errors;
            say(&format!(
                "{errors} judgments could not be had; run it again to ask for them, or set eval.judge.accept_errors"
            ));
            return Ok(Judged::Waiting);
        }
    }
    Ok(Judged::Scored(Box::new(summary)))
}
