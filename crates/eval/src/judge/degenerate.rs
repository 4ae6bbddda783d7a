use std::collections::HashSet;

/// Whether a text is empty or loops: not an answer, whatever words it holds.
///
/// It loops where what comes again makes up a large part of it, its closed code fences left out:
/// - more than a third of its runs of four words have come before (in texts of six words and more);
/// - it ends in one passage said three times and more in a row, over 16 words at least;
/// - half of its characters are one and the same, 12 times in a row (64 times for a digit).
///
/// ```
/// use ferrotune_eval::is_degenerate;
/// assert!(is_degenerate("  ...  "));
/// assert!(is_degenerate(&"You can return it. ".repeat(3)));
/// assert!(!is_degenerate("You can return it within 30 days, and you can exchange it within 60."));
/// ```
pub fn is_degenerate(text: &str) -> bool {
    is_empty(text) || Repetition::of(text).is_a_loop()
}

/// As [`is_degenerate`], but an answer does not loop where it repeats itself no more than the reference does: some right
/// answers are a song's refrain or a table's rows.
pub fn is_degenerate_beside(answer: &str, reference: Option<&str>) -> bool {
    if is_empty(answer) {
        return true;
    }
    let repetition = Repetition::of(answer);
    repetition.is_a_loop() && !reference.is_some_and(|r| repetition.is_within(&Repetition::of(r)))
}

fn is_empty(text: &str) -> bool {
    !text.chars().any(char::is_alphanumeric)
}

/// How much of a text has been said before, each from 0 to 1.
struct Repetition {
    /// Share of the runs of four words that have come before.
    fours: f64,
    /// Share of the words in the passage that ends the text over and over.
    ending: f64,
    /// Share of the characters in one run of the same.
    run: f64,
}

impl Repetition {
    fn of(text: &str) -> Self {
        let prose = without_code(&text.to_lowercase());
        let words: Vec<&str> = prose.split_whitespace().collect();
        Repetition {
            fours: repeated_fours(&words),
            ending: repeated_ending(&words),
            run: repeated_char(&prose),
        }
    }

    fn is_a_loop(&self) -> bool {
        self.fours > 1.0 / 3.0 || self.ending > 0.0 || self.run >= 0.5
    }

    fn is_within(&self, other: &Repetition) -> bool {
        self.fours <= other.fours && self.ending <= other.ending && self.run <= other.run
    }
}

/// The text without blocks between two fences of ```` ``` ````. A block that never ends stays: it may be the loop.
fn without_code(text: &str) -> String {
    let is_fence = |line: &str| line.trim_start().starts_with("```");
    let (mut kept, mut block) = (String::new(), None::<String>);
    for line in text.split_inclusive('\n') {
        block = match block {
            None if is_fence(line) => Some(line.to_owned()),
            None => {
                kept.push_str(line);
                None
            }
            Some(_) if is_fence(line) => None,
            Some(code) => Some(code + line),
        };
    }
    kept + &block.unwrap_or_default()
}

fn repeated_fours(words: &[&str]) -> f64 {
    if words.len() < 6 {
        return 0.0;
    }
    let mut seen = HashSet::new();
    let fours = words.windows(4);
    let (n, repeats) = (fours.len(), fours.filter(|four| !seen.insert(*four)).count());
    repeats as f64 / n as f64
}

/// The longest end in which each word is the one a fixed number of words before, three times over. A loop that a token
/// limit cuts off ends so, whatever went before.
fn repeated_ending(words: &[&str]) -> f64 {
    let said = |period: usize| {
        let back = words.iter().rev().zip(words.iter().rev().skip(period));
        period + back.take_while(|(word, earlier)| word == earlier).count()
    };
    let longest =
        (1..=words.len() / 3).take(100).map(|p| (p, said(p))).filter(|(p, n)| *n >= (3 * p).max(16));
    longest.map(|(_, n)| n).max().unwrap_or(0) as f64 / words.len().max(1) as f64
}

/// Digits may be many zeros in an account's number, and lines and dots draw tables.
fn repeated_char(text: &str) -> f64 {
    let chars: Vec<char> = text.chars().filter(|c| !c.is_whitespace() && !"-=_.*#".contains(*c)).collect();
    let least = |c: char| if c.is_numeric() { 64 } else { 12 };
    let runs = chars.chunk_by(|a, b| a == b).filter(|run| run.len() >= least(run[0]));
    runs.map(<[char]>::len).max().unwrap_or(0) as f64 / chars.len().max(1) as f64
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
        check("The answer: aaaaaaaaaaaaaaaaaaaa", true);
        check(&"the shop is open and ".repeat(6), true);
        check("We are open. We are open. We are open.", true);
        check(&"0".repeat(200), true);
        check("Yes.", false);
        check("30", false);
        check("| a | b |\n|-----------------|---|\n| 1 | 2 |", false);
        check("Step 1: open the app. Step 2: open the cart. Step 3: open the menu and choose a size.", false);
    }

    #[test]
    fn what_repeats_a_little_is_an_answer() {
        check("Pay to DE00000000000000001234.", false);
        check("Soooooooooooooo sorry about that! Your order left our warehouse this morning.", false);
        check(
            "while k > 0:\n  if a[k] < b:\n    k -= 1\n  elif a[k] == b:\n    k -= 1\n  else:\n    k -= 1\n    n += 2",
            false,
        );
        let refrain = "It is my day. The sun is up and birds are about. It is my day. A walk, a lake, a book in the \
                       shade. It is my day. Home again with tired feet and a head full of the wind.";
        check(refrain, false);
    }

    #[test]
    fn code_may_repeat_itself_between_fences() {
        let code = format!("```\n{}```\n", "print(x)\nprint(y)\nprint(z)\nx += 1\n".repeat(5));
        check(&format!("Like this:\n{code}It prints five times."), false);
        check(&code, false);
        check(code.trim_end().trim_end_matches('`'), true);
    }

    #[test]
    fn a_loop_at_the_end_is_one_however_much_went_before() {
        let fine: String = (0..300).map(|i| format!("word{i} ")).collect();
        check(&fine, false);
        check(&format!("{fine}{}", "and so on and ".repeat(5)), true);
        check(&format!("{fine}{}", "and so on and ".repeat(2)), false);
    }

    #[test]
    fn an_answer_may_repeat_what_the_reference_repeats() {
        let song = "Row, row, row your boat. ".repeat(4);
        assert!(is_degenerate(&song) && !is_degenerate_beside(&song, Some(&song)));
        assert!(is_degenerate_beside(&song.repeat(3), Some(&song)));
        assert!(is_degenerate_beside(&song, Some("Row your boat.")) && is_degenerate_beside(&song, None));
        assert!(is_degenerate_beside("", Some("")));
    }

    #[test]
    fn a_long_text_is_read_in_one_pass() {
        let long: String = (0..200_000).map(|i| format!("w{} is. ", i % 70_000)).collect();
        check(&long, true);
        check(&"a b c d e f g. ".repeat(30_000), true);
    }
}
