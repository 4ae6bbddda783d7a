//! Jinja2's filters and functions that minijinja lacks or has otherwise.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Object, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::budget::{self, text};
use super::python;

pub(super) fn add_to(env: &mut Environment<'static>) {
    env.add_filter("replace", replace);
    env.add_filter("center", center);
    env.add_filter("truncate", truncate);
    env.add_filter("wordcount", |value: &Value| -> Result<usize, Error> { Ok(word_count(&text(value)?)) });
    env.add_filter("striptags", |value: &Value| -> Result<String, Error> { Ok(strip_tags(&text(value)?)) });
    env.add_filter("urlencode", url_encode);
    env.add_filter("filesizeformat", file_size);
    for name in ["e", "escape"] {
        env.add_filter(name, escape);
    }
    env.add_filter("forceescape", |value: &Value| -> Result<String, Error> { escaped(&text(value)?) });
    env.add_filter("xmlattr", xml_attributes);
    env.add_filter("pprint", pretty);
    env.add_function("cycler", |items: Rest<Value>| match items.0 {
        items if items.is_empty() => Err(bad("cycler: at least one item has to be provided")),
        items => Ok(Value::from_object(Cycler { items, at: AtomicUsize::new(0) })),
    });
    env.add_test("callable", is_callable);
}

fn bad(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// `s`, `old`, `new`, and how many from the left; all where it is absent or negative.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands filters their keyword arguments by value")]
fn replace(
    value: &Value,
    old: &Value,
    new: &Value,
    count: Option<i64>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let count = count.or(kwargs.get("count")?);
    kwargs.assert_all_used()?;
    let (value, old, new) = (text(value)?, text(old)?, text(new)?);
    python::check_replace(&value, &old, &new)?;
    Ok(match count.and_then(|n| usize::try_from(n).ok()) {
        Some(n) => value.replacen(&old, &new, n),
        None => value.replace(&old, &new),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "minijinja hands filters their keyword arguments by value")]
fn center(value: &Value, width: Option<usize>, kwargs: Kwargs) -> Result<Value, Error> {
    let width = width.or(kwargs.get("width")?).unwrap_or(80);
    kwargs.assert_all_used()?;
    python::pad(&text(value)?, "center", &[Value::from(width)])
}

/// Length, `killwords`, end, leeway, and those that are named.
type TruncateArguments = (Option<usize>, Option<bool>, Option<String>, Option<usize>, Kwargs);

/// Cuts a text at `length` characters, at the last space before it unless `killwords`, and ends it with `end`. What is
/// longer by `leeway` only is left whole.
fn truncate(value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = args.into_values();
    let (length, kill, end, leeway, kwargs): TruncateArguments = from_args(&args)?;
    let length = length.or(kwargs.get("length")?).unwrap_or(255);
    let kill = kill.or(kwargs.get("killwords")?).unwrap_or(false);
    let end = end.or(kwargs.get("end")?).unwrap_or_else(|| "...".into());
    let leeway = leeway.or(kwargs.get("leeway")?).unwrap_or(5);
    kwargs.assert_all_used()?;
    let n_end = end.chars().count();
    let Some(n_kept) = length.checked_sub(n_end) else {
        return Err(bad(format!("truncate: expected length >= {n_end}, got {length}")));
    };
    let whole = text(value)?;
    if whole.chars().count() <= length.saturating_add(leeway) {
        return Ok(whole);
    }
    let kept: String = whole.chars().take(n_kept).collect();
    let kept = if kill { &kept } else { kept.rsplit_once(' ').map_or(&*kept, |(before, _)| before) };
    Ok(format!("{kept}{end}"))
}

/// Runs of what Python's `\w` matches.
fn word_count(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
}

/// Without tags and comments, spaces made one; the five named entities that `escape` writes are read back.
fn strip_tags(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find('<') {
        let tag = &rest[start..];
        let end = match tag.strip_prefix("<!--") {
            Some(comment) => comment.find("-->").map(|at| at + "<!---->".len()),
            None => tag.find('>').map(|at| at + 1),
        };
        let Some(end) = end else { break };
        out.push_str(&rest[..start]);
        rest = &tag[end..];
    }
    out.push_str(rest);
    let words: Vec<&str> = out.split(python::is_space).filter(|word| !word.is_empty()).collect();
    let joined = words.join(" ");
    [("&lt;", "<"), ("&gt;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&quot;", "\""), ("&amp;", "&")]
        .iter()
        .fold(joined, |text, (entity, c)| text.replace(entity, c))
}

/// A text with all but letters, digits and `_.-~/` as `%XX`; a mapping or pairs as a query.
fn url_encode(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Map => {
            let pairs = value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?)));
            query(pairs)
        }
        ValueKind::Seq | ValueKind::Iterable => {
            query(value.try_iter()?.map(|pair| Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?))))
        }
        _ => quoted(&text(value)?, "/"),
    }
}

fn query(pairs: impl Iterator<Item = Result<(Value, Value), Error>>) -> Result<String, Error> {
    let quoted = |value: &Value| Ok::<_, Error>(quoted(&text(value)?, "")?.replace("%20", "+"));
    let pairs: Vec<String> = pairs
        .map(|pair| pair.and_then(|(key, value)| Ok(format!("{}={}", quoted(&key)?, quoted(&value)?))))
        .collect::<Result<_, Error>>()?;
    Ok(pairs.join("&"))
}

fn quoted(text: &str, safe: &str) -> Result<String, Error> {
    budget::charge_string(text.len().checked_mul(3))?;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "_.-~".contains(c) || safe.contains(c) {
            out.push(c);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Ok(out)
}

/// `13.0 kB`, or with `binary` `12.7 KiB`.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands filters their keyword arguments by value")]
fn file_size(value: &Value, binary: Option<bool>, kwargs: Kwargs) -> Result<String, Error> {
    const LETTERS: [char; 8] = ['k', 'M', 'G', 'T', 'P', 'E', 'Z', 'Y'];
    let binary = binary.or(kwargs.get("binary")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let bytes = match value.as_str() {
        Some(text) => text.trim().parse::<f64>().map_err(|e| bad(format!("filesizeformat: {e}")))?,
        None => f64::try_from(value.clone())?,
    };
    let base = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()));
    }
    let (mut size, mut letter) = (bytes / base, 0);
    while size >= base && letter + 1 < LETTERS.len() {
        size /= base;
        letter += 1;
    }
    let unit = if binary {
        format!("{}iB", LETTERS[letter].to_ascii_uppercase())
    } else {
        format!("{}B", LETTERS[letter])
    };
    Ok(format!("{size:.1} {unit}"))
}

/// What is safe already stays as it is.
fn escape(value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return budget::charge_value(value).map(|()| value.clone());
    }
    Ok(Value::from_safe_string(escaped(&text(value)?)?))
}

/// As MarkupSafe escapes.
fn escaped(text: &str) -> Result<String, Error> {
    let more: usize = text.chars().filter_map(entity).map(|entity| entity.len() - 1).sum();
    budget::charge_string(text.len().checked_add(more))?;
    let mut out = String::with_capacity(text.len() + more);
    for c in text.chars() {
        match entity(c) {
            Some(entity) => out.push_str(entity),
            None => out.push(c),
        }
    }
    Ok(out)
}

fn entity(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&#34;"),
        '\'' => Some("&#39;"),
        _ => None,
    }
}

/// ` name="value"` for each entry that is neither none nor undefined.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands filters their keyword arguments by value")]
fn xml_attributes(value: &Value, autospace: Option<bool>, kwargs: Kwargs) -> Result<String, Error> {
    let autospace = autospace.or(kwargs.get("autospace")?).unwrap_or(true);
    kwargs.assert_all_used()?;
    let mut attributes = Vec::new();
    for key in value.try_iter()? {
        let value = value.get_item(&key)?;
        if value.is_none() || value.is_undefined() {
            continue;
        }
        let key = text(&key)?;
        if key.contains(|c: char| c.is_ascii_whitespace() || matches!(c, '\u{b}' | '/' | '>' | '=')) {
            return Err(bad(format!("xmlattr: invalid character in attribute name: {key:?}")));
        }
        attributes.push(format!("{}=\"{}\"", escaped(&key)?, escaped(&text(&value)?)?));
    }
    let joined = attributes.join(" ");
    Ok(if autospace && !joined.is_empty() { format!(" {joined}") } else { joined })
}

/// Python's `pprint`, of what fits on a line of 80: its `repr` with sorted keys. Anything longer is refused, since
/// Python breaks it in a way of its own.
fn pretty(value: &Value) -> Result<String, Error> {
    budget::check_printable(std::slice::from_ref(value))?;
    let text = python::repr_sorted(value);
    if text.chars().count() > 80 {
        return Err(bad("pprint: only values that fit on a line of 80 characters"));
    }
    Ok(text)
}

/// Python's `callable`: macros, functions and `loop`. minijinja does not tell, but the names of its types do.
fn is_callable(value: &Value) -> bool {
    let name = value.as_object().map_or("", |object| object.type_name());
    // Jinja2's undefined value is called to raise its error.
    value.is_undefined()
        || ["::Macro", "::BoxedFunction", "::Loop"].iter().any(|callable| name.ends_with(callable))
}

/// Jinja2's `cycler`: gives its items in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Cycler {
    fn current(&self) -> Value {
        self.items[self.at.load(Ordering::Relaxed)].clone()
    }
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "current" => Some(self.current()),
            _ => None,
        }
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let () = from_args(args)?;
        match method {
            "next" => {
                let current = self.current();
                self.at.store((self.at.load(Ordering::Relaxed) + 1) % self.items.len(), Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}
