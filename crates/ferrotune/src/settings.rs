//! TOML settings whose errors name the file, the line and the key that was probably meant.

use std::path::Path;

use anyhow::{Result, anyhow};
use serde::de::DeserializeOwned;

/// Reads `text`, which came from `path`.
///
/// # Errors
/// What is wrong and where; for an unknown key, the nearest known one.
pub fn from_toml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    if let Ok(table) = text.parse::<toml::Table>()
        && let Some(key) = no_number(&toml::Value::Table(table))
    {
        let line = text.lines().position(|line| line.trim_start().starts_with(key.as_str()));
        let at = line.map(|l| format!(":{}", l + 1)).unwrap_or_default();
        return Err(anyhow!("{}{at}: {key} is infinite or no number", path.display()));
    }
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let at = line.map(|l| format!(":{l}")).unwrap_or_default();
        anyhow!("{}{at}: {}", path.display(), with_suggestion(error.message()))
    })
}

/// The first key whose value is infinite or NaN, which TOML can write and no setting means.
fn no_number(value: &toml::Value) -> Option<String> {
    let table = value.as_table()?;
    let bad = |value: &toml::Value| value.as_float().is_some_and(|x| !x.is_finite());
    table.iter().find_map(|(key, value)| if bad(value) { Some(key.clone()) } else { no_number(value) })
}

/// `unknown field `lrr`, expected one of `lr`, …` → names the nearest as well.
fn with_suggestion(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((unknown, known)) = quoted.split_first().filter(|_| message.starts_with("unknown field")) else {
        return message.to_owned();
    };
    match known.iter().map(|k| (distance(unknown, k), *k)).min() {
        Some((d, nearest)) if d <= unknown.len().div_ceil(2) => {
            format!("unknown key `{unknown}`: did you mean `{nearest}`? (known: {})", known.join(", "))
        }
        _ => format!("unknown key `{unknown}` (known: {})", known.join(", ")),
    }
}

/// Levenshtein's distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read as settings")]
    struct Settings {
        batch: usize,
        warmup_steps: usize,
        lr: f64,
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one_and_its_line() {
        let error = from_toml::<Settings>("batch = 2\nwarmup_step = 3\n", Path::new("p.toml")).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("p.toml:2: unknown key `warmup_step`: did you mean `warmup_steps`?"),
            "{error}"
        );
        let error = from_toml::<Settings>("zzzzzzzz = 3\n", Path::new("p.toml")).unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn what_is_no_number_is_refused_with_its_line() {
        for word in ["nan", "inf", "-inf"] {
            let error = from_toml::<Settings>(&format!("batch = 2\nlr = {word}\n"), Path::new("p.toml"));
            let error = error.unwrap_err().to_string();
            assert_eq!(error, "p.toml:2: lr is infinite or no number");
        }
    }

    #[test]
    fn distances() {
        for (a, b, expect) in [("", "abc", 3), ("lr", "lr", 0), ("sed", "seed", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), expect, "{a} {b}");
        }
    }
}
