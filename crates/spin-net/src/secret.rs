//! Keys, and texts without them.

use std::fmt;

use crate::url;

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// A key or token: it goes into one header and nowhere else. It has no
/// `Display`, and its `Debug` does not show it.
///
/// ```
/// use spin_net::secret::Secret;
///
/// let key = Secret::new("sk-12345\n", "OPENAI_API_KEY")?;
/// assert_eq!(format!("{key:?}"), "Secret(***)");
/// # Ok::<(), spin_net::secret::BadSecret>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// A key that no header can carry. The message does not show it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key in ${name} {problem}; put the key alone into it, as the provider shows it")]
pub struct BadSecret {
    /// The environment variable that it is from.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

impl BadSecret {
    /// Whether the input is to blame, rather than the machine: always.
    pub fn is_bad_input(&self) -> bool {
        true
    }
}

impl Secret {
    /// A key from the environment variable `name`. White space around it,
    /// which files and shells add, is not part of it.
    ///
    /// # Errors
    /// When it is empty, or has a character that no header can carry.
    pub fn new(text: &str, name: &str) -> Result<Secret, BadSecret> {
        let bad = |problem: String| BadSecret { name: name.into(), problem };
        let key = text.trim();
        if key.is_empty() {
            return Err(bad("is empty".into()));
        }
        match key.chars().position(|c| !c.is_ascii_graphic()) {
            None => Ok(Secret(key.to_owned())),
            Some(at) => {
                let what = match key.chars().nth(at) {
                    Some('\n' | '\r') => "a line break",
                    Some(c) if c.is_whitespace() => "white space",
                    Some(c) if c.is_control() => "a control character",
                    _ => "a character that is not ASCII",
                };
                Err(bad(format!("has {what} as character {} of {}", at + 1, key.chars().count())))
            }
        }
    }

    /// The key of an environment variable that may be absent. An empty one is
    /// none, as where a shell exports it without a value.
    ///
    /// # Errors
    /// As [`Secret::new`].
    pub fn optional(text: Option<&str>, name: &str) -> Result<Option<Secret>, BadSecret> {
        text.filter(|text| !text.trim().is_empty()).map(|text| Secret::new(text, name)).transpose()
    }

    /// The value of an `Authorization` header.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Takes secrets out of texts that others wrote: a server may send back what
/// it was sent.
#[derive(Clone, Default)]
pub struct Redactor {
    /// In all the forms they may come back in, longest first.
    forms: Vec<String>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({})", self.forms.len())
    }
}

impl Redactor {
    /// For a key, and for what is secret in an address.
    pub fn new(key: Option<&Secret>, address: &str) -> Redactor {
        let mut forms = Vec::new();
        for secret in key.map(|key| key.0.clone()).into_iter().chain(url::secrets(address)) {
            let json = serde_json::Value::String(secret.clone()).to_string();
            let json = json[1..json.len() - 1].to_owned();
            let percent: String = secret.bytes().map(escaped).collect();
            // As basic authentication sends it.
            forms.push(base64(secret.as_bytes()));
            forms.extend([json.replace('/', "\\/"), json, percent, secret]);
        }
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        Redactor { forms }
    }

    /// The text without the secrets.
    pub fn clean(&self, text: &str) -> String {
        self.forms.iter().fold(text.to_owned(), |text, form| text.replace(form, HIDDEN))
    }
}

pub(crate) fn escaped(byte: u8) -> String {
    match byte {
        b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_and_never_shown() {
        let key = Secret::new(" sk-abc/1+2==\r\n", "K").unwrap();
        assert_eq!(key.bearer(), "Bearer sk-abc/1+2==");
        assert!(!format!("{key:?} {:?}", Some(&key)).contains("abc"));
        for (text, problem) in [
            ("sk-a\nb", "a line break as character 5 of 6"),
            ("sk-a b", "white space as character 5"),
            ("sk-ü", "not ASCII as character 4 of 4"),
            ("a\u{7f}", "a control character"),
            (" \n", "is empty"),
        ] {
            let error = Secret::new(text, "OPENAI_API_KEY").unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("$OPENAI_API_KEY"), "{error}");
            assert!(!error.contains("sk-"), "{error}");
        }
        assert_eq!(Secret::optional(Some(" "), "K"), Ok(None));
        assert_eq!(Secret::optional(None, "K"), Ok(None));
    }

    #[test]
    fn secrets_are_taken_out_in_every_form() {
        let key = Secret::new("sk-a\"b/c", "K").unwrap();
        let redactor = Redactor::new(Some(&key), "https://me:pa%20ss@h/v1?k=v4lue");
        for text in [
            "sk-a\"b/c",
            r#"{"h": "Bearer sk-a\"b/c"}"#,
            r#"{"h": "Bearer sk-a\"b\/c"}"#,
            "sk-a%22b%2Fc",
            "v4lue",
            "https://me:pa%20ss@h",
            &base64(b"me:pa%20ss"),
        ] {
            let clean = redactor.clean(text);
            assert!(clean.contains("***") && !clean.contains("sk-a"), "{clean}");
            assert!(!clean.contains("pa%20ss") && !clean.contains("v4lue") && !clean.contains("bWU6"), "{clean}");
        }
        assert_eq!(redactor.clean("[[8]] fair"), "[[8]] fair");
        assert_eq!(Redactor::default().clean("x"), "x");
        // RFC 4648.
        let known = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        assert!(known.iter().all(|(text, expected)| base64(text.as_bytes()) == *expected));
    }
}
