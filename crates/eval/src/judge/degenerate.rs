use std::collections::BTreeSet;

/// Whether a text is empty or loops: not an answer, whatever words it holds.
///
/// It loops where a third of its runs of four words have come before (in texts of 16 words and more), where one
/// sentence comes three times, or where one word or one character comes six or twelve times in a row.
///
/// ```
/// use ferrotune_eval::is_degenerate;
/// assert!(is_degenerate("  ...  "));
/// assert!(is_degenerate(&"You can return it. ".repeat(3)));
/// assert!(!is_degenerate("You can return it within 30 days, and you can exchange it within 60."));
/// ```
pub fn is_degenerate(text: &str) -> bool {
    if !text.chars().any(char::is_alphanumeric) {
        return true;
    }
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    longest_run(&words) >= 6
        || longest_run(
            &lower.chars().filter(|c| !c.is_whitespace() && !"-=_.*#".contains(*c)).collect::<Vec<_>>(),
        ) >= 12
        || repeated_sentences(&lower)
        || repeated_fours(&words)
}

fn longest_run<T: PartialEq>(items: &[T]) -> usize {
    items.chunk_by(|a, b| a == b).map(<[T]>::len).max().unwrap_or(0)
}

fn repeated_sentences(lower: &str) -> bool {
    let sentences = lower.split(['.', '!', '?', '\n']).map(str::trim).filter(|s| s.split(' ').count() >= 3);
    let all: Vec<&str> = sentences.collect();
    all.iter().any(|sentence| all.iter().filter(|other| *other == sentence).count() >= 3)
}

fn repeated_fours(words: &[&str]) -> bool {
    let mut seen = BTreeSet::new();
    let repeats = words.windows(4).filter(|four| !seen.insert(*four)).count();
    words.len() >= 16 && repeats * 3 > words.len() - 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: bool) {
        assert_eq!(is_degenerate(text), expect, "{text}");
    }

    #[test]
    fn loops_and_nothing_are_degenerate() {
        check("", true);
        check("—?!", true);
        check("no no no no no no", true);
        check("aaaaaaaaaaaaaaaaaaaa", true);
        check(&"the shop is open and ".repeat(6), true);
        check("Yes.", false);
        check("30", false);
        check("| a | b |\n|-----------------|---|\n| 1 | 2 |", false);
        check("Step 1: open the app. Step 2: open the cart. Step 3: open the menu and choose a size.", false);
    }
}
