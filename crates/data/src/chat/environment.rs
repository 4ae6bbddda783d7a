use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

use super::{budget, filters, json, python};

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
    env.set_formatter(|out, _, value| {
        if let Some(text) = value.as_str() {
            budget::charge(text.len())?;
            return Ok(out.write_str(text)?);
        }
        budget::check_printable(std::slice::from_ref(value))?;
        let text = budget::printed(value);
        budget::charge(text.len())?;
        Ok(out.write_str(&text)?)
    });
    budget::add_to(&mut env);
    filters::add_to(&mut env);

    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", strftime_now);

    env.add_filter("tojson", json::tojson);
    env.add_filter("trim", |value: &Value, chars: Option<String>| -> Result<String, Error> {
        let text = budget::text(value)?;
        Ok(python::trim(&text, chars.as_deref()).to_owned())
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
    let text = jiff::fmt::strtime::format(format, now).map_err(bad)?;
    budget::charge_string(Some(text.len()))?;
    Ok(text)
}
