//! From a prompt to tokens, as the harness cuts them.

use spin_text::{BosPolicy, Codec};

use super::Profile;
use super::text::rstrip;
use crate::error::{BenchError, Result};

/// Turns text into tokens by the rules of a profile.
pub struct Encoder<'a> {
    codec: &'a Codec,
    bos: Option<(u32, String)>,
    prefix: u32,
    max_length: usize,
}

/// A continuation behind its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Context and continuation, cut from the left to what the model reads.
    pub tokens: Vec<u32>,
    /// How many of them are the continuation.
    pub continuation: usize,
    /// How many were cut.
    pub truncated: usize,
    /// Whether the tokenizer joined the end of the context with the beginning
    /// of the continuation, so that what is scored is not what it would write.
    pub merged: bool,
}

impl<'a> Encoder<'a> {
    /// `max_length` is the model's context.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn new(codec: &'a Codec, profile: Profile, max_length: usize) -> Result<Self> {
        // Before v0.4.9.2 no token was ever put in front.
        let adds = profile == Profile::Current && codec.bos_policy() == BosPolicy::Prepend;
        let bos = match codec.bos_id().filter(|_| adds) {
            Some(id) => Some((id, codec.decode_all(&[id])?)),
            None => None,
        };
        let first = if profile == Profile::Current { codec.bos_id() } else { None };
        Ok(Self { codec, bos, prefix: first.unwrap_or_else(|| codec.primary_eos()), max_length })
    }

    /// The tokens of a text, with a beginning-of-sequence token where the
    /// profile and the tokenizer want one and the text has none.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.plain(text)?;
        if let Some((id, own)) = &self.bos
            && !text.starts_with(own.as_str())
        {
            ids.insert(0, *id);
        }
        Ok(ids)
    }

    fn plain(&self, text: &str) -> Result<Vec<u32>> {
        let problem = |e: spin_text::TextError| BenchError::Tokenizer {
            text: text.chars().take(80).collect(),
            problem: e.to_string(),
        };
        self.codec.encode_text(text).map_err(problem)
    }

    /// Encodes continuations with their contexts; equal contexts that follow
    /// each other are encoded once.
    ///
    /// White space that ends a context is scored with the continuation, and
    /// the continuation's tokens are those of the whole text behind as many as
    /// the context alone has.
    ///
    /// # Errors
    /// When a continuation has no tokens of its own, or more than the model
    /// can read.
    pub fn requests<'t>(&self, requests: impl Iterator<Item = (&'t str, &'t str)>) -> Result<Vec<Encoded>> {
        let mut known: Option<(&str, Vec<u32>)> = None;
        let mut out = Vec::new();
        for (whole_context, continuation) in requests {
            if whole_context.is_empty() {
                out.push(self.behind_nothing(continuation)?);
                continue;
            }
            let context = rstrip(whole_context);
            let known = match &mut known {
                Some((text, ids)) if *text == context => ids,
                _ => &mut known.insert((context, self.encode(context)?)).1,
            };
            let whole = self.encode(&format!("{whole_context}{continuation}"))?;
            let own = whole.get(known.len()..).unwrap_or_default();
            let merged = !whole.starts_with(known);
            out.push(self.cut(known, own, merged, continuation)?);
        }
        Ok(out)
    }

    fn behind_nothing(&self, continuation: &str) -> Result<Encoded> {
        let ids = self.plain(continuation)?;
        match ids.split_first() {
            Some((first, rest)) if *first == self.prefix => self.cut(&[*first], rest, false, continuation),
            _ => self.cut(&[self.prefix], &ids, false, continuation),
        }
    }

    fn cut(&self, context: &[u32], continuation: &[u32], merged: bool, text: &str) -> Result<Encoded> {
        let unusable = |problem: String| BenchError::Continuation { text: text.to_owned(), problem };
        if continuation.is_empty() {
            return Err(unusable("has no tokens of its own behind its context".into()));
        }
        if continuation.len() > self.max_length {
            return Err(unusable(format!(
                "has {} tokens, more than the model's context of {}",
                continuation.len(),
                self.max_length
            )));
        }
        let mut tokens = [context, continuation].concat();
        let truncated = tokens.len().saturating_sub(self.max_length + 1);
        tokens.drain(..truncated);
        Ok(Encoded { tokens, continuation: continuation.len(), truncated, merged })
    }

    /// The prompt of a generated answer of at most `max_new_tokens` tokens,
    /// and how many tokens were cut from its left.
    ///
    /// # Errors
    /// When the model's context has no room for both.
    pub fn generation(&self, context: &str, max_new_tokens: usize) -> Result<(Vec<u32>, usize)> {
        let room = self.max_length.saturating_sub(max_new_tokens);
        if room == 0 {
            return Err(BenchError::NoRoom { max_gen_toks: max_new_tokens, context: self.max_length });
        }
        let mut ids = self.encode(context)?;
        let truncated = ids.len().saturating_sub(room);
        ids.drain(..truncated);
        Ok((ids, truncated))
    }
}
