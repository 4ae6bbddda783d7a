use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

use super::{json, python};

/// The variable that fixes what `strftime_now` reads.
pub(super) const NOW: &str = "__now";

/// What transformers gives every chat template: its Jinja settings, functions, filters and tests.
pub(super) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::None);
    // The builder fails only on odd delimiters, and these are the default ones.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    env.set_unknown_method_callback(python::method);
    // As Python's `str` prints them.
    env.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Seq | ValueKind::Map => Ok(out.write_str(&python::repr(value))?),
        ValueKind::Number if !value.is_integer() => Ok(out.write_str(&python::repr(value))?),
        _ => minijinja::escape_formatter(out, state, value),
    });

    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", strftime_now);

    env.add_filter("tojson", json::tojson);
    env.add_filter("trim", |value: &Value, chars: Option<String>| {
        python::trim(&value.to_string(), chars.as_deref()).to_owned()
    });

    // What is not there has no items.
    for name in ["length", "count"] {
        env.add_filter(name, |value: &Value| {
            let length = if value.is_undefined() { Some(0) } else { value.len() };
            let kind = value.kind();
            length.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("a {kind} has no length")))
        });
    }

    // Python's len() and iter() take strings, dicts and Jinja's undefined values.
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
    });
    env.add_test("iterable", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined | ValueKind::Iterable
        )
    });
    env
}

fn strftime_now(state: &State, format: &str) -> Result<String, Error> {
    let bad = |e: jiff::Error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}"));
    let now = match state.lookup(NOW) {
        Some(fixed) => fixed.to_string().parse::<jiff::civil::DateTime>().map_err(bad)?,
        None => jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).datetime(),
    };
    jiff::fmt::strtime::format(format, now).map_err(bad)
}
