use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Words before a full stop that does not end a sentence.
const ABBREVIATIONS: [&str; 22] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "no", "nos", "vs", "etc", "e.g", "i.e", "inc", "ltd", "co",
    "approx", "fig", "jan", "feb", "sept", "p.m", "a.m",
];

/// The sentences of a text as byte ranges without the white space around them.
///
/// Sentence ends are those of Unicode (UAX 29), except after common abbreviations and initials; a line break
/// also ends a sentence where a list item, a heading or a paragraph follows. Citation marks such as `[2]`
/// that stand after a full stop belong to the sentence before them.
///
/// ```
/// let text = "Dr. Lee pays $6.95 [1]. It is\nfree. [2] - Members too";
/// let found: Vec<&str> = ferrotune_rag::sentences(text).into_iter().map(|s| &text[s]).collect();
/// assert_eq!(found, ["Dr. Lee pays $6.95 [1].", "It is\nfree. [2]", "- Members too"]);
/// ```
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for block in blocks(text) {
        let first_of_block = found.len();
        for (at, piece) in text[block.clone()].split_sentence_bound_indices() {
            let start = block.start + at;
            // UAX 29 always breaks at a line feed; only blocks end sentences here.
            let joins = found.len() > first_of_block
                && found.last().is_some_and(|last| {
                    let before = &text[last.clone()];
                    !ends_sentence(before) || is_abbreviated(before)
                });
            match found.last_mut() {
                Some(last) if joins => last.end = start + piece.len(),
                _ => found.push(start..start + piece.len()),
            }
        }
    }
    let mut found = found.into_iter().map(|s| trimmed(text, s)).filter(|s| !s.is_empty()).collect();
    give_marks_back(text, &mut found);
    found
}

/// Runs of lines that belong together: a new one starts at a blank line, a list item, a heading, a table row.
fn blocks(text: &str) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    let (mut at, mut starts_anew) = (0, true);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let is_own = trimmed.starts_with(['#', '|', '*', '•', '>'])
            || trimmed.starts_with("- ")
            || trimmed.starts_with("– ")
            || opens_numbered_item(trimmed);
        let end = at + line.len();
        if trimmed.is_empty() {
            starts_anew = true;
        } else {
            match blocks.last_mut() {
                Some(last) if !starts_anew && !is_own => last.end = end,
                _ => blocks.push(at..end),
            }
            // A heading or a table row ends with its line, whatever follows.
            starts_anew = trimmed.starts_with(['#', '|']);
        }
        at = end;
    }
    blocks
}

fn opens_numbered_item(line: &str) -> bool {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    (1..=2).contains(&digits) && (line[digits..].starts_with(". ") || line[digits..].starts_with(") "))
}

fn ends_sentence(piece: &str) -> bool {
    let piece = piece.trim_end().trim_end_matches(['"', '\'', ')', ']', '”', '’', '*', '_']);
    piece.ends_with(['.', '!', '?', '…', '。', '！', '？', '।', '؟'])
        || crate::cite::strip_marks(piece).trim_end().ends_with(['.', '!', '?'])
}

fn is_abbreviated(piece: &str) -> bool {
    let piece = piece.trim_end();
    let Some(stem) = piece.strip_suffix('.') else { return false };
    let last = stem.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
    let is_initial = last.chars().count() == 1 && last.chars().all(char::is_uppercase);
    let is_item = !last.is_empty() && last == stem.trim() && last.bytes().all(|b| b.is_ascii_digit());
    // "p.m." and "etc." may end a sentence too; UAX 29 has already joined them where a small letter follows.
    let lower = last.to_lowercase();
    let may_end = matches!(lower.as_str(), "etc" | "p.m" | "a.m" | "inc" | "ltd" | "co" | "no");
    is_initial || is_item || (ABBREVIATIONS.contains(&lower.as_str()) && !may_end)
}

fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let piece = &text[range.clone()];
    let start = range.start + (piece.len() - piece.trim_start().len());
    start..start + piece.trim().len()
}

/// Moves `[1]` and the `**` that closes bold type from the head of a sentence to the end of the one before, where
/// both share a line: a line that opens with `[1]` is a list of sources.
fn give_marks_back(text: &str, found: &mut Vec<Range<usize>>) {
    for i in 1..found.len() {
        let piece = &text[found[i].clone()];
        // A closing sign has space after it, an opening one has not.
        let rest = piece.strip_prefix("**").filter(|rest| !rest.starts_with(|c: char| !c.is_whitespace()));
        let rest = rest.unwrap_or(piece).trim_start();
        let rest = crate::cite::strip_leading_marks(rest);
        let shares_line = !text[found[i - 1].end..found[i].start].contains('\n');
        if rest.len() < piece.len() && shares_line {
            let marks_end = found[i].end - rest.len();
            found[i - 1].end = trimmed(text, found[i - 1].start..marks_end).end;
            found[i] = trimmed(text, marks_end..found[i].end);
        }
    }
    found.retain(|s| !s.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expect: &[&str]) {
        assert_eq!(sentences(text).into_iter().map(|s| &text[s]).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn sentences_end_where_a_reader_ends_them() {
        check("One. Two! Three?", &["One.", "Two!", "Three?"]);
        check(
            "See Dr. Lee at 5 p.m. on Monday. J. Smith too.",
            &["See Dr. Lee at 5 p.m. on Monday.", "J. Smith too."],
        );
        check("It costs $3.50 a day. Ok", &["It costs $3.50 a day.", "Ok"]);
        check(
            "We ship:\n- to Canada\n- to Mexico\n\nNo more",
            &["We ship:", "- to Canada", "- to Mexico", "No more"],
        );
        check("# Returns\nWithin 30\ndays.", &["# Returns", "Within 30\ndays."]);
        check("1. Pack it.\n2. Send it.", &["1. Pack it.", "2. Send it."]);
        check("", &[]);
        check(" \n ", &[]);
    }

    #[test]
    fn marks_belong_to_the_sentence_before_them() {
        check("It is so. [1] And so [2]. [3][4]", &["It is so. [1]", "And so [2]. [3][4]"]);
        check("[1] It is so.", &["[1] It is so."]);
        check("- **Do you ship?** Yes, **fast**. Ok", &["- **Do you ship?**", "Yes, **fast**.", "Ok"]);
        check(
            "**It broke. What now?** Send it. **Soon.**",
            &["**It broke.", "What now?**", "Send it.", "**Soon.**"],
        );
    }

    proptest! {
        #[test]
        fn ranges_are_ordered_disjoint_and_lose_only_space(text in "[a-zA-Z0-9.!? \n\\[\\]é-]{0,200}") {
            let found = sentences(&text);
            let mut last = 0;
            for range in &found {
                prop_assert!(range.start >= last && range.end > range.start);
                prop_assert!(text[last..range.start].trim().is_empty());
                last = range.end;
            }
            prop_assert!(text[last..].trim().is_empty());
        }
    }
}
