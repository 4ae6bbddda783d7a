//! "Did you mean": the nearest of the known names.

/// The known name with the fewest changed letters, if they are few enough to be a slip.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|k| (distance(name, k), k));
    let (n, best) = scored.min_by_key(|&(n, _)| n)?;
    (n <= 1 + name.chars().count() / 3).then_some(best)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Adds the nearest known key to serde's message about an unknown one.
pub(super) fn with_suggestion(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if !message.contains("unknown") || quoted.len() < 2 {
        return message.trim_end().to_owned();
    }
    match nearest(quoted[0], quoted[1..].iter().copied()) {
        Some(best) => format!("{}; did you mean `{best}`?", message.trim_end()),
        None => message.trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_understood_and_nonsense_is_not() {
        assert_eq!(nearest("mojibak", ["mojibake", "html"]), Some("mojibake"));
        assert_eq!(nearest("min_chrs", ["min_chars", "max_chars"]), Some("min_chars"));
        assert_eq!(nearest("zzzzz", ["mojibake", "html"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert!(
            with_suggestion("unknown field `min_chrs`, expected `min_chars` or `max_chars`")
                .ends_with("`min_chars`?")
        );
    }
}
