//! Chat templates: Jinja sources, set up and rendered the way `transformers` does.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::NaiveDate;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use regex::Regex;

use crate::date::strftime;
use crate::error::{Result, TextError, excerpt};
use crate::json::to_json;
use crate::limits;
use crate::message::Message;
use crate::python;

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

/// A compiled chat template.
#[derive(Debug)]
pub(crate) struct Template {
    env: Environment<'static>,
    origin: String,
    source: String,
    /// What it is called by the watchdog.
    what: Arc<str>,
    day: Option<NaiveDate>,
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
        python::register(&mut env);
        env.add_function("raise_exception", raise_exception);
        env.add_filter("tojson", to_json);
        // `strftime_now` is left undefined until a day is set: templates that test for it fall back to
        // a fixed date, the others fail and are told why.
        limits::apply(&mut env);
        let failed = |message: String| TextError::TemplateSyntax { origin: origin.clone(), message };
        limits::compile(&mut env, NAME, without_generation_blocks(&source)).map_err(|error| failed(flatten(&error)))?;
        probe(&env).map_err(failed)?;
        let what = limits::called(env.get_template(NAME).map_err(|error| failed(flatten(&error)))?.source());
        Ok(Template { env, origin, source, what, day: None })
    }

    /// Let `strftime_now` be midnight of `day`.
    pub(crate) fn set_day(&mut self, day: NaiveDate) {
        self.day = Some(day);
        self.env.add_function("strftime_now", move |format: &str| {
            strftime(day, format).map_err(|message| Error::new(ErrorKind::InvalidOperation, message))
        });
    }

    /// The day that `strftime_now` is.
    pub(crate) fn day(&self) -> Option<NaiveDate> {
        self.day
    }

    /// Where the template is from.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The template as it was given.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Render a conversation. `tokens` are the variables `bos_token`, `eos_token` and so on, as
    /// [`variables`] gives them.
    pub(crate) fn render(&self, messages: &[Message], add_generation_prompt: bool, tokens: &Value) -> Result<String> {
        let context = context_of(messages, add_generation_prompt, tokens.clone());
        limits::render_called(&self.env, NAME, &self.what, &context, limits::TEXT_BYTES)
            .map_err(|error| self.failed(messages, &error))
    }

    fn failed(&self, messages: &[Message], error: &Error) -> TextError {
        let message = flatten(error);
        if self.day.is_none() && message.contains("strftime_now is unknown") {
            return TextError::Today { origin: self.origin.clone() };
        }
        TextError::Render {
            origin: self.origin.clone(),
            excerpt: messages.first().map(|m| excerpt(&m.content)).unwrap_or_default(),
            message,
        }
    }
}

/// The texts of tokens as variables of a template, made once for all conversations.
pub(crate) fn variables(tokens: &BTreeMap<String, String>) -> Value {
    Value::from_serialize(tokens)
}

fn context_of(messages: &[Message], add_generation_prompt: bool, tokens: Value) -> Value {
    let values: Vec<Value> = messages.iter().map(Value::from_serialize).collect();
    // `tools` and `documents` are defined but none, as in `transformers`.
    context! { messages => values, add_generation_prompt, tools => (), documents => (), ..tokens }
}

/// Render short conversations and look only at what that takes: some templates want other roles, or
/// tokens that are not here.
fn probe(env: &Environment<'static>) -> Result<(), String> {
    let env = env.clone();
    limits::watched(move || {
        let long = "a short text of some words, ".repeat(8);
        let system = Message::system(&long);
        let turns = [Message::user(&long), Message::assistant("short"), Message::user(&long)];
        let tokens = context! { bos_token => "<s>", eos_token => "</s>", pad_token => "</s>", unk_token => "<unk>" };
        for messages in [&[system, turns[0].clone()][..], &turns[..1], &turns[1..], &turns] {
            for asks in [true, false] {
                let _ = limits::render(&env, NAME, &context_of(messages, asks, tokens.clone()), limits::TEXT_BYTES);
            }
        }
    })
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
        Template::compile("test", source)?.render(messages, true, &variables(&tokens))
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
    fn generation_blocks_leave_no_trace() {
        let source = "a\n  {% generation %}\nb\n  {%- endgeneration -%}\n c";
        assert_eq!(render(source, &[]).unwrap(), "a\nbc");
    }

    #[test]
    fn refuses_today_but_not_a_fixed_date() {
        let error = render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap_err();
        assert!(matches!(error, TextError::Today { .. }), "{error}");
        assert!(error.to_string().contains("fixed date"), "{error}");
        assert!(error.to_string().contains("template.date"), "{error}");
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
