use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::utils::SysRegex;

/// How a text is cut into words before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    /// GPT-2's expression; `digits`: every numeric character stands alone, cut before the expression sees it.
    Gpt2 { digits: bool },
    /// The expression of Llama 3 and Qwen 2, which takes up to `digits` digits together.
    Cl100k { digits: u8 },
}

pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Pattern {
    /// Recognises a `pre_tokenizer` of `tokenizer.json`.
    pub(super) fn of(json: &Value) -> Option<Self> {
        let is_bytes = |part: &Value, use_regex: bool| {
            part["type"] == "ByteLevel"
                && part["add_prefix_space"] == false
                && part["use_regex"].as_bool().unwrap_or(true) == use_regex
        };
        if is_bytes(json, true) {
            return Some(Pattern::Gpt2 { digits: false });
        }
        let parts = json["pretokenizers"].as_array().filter(|_| json["type"] == "Sequence")?;
        match &parts[..] {
            [one] if is_bytes(one, true) => Some(Pattern::Gpt2 { digits: false }),
            [digits, bytes] if digits["type"] == "Digits" && is_bytes(bytes, true) => {
                (digits["individual_digits"] == true).then_some(Pattern::Gpt2 { digits: true })
            }
            [split, bytes] if split["type"] == "Split" && is_bytes(bytes, false) => {
                if split["behavior"] != "Isolated" || split["invert"] == true {
                    return None;
                }
                match split["pattern"]["Regex"].as_str()? {
                    LLAMA3 => Some(Pattern::Cl100k { digits: 3 }),
                    QWEN2 => Some(Pattern::Cl100k { digits: 1 }),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// What the expressions tell apart: `\p{L}`, `\p{N}`, `\s` and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Letter,
    Number,
    Space,
}

/// Where the word that begins at byte `at` ends. `at` is before the end of `text`.
pub(super) fn next_word(pattern: Pattern, text: &str, at: usize) -> usize {
    let cursor = Cursor { text: text.as_bytes(), classes: classes() };
    match pattern {
        Pattern::Gpt2 { digits } => gpt2(&cursor, at, digits),
        Pattern::Cl100k { digits } => cl100k(&cursor, at, digits),
    }
}

struct Cursor<'t> {
    text: &'t [u8],
    classes: &'static [Class],
}

impl Cursor<'_> {
    /// The character at a byte and where it ends. The text was valid UTF-8.
    fn char(&self, at: usize) -> Option<(u32, usize)> {
        let first = *self.text.get(at)?;
        if first < 0x80 {
            return Some((u32::from(first), at + 1));
        }
        let len = if first >= 0xF0 { 4 } else { 2 + usize::from(first >= 0xE0) };
        let rest = self.text[at + 1..at + len].iter();
        let lead = u32::from(first) & (0x7F >> len);
        Some((rest.fold(lead, |c, &byte| c << 6 | u32::from(byte & 0x3F)), at + len))
    }

    fn class(&self, at: usize) -> Option<(Class, usize)> {
        let (c, end) = self.char(at)?;
        Some((self.classes[c as usize], end))
    }

    /// Where a run of characters of `class` ends.
    fn run(&self, mut at: usize, class: Class) -> usize {
        while let Some((found, end)) = self.class(at)
            && found == class
        {
            at = end;
        }
        at
    }

    fn is_digit(&self, at: usize) -> bool {
        self.char(at).is_some_and(|(c, _)| char::from_u32(c).is_some_and(char::is_numeric))
    }

    /// `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll`, `'d`.
    fn contraction(&self, at: usize, any_case: bool) -> Option<usize> {
        if self.text.get(at) != Some(&b'\'') {
            return None;
        }
        let letter = |i: usize| {
            let byte = self.text.get(at + i).copied().unwrap_or(0);
            if any_case { byte.to_ascii_lowercase() } else { byte }
        };
        match (letter(1), letter(2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 3),
            // The long s is an s where case is ignored.
            (0xC5, 0xBF) if any_case => Some(at + 3),
            _ => None,
        }
    }

    /// `\s+(?!\S)|\s+` on a run of spaces: all of it where the text ends after it, else all but the last character.
    fn spaces(&self, at: usize, end: usize, text_ends: bool) -> usize {
        if text_ends {
            return end;
        }
        let mut last = end - 1;
        while self.text[last] & 0xC0 == 0x80 {
            last -= 1;
        }
        if last > at { last } else { end }
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2(cursor: &Cursor<'_>, at: usize, digits: bool) -> usize {
    if digits && cursor.is_digit(at) {
        return cursor.char(at).map_or(at + 1, |(_, end)| end);
    }
    if let Some(end) = cursor.contraction(at, false) {
        return end;
    }
    let Some((class, end)) = cursor.class(at) else { return at + 1 };
    let run = |at: usize, class: Class| {
        if !digits || class == Class::Letter {
            return cursor.run(at, class);
        }
        let mut at = at;
        while let Some((found, end)) = cursor.class(at)
            && found == class
            && !cursor.is_digit(at)
        {
            at = end;
        }
        at
    };
    if class != Class::Space {
        return run(at, class);
    }
    if cursor.text[at] == b' '
        && let Some((next, _)) = cursor.class(end)
        && next != Class::Space
        && !(digits && cursor.is_digit(end))
    {
        return run(end, next);
    }
    let end = cursor.run(at, Class::Space);
    cursor.spaces(at, end, end == cursor.text.len() || digits && cursor.is_digit(end))
}

/// [`LLAMA3`] and [`QWEN2`].
fn cl100k(cursor: &Cursor<'_>, at: usize, digits: u8) -> usize {
    if let Some(end) = cursor.contraction(at, true) {
        return end;
    }
    let Some((class, end)) = cursor.class(at) else { return at + 1 };
    let is_newline = |at: usize| matches!(cursor.text.get(at), Some(b'\r' | b'\n'));
    let newlines = |mut at: usize| {
        while is_newline(at) {
            at += 1;
        }
        at
    };
    let next = cursor.class(end).map(|(class, _)| class);
    match class {
        Class::Letter => return cursor.run(at, Class::Letter),
        Class::Number => {
            let mut at = end;
            for _ in 1..digits {
                match cursor.class(at) {
                    Some((Class::Number, end)) => at = end,
                    _ => break,
                }
            }
            return at;
        }
        Class::Other | Class::Space if next == Some(Class::Letter) && !is_newline(at) => {
            return cursor.run(end, Class::Letter);
        }
        Class::Other => return newlines(cursor.run(at, Class::Other)),
        Class::Space if cursor.text[at] == b' ' && next == Some(Class::Other) => {
            return newlines(cursor.run(end, Class::Other));
        }
        Class::Space => {}
    }
    let end = cursor.run(at, Class::Space);
    if let Some(last) = (at..end).rev().find(|&i| is_newline(i)) {
        return last + 1;
    }
    cursor.spaces(at, end, end == cursor.text.len())
}

/// Letters, numbers and spaces lie before this character; after it come unassigned and private ones and marks.
const LAST: u32 = 0x3_3FFF;

/// The class of every character, as the regular expression engine of `tokenizers` sees it: its Unicode version
/// decides, not ours.
fn classes() -> &'static [Class] {
    static CLASSES: OnceLock<Vec<Class>> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let mut classes = vec![Class::Other; 0x11_0000];
        classify(0..=LAST, |c, class| classes[c as usize] = class);
        classes
    })
}

fn classify(chars: std::ops::RangeInclusive<u32>, mut is: impl FnMut(char, Class)) {
    let all: String = chars.filter_map(char::from_u32).collect();
    for (class, expression) in
        [(Class::Letter, r"\p{L}+"), (Class::Number, r"\p{N}+"), (Class::Space, r"\s+")]
    {
        // These three expressions are constants that the engine knows.
        let Ok(expression) = SysRegex::new(expression) else { continue };
        for (start, end) in expression.find_iter(&all) {
            all[start..end].chars().for_each(|c| is(c, class));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_letter_number_or_space_comes_late() {
        classify(LAST + 1..=0x10_FFFF, |c, class| panic!("{c:?} is a {class:?}"));
        let of = |c: char| classes()[c as usize];
        assert_eq!(['é', '北', '½', '٣', '\u{a0}', '\u{301}', '😀'].map(of), {
            use Class::{Letter, Number, Other, Space};
            [Letter, Letter, Number, Number, Space, Other, Other]
        });
    }
}
