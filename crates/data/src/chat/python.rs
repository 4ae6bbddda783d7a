//! Python's methods on strings, dicts and lists where minijinja's differ or lack, and Python's `repr`.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::budget::{self, MAX_WIDTH};

/// What Python's `str.isspace` calls a space: Unicode's white space and the four ASCII separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

pub(super) fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

pub(super) fn trim<'t>(text: &'t str, chars: Option<&str>) -> &'t str {
    match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)),
        None => strip(text),
    }
}

/// Methods that minijinja does not know on a type.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        _ if name == budget::SLICE => Some(budget::slice(value, args)?),
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), name, args)?,
        ValueKind::Map => map_method(value, name, args)?,
        ValueKind::Seq => list_method(value, name, args)?,
        _ => None,
    };
    let made = match own {
        Some(result) => result,
        None => {
            check_method(value, name, args)?;
            minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)?
        }
    };
    budget::charge_made(Some(value), &made)?;
    Ok(made)
}

/// Refuses a method's input of which it would make too much.
fn check_method(value: &Value, name: &str, args: &[Value]) -> Result<(), Error> {
    let Some(text) = value.as_str() else { return Ok(()) };
    match name {
        "replace" => match (args.first().and_then(Value::as_str), args.get(1).and_then(Value::as_str)) {
            (Some(old), Some(new)) => check_replace(text, old, new),
            _ => Ok(()),
        },
        "join" => {
            let items = args.first().and_then(Value::len).unwrap_or(0);
            let weight = budget::check_printable(args)?;
            budget::charge_string(text.len().checked_mul(items).and_then(|n| n.checked_add(weight)))
        }
        "format" => budget::check_format(text, '{', args, budget::check_printable(args)?),
        _ => Ok(()),
    }
}

/// Refuses a replacement that would make too long a string.
pub(super) fn check_replace(text: &str, old: &str, new: &str) -> Result<(), Error> {
    // An empty one is put before every character and at the end.
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    budget::charge_string(found.checked_mul(new.len()).and_then(|n| n.checked_add(text.len())))
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let strip_with = |trim: fn(&str, &dyn Fn(char) -> bool) -> String| -> Result<Option<Value>, Error> {
        let (chars,): (Option<&str>,) = from_args(args)?;
        Ok(Some(Value::from(match chars {
            Some(chars) => trim(text, &|c| chars.contains(c)),
            None => trim(text, &is_space),
        })))
    };
    let parts = |parts: Vec<&str>| Ok(Some(strings(parts)));
    let looks_within =
        matches!(name, "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count");
    if looks_within && args.len() > 1 {
        return within(text, name, args).map(Some);
    }
    match name {
        "strip" => strip_with(|text, f| text.trim_matches(f).to_owned()),
        "lstrip" => strip_with(|text, f| text.trim_start_matches(f).to_owned()),
        "rstrip" => strip_with(|text, f| text.trim_end_matches(f).to_owned()),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Some(Value::from(text.strip_prefix(prefix).unwrap_or(text))))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Some(Value::from(text.strip_suffix(suffix).unwrap_or(text))))
        }
        "split" | "rsplit" => {
            let (separator, limit) = split_args(args)?;
            parts(split(text, separator.as_deref(), limit, name == "rsplit")?)
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            parts(split_lines(text, keep.unwrap_or(false)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let found =
                if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let three = match found {
                Some((a, b)) => [a, separator, b],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Ok(Some(Value::from(Tuple::from(three.map(Value::from)))))
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(what) } else { text.rfind(what) };
            match at {
                Some(at) => Ok(Some(Value::from(text[..at].chars().count()))),
                None => Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
            }
        }
        "zfill" | "ljust" | "rjust" | "center" => pad(text, name, args).map(Some),
        "casefold" => Ok(Some(Value::from(text.to_lowercase()))),
        "swapcase" => Ok(Some(Value::from(text.chars().map(swapped).collect::<String>()))),
        "expandtabs" => {
            let (width,): (Option<usize>,) = from_args(args)?;
            let width = width.unwrap_or(8).min(MAX_WIDTH);
            budget::charge_string(text.matches('\t').count().checked_mul(width))?;
            Ok(Some(Value::from(expand_tabs(text, width))))
        }
        "isdecimal" => Ok(Some(Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())))),
        "isprintable" => Ok(Some(Value::from(!text.chars().any(is_unprintable)))),
        _ => Ok(None),
    }
}

/// `find`, `startswith` and their like from a character on, up to another.
fn within(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
    let n = text.chars().count();
    let place = |at: i64| if at < 0 { n.saturating_sub(at.unsigned_abs() as usize) } else { at as usize };
    let (start, end) = (place(start.unwrap_or(0)), end.map_or(n, place).min(n));
    let part: String = text.chars().take(end).skip(start).collect();
    let strings = || -> Result<Vec<String>, Error> {
        if let Some(one) = what.as_str() {
            return Ok(vec![one.to_owned()]);
        }
        what.try_iter()?.map(|item| Ok(item.as_str().unwrap_or_default().to_owned())).collect()
    };
    let one = what.as_str().unwrap_or_default();
    let place_of = |found: Option<usize>| found.map(|at| start + part[..at].chars().count());
    let found = if name.starts_with('r') { part.rfind(one) } else { part.find(one) };
    Ok(match name {
        "startswith" => Value::from(start <= end && strings()?.iter().any(|s| part.starts_with(s))),
        "endswith" => Value::from(start <= end && strings()?.iter().any(|s| part.ends_with(s))),
        "count" => Value::from(part.matches(one).count()),
        "index" | "rindex" => place_of(found)
            .map(Value::from)
            .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?,
        _ => place_of(found).map_or(Value::from(-1), Value::from),
    })
}

fn swapped(c: char) -> char {
    if c.is_lowercase() { c.to_uppercase().next().unwrap_or(c) } else { c.to_lowercase().next().unwrap_or(c) }
}

fn expand_tabs(text: &str, width: usize) -> String {
    let (mut out, mut column) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        match c {
            '\t' if width > 0 => {
                let n = width - column % width;
                out.extend(std::iter::repeat_n(' ', n));
                column += n;
            }
            '\t' => {}
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    out
}

fn split_args(args: &[Value]) -> Result<(Option<String>, Option<usize>), Error> {
    let (positional, kwargs) = match args.split_last() {
        Some((last, rest)) if last.is_kwargs() => (rest, Kwargs::try_from(last.clone())?),
        _ => (args, std::iter::empty::<(&str, Value)>().collect()),
    };
    let (separator, limit): (Option<String>, Option<i64>) = from_args(positional)?;
    let separator = separator.or(kwargs.get("sep")?);
    let limit: Option<i64> = limit.or(kwargs.get("maxsplit")?);
    kwargs.assert_all_used()?;
    Ok((separator, limit.and_then(|n| usize::try_from(n).ok())))
}

fn split<'t>(
    text: &'t str,
    separator: Option<&str>,
    limit: Option<usize>,
    from_right: bool,
) -> Result<Vec<&'t str>, Error> {
    let Some(separator) = separator else {
        return Ok(split_on_space(text, limit, from_right));
    };
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let pieces = limit.map_or(usize::MAX, |n| n.saturating_add(1));
    let mut parts: Vec<&str> = if from_right {
        text.rsplitn(pieces, separator).collect()
    } else {
        text.splitn(pieces, separator).collect()
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

fn split_on_space(text: &str, limit: Option<usize>, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_right { rstrip(text) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() {
        if limit.is_some_and(|limit| parts.len() == limit) {
            parts.push(if from_right { rest } else { rstrip(rest) });
            break;
        }
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        match cut {
            None => {
                parts.push(rest);
                break;
            }
            Some(at) if from_right => {
                parts.push(rest[at..].trim_start_matches(is_space));
                rest = rstrip(&rest[..at]);
            }
            Some(at) => {
                parts.push(&rest[..at]);
                rest = rest[at..].trim_start_matches(is_space);
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn split_lines(text: &str, keep: bool) -> Vec<&str> {
    let is_break = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(is_break) {
        let width = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(if keep { &rest[..at + width] } else { &rest[..at] });
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

pub(super) fn pad(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    if width > MAX_WIDTH {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("{name} wider than {MAX_WIDTH}")));
    }
    let missing = width.saturating_sub(text.chars().count());
    let fill = |n: usize| fill.unwrap_or(if name == "zfill" { '0' } else { ' ' }).to_string().repeat(n);
    Ok(Value::from(match name {
        "ljust" => format!("{text}{}", fill(missing)),
        "rjust" => format!("{}{text}", fill(missing)),
        "center" => {
            // CPython puts the odd one to the left where the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", fill(left), fill(missing - left))
        }
        _ => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", fill(missing))
        }
    }))
}

fn map_method(map: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(map.clone()))
        }
        // A list where Python has a view: both have a length and can be walked twice.
        "items" => {
            let () = from_args(args)?;
            let mut pairs = Vec::new();
            for key in map.try_iter()? {
                let value = map.get_item(&key)?;
                pairs.push(Value::from(Tuple::from([key, value])));
            }
            Ok(Some(Value::from(pairs)))
        }
        _ => Ok(None),
    }
}

fn list_method(list: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            match list.try_iter()?.position(|item| item == *what) {
                Some(at) => Ok(Some(Value::from(at))),
                None => {
                    Err(Error::new(ErrorKind::InvalidOperation, format!("{} is not in list", repr(what))))
                }
            }
        }
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(list.clone()))
        }
        _ => Ok(None),
    }
}

fn strings(parts: Vec<&str>) -> Value {
    Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
}

/// Python's `repr`.
pub(super) fn repr(value: &Value) -> String {
    repr_with(value, false)
}

/// The same with the keys of mappings sorted, as Python's `pprint` has them.
pub(super) fn repr_sorted(value: &Value) -> String {
    repr_with(value, true)
}

fn repr_with(value: &Value, sorted: bool) -> String {
    let repr = |value: &Value| repr_with(value, sorted);
    match value.kind() {
        ValueKind::String => repr_str(value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
        }
        ValueKind::Seq => {
            let items: Vec<String> = value.try_iter().into_iter().flatten().map(|item| repr(&item)).collect();
            if value.is_tuple() && items.len() == 1 {
                format!("({},)", items[0])
            } else if value.is_tuple() {
                format!("({})", items.join(", "))
            } else {
                format!("[{}]", items.join(", "))
            }
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter().into_iter().flatten().collect();
            if sorted {
                keys.sort();
            }
            let pairs: Vec<String> = keys
                .into_iter()
                .map(|key| format!("{}: {}", repr(&key), repr(&value.get_item(&key).unwrap_or_default())))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
        _ => value.to_string(),
    }
}

fn repr_str(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_unprintable(c) => {
                let _ = match u32::from(c) {
                    code @ ..=0xff => write!(out, "\\x{code:02x}"),
                    code @ ..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// What Python's `repr` escapes: control and format characters, and every space but the ordinary one.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || c != ' ' && c.is_whitespace()
        || matches!(c, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e000}'..='\u{f8ff}' | '\u{e0001}'..='\u{e007f}')
}

/// Python's `repr` of a finite float: the shortest digits that read back, an exponent below 1e-4 and from 1e16.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{x:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = x.to_string();
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}
