//! The codec: a tokenizer with a chat template, and the boundary between prompt and answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use serde_json::json;
use tokenizers::Tokenizer;

use crate::chat::{Chat, TemplateChoice};
use crate::error::{Result, TextError, excerpt};
use crate::fields;
use crate::files::Files;
use crate::guard::{Guard, Rendered, called, strangers};
use crate::message::Message;
use crate::template::{ALPACA_TEMPLATE, Template, variables};

/// The version of the `tokenizers` library that made the ids, for manifests.
pub const TOKENIZERS_VERSION: &str = "0.22.2";

/// Texts behind which an answer is encoded when it cannot be encoded behind its prompt.
const PREFIXES: [&str; 4] = ["\n", ":", "a", "0"];

/// Who writes the beginning-of-sequence token of a prompt.
///
/// `transformers` leaves it to the template alone. Models whose tokenizer puts one in front of every
/// text (Llama, Mistral, Zephyr) have seen it there all through their training, though, so for these
/// it is added when the template does not write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BosPolicy {
    /// The template: nothing is added.
    Template,
    /// The codec, in front, unless the template writes the token anywhere itself. Chosen if
    /// `add_bos_token` in `tokenizer_config.json` is true or, where it is absent, if the tokenizer's
    /// post-processor adds the token.
    Prepend,
}

impl BosPolicy {
    fn name(self) -> &'static str {
        match self {
            BosPolicy::Template => "template",
            BosPolicy::Prepend => "prepend",
        }
    }
}

/// Turns conversations into token ids and ids into text, the same way in every stage.
///
/// Control tokens are the tokenizer's special tokens and those that `tokenizer_config.json` names
/// (`bos_token`, `eos_token`, ..., `additional_special_tokens`). Their text in a message stays text.
/// Other added tokens, such as `<think>` where it is not special, are ordinary vocabulary and may
/// occur in messages.
///
/// A codec can be shared between threads.
pub struct Codec {
    path: PathBuf,
    guard: Guard,
    template: Template,
    tokens: BTreeMap<String, String>,
    /// The same for the template.
    variables: minijinja::Value,
    bos: Option<u32>,
    bos_policy: BosPolicy,
    eos_ids: Vec<u32>,
    max_id: u32,
}

impl Codec {
    /// Read the tokenizer files of a model directory and use its own chat template.
    pub fn from_dir(dir: &Path) -> Result<Codec> {
        Self::from_dir_with(dir, TemplateChoice::Model)
    }

    /// Read the tokenizer files of a model directory and use the template chosen.
    ///
    /// Read are `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` (where the former
    /// does not name a token), `chat_template.jinja` (which wins over the configuration's
    /// `chat_template`), and `generation_config.json` and `config.json` for the ids that end a sequence.
    pub fn from_dir_with(dir: &Path, choice: TemplateChoice) -> Result<Codec> {
        let path = dir.join("tokenizer.json");
        // The tokenizers library panics on settings that it cannot use.
        strangers(&called(&path), || Self::read(dir, choice)).unwrap_or_else(|| {
            Err(TextError::parse(&path, "the tokenizers library fails on it, so it has a setting that cannot be used"))
        })
    }

    fn read(dir: &Path, choice: TemplateChoice) -> Result<Codec> {
        let files = Files::read(dir)?;
        let template = match choice {
            TemplateChoice::Model => {
                let Some((path, source)) = files.template else {
                    return Err(TextError::NoTemplate { dir: dir.to_owned() });
                };
                Template::compile(path.display().to_string(), source)?
            }
            TemplateChoice::Alpaca => Template::compile("alpaca", ALPACA_TEMPLATE)?,
            TemplateChoice::Custom(source) => Template::compile("custom", source)?,
            TemplateChoice::File(path, source) => Template::compile(path.display().to_string(), source)?,
        };
        let adds_bos = match (files.bos, files.add_bos) {
            (None, _) => false,
            (Some(_), Some(add)) => add,
            (Some(bos), None) => post_processor_adds(&files.tokenizer, bos),
        };
        let bos_policy = if adds_bos { BosPolicy::Prepend } else { BosPolicy::Template };
        let max_id = files.tokenizer.get_vocab(true).values().copied().max().unwrap_or(0);
        Ok(Codec {
            guard: Guard::new(&files.path, files.tokenizer, files.unknown)?,
            path: files.path,
            template,
            variables: variables(&files.tokens),
            tokens: files.tokens,
            bos: files.bos,
            bos_policy,
            eos_ids: files.eos_ids,
            max_id,
        })
    }

    /// The codec that every stage of a run uses with the model in `dir`.
    ///
    /// # Errors
    /// When the tokenizer or the template cannot be used, or `generation_config.json` asks for
    /// answers other than those that a run file describes.
    pub fn of_run(dir: &Path, chat: Chat) -> Result<Codec> {
        fields::check_generation(dir)?;
        let codec = Self::from_dir_with(dir, chat.template)?;
        Ok(match chat.date {
            Some(day) => codec.with_date(day),
            None => codec,
        })
    }

    /// The tokenizer of the model in `dir`, for text that no template writes; base models have none.
    ///
    /// # Errors
    /// When the tokenizer cannot be read.
    pub fn plain(dir: &Path) -> Result<Codec> {
        Self::from_dir_with(dir, TemplateChoice::Alpaca)
    }

    /// Give templates a `strftime_now`, which writes midnight of `day` whenever it is called. Without
    /// one they fall back to a date of their own, or are refused.
    #[must_use]
    pub fn with_date(mut self, day: NaiveDate) -> Codec {
        self.template.set_day(day);
        self
    }

    /// The ids of a conversation up to the place where the assistant answers.
    ///
    /// These are the ids that `apply_chat_template(prompt, add_generation_prompt=True)` gives (with
    /// `sanitize_control_tokens` in spirit, see [`Codec`]), except for what [`BosPolicy`] says. A
    /// generator must be given exactly these, without further special tokens.
    pub fn prompt_ids(&self, prompt: &[Message]) -> Result<Vec<u32>> {
        self.encode_with_bos(&self.render(prompt, true)?)
    }

    /// The text that [`prompt_ids`](Self::prompt_ids) encodes, for reading.
    pub fn prompt_text(&self, prompt: &[Message]) -> Result<String> {
        Ok(self.render(prompt, true)?.text)
    }

    /// The ids of a whole conversation: those that `apply_chat_template(messages)` gives, except for what
    /// [`BosPolicy`] says.
    pub fn conversation_ids(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode_with_bos(&self.render(messages, false)?)
    }

    /// The text that [`conversation_ids`](Self::conversation_ids) encodes, for reading.
    pub fn conversation_text(&self, messages: &[Message]) -> Result<String> {
        Ok(self.render(messages, false)?.text)
    }

    /// The ids that follow [`prompt_ids`](Self::prompt_ids) when the assistant answers `response`.
    ///
    /// They end with exactly one end-of-sequence token: the first of [`eos_ids`](Self::eos_ids) that
    /// the template writes after the prompt, or, if it writes none, the
    /// [primary one](Self::primary_eos). What the template writes after it is cut, because a generated
    /// answer ends there. `prompt_ids ++ response_ids` always decodes to the rendered text; it also
    /// equals the encoding of that text unless a token would reach across the boundary, which no
    /// generated answer can do either.
    pub fn response_ids(&self, prompt: &[Message], response: &str) -> Result<Vec<u32>> {
        self.exchange_ids(prompt, response).map(|(_, ids)| ids)
    }

    /// The ids of a prompt and those of an answer to it: [`prompt_ids`](Self::prompt_ids) and
    /// [`response_ids`](Self::response_ids) in one go.
    pub fn exchange_ids(&self, prompt: &[Message], response: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        let before = self.render(prompt, true)?;
        let mut conversation = prompt.to_vec();
        conversation.push(Message::assistant(response));
        let whole = self.render(&conversation, false)?;

        let beginning = || prompt.last().map(|m| excerpt(&m.content)).unwrap_or_default();
        if !whole.text.starts_with(&before.text) {
            return Err(TextError::NotContinuation { origin: self.template.origin().to_owned(), prompt: beginning() });
        }
        let start = before.text.len();
        let ending = whole.own.iter().find(|own| own.start >= start && self.eos_ids.contains(&own.id));
        let (answer_end, end) = match ending {
            Some(own) => (own.start, own.end),
            None => (whole.text.len(), whole.text.len()),
        };
        if response.is_empty() || answer_end == start {
            return Err(TextError::EmptyResponse { prompt: beginning() });
        }

        let prompt_ids = self.encode_with_bos(&before)?;
        let whole_ids = self.encode_with_bos(&whole.part("", 0, end))?;
        let mut ids = match whole_ids.strip_prefix(&prompt_ids[..]) {
            Some(rest) => rest.to_vec(),
            None => self.encode_apart(&whole, (start, end), &prompt_ids, &whole_ids, response)?,
        };
        if ending.is_none() {
            ids.push(self.primary_eos());
        }
        let count = ids.iter().filter(|id| self.eos_ids.contains(id)).count();
        let last = ids.last().is_some_and(|id| self.eos_ids.contains(id));
        if count != 1 || !last {
            let (path, response) = (self.path.clone(), excerpt(response));
            return Err(TextError::Eos { path, response, count });
        }
        Ok((prompt_ids, ids))
    }

    /// Encode the answer apart from a prompt with whose end it would merge: behind a short text whose
    /// own ids stay the same, so that the tokenizer does not take it for the beginning of a text
    /// (sentencepiece would put a space there).
    fn encode_apart(
        &self,
        whole: &Rendered,
        (start, end): (usize, usize),
        prompt_ids: &[u32],
        whole_ids: &[u32],
        response: &str,
    ) -> Result<Vec<u32>> {
        let wanted = self.decode_all(whole_ids)?;
        for prefix in PREFIXES {
            let head = self.guard.encode(&whole.part(prefix, start, start))?;
            let both = self.guard.encode(&whole.part(prefix, start, end))?;
            let Some(ids) = both.strip_prefix(&head[..]) else {
                continue;
            };
            if self.decode_all(&[prompt_ids, ids].concat())? == wanted {
                return Ok(ids.to_vec());
            }
        }
        Err(TextError::Boundary { path: self.path.clone(), response: excerpt(response) })
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Rendered> {
        let guarded = self.guard.concerns(messages);
        self.render_as(messages, add_generation_prompt, guarded)
    }

    fn render_as(&self, messages: &[Message], prompt: bool, guarded: bool) -> Result<Rendered> {
        if messages.is_empty() {
            return Err(TextError::EmptyPrompt);
        }
        let text = if guarded {
            self.template.render(&self.guard.mark(messages)?, prompt, &self.variables)?
        } else {
            self.template.render(messages, prompt, &self.variables)?
        };
        Ok(self.guard.locate(text, guarded))
    }

    fn encode_with_bos(&self, rendered: &Rendered) -> Result<Vec<u32>> {
        let mut ids = self.guard.encode(rendered)?;
        // A template that writes the token writes it where it belongs, also if a line break or a
        // space comes before it: then the ids are those of transformers.
        if let (BosPolicy::Prepend, Some(bos)) = (self.bos_policy, self.bos)
            && ids.first() != Some(&bos)
            && !rendered.own.iter().any(|own| own.id == bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The text of `ids` without special tokens. Ids that the tokenizer does not know (a model may
    /// have more rows in its embedding than there are tokens) stand for no text.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_as(ids, true)
    }

    /// The text of `ids` with special tokens written out.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        self.decode_as(ids, false)
    }

    fn decode_as(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let decode = || self.guard.tokenizer().decode(ids, skip_special).map_err(|error| error.to_string());
        let decoded = self.guard.strangers(decode).unwrap_or_else(|| Err("its `decoder` cannot be used".into()));
        decoded.map_err(|message| TextError::Tokenizer {
            path: self.path.clone(),
            excerpt: format!("{:?}", &ids[..ids.len().min(16)]),
            message,
        })
    }

    /// The text of an answer as it reads behind its prompt, up to its first end-of-sequence token.
    ///
    /// Decoded by itself an answer can lose a leading space, which many decoders take for the one that
    /// begins a text. So prompt and answer are decoded together and the prompt's text is taken away.
    pub fn decode_response(&self, prompt_ids: &[u32], response_ids: &[u32]) -> Result<String> {
        let end = response_ids.iter().position(|id| self.eos_ids.contains(id));
        let answer = &response_ids[..end.unwrap_or(response_ids.len())];
        let before = self.decode(prompt_ids)?;
        let both = self.decode(&[prompt_ids, answer].concat())?;
        match both.strip_prefix(&before) {
            Some(text) => Ok(text.to_owned()),
            None => self.decode(answer),
        }
    }

    /// The number of rows that an embedding needs for this tokenizer: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.max_id as usize + 1
    }

    /// Every id that ends a sequence: the [primary one](Self::primary_eos), then those of
    /// `generation_config.json` (or of `config.json`, where that names none), ascending.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The id of the tokenizer's `eos_token`, or, where it has none, the first that
    /// `generation_config.json` names.
    pub fn primary_eos(&self) -> u32 {
        // Reading the files fails where there is none.
        self.eos_ids[0]
    }

    /// The id of the tokenizer's `bos_token`.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Who writes the beginning-of-sequence token.
    pub fn bos_policy(&self) -> BosPolicy {
        self.bos_policy
    }

    /// The ids of a text as it is, for scoring rules that know no template. Chats go through
    /// [`prompt_ids`](Self::prompt_ids).
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.guard.encode_text(text)
    }

    /// The tokenizer behind this codec.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.guard.tokenizer()
    }

    /// Check that the model has an embedding for every id of the tokenizer. More rows than ids are
    /// fine, they are padding.
    pub fn check_vocab(&self, model_vocab_size: usize) -> Result<()> {
        if self.vocab_size() <= model_vocab_size {
            return Ok(());
        }
        Err(TextError::Vocabulary { path: self.path.clone(), max_id: self.max_id, model: model_vocab_size })
    }

    /// Everything but the tokenizer file that decides how text becomes ids, for manifests and digests.
    ///
    /// No paths are in it, so that equal directories in different places describe themselves equally.
    pub fn describe(&self) -> serde_json::Value {
        let mut description = json!({
            "tokenizers": TOKENIZERS_VERSION,
            "template": self.template.source(),
            "tokens": self.tokens,
            "bos": { "id": self.bos, "policy": self.bos_policy.name() },
            "eos": { "primary": self.primary_eos(), "ids": self.eos_ids },
            "vocab_size": self.vocab_size(),
            "control_tokens_in_messages": "text",
        });
        // Left out where there is none: so were descriptions before days could be set.
        if let Some(day) = self.template.day() {
            description["date"] = json!(day.format("%Y-%m-%d").to_string());
        }
        description
    }
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let controls: Vec<&str> = self.guard.controls().collect();
        f.debug_struct("Codec")
            .field("path", &self.path)
            .field("template", &self.template.origin())
            .field("bos_policy", &self.bos_policy)
            .field("eos_ids", &self.eos_ids)
            .field("controls", &controls)
            .finish_non_exhaustive()
    }
}

/// Whether the tokenizer puts `bos` in front of a text that it encodes with special tokens.
fn post_processor_adds(tokenizer: &Tokenizer, bos: u32) -> bool {
    let first = |special| {
        let encoding = tokenizer.encode_fast("a", special).ok()?;
        encoding.get_ids().first().copied()
    };
    first(true) == Some(bos) && first(false) != Some(bos)
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
