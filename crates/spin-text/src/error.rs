//! What can go wrong between messages and ids, each with the file or text it concerns and a remedy.

use std::path::{Path, PathBuf};

/// The result type of this crate.
pub type Result<T, E = TextError> = std::result::Result<T, E>;

/// Why a tokenizer directory could not be read, or a text not be encoded.
///
/// Errors about one conversation quote the beginning of its text; the caller adds the row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A row of a table is at fault.
    #[error("row {row_id:?} of {table}")]
    Row {
        /// Its id.
        row_id: String,
        /// The table.
        table: String,
        /// What is wrong.
        source: Box<TextError>,
    },

    /// The directory has no `tokenizer.json`.
    #[error(
        "{} does not exist; a model directory needs the fast tokenizer file: write it with \
         `AutoTokenizer.from_pretrained(MODEL).save_pretrained({:?})`",
        .dir.join("tokenizer.json").display(), .dir
    )]
    NoTokenizer {
        /// The model directory.
        dir: PathBuf,
    },

    /// A file exists but could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A file is not the JSON it should be.
    #[error("{} is not valid: {message}; download it again or repair it", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },

    /// A key of a configuration asks for something that is done otherwise here.
    #[error("{}: `{key}` is {value}, {why}", .path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, shortened.
        value: String,
        /// Why that cannot be, with a remedy.
        why: String,
    },

    /// The directory has no chat template, and no other was chosen.
    #[error(
        "{} has no chat template (neither chat_template.jinja nor `chat_template` in \
         tokenizer_config.json); use an instruction-tuned model, put a chat_template.jinja there, \
         or choose the alpaca template or one of your own",
        .dir.display()
    )]
    NoTemplate {
        /// The model directory.
        dir: PathBuf,
    },

    /// `chat_template` is a list of named templates without one named "default".
    #[error(
        "`chat_template` in {} has no entry named \"default\", only: {}; choose one of them as a \
         custom template",
        .path.display(), .names.join(", ")
    )]
    NoDefaultTemplate {
        /// The `tokenizer_config.json`.
        path: PathBuf,
        /// The names it does have.
        names: Vec<String>,
    },

    /// Neither the tokenizer's nor the model's files name an end-of-sequence token.
    #[error(
        "{} names no end-of-sequence token; set `eos_token` in tokenizer_config.json or \
         `eos_token_id` in generation_config.json",
        .dir.display()
    )]
    NoEos {
        /// The model directory.
        dir: PathBuf,
    },

    /// `add_bos_token` is set, but there is no such token.
    #[error(
        "{} sets `add_bos_token` but names no `bos_token`; name one or set `add_bos_token` to false",
        .path.display()
    )]
    NoBos {
        /// The `tokenizer_config.json`.
        path: PathBuf,
    },

    /// A token that the configuration names is not in the vocabulary.
    #[error(
        "{role} {token:?} is not in the vocabulary of {}; the tokenizer files are not of one model: \
         take all of them from the same source",
        .path.display()
    )]
    UnknownToken {
        /// What the token is for, e.g. `eos_token`.
        role: String,
        /// The token, as text or as an id.
        token: String,
        /// The `tokenizer.json`.
        path: PathBuf,
    },

    /// The tokenizer has ids for which the model has no embedding.
    #[error(
        "{} goes up to id {max_id}, but `vocab_size` in {} is {model}; use the tokenizer the model \
         was trained with, or resize the embeddings of the model",
        .path.display(), .path.with_file_name("config.json").display()
    )]
    Vocabulary {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The tokenizer's largest id.
        max_id: u32,
        /// The model's vocabulary size.
        model: usize,
    },

    /// The chat template is not valid Jinja, as far as minijinja supports it.
    #[error(
        "the chat template of {origin} does not compile: {message}; correct it, or choose another \
         template"
    )]
    TemplateSyntax {
        /// Where the template is from.
        origin: String,
        /// What is wrong with it.
        message: String,
    },

    /// The chat template failed on a conversation, or refused it with `raise_exception`.
    #[error(
        "the chat template of {origin} cannot render the conversation that begins {excerpt:?}: \
         {message}; correct the conversation (roles and their order) or choose another template"
    )]
    Render {
        /// Where the template is from.
        origin: String,
        /// The beginning of the conversation.
        excerpt: String,
        /// What the template engine said.
        message: String,
    },

    /// The chat template asks for today's date, and no day was fixed.
    #[error(
        "the chat template of {origin} calls strftime_now, so its text would differ from day to day; \
         fix the day with `template.date` in the run file, or replace the call by a fixed date in a \
         custom template"
    )]
    Today {
        /// Where the template is from.
        origin: String,
    },

    /// A prompt without messages.
    #[error("the prompt has no messages; give it at least one turn of the user")]
    EmptyPrompt,

    /// An answer without text.
    #[error(
        "the answer to {prompt:?} is empty or vanishes in the chat template; drop the row, there is \
         nothing to learn from it"
    )]
    EmptyResponse {
        /// The beginning of the prompt.
        prompt: String,
    },

    /// The conversation with the answer does not begin with the prompt.
    #[error(
        "the chat template of {origin} renders the prompt {prompt:?} differently once it is answered, \
         so that no answer can continue it; choose a template whose turns do not depend on later ones"
    )]
    NotContinuation {
        /// Where the template is from.
        origin: String,
        /// The beginning of the prompt.
        prompt: String,
    },

    /// No tokenization of the answer continues the ids of the prompt.
    #[error(
        "no ids of the answer {response:?} continue the ids of its prompt: the tokenizer {} merges \
         across the boundary; end the template's generation prompt with a line break",
        .path.display()
    )]
    Boundary {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The beginning of the answer.
        response: String,
    },

    /// The answer does not end with exactly one end-of-sequence token.
    #[error(
        "the answer {response:?} has {count} end-of-sequence ids where exactly one must end it; \
         check `eos_token_id` in {} against the tokens the chat template writes",
        .path.with_file_name("generation_config.json").display()
    )]
    Eos {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The beginning of the answer.
        response: String,
        /// How many were found.
        count: usize,
    },

    /// A control token occurs in a message and the tokenizer cannot write it as ordinary text.
    #[error(
        "a message beginning {excerpt:?} contains text that {} can only encode as the control token \
         {token:?}; remove it from the message or drop the row",
        .path.display()
    )]
    ControlText {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The control token.
        token: String,
        /// The beginning of the text.
        excerpt: String,
    },

    /// A message holds a control token and also a character that marks control tokens internally.
    #[error(
        "a message beginning {excerpt:?} contains both a control token and the reserved character \
         {character:?}; remove one of them"
    )]
    ReservedCharacter {
        /// The character.
        character: char,
        /// The beginning of the text.
        excerpt: String,
    },

    /// The tokenizer library failed.
    #[error("the tokenizer {} failed on {excerpt:?}: {message}", .path.display())]
    Tokenizer {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The beginning of the text or of the ids.
        excerpt: String,
        /// What the library said.
        message: String,
    },
}

impl TextError {
    /// Whether the input is to blame, rather than the machine.
    pub fn is_bad_input(&self) -> bool {
        use std::io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, PermissionDenied};
        match self {
            // As the store and the models say it.
            TextError::Read { source, .. } => {
                matches!(source.kind(), NotFound | NotADirectory | IsADirectory | PermissionDenied | InvalidData)
                    || source.to_string().contains("symbolic links")
            }
            _ => true,
        }
    }

    /// The error with the row that it is about.
    #[must_use]
    pub fn in_row(self, row_id: &str, table: &str) -> TextError {
        TextError::Row { row_id: row_id.to_owned(), table: table.to_owned(), source: Box::new(self) }
    }

    pub(crate) fn parse(path: &Path, message: impl ToString) -> Self {
        TextError::Parse { path: path.to_owned(), message: message.to_string() }
    }
}

/// The first characters of a text, for an error message.
pub(crate) fn excerpt(text: &str) -> String {
    const LENGTH: usize = 60;
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_cut_between_characters() {
        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt(&"é".repeat(61)), format!("{}...", "é".repeat(60)));
    }
}
