use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::{budget, python};

/// transformers' `tojson`: Python's `json.dumps` with `ensure_ascii=False` unless told otherwise.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands filters their keyword arguments by value")]
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<Value>>("indent")?,
    };
    let indent = match indent {
        None => None,
        Some(v) if v.is_none() => None,
        Some(v) if v.as_str().is_some_and(|text| text.len() > MAX_INDENT) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the indent is too wide"));
        }
        Some(v) => Some(match v.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(v.as_usize().unwrap_or(0).min(MAX_INDENT)),
        }),
    };
    let separators = match kwargs.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string())
        }
        _ => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let dump = Dump {
        ensure_ascii: ensure_ascii.or(kwargs.get("ensure_ascii")?).unwrap_or(false),
        indent,
        separators,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    dump.value(value, 0, &mut out)?;
    budget::charge_string(Some(out.len()))?;
    Ok(out)
}

struct Dump {
    ensure_ascii: bool,
    indent: Option<String>,
    separators: (String, String),
    sort_keys: bool,
}

/// Deeper than any tool definition; a bound for values that a template nests in a loop.
const MAX_DEPTH: usize = 200;
/// Wider than any.
const MAX_INDENT: usize = 64;

impl Dump {
    fn value(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        let bad = |what: &str| Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}")));
        if depth > MAX_DEPTH {
            return bad("the value is nested too deep");
        }
        if out.len() > budget::MAX_STRING {
            return bad("the value is too long");
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items('[', ']', items.iter(), depth, out, |item, out| self.value(item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    let name = match key.kind() {
                        ValueKind::String => key.to_string(),
                        ValueKind::None => "null".into(),
                        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
                        ValueKind::Number => number(&key),
                        other => return bad(&format!("a key may not be a {other}")),
                    };
                    pairs.push((name, item));
                }
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.items('{', '}', pairs.iter(), depth, out, |(name, item), out| {
                    self.string(name, out);
                    out.push_str(&self.separators.1);
                    self.value(item, depth + 1, out)
                })?;
            }
            other => return bad(&format!("a value of type {other} is not JSON serializable")),
        }
        Ok(())
    }

    fn items<T>(
        &self,
        open: char,
        close: char,
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        out: &mut String,
        write: impl Fn(T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let newline = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        out.push(open);
        let empty = items.len() == 0;
        for (i, item) in items.enumerate() {
            if i > 0 {
                out.push_str(&self.separators.0);
            }
            newline(depth + 1, out);
            write(item, out)?;
        }
        if !empty {
            newline(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if u32::from(c) < 0x20 => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                // Not the marks: they are no part of the text.
                c if self.ensure_ascii && !c.is_ascii() && !('\u{FDD0}'..='\u{FDD4}').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(x) if x.is_nan() => "NaN".into(),
        Ok(x) if x.is_infinite() => if x > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        Ok(x) => python::float(x),
        Err(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context};

    fn check(expression: &str, expect: &str) {
        let mut env = Environment::new();
        env.add_filter("tojson", super::tojson);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let text = env.render_str(expression, context! {}).unwrap();
        assert_eq!(text, expect);
    }

    #[test]
    fn as_python_dumps() {
        check(
            "{{ {'a': [1, 2.0, none, true], 'é\"\\n': {}} | tojson }}",
            r#"{"a": [1, 2.0, null, true], "é\"\n": {}}"#,
        );
        check("{{ 'é😀' | tojson(ensure_ascii=True) }}", r#""\u00e9\ud83d\ude00""#);
        check(
            "{{ [1, [], {'b': 1, 'a': 2}] | tojson(indent=2, sort_keys=True) }}",
            "[\n  1,\n  [],\n  {\n    \"a\": 2,\n    \"b\": 1\n  }\n]",
        );
        check("{{ [1, {'a': 1}] | tojson(separators=(',', ':')) }}", r#"[1,{"a":1}]"#);
        check(
            "{{ [1e16, 1e-5, 0.1, 1e22, 123456789.125, -0.0] | tojson }}",
            "[1e+16, 1e-05, 0.1, 1e+22, 123456789.125, -0.0]",
        );
    }
}
