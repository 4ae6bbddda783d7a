//! Mojibake: UTF-8 that was read in another encoding (`cafÃ©`), turned back into what was written.
//!
//! A port of the decisions of ftfy 6.3.1 (Robyn Speer, Apache-2.0): text is only touched where it holds
//! sequences of characters that hardly occur except by such an accident, and only where reading it back gives
//! valid UTF-8. Good text stays as it is, quotes and dashes included.

mod badness;
#[rustfmt::skip]
mod tables;

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::bytes::{Captures, Regex};

use super::TextStep;
pub use badness::is_mojibake;

/// Repairs mojibake; the step of a recipe.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mojibake;

impl TextStep for Mojibake {
    fn name(&self) -> &'static str {
        "mojibake"
    }

    fn fix<'a>(&self, text: &'a str) -> Cow<'a, str> {
        fix(text)
    }
}

/// Lines longer than this are looked at in parts, so that time stays proportional to length.
const MAX_PART: usize = 100_000;

/// The text with mojibake undone, line by line; borrowed where there was none.
///
/// ```
/// use ferrotune_data::clean::fix_mojibake;
/// assert_eq!(fix_mojibake("The cafÃ© isnâ€™t open"), "The café isn’t open");
/// assert_eq!(fix_mojibake("Größe “42” – naïve"), "Größe “42” – naïve");
/// ```
pub fn fix(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || !is_mojibake(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while !rest.is_empty() {
            let cut = if rest.len() <= MAX_PART { rest.len() } else { rest.floor_char_boundary(MAX_PART) };
            let (part, tail) = rest.split_at(cut);
            out.push_str(&fix_part(part));
            rest = tail;
        }
    }
    if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
}

/// Undoes one layer after another until nothing changes.
fn fix_part(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    // A layer makes the text shorter or ends the search; the bound only guards against a cycle.
    for _ in 0..16 {
        match fix_layer(&text) {
            Some(fixed) if fixed != text => text = Cow::Owned(fixed),
            _ => break,
        }
    }
    text
}

/// Undoes one layer: the whole text in one code page, else single sequences, else stray control characters.
fn fix_layer(text: &str) -> Option<String> {
    if text.is_ascii() || !is_mojibake(text) {
        return None;
    }
    let mut is_latin1 = false;
    for page in PAGES.iter() {
        let Some(mut bytes) = page.encode(text) else { continue };
        is_latin1 |= page.name == "latin-1";
        // In MacRoman an en dash before a space would match.
        if page.name != "macroman" {
            bytes = restore_byte_a0(bytes);
        }
        if page.is_sloppy() {
            bytes = LOSSY_UTF8.replace_all(&bytes, "\u{fffd}".as_bytes()).into_owned();
        }
        if let Some(fixed) = decode_variants(bytes) {
            return Some(fixed);
        }
    }
    let fixed = decode_inconsistent(text);
    if fixed != text {
        return Some(fixed);
    }
    let control = |c: char| ('\u{80}'..='\u{9f}').contains(&c);
    if is_latin1 || text.contains(control) {
        // What Latin-1 calls control characters, Windows-1252 gives a meaning, as browsers do.
        let fix = |c: char| if control(c) { PAGES[1].decode(c as u8) } else { c };
        return Some(text.chars().map(fix).collect());
    }
    None
}

/// Mends sequences that look like UTF-8 one by one, where the whole text fits no single code page.
fn decode_inconsistent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut done, mut from) = (0, 0);
    while let Some(found) = badness::UTF8_LIKE.find_at(text, from) {
        // After another continuation character this is the middle of a garble; a part of it would not help.
        let before = text[..found.start()].chars().next_back();
        if before.is_some_and(badness::is_strict_continuation) {
            from = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        let part = found.as_str();
        out.push_str(&text[done..found.start()]);
        if part.len() < text.len() && is_mojibake(part) {
            out.push_str(&fix_part(part));
        } else {
            out.push_str(part);
        }
        (done, from) = (found.end(), found.end());
    }
    out.push_str(&text[done..]);
    out
}

/// A single-byte encoding, both ways.
struct CodePage {
    name: &'static str,
    high: &'static [u16; 128],
    /// Characters beyond ASCII with their bytes, sorted.
    bytes: Vec<(char, u8)>,
}

static PAGES: LazyLock<Vec<CodePage>> = LazyLock::new(|| {
    let page = |(name, high): &'static (&'static str, [u16; 128])| {
        let char_of = |&point: &u16| char::from_u32(u32::from(point)).unwrap_or('\u{fffd}');
        let mut bytes: Vec<(char, u8)> = high.iter().zip(0x80..=0xff).map(|(p, b)| (char_of(p), b)).collect();
        bytes.sort_unstable();
        CodePage { name, high, bytes }
    };
    tables::CODE_PAGES.iter().map(page).collect()
});

impl CodePage {
    /// Sloppy pages give bytes without a meaning their Latin-1 one, and the replacement character the byte 0x1A.
    fn is_sloppy(&self) -> bool {
        self.name.starts_with("sloppy")
    }

    fn encode(&self, text: &str) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(text.len());
        for c in text.chars() {
            out.push(match c {
                '\u{1a}' if self.is_sloppy() => return None,
                '\u{fffd}' if self.is_sloppy() => 0x1a,
                c if c.is_ascii() => c as u8,
                c => self.bytes[self.bytes.binary_search_by_key(&c, |&(c, _)| c).ok()?].1,
            });
        }
        Some(out)
    }

    fn decode(&self, byte: u8) -> char {
        if byte < 0x80 {
            return char::from(byte);
        }
        char::from_u32(u32::from(self.high[usize::from(byte) - 0x80])).unwrap_or('\u{fffd}')
    }
}

fn bytes_regex(pattern: &str) -> Regex {
    // The patterns are constants of this file, covered by its tests.
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("{pattern}: {e}"))
}

/// `Ã ` before a word was `à `, but for the Portuguese words that go on with it.
static A_GRAVE: LazyLock<Regex> = LazyLock::new(|| bytes_regex(r"(?-u)\xc3 (?: |quele|quela|quilo|s )?"));

/// UTF-8 in which a no-break space became a space.
static ALTERED_UTF8: LazyLock<Regex> = LazyLock::new(|| {
    bytes_regex(
        r"(?x-u) [\xc2\xc3\xc5\xce\xd0\xd9]\x20
        | [\xe2\xe3]\x20[\x80-\x84\x86-\x9f\xa1-\xbf]
        | [\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf]\x20
        | \xf0\x20[\x80-\xbf][\x80-\xbf]
        | \xf0[\x80-\xbf]\x20[\x80-\xbf]
        | \xf0[\x80-\xbf][\x80-\xbf]\x20",
    )
});

/// UTF-8 of which bytes were lost and became 0x1A (or one `?`).
static LOSSY_UTF8: LazyLock<Regex> = LazyLock::new(|| {
    bytes_regex(
        r"(?x-u) [\xc2-\xdf]\x1a
        | [\xc2-\xc3]\?
        | \xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]
        | \xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]
        | [\xe0-\xef][\x1a?][\x1a\x80-\xbf]
        | [\xe0-\xef][\x1a\x80-\xbf][\x1a?]
        | [\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]
        | [\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]
        | [\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]
        | \x1a",
    )
});

fn restore_byte_a0(bytes: Vec<u8>) -> Vec<u8> {
    if !ALTERED_UTF8.is_match(&bytes) {
        return bytes;
    }
    // The optional tail stands for a look-ahead: with a tail the space is part of the letter.
    let bytes = A_GRAVE.replace_all(&bytes, |found: &Captures<'_>| {
        if found[0].len() > 2 { found[0].to_vec() } else { b"\xc3\xa0 ".to_vec() }
    });
    let restore = |found: &Captures<'_>| -> Vec<u8> {
        found[0].iter().map(|&b| if b == b' ' { 0xa0 } else { b }).collect()
    };
    ALTERED_UTF8.replace_all(&bytes, restore).into_owned()
}

/// UTF-8, CESU-8 (surrogates encoded one by one) and Java's two-byte null.
fn decode_variants(bytes: Vec<u8>) -> Option<String> {
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return Some(text),
        Err(e) => e.into_bytes(),
    };
    let is_variant = |w: &[u8]| w.starts_with(&[0xc0, 0x80]) || w.len() > 1 && w[0] == 0xed && w[1] >= 0xa0;
    let mut out = String::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let plain = (0..rest.len()).find(|&i| is_variant(&rest[i..])).unwrap_or(rest.len());
        out.push_str(std::str::from_utf8(&rest[..plain]).ok()?);
        rest = &rest[plain..];
        if rest.is_empty() {
            break;
        }
        if rest[0] == 0xc0 {
            out.push('\0');
            rest = &rest[2..];
            continue;
        }
        let pair = rest.get(..6)?;
        let is_pair = pair[1] < 0xb0 && pair[3] == 0xed && pair[4] >= 0xb0;
        let is_tail = [2, 5].iter().all(|&i| (0x80..0xc0).contains(&pair[i])) && pair[4] < 0xc0;
        if !(is_pair && is_tail) {
            return None;
        }
        let bits = |i: usize, mask: u8| u32::from(pair[i] & mask);
        let point = (bits(1, 15) << 16) + (bits(2, 63) << 10) + (bits(4, 15) << 6) + bits(5, 63) + 0x10000;
        out.push(char::from_u32(point)?);
        rest = &rest[6..];
    }
    Some(out)
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "tests tell why they are skipped")]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// ftfy's own cases, in the form in which it tests `fix_encoding`.
    fn cases(name: &str) -> Option<Vec<(String, String, String)>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/ftfy_cases");
        let Ok(text) = std::fs::read_to_string(folder.join(name)) else {
            println!("skipped: the shared test data is not beside the checkout");
            return None;
        };
        let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
        let text = |case: &Value, key: &str| case[key].as_str().map(str::to_owned);
        let case = |case: &Value| {
            let fixed = text(case, "fixed-encoding").or_else(|| text(case, "fixed")).unwrap();
            (text(case, "label").unwrap(), text(case, "original").unwrap(), fixed)
        };
        Some(cases.iter().filter(|c| c["expect"] == "pass").map(case).collect())
    }

    fn check(name: &str, n: usize) {
        let Some(cases) = cases(name) else { return };
        assert_eq!(cases.len(), n, "{name}");
        for (label, original, expect) in cases {
            // ftfy's tests undo HTML entities in passing; here that is another step.
            assert_eq!(fix(&original), expect, "{label}");
        }
    }

    #[test]
    fn ftfy_in_the_wild() {
        check("in-the-wild.json", 70);
    }

    #[test]
    fn ftfy_language_names() {
        check("language-names.json", 20);
    }

    #[test]
    fn ftfy_synthetic() {
        check("synthetic.json", 30);
    }

    #[test]
    fn ftfy_negatives_stay() {
        check("negative.json", 31);
    }

    #[test]
    fn cesu8_and_nulls_are_read() {
        assert_eq!(decode_variants(b"a\xed\xa0\xbd\xed\xb8\x8d\xc0\x80".to_vec()).as_deref(), Some("a😍\0"));
        assert_eq!(decode_variants(b"\xed\xa0\xbdxyz".to_vec()), None);
    }

    proptest! {
        #[test]
        fn it_ends_and_is_idempotent(text in "\\PC{0,40}") {
            let once = fix(&text).into_owned();
            prop_assert_eq!(fix(&once), once.as_str());
        }

        #[test]
        fn what_one_wrong_reading_broke_is_mended(words in "[a-z]{1,8}( [a-zéèàüöß]{2,8}){1,4}é") {
            let broken: String = words.bytes().map(|b| PAGES[1].decode(b)).collect();
            prop_assert_eq!(fix(&broken), words);
        }
    }
}
