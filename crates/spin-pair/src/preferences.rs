//! Preference sets as pairs: the chosen answer is the real one, the rejected
//! one the generated one.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde_json::{Map, json};
use spin_run::ModelShape;
use spin_run::graph::{Graph, PairsOf, Product};
use spin_run::run::{PromptFate, TemplateConfig};
use spin_run::schema::{Message, Pair, Preference, Row};
use spin_store::{Artifact, Context, Making, Staged};
use spin_text::{Codec, TextError};

use crate::error::{PairError, Result};
use crate::stage;

/// The fates of a row, in the order in which they are tested.
pub const FATES: [&str; 4] = ["prompt_overlong", "identical", "over_length", "kept"];

/// Rows that are tokenised beside each other.
const PIECE: usize = 4096;

/// What became of a preference set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokenised {
    /// The pairs, in the order of the set.
    pub pairs: Vec<Pair>,
    /// Number of rows by fate: `kept` or the reason for the drop.
    pub counts: BTreeMap<String, u64>,
    /// Rows whose prompt was cut to `template.max_prompt_length`.
    pub truncated: u64,
}

/// Makes the pairs of a baseline's preference set; the flag is false when they
/// were there.
///
/// # Errors
/// Missing inputs, rows that cannot be tokenised, nothing left to learn from.
pub fn run(graph: &Graph<'_>, baseline: &str, context: &Context<'_>) -> Result<(Artifact, bool)> {
    let of = PairsOf::Baseline(baseline.to_owned());
    context.make(&graph.recipe(&Product::Pairs(of.clone()))?, |making| assemble(graph, baseline, &of, making))
}

fn assemble(graph: &Graph<'_>, baseline: &str, of: &PairsOf, making: &Making<'_>) -> Result<Staged> {
    let model = graph.artifact(&graph.opponent_of(of)?)?.verified_where(ModelShape::is_beside_weights)?;
    let codec = Codec::of_run(model.dir(), graph.chat()?)?;
    let shape = ModelShape::read(model.dir())?;
    codec.check_vocab(shape.vocab_size)?;
    let artifact = graph.preferences(baseline)?;
    let rows = Preference::read_all(&artifact)?;
    let made = tokenise(&rows, &codec, &graph.run.template, shape.context, &artifact.reference())?;
    if made.pairs.is_empty() {
        return Err(PairError::NoPreferences { table: artifact.reference(), drops: stage::drops(&made.counts) });
    }
    let mut facts = Map::new();
    facts.insert("preferences".into(), json!(rows.len()));
    facts.insert("fates".into(), json!(made.counts));
    facts.insert("truncated_prompts".into(), json!(made.truncated));
    stage::staged(making, &made.pairs, facts)
}

/// Rows as pairs, by the rules that demonstrations and samples are held to:
/// the prompt up to the place where the assistant answers, an answer with its
/// end-of-sequence token; prompts over `max_prompt_length` go by
/// `template.overlong`, pairs over `max_length` are dropped, never cut.
///
/// # Errors
/// When a row cannot be tokenised, or its prompt is too long and that is an
/// error.
pub fn tokenise(
    rows: &[Preference],
    codec: &Codec,
    template: &TemplateConfig,
    context: usize,
    table: &str,
) -> Result<Tokenised> {
    let one = |row: &Preference| tokenise_row(row, codec, template, context, table);
    let mut made = Tokenised { counts: FATES.map(|fate| (fate.to_owned(), 0)).into(), ..Tokenised::default() };
    // What takes the most time. Of several bad rows the first is named, before all others are looked at.
    for piece in rows.chunks(PIECE) {
        let fates: Vec<_> = piece.par_iter().map(one).collect();
        for fate in fates {
            match fate? {
                Fate::Left(fate) => made.count(fate),
                Fate::Kept(pair, truncated) => {
                    made.count(FATES[3]);
                    made.truncated += u64::from(truncated);
                    made.pairs.push(pair);
                }
            }
        }
    }
    Ok(made)
}

/// What becomes of a row.
enum Fate {
    /// It is left out, for one of [`FATES`].
    Left(&'static str),
    /// It is a pair, of a prompt that was cut or not.
    Kept(Pair, bool),
}

fn tokenise_row(
    row: &Preference,
    codec: &Codec,
    template: &TemplateConfig,
    context: usize,
    table: &str,
) -> Result<Fate> {
    let in_row = |error: TextError| error.in_row(&row.row_id, table);
    let (prompt_ids, truncated) = match template.prompt(codec.prompt_ids(&row.prompt).map_err(in_row)?, context) {
        PromptFate::Used(ids, truncated) => (ids, truncated),
        PromptFate::Dropped => return Ok(Fate::Left(FATES[0])),
        PromptFate::TooLong(problem, remedy) => {
            let problem = format!("row {:?}: {problem}", row.row_id);
            return Err(PairError::Mismatch { table: table.into(), problem, remedy: remedy.into() });
        }
    };
    let real_ids = codec.response_ids(&row.prompt, &row.chosen).map_err(in_row)?;
    let generated_ids = codec.response_ids(&row.prompt, &row.rejected).map_err(in_row)?;
    if real_ids == generated_ids {
        return Ok(Fate::Left(FATES[1]));
    }
    if prompt_ids.len() + real_ids.len().max(generated_ids.len()) > template.max_length.min(context) {
        return Ok(Fate::Left(FATES[2]));
    }
    let with = |answer: &str| {
        let mut messages = row.prompt.clone();
        messages.push(Message::assistant(answer));
        messages
    };
    let pair = Pair {
        row_id: row.row_id.clone(),
        // Nobody's round: there is one rejected answer to each prompt.
        iteration: 0,
        sample_index: 0,
        real: with(&row.chosen),
        generated: with(&row.rejected),
        prompt_ids,
        real_ids,
        generated_ids,
    };
    Ok(Fate::Kept(pair, truncated))
}

impl Tokenised {
    fn count(&mut self, fate: &str) {
        *self.counts.entry(fate.to_owned()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use spin_run::run::Overlong;

    use super::*;

    /// The demo's tokenizer: a token for each character, `{bos}{user}\n{answer}{eos}`.
    fn codec() -> Codec {
        Codec::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/raw/demo/model")).unwrap()
    }

    fn row(row_id: &str, prompt: &str, chosen: &str, rejected: &str) -> Preference {
        Preference {
            row_id: row_id.into(),
            prompt: vec![Message::user(prompt)],
            chosen: chosen.into(),
            rejected: rejected.into(),
        }
    }

    fn template(max_prompt_length: usize, max_length: usize, overlong: Overlong) -> TemplateConfig {
        TemplateConfig { max_prompt_length, max_length, overlong, ..TemplateConfig::default() }
    }

    #[test]
    fn every_row_has_one_fate_and_chosen_is_real() {
        let codec = codec();
        let rows = [
            row("a", "2 and 3", "= 5", "= 6"),
            row("same", "2 and 3", "= 5", "= 5"),
            row("long", "2 and 3", "= 5", &"= 5 and ".repeat(40)),
            row("far", &"2 and 3 ".repeat(30), "= 5", "= 6"),
        ];
        let made = tokenise(&rows, &codec, &template(60, 120, Overlong::Drop), 128, "preferences/t/x@v1").unwrap();
        let counts: Vec<(&str, u64)> = made.counts.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(counts, [("identical", 1), ("kept", 1), ("over_length", 1), ("prompt_overlong", 1)]);
        let [pair] = made.pairs.as_slice() else { panic!("{:?}", made.pairs) };
        assert_eq!((pair.row_id.as_str(), pair.real[1].content.as_str()), ("a", "= 5"));
        assert_eq!(pair.generated[1].content, "= 6");
        // Prompt and answer make the whole conversation, and end with the EOS.
        for (ids, messages) in [(&pair.real_ids, &pair.real), (&pair.generated_ids, &pair.generated)] {
            let whole = [pair.prompt_ids.as_slice(), ids].concat();
            assert_eq!(whole, codec.conversation_ids(messages).unwrap());
            assert_eq!(ids.last(), Some(&codec.primary_eos()));
        }
        assert_eq!(pair.prompt_ids, codec.prompt_ids(&rows[0].prompt).unwrap());
    }

    #[test]
    fn a_prompt_that_is_too_long_is_refused_or_cut_as_the_template_says() {
        let codec = codec();
        let rows = [row("far", &"2 and 3 ".repeat(30), "= 5", "= 6")];
        let error = tokenise(&rows, &codec, &template(60, 120, Overlong::Error), 128, "preferences/t/x@v1");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("preferences/t/x@v1") && error.contains("\"far\""), "{error}");
        assert!(error.contains("template.overlong"), "{error}");
        let made = tokenise(&rows, &codec, &template(60, 120, Overlong::Truncate), 128, "t").unwrap();
        assert_eq!((made.truncated, made.pairs[0].prompt_ids.len()), (1, 60));
        let whole = codec.prompt_ids(&rows[0].prompt).unwrap();
        assert_eq!(made.pairs[0].prompt_ids, whole[whole.len() - 60..]);
    }
}
