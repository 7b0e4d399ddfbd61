//! Keeping control tokens apart from text that merely looks like them.
//!
//! A chat template writes control tokens and message contents into one string, and a tokenizer maps
//! every `</s>` in that string to the same id, whoever wrote it. When no message contains the text of a
//! control token the string is encoded as it is, which is what `transformers` does. Otherwise:
//!
//! 1. Every control token inside a message is put between two marks before rendering. The template's
//!    own logic (trimming, splitting, comparing) sees the text as before.
//! 2. In the rendered string, control tokens outside of marks are the template's. Each is replaced by
//!    a private-use character, its *anchor*; the marks are dropped.
//! 3. The string is encoded in one go by a second tokenizer, in which the texts of control tokens have
//!    no meaning and each anchor is an added token with the flags of the control token it stands for.
//!    Normalizers and pre-tokenizers therefore see the same pieces as in the ordinary encoding.
//! 4. The ids of anchors are replaced by those of the control tokens. Should any other control id have
//!    come out (a Unigram model can hold `</s>` as an ordinary piece) the text is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex::Regex;
use tokenizers::{AddedToken, Encoding, Tokenizer};

use crate::error::{Result, TextError, excerpt};
use crate::message::Message;

/// Noncharacters of Unicode: they have no meaning in any text that is exchanged.
const MARK_START: char = '\u{FDD0}';
const MARK_END: char = '\u{FDD1}';
/// The first character of supplementary private use area B.
const FIRST_ANCHOR: u32 = 0x10_0000;

/// The control tokens of a tokenizer, and the two ways to encode text around them.
pub(crate) struct Guard {
    path: PathBuf,
    /// What it is called by the watchdog.
    what: Arc<str>,
    full: Tokenizer,
    plain: Tokenizer,
    controls: Vec<Control>,
    /// Matches any control token, longer ones first.
    pattern: Regex,
    /// Matches a marked control token (group 1), a lone mark, or a control token.
    marked: Regex,
}

struct Control {
    text: String,
    id: u32,
    anchor: char,
    anchor_id: u32,
    /// The unknown token is special, yet stands for text the vocabulary lacks.
    unknown: bool,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// The text, without marks.
    pub text: String,
    /// The control tokens in `text` that the template wrote.
    pub own: Vec<Own>,
    /// Whether messages contain control tokens as text.
    pub guarded: bool,
}

/// A control token written by the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub start: usize,
    pub end: usize,
    pub id: u32,
    anchor: char,
}

impl Rendered {
    /// The part from `start` to `end`, both outside of control tokens, behind `prefix`.
    pub(crate) fn part(&self, prefix: &str, start: usize, end: usize) -> Rendered {
        let inside = self.own.iter().filter(|own| own.start >= start && own.end <= end);
        let shifted = inside.map(|own| Own {
            start: own.start - start + prefix.len(),
            end: own.end - start + prefix.len(),
            ..own.clone()
        });
        Rendered { text: format!("{prefix}{}", &self.text[start..end]), own: shifted.collect(), guarded: self.guarded }
    }
}

impl Guard {
    /// `path` is the `tokenizer.json`, for messages; `unknown` the id of text the vocabulary lacks.
    pub(crate) fn new(path: &Path, full: Tokenizer, unknown: Option<u32>) -> Result<Self> {
        let failed = |message: String| TextError::parse(path, message);
        let mut plain = full.clone();
        plain.set_encode_special_tokens(true);
        let mut special: Vec<(u32, AddedToken)> =
            full.get_added_tokens_decoder().into_iter().filter(|(_, t)| t.special).collect();
        special.sort_by_key(|(id, token)| (std::cmp::Reverse(token.content.len()), *id));
        let mut controls = Vec::with_capacity(special.len());
        let mut anchors = Vec::with_capacity(special.len());
        for (i, (id, token)) in special.into_iter().enumerate() {
            let anchor = u32::try_from(i).ok().and_then(|i| char::from_u32(FIRST_ANCHOR + i));
            let anchor = anchor.ok_or_else(|| failed("it has too many special tokens".to_owned()))?;
            anchors.push(AddedToken { content: anchor.to_string(), special: false, ..token.clone() });
            let unknown = unknown == Some(id);
            controls.push(Control { text: token.content, id, anchor, anchor_id: 0, unknown });
        }
        plain.add_tokens(&anchors);
        for control in &mut controls {
            let id = plain.token_to_id(&control.anchor.to_string());
            control.anchor_id = id.ok_or_else(|| failed("it accepts no more tokens".to_owned()))?;
        }
        let any: Vec<String> = controls.iter().map(|c| regex::escape(&c.text)).collect();
        // Without control tokens: a pattern that matches nothing.
        let any = if any.is_empty() { "[^\\s\\S]".to_owned() } else { any.join("|") };
        let compile = |pattern: &str| Regex::new(pattern).map_err(|error| failed(error.to_string()));
        let pattern = compile(&any)?;
        let marked = compile(&format!("{MARK_START}({any}){MARK_END}|[{MARK_START}{MARK_END}]|{any}"))?;
        Ok(Guard { path: path.to_owned(), what: called(path), full, plain, controls, pattern, marked })
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.full
    }

    /// What `f` gives, which uses the tokenizer; `None` where the library panics.
    pub(crate) fn strangers<T>(&self, f: impl FnOnce() -> T) -> Option<T> {
        strangers(&self.what, f)
    }

    /// The texts of the control tokens, longest first.
    pub(crate) fn controls(&self) -> impl Iterator<Item = &str> {
        self.controls.iter().map(|control| control.text.as_str())
    }

    /// Whether any message contains a control token as text.
    pub(crate) fn concerns(&self, messages: &[Message]) -> bool {
        let hit = |text: &str| self.pattern.is_match(text);
        messages.iter().any(|message| hit(&message.content) || hit(&message.role))
    }

    /// The messages with every control token between marks.
    pub(crate) fn mark(&self, messages: &[Message]) -> Result<Vec<Message>> {
        let mark = |text: &str| -> Result<String> {
            if let Some(character) = text.chars().find(|c| self.is_reserved(*c)) {
                return Err(TextError::ReservedCharacter { character, excerpt: excerpt(text) });
            }
            let with = format!("{MARK_START}${{0}}{MARK_END}");
            Ok(self.pattern.replace_all(text, with.as_str()).into_owned())
        };
        messages.iter().map(|message| Ok(Message::new(mark(&message.role)?, mark(&message.content)?))).collect()
    }

    fn is_reserved(&self, c: char) -> bool {
        let anchors = FIRST_ANCHOR..FIRST_ANCHOR + self.controls.len() as u32;
        c == MARK_START || c == MARK_END || anchors.contains(&(c as u32))
    }

    /// Find the template's own control tokens in a rendered text, and drop the marks.
    pub(crate) fn locate(&self, rendered: String, guarded: bool) -> Rendered {
        let pattern = if guarded { &self.marked } else { &self.pattern };
        let mut text = String::with_capacity(rendered.len());
        let mut own = Vec::new();
        let mut done = 0;
        for found in pattern.captures_iter(&rendered) {
            let whole = found.get(0).expect("group 0 always takes part");
            text.push_str(&rendered[done..whole.start()]);
            done = whole.end();
            if let Some(inner) = found.get(1) {
                text.push_str(inner.as_str());
                continue;
            }
            // A lone mark, left by a template that split the text, is no control token.
            let control = self.controls.iter().find(|c| c.text == whole.as_str());
            if let Some(control) = control {
                let start = text.len();
                text.push_str(whole.as_str());
                own.push(Own { start, end: text.len(), id: control.id, anchor: control.anchor });
            }
        }
        text.push_str(&rendered[done..]);
        Rendered { text, own, guarded }
    }

    /// The ids of a rendered text. No token is added in front or behind.
    pub(crate) fn encode(&self, rendered: &Rendered) -> Result<Vec<u32>> {
        if !rendered.guarded {
            return self.run(&self.full, &rendered.text);
        }
        let mut text = String::with_capacity(rendered.text.len());
        let mut done = 0;
        for own in &rendered.own {
            text.push_str(&rendered.text[done..own.start]);
            text.push(own.anchor);
            done = own.end;
        }
        text.push_str(&rendered.text[done..]);

        let mut ids = self.run(&self.plain, &text)?;
        let mut expected = rendered.own.iter();
        for id in &mut ids {
            if let Some(control) = self.controls.iter().find(|c| c.anchor_id == *id) {
                // Anchors come back in the order they were written.
                if expected.next().map(|own| own.id) != Some(control.id) {
                    return Err(self.misread(&rendered.text, &control.text));
                }
                *id = control.id;
            } else if let Some(control) = self.controls.iter().find(|c| c.id == *id && !c.unknown) {
                return Err(self.misread(&rendered.text, &control.text));
            }
        }
        match expected.next() {
            None => Ok(ids),
            Some(own) => Err(self.misread(&rendered.text, &rendered.text[own.start..own.end])),
        }
    }

    fn run(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        self.caught(text, || tokenizer.encode_fast(text, false))
    }

    /// The ids of a text as it is, for scoring rules that know no template.
    pub(crate) fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.run(&self.full, text)
    }

    /// What the library gives for `text`. The regular expressions of a tokenizer.json run in code that
    /// panics where one takes too many steps.
    fn caught(&self, text: &str, encode: impl FnOnce() -> tokenizers::Result<Encoding>) -> Result<Vec<u32>> {
        let message = match strangers(&self.what, encode) {
            Some(Ok(encoding)) => return Ok(encoding.get_ids().to_vec()),
            Some(Err(error)) => error.to_string(),
            None => "the tokenizers library fails on this text: an expression that takes too many steps, or a \
                       setting that it cannot use; shorten the text, or take another `normalizer`, `pre_tokenizer` \
                       and `post_processor`"
                .to_owned(),
        };
        Err(TextError::Tokenizer { path: self.path.clone(), excerpt: excerpt(text), message })
    }

    fn misread(&self, text: &str, token: &str) -> TextError {
        TextError::ControlText { path: self.path.clone(), token: token.to_owned(), excerpt: excerpt(text) }
    }
}

/// What the tokenizers library gives with a tokenizer that is from anywhere; `None` where it panics.
/// Nothing is left half done: a tokenizer is only read.
pub(crate) fn strangers<T>(what: &Arc<str>, f: impl FnOnce() -> T) -> Option<T> {
    spin_cli::bounded(what, || spin_cli::caught(f))
}

/// What messages call the tokenizer of a file.
pub(crate) fn called(path: &Path) -> Arc<str> {
    format!("the tokenizer in {}", path.display()).into()
}
