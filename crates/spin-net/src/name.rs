//! Names on the hub.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::NetError;

/// What a name begins with.
const PREFIX: &str = "hf:";

/// The revision that is meant where none is named.
#[cfg(feature = "client")]
pub(crate) const MAIN: &str = "main";

/// A model or a data set on the hub:
/// `hf:OWNER/NAME[@REVISION]`, `hf:datasets/OWNER/NAME[/PATH][@REVISION]`.
///
/// ```
/// use spin_net::Name;
///
/// let name: Name = "hf:datasets/openai/gsm8k/main/train@740312a".parse()?;
/// assert_eq!((name.repo(), name.path(), name.revision()), ("openai/gsm8k", "main/train", Some("740312a")));
/// assert!(!name.is_model());
/// # Ok::<(), spin_net::NetError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    is_model: bool,
    repo: String,
    path: String,
    revision: Option<String>,
}

impl Name {
    /// The name that a path of a run file or a command line is, if it is none
    /// of a file.
    ///
    /// # Errors
    /// When it begins as one and is none.
    pub fn of_path(path: &Path) -> Result<Option<Name>, NetError> {
        path.to_str().filter(|text| text.starts_with(PREFIX)).map(str::parse).transpose()
    }

    /// Whether a path is a name, good or bad, rather than one of a file.
    pub fn is_meant(path: &Path) -> bool {
        path.to_str().is_some_and(|text| text.starts_with(PREFIX))
    }

    /// Whether it is a model's, rather than a data set's.
    pub fn is_model(&self) -> bool {
        self.is_model
    }

    /// `OWNER/NAME`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The path inside the repository; empty for all of it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The revision that is named: a commit, branch or tag.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The name without path and revision.
    pub fn whole(&self) -> Name {
        Name { path: String::new(), revision: None, ..self.clone() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_model { "" } else { "datasets/" };
        write!(f, "{PREFIX}{kind}{}", self.repo)?;
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// Whether a commit is named in full, which nothing moves.
#[cfg(feature = "client")]
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_word(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    edge(text.chars().next()) && edge(text.chars().next_back()) && text.chars().all(inner) && !text.contains("..")
}

/// Whether every part of a path or revision is a name of a file.
fn is_path(text: &str) -> bool {
    text.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control))
}

impl FromStr for Name {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Name, NetError> {
        let bad = |problem: &str| NetError::Name {
            name: text.to_owned(),
            problem: problem.to_owned(),
            remedy: "write hf:OWNER/NAME for a model, hf:datasets/OWNER/NAME/PATH for data, and @REVISION after it"
                .to_owned(),
        };
        let rest = text.strip_prefix(PREFIX).ok_or_else(|| bad("is no name on the hub"))?;
        let (rest, revision) = match rest.split_once('@') {
            Some((rest, revision)) => (rest, Some(revision)),
            None => (rest, None),
        };
        if revision.is_some_and(|revision| !is_path(revision) || revision.contains([' ', '@'])) {
            return Err(bad("has a revision that is none"));
        }
        let (rest, is_model) = match rest.strip_prefix("datasets/") {
            Some(rest) => (rest, false),
            None => (rest, true),
        };
        let mut parts = rest.splitn(3, '/');
        let (owner, name, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        if !is_word(owner) || !is_word(name) {
            return Err(bad("does not say owner and name"));
        }
        let path = path.trim_end_matches('/');
        if !path.is_empty() && (is_model || !is_path(path)) {
            let problem = if is_model { "has a path, which a model has none of" } else { "has a path that is none" };
            return Err(bad(problem));
        }
        Ok(Name { is_model, repo: format!("{owner}/{name}"), path: path.into(), revision: revision.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for text in [
            "hf:HuggingFaceTB/SmolLM2-135M-Instruct",
            "hf:a/b_c.d@v1.0",
            "hf:datasets/openai/gsm8k/main/train@740312add88f781978c0658806c59bc2815b9866",
            "hf:datasets/o/n/data/train-*.parquet@refs/convert/parquet",
            "hf:datasets/o/n",
        ] {
            let name: Name = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(Name::of_path(Path::new(text)).unwrap(), Some(name));
        }
        for bad in [
            "hf:gpt2",
            "hf:",
            "hf:a/",
            "hf:/b",
            "hf:a/b/c",
            "hf:../b",
            "hf:a/..",
            "hf:a/b@",
            "hf:a/b@../x",
            "hf:a/b@x@y",
            "hf:datasets/a",
            "hf:datasets/a/b/../c",
            "hf:datasets/a/b//c",
            "hf:a b/c",
        ] {
            let error = bad.parse::<Name>().unwrap_err();
            assert!(error.is_bad_input() && error.to_string().contains("hf:OWNER/NAME"), "{bad}: {error}");
        }
        assert_eq!(Name::of_path(Path::new("models/hf")).unwrap(), None);
        #[cfg(feature = "client")]
        assert!(is_commit(&"0a".repeat(20)) && !is_commit("main") && !is_commit(&"0A".repeat(20)));
    }
}
