//! The codec of a run: the tokenizer of a model with the run's template.

use std::path::Path;

use spin_store::graph::Graph;

use crate::codec::Codec;
use crate::error::{Result, TextError};
use crate::fields;
use crate::template::TemplateChoice;

/// The codec that every stage of a run uses with the model in `dir`.
///
/// # Errors
/// When the template file or the tokenizer cannot be read, or `generation_config.json` asks for
/// answers other than those that the run file describes.
pub fn codec_of(graph: &Graph<'_>, dir: &Path) -> Result<Codec> {
    let choice = match (graph.run.template.chat.as_str(), graph.template_file()) {
        ("alpaca", _) => TemplateChoice::Alpaca,
        (_, Some(path)) => {
            let source = std::fs::read_to_string(&path);
            match source {
                Ok(source) => TemplateChoice::File(path, source),
                Err(source) => return Err(TextError::Read { path, source }),
            }
        }
        _ => TemplateChoice::Model,
    };
    fields::check_generation(dir)?;
    let codec = Codec::from_dir_with(dir, choice)?;
    Ok(match graph.run.template.day() {
        Some(day) => codec.with_date(day),
        None => codec,
    })
}

/// The tokenizer of the model in `dir`, for text that no template writes; base
/// models have none.
///
/// # Errors
/// When the tokenizer cannot be read.
pub fn tokenizer_of(dir: &Path) -> Result<Codec> {
    Codec::from_dir_with(dir, TemplateChoice::Alpaca)
}
