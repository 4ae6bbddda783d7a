//! The heuristic: sequences of characters that hardly occur but by a wrong encoding. Ported from `ftfy.badness`
//! (Robyn Speer, Apache-2.0).

use std::sync::LazyLock;

use regex::Regex;

use super::tables::{
    BAD, BOX, C1, COMMON, CURRENCY, END_PUNCTUATION, KAOMOJI, LAW, LOWER_ACCENTED, LOWER_COMMON, NUMERIC,
    START_PUNCTUATION, UPPER_ACCENTED, UPPER_COMMON, UTF8_CONTINUATION, UTF8_CONTINUATION_STRICT,
    UTF8_FIRST_OF_2, UTF8_FIRST_OF_3, UTF8_FIRST_OF_4,
};

fn regex(pattern: &str) -> Regex {
    // The patterns are built of constants and covered by the tests of this module.
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("{e}"))
}

static BADNESS: LazyLock<Regex> = LazyLock::new(|| {
    regex(&format!(
        r"(?x) [{C1}]
        | [{BAD}{LOWER_ACCENTED}{UPPER_ACCENTED}{BOX}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}{NUMERIC}{LAW}] [{BAD}]
        | [a-zA-Z] [{LOWER_COMMON}{UPPER_COMMON}] [{BAD}]
        | [{BAD}] [{LOWER_ACCENTED}{UPPER_ACCENTED}{BOX}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}{NUMERIC}{LAW}]
        | [{LOWER_ACCENTED}{LOWER_COMMON}{BOX}{END_PUNCTUATION}{CURRENCY}{NUMERIC}] [{UPPER_ACCENTED}]
        | [{BOX}{END_PUNCTUATION}{CURRENCY}{NUMERIC}] [{LOWER_ACCENTED}]
        | [{LOWER_ACCENTED}{BOX}{END_PUNCTUATION}] [{CURRENCY}]
        | \s [{UPPER_ACCENTED}] [{CURRENCY}]
        | [{UPPER_ACCENTED}{BOX}] [{NUMERIC}{LAW}]
        | [{LOWER_ACCENTED}{UPPER_ACCENTED}{BOX}{CURRENCY}{END_PUNCTUATION}] [{START_PUNCTUATION}] [{NUMERIC}]
        | [{LOWER_ACCENTED}{UPPER_ACCENTED}{CURRENCY}{NUMERIC}{BOX}{LAW}] [{END_PUNCTUATION}] [{START_PUNCTUATION}]
        | [{CURRENCY}{NUMERIC}{BOX}] [{START_PUNCTUATION}]
        | [a-z] [{UPPER_ACCENTED}] [{START_PUNCTUATION}{CURRENCY}]
        | [{BOX}] [{KAOMOJI}]
        | [{LOWER_ACCENTED}{UPPER_ACCENTED}{CURRENCY}{NUMERIC}{START_PUNCTUATION}{END_PUNCTUATION}{LAW}] [{BOX}]
        | [{BOX}] [{END_PUNCTUATION}]
        | [{LOWER_ACCENTED}{UPPER_ACCENTED}] [{START_PUNCTUATION}{END_PUNCTUATION}] \w
        # The ligature œ when not followed by an unaccented Latin letter
        | [Œœ][^A-Za-z]
        # Degree signs after capital letters
        | [{UPPER_ACCENTED}]°
        # Windows-1252 pairs that the cases above do not cover
        | [ÂÃÎÐ][€œŠš¢£Ÿž\u{{A0}}\u{{AD}}®©°·»{START_PUNCTUATION}{END_PUNCTUATION}–—´]
        | × [²³]
        # Windows-1252 mojibake of Arabic needs common characters too, so four must match
        | [ØÙ] [{COMMON}{CURRENCY}{BAD}{NUMERIC}{START_PUNCTUATION}ŸŠ®°µ»]
          [ØÙ] [{COMMON}{CURRENCY}{BAD}{NUMERIC}{START_PUNCTUATION}ŸŠ®°µ»]
        # Windows-1252 mojibake that begins sequences of some South Asian scripts
        | à[²µ¹¼½¾]
        # MacRoman
        | √[±∂†≠®™´≤≥¥µø]
        | ≈[°¢]
        | ‚Ä[ìîïòôúùû†°¢π]
        | ‚[âó][àä°ê]
        # Windows-1251 mojibake of U+2000 and on, of Latin-1 and of Cyrillic
        | вЂ
        | [ВГРС][{C1}{BAD}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}°µ][ВГРС]
        | ГўВЂВ.[A-Za-z\u{{20}}]
        # Windows-1252 encodings of à and á, as well as a no-break space itself
        | Ã[\u{{A0}}¡]
        | [a-z]\s?[ÃÂ]\u{{20}}
        | ^[ÃÂ]\u{{20}}
        # Â before a character that it encodes as itself
        | [a-z.,?!{END_PUNCTUATION}] Â [\u{{20}}{START_PUNCTUATION}{END_PUNCTUATION}]
        # Windows-1253 mojibake of U+2000 and on, of Latin-1 and of Greek
        | β€[™\u{{A0}}Ά\u{{AD}}®°]
        | [ΒΓΞΟ][{C1}{BAD}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}°][ΒΓΞΟ]
        # Windows-1257 mojibake of U+2000 and on
        | ā€"
    ))
});

/// Runs of what would be UTF-8 sequences in some code page; spaces may stand for no-break spaces.
pub(super) static UTF8_LIKE: LazyLock<Regex> = LazyLock::new(|| {
    regex(&format!(
        r"(?x) ( [{UTF8_FIRST_OF_2}] [{UTF8_CONTINUATION}]
        | [{UTF8_FIRST_OF_3}] [{UTF8_CONTINUATION}]{{2}}
        | [{UTF8_FIRST_OF_4}] [{UTF8_CONTINUATION}]{{3}} )+"
    ))
});

static STRICT_CONTINUATION: LazyLock<Regex> =
    LazyLock::new(|| regex(&format!("^[{UTF8_CONTINUATION_STRICT}]$")));

/// Whether the character is a continuation byte in some code page and hardly anything else.
pub(super) fn is_strict_continuation(c: char) -> bool {
    STRICT_CONTINUATION.is_match(c.encode_utf8(&mut [0; 4]))
}

/// Whether a text looks as if it had been read in a wrong encoding somewhere.
pub fn is_mojibake(text: &str) -> bool {
    !text.is_ascii() && BADNESS.is_match(text)
}
