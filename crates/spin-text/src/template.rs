//! Chat templates: Jinja sources, set up and rendered the way `transformers` does.

use std::collections::BTreeMap;

use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use regex::Regex;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::error::{Result, TextError, excerpt};
use crate::message::{Message, to_value};

/// The prompt of SPIN's paper (appendix B.1) and of its generation scripts, as a chat template:
/// `### Instruction: {prompt}\n\n### Response: `, then the answer and the end-of-sequence token.
///
/// The paper has no system turns, so they are refused rather than guessed at.
pub const ALPACA_TEMPLATE: &str = "\
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '### Instruction: ' + message['content'] + '\\n\\n### Response: ' }}
    {%- elif message['role'] == 'assistant' %}
        {{- message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('the alpaca template knows the roles user and assistant, not ' + message['role']) }}
    {%- endif %}
{%- endfor %}";

/// Which chat template a [`Codec`](crate::Codec) uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TemplateChoice {
    /// The one in the model directory.
    #[default]
    Model,
    /// [`ALPACA_TEMPLATE`].
    Alpaca,
    /// A Jinja source given by the caller.
    Custom(String),
}

/// A compiled chat template.
#[derive(Debug)]
pub(crate) struct Template {
    env: Environment<'static>,
    origin: String,
    source: String,
}

const NAME: &str = "chat";

impl Template {
    /// Compile `source`; `origin` says in errors where it is from.
    pub(crate) fn compile(origin: impl Into<String>, source: impl Into<String>) -> Result<Self> {
        let (origin, source) = (origin.into(), source.into());
        let mut env = Environment::new();
        // As `transformers` sets up Jinja. The final line break is dropped by both by default.
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", raise_exception);
        env.add_filter("tojson", to_json);
        // `strftime_now` is left undefined on purpose: templates that test for it fall back to a
        // fixed date, the others fail and are told why.
        env.add_template_owned(NAME, without_generation_blocks(&source))
            .map_err(|error| TextError::TemplateSyntax { origin: origin.clone(), message: flatten(&error) })?;
        Ok(Template { env, origin, source })
    }

    /// Where the template is from.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The template as it was given.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Render a conversation. `tokens` are the variables `bos_token`, `eos_token` and so on.
    pub(crate) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        tokens: &BTreeMap<String, String>,
    ) -> Result<String> {
        let values: Vec<Value> = messages.iter().map(to_value).collect();
        // `tools` and `documents` are defined but none, as in `transformers`.
        let context = context! {
            messages => values,
            add_generation_prompt,
            tools => (),
            documents => (),
            ..Value::from_serialize(tokens)
        };
        let template = self.env.get_template(NAME).map_err(|error| self.failed(messages, &error))?;
        template.render(context).map_err(|error| self.failed(messages, &error))
    }

    fn failed(&self, messages: &[Message], error: &Error) -> TextError {
        let message = flatten(error);
        if message.contains("strftime_now") {
            return TextError::Today { origin: self.origin.clone() };
        }
        TextError::Render {
            origin: self.origin.clone(),
            excerpt: messages.first().map(|m| excerpt(&m.content)).unwrap_or_default(),
            message,
        }
    }
}

/// Turn `{% generation %}` blocks, by which `transformers` finds the answers, into blocks without an
/// effect. Replacing them by `if true` leaves whitespace control to the template engine.
fn without_generation_blocks(source: &str) -> String {
    let begin = Regex::new(r"\{%([-+]?)\s*generation\s*([-+]?)%\}").expect("a valid pattern");
    let end = Regex::new(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}").expect("a valid pattern");
    let source = begin.replace_all(source, "{%$1 if true $2%}");
    end.replace_all(&source, "{%$1 endif $2%}").into_owned()
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`; minijinja's own filter escapes
/// for HTML.
fn to_json(value: Value, args: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = args.get("indent")?;
    // Accepted because templates spell out the default that `transformers` chose.
    let ascii: Option<bool> = args.get("ensure_ascii")?;
    args.assert_all_used()?;
    if ascii == Some(true) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: ensure_ascii is not supported"));
    }
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent);
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, PythonFormatter)),
    };
    written.map_err(|error| Error::new(ErrorKind::InvalidOperation, "cannot serialize to JSON").with_source(error))?;
    Ok(Value::from(String::from_utf8_lossy(&out).into_owned()))
}

/// JSON on one line with Python's separators, `", "` and `": "`.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// An error and its causes on one line.
fn flatten(error: &Error) -> String {
    let mut out = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        source = cause.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        let tokens = BTreeMap::from([("eos_token".to_owned(), "</s>".to_owned())]);
        Template::compile("test", source)?.render(messages, true, &tokens)
    }

    #[test]
    fn renders_alpaca() {
        let turn = [Message::user("Add 1 and 2."), Message::assistant("3")];
        let prompt = "### Instruction: Add 1 and 2.\n\n### Response: ";
        assert_eq!(render(ALPACA_TEMPLATE, &turn[..1]).unwrap(), prompt);
        assert_eq!(render(ALPACA_TEMPLATE, &turn).unwrap(), format!("{prompt}3</s>"));
        let error = render(ALPACA_TEMPLATE, &[Message::system("Be brief.")]).unwrap_err();
        assert!(error.to_string().contains("not system"), "{error}");
        assert!(error.to_string().contains("Be brief."), "{error}");
    }

    #[test]
    fn speaks_python() {
        let turn = [Message::user("  a,b ")];
        let source = "{{ messages[0].content.strip().split(',')[1] }}{{ messages[::-1][0]['role'] }}\
             {{ messages[0].get('name', '-') }}{{ tools is defined and tools is none }}\n";
        assert_eq!(render(source, &turn).unwrap(), "buser-True");
    }

    #[test]
    fn writes_json_like_python() {
        // json.dumps({"role": "user", "content": "<é> & \"q\" '\n"}, ensure_ascii=False)
        let turn = [Message::user("<é> & \"q\" '\n")];
        let json = r#"{"role": "user", "content": "<é> & \"q\" '\n"}"#;
        assert_eq!(render("{{ messages[0] | tojson }}", &turn).unwrap(), json);
        let source = "{{ messages[0] | tojson(indent=2, ensure_ascii=false) }}";
        let json = "{\n  \"role\": \"user\",\n  \"content\": \"<é> & \\\"q\\\" '\\n\"\n}";
        assert_eq!(render(source, &turn).unwrap(), json);
        assert!(render("{{ 1 | tojson(ensure_ascii=true) }}", &turn).is_err());
    }

    #[test]
    fn generation_blocks_leave_no_trace() {
        let source = "a\n  {% generation %}\nb\n  {%- endgeneration -%}\n c";
        assert_eq!(render(source, &[]).unwrap(), "a\nbc");
    }

    #[test]
    fn refuses_today_but_not_a_fixed_date() {
        let error = render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap_err();
        assert!(matches!(error, TextError::Today { .. }), "{error}");
        assert!(error.to_string().contains("fixed date"), "{error}");
        let source = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024{% endif %}";
        assert_eq!(render(source, &[]).unwrap(), "2024");
    }

    #[test]
    fn names_the_template_that_does_not_compile() {
        let error = Template::compile("x/chat_template.jinja", "{% if %}").unwrap_err();
        assert!(matches!(error, TextError::TemplateSyntax { .. }));
        assert!(error.to_string().contains("x/chat_template.jinja"), "{error}");
    }

    #[test]
    fn exceptions_of_the_template_are_quoted() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[Message::user("hi")]);
        let error = error.unwrap_err();
        assert!(matches!(error, TextError::Render { .. }));
        assert!(error.to_string().contains("roles must alternate"), "{error}");
    }
}
