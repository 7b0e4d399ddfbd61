//! Bounds of what a template may cost: it comes with a model from somewhere, and must not hold a
//! stage for ever, overflow its stack or fill its memory.

use std::io::Write;
use std::sync::LazyLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};
use regex::Regex;

use crate::error::excerpt;

/// Bytes of a template's source. The longest that are published have some tens of thousands.
pub const SOURCE_BYTES: usize = 256 << 10;
/// Instructions of one rendering, in about a second. A conversation of a thousand turns takes some
/// hundred thousand.
pub const FUEL: u64 = 5_000_000;
/// Bytes of one rendering.
pub const TEXT_BYTES: usize = 64 << 20;
/// Columns that `indent`, or `tojson` at each level, may add to a line.
pub(crate) const INDENT: usize = 1000;
/// Groups that `batch` and `slice` may make, or elements that they may make room for.
const GROUPS: usize = 100_000;
/// Digits of a width or a precision of `format`.
const DIGITS: usize = 3;

/// Sources up to this length are compiled where we are.
const SHORT: usize = 4 << 10;
/// Stack for others: the parser and the code generator go down one level for each operator of an
/// expression, and a source has at most half as many as bytes.
const STACK: usize = 256 << 20;
/// Stack of a rendering. It can nest a value once in each of its steps, and whatever prints, compares
/// or drops the value goes down as far, by up to a third of a kilobyte a level. Only addresses: before
/// it is full of pages, [`spin_cli::bounded`] has ended the program for its memory.
const DEEP: usize = 3 << 30;

/// What a probe may take.
const PROBE_MEMORY: u64 = 512 << 20;
const PROBE_TIME: Duration = Duration::from_secs(10);
const PROBE_STEP: Duration = Duration::from_millis(5);

/// Set the limits that the engine keeps by itself.
pub fn apply(env: &mut Environment<'_>) {
    env.set_fuel(Some(FUEL));
    env.add_filter("indent", indent);
    env.add_filter("batch", |state: &State<'_, '_>, value: Value, count: usize, fill: Option<Value>| {
        few("batch", count)?;
        filters::batch(state, value, count, fill)
    });
    env.add_filter("slice", |state: &State<'_, '_>, value: Value, count: usize, fill: Option<Value>| {
        few("slice", count)?;
        filters::slice(state, value, count, fill)
    });
    env.add_filter("format", |state: &State<'_, '_>, text: &Value, values: Rest<Value>| {
        narrow(&PRINTF, text.as_str().unwrap_or_default())?;
        filters::format(state, text, values)
    });
}

fn few(filter: &str, count: usize) -> Result<(), Error> {
    if count <= GROUPS { Ok(()) } else { refuse(format!("{filter}: more than {GROUPS}")) }
}

/// Width and precision of `%(name)-05.1f`, and the specification of `{name[key]:>5.1f}`, in which the
/// fill may be any character.
static PRINTF: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"%(?:%|(?:\([^)]*\))?([-+ #0-9.]*))").expect("a valid pattern"));
static BRACES: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?s)\{[^{}:\[]*(?:\[[^\]]*\][^{}:\[]*)*:(.?[^{}]*)").expect("a valid pattern"));

/// Checks that no width or precision of a format makes a text of its own.
fn narrow(fields: &Regex, format: &str) -> Result<(), Error> {
    let wide = |number: &str| number.trim_start_matches('0').len() > DIGITS;
    let mut specs = fields.captures_iter(format).map(|field| field.get(1).map_or("", |spec| spec.as_str()));
    match specs.any(|spec| spec.split(|c: char| !c.is_ascii_digit()).any(wide)) {
        true => refuse(format!("format: a width or precision of more than {DIGITS} digits")),
        false => Ok(()),
    }
}

/// Checks what `str.format` is called on.
///
/// # Errors
/// When a width or precision has more digits than one needs.
pub(crate) fn check_format(text: &str) -> Result<(), Error> {
    narrow(&BRACES, text)
}

fn refuse<T>(problem: String) -> Result<T, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, problem))
}

/// `indent`, of at most [`INDENT`] columns.
fn indent(
    value: String,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let named: Option<Value> = kwargs.get("width")?;
    let first = first.or(kwargs.get("first")?);
    let blank = blank.or(kwargs.get("blank")?);
    kwargs.assert_all_used()?;
    let by = match width.or(named) {
        None => "    ".to_owned(),
        Some(width) => match (width.as_str(), width.as_usize()) {
            (Some(text), _) if text.len() <= INDENT => text.to_owned(),
            (None, Some(columns)) if columns <= INDENT => " ".repeat(columns),
            _ => return refuse(format!("indent: more than {INDENT} columns, or no number")),
        },
    };
    let mut out = String::with_capacity(value.len());
    for (i, line) in value.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let wanted = if i == 0 { first == Some(true) } else { !line.is_empty() || blank == Some(true) };
        if wanted {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Compile a template into `env` under `name`.
///
/// # Errors
/// What the engine says, or that the source is too long.
pub fn compile(env: &mut Environment<'static>, name: &'static str, source: String) -> Result<(), Error> {
    if source.len() > SOURCE_BYTES {
        return refuse(format!("it has {} bytes, and {SOURCE_BYTES} are the most", source.len()));
    }
    if source.len() <= SHORT {
        return env.add_template_owned(name, source);
    }
    apart(STACK, &mut || env.add_template_owned(name, source.clone()))
        .unwrap_or_else(|| refuse("there is no memory to compile it".into()))
}

/// Do something in a thread with a stack of so many bytes; `None` where there is no room for one.
///
/// # Errors
/// What it says, or that it panicked.
fn apart<T: Send>(stack: usize, work: &mut (impl FnMut() -> Result<T, Error> + Send)) -> Option<Result<T, Error>> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(stack);
        let thread = thread.spawn_scoped(scope, || spin_cli::caught(work)).ok()?;
        let result = thread.join().ok().flatten();
        Some(result.unwrap_or_else(|| refuse("the template engine failed on it".into())))
    })
}

/// Render a template of `env` into at most `most` bytes.
///
/// # Errors
/// What the engine says, or which limit was reached.
pub fn render(env: &Environment<'_>, name: &str, context: &Value, most: usize) -> Result<String, Error> {
    let mut out = Bounded { bytes: Vec::new(), most };
    let template = env.get_template(name)?;
    let what = || format!("the template that begins {:?}", excerpt(template.source()));
    let mut work = || template.render_captured_to(context, &mut out).map(drop);
    // Where addresses are rationed, less must do.
    let result = spin_cli::bounded(&what, || {
        apart(DEEP, &mut work).or_else(|| apart(STACK, &mut work)).unwrap_or_else(&mut work)
    });
    if out.bytes.len() >= most {
        return refuse(format!("it makes a text of more than {most} bytes"));
    }
    result.map_err(|error| match error.kind() {
        ErrorKind::OutOfFuel => {
            Error::new(ErrorKind::OutOfFuel, format!("it takes more than {FUEL} steps for one text; does it end?"))
        }
        _ => error,
    })?;
    String::from_utf8(out.bytes).map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// Takes text until there is too much of it.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = self.most - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() <= room { Ok(bytes.len()) } else { Err(std::io::ErrorKind::FileTooLarge.into()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Do something of which nobody knows what it takes, in a thread, and watch it. The engine counts
/// steps, but one step can double a text. What does not stay within bounds is left behind: the caller
/// has an error, and its program ends.
///
/// # Errors
/// Which bound was exceeded.
pub fn watched(probe: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let (done, end) = channel();
    let before = spin_cli::resident_memory();
    let started = std::thread::Builder::new().spawn(move || {
        probe();
        // Nobody may be left to hear it.
        let _ = done.send(());
    });
    if started.is_err() {
        return Ok(());
    }
    let start = Instant::now();
    loop {
        match end.recv_timeout(PROBE_STEP) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err("the template engine fails on it".into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let (Some(before), Some(now)) = (before, spin_cli::resident_memory())
            && now.saturating_sub(before) > PROBE_MEMORY
        {
            return Err(format!("it takes more than {} MiB of memory for a short conversation", PROBE_MEMORY >> 20));
        }
        if start.elapsed() > PROBE_TIME {
            return Err(format!("it takes more than {} s for a short conversation", PROBE_TIME.as_secs()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str) -> Result<String, String> {
        let mut env = Environment::new();
        crate::python::register(&mut env);
        apply(&mut env);
        compile(&mut env, "t", source.to_owned()).map_err(|error| error.to_string())?;
        render(&env, "t", &minijinja::context! { text => "a\nb" }, TEXT_BYTES).map_err(|error| error.to_string())
    }

    #[test]
    fn what_has_no_end_is_ended() {
        for (source, words) in [
            ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"),
            ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", "steps"),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
            ("{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "text of more than"),
            ("{{ text | indent(10 ** 10) }}", "indent"),
            ("{{ text | indent(width=100000) }}", "indent"),
            ("{{ [1] | batch(10000000000, 0) | list | length }}", "batch"),
            ("{{ [1] | slice(10000000000) | list | length }}", "slice"),
            ("{{ '%10000000000d' | format(3) }}", "format"),
            ("{{ '%.2000000000f' | format(3.0) }}", "format"),
            ("{{ '%%%s %-0000012345d' | format('a', 3) }}", "format"),
            ("{{ '%*d' | format(2000000000, 3) }}", "format"),
            ("{{ '%(a)10000000000d' | format(a=3) }}", "format"),
            ("{{ '{:10000000000}'.format(3) }}", "format"),
            ("{{ '{a:}>-10000000000,.1f}'.format(a=3.0) }}", "format"),
            ("{{ '{0[}]:.2000000000f}'.format({'}': 3.0}) }}", "format"),
        ] {
            let error = rendered(source).unwrap_err();
            assert!(error.contains(words), "{source}: {error}");
        }
        let named = "{{ '%(a)4d%%99999 in 20240: {} at 12345:{:>5} {{:99999}}' | format(a=7) }}";
        assert_eq!(rendered(named).unwrap(), "   7%99999 in 20240: {} at 12345:{:>5} {{:99999}}");
        assert_eq!(
            rendered("{{ 'In 20240: {} at 12345:{:>5}'.format(1, 'a') }}").unwrap(),
            "In 20240: 1 at 12345:    a"
        );
        assert_eq!(rendered("{{ '%05.1f|%3d|%%|%s' | format(1.25, 2, 'a') }}").unwrap(), "001.2|  2|%|a");
        assert_eq!(rendered("{{ [1, 2, 3] | batch(2, 0) | list }}").unwrap(), "[[1, 2], [3, 0]]");
        let long = format!("{{{{ {} }}}}", vec!["1"; 50_000].join("+"));
        assert_eq!(rendered(&long).unwrap(), "50000");
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(60_000), ")".repeat(60_000));
        assert!(rendered(&deep).is_err());
        for prefix in ["not ", "-", "[", "{{ '"] {
            let source = format!("{{{{ {}1 }}}}", prefix.repeat(40_000));
            assert!(rendered(&source).is_err() || prefix == "not " || prefix == "-", "{prefix}");
        }
        let elif = format!("{{% if 0 %}}{}{{% endif %}}x", "{% elif 0 %}".repeat(15_000));
        let _ = rendered(&elif);
        assert!(rendered(&"x".repeat(SOURCE_BYTES + 1)).unwrap_err().contains("are the most"));
    }

    /// Found by hand beside the fuzzer: a value that is a list of a list of a list.
    #[test]
    fn values_may_nest_as_deep_as_there_are_steps() {
        let nested = |levels: usize, rest: &str| {
            let [open, close] = ["[", "]"].map(|bracket| bracket.repeat(40));
            let times = levels / 40;
            format!(
                "{{% set a = namespace(b=1) %}}{{% for i in range({times}) %}}{{% set a.b = {open}a.b{close} %}}{{% endfor %}}{rest}"
            )
        };
        assert_eq!(rendered(&nested(400_000, "")).unwrap(), "");
        assert_eq!(rendered(&nested(200_000, "{{ a.b }}")).unwrap().len(), 400_001);
    }

    #[test]
    fn indents_as_jinja_does() {
        assert_eq!(rendered("{{ text | indent }}").unwrap(), "a\n    b");
        assert_eq!(rendered("{{ text | indent(2, true) }}").unwrap(), "  a\n  b");
        assert_eq!(
            rendered("{{ 'a\n\nb' | indent(2) }}|{{ 'a\n\nb' | indent(2, blank=true) }}").unwrap(),
            "a\n\n  b|a\n  \n  b"
        );
        assert_eq!(rendered("{{ text | indent('> ') }}").unwrap(), "a\n> b");
    }

    #[test]
    fn a_probe_that_fails_is_told() {
        assert!(watched(|| ()).is_ok());
        assert!(watched(|| std::panic::resume_unwind(Box::new(()))).unwrap_err().contains("fails"));
    }
}
