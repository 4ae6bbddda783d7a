//! Words and sentences as spaCy's English tokenizer cuts them, which datatrove's rules count in.
//!
//! A port of spaCy 3.8's algorithm (MIT): cut at blanks, take prefixes and suffixes off while there are any, look
//! the rest up among the exceptions (`don't`, `U.S.`), leave links whole, cut infixes.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use super::tables::TERMINAL;

static EXCEPTIONS: LazyLock<HashMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    let lines = include_str!("exceptions_en.txt").lines().filter(|l| !l.starts_with('#'));
    let cut =
        |line: &'static str| line.split_once('\t').map(|(word, parts)| (word, parts.split('\t').collect()));
    lines.filter_map(cut).collect()
});

fn regex(pattern: &str) -> Regex {
    // The patterns are constants of this file, covered by its tests.
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("{pattern}: {e}"))
}

/// Longest sequences first where one begins another, as spaCy's alternation meets them.
static PREFIX: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?x)^(?: [§%=—–] | \+(?:[^0-9]|$) | ……|…|\.\.+ | [,:;!?¿؟¡()\[\]{}<>_\#*&。？！，、；：～·।،۔؛٪]
        | ''|['"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧] | US\$|C\$|A\$ | [\$£€¥฿₽﷼₴\u{20A0}-\u{20BF}] | [\p{So}¦©®°] )"#,
    )
});
static SUFFIX: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?x)(?: ……|…|\.\.+ | [,:;!?¿؟¡()\[\]{}<>_\#*&。？！，、；：～·।،۔؛٪]
        | ''|['"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧] | [\p{So}¦©®°] | 's|'S|’s|’S | [—–] )$"#,
    )
});
/// Suffixes that need something before them; the group is the suffix.
static SUFFIX_AFTER: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?x)(?: [0-9](\+) | °[FfCcKk](\.) | [0-9](US\$|C\$|A\$|[\$£€¥฿₽﷼₴\u{20A0}-\u{20BF}])
        | [0-9](km²|km³|km|m²|m³|m|dm²|dm³|dm|cm²|cm³|cm|mm²|mm³|mm|ha|µm|nm|yd|in|ft|kg|g|mg|µg|t|lb|oz|m/s|km/h|kmh|mph|hPa|Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|T|G|M|K|%)
        | [0-9\p{Ll}\p{Lo}%²\-+,:;!?¿؟¡()\[\]{}<>_\#*&。？！，、；：～·।،۔؛٪…'"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧](\.)
        | [\p{Lu}\p{Lo}][\p{Lu}\p{Lo}](\.) )$"#,
    )
});
static LINK: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?x)^(?:[\w+.-]{2,}://)?(?:\S+(?::\S*)?@)?
        (?:\d{1,3}(?:\.\d{1,3}){3}|(?:[A-Za-z0-9\u{a1}-\u{ffff}][A-Za-z0-9\u{a1}-\u{ffff}_-]{0,62})?[A-Za-z0-9\u{a1}-\u{ffff}]\.
          (?:(?:[A-Za-z0-9\u{a1}-\u{ffff}][A-Za-z0-9\u{a1}-\u{ffff}_-]{0,62})?[A-Za-z0-9\u{a1}-\u{ffff}]\.)*[\p{Ll}\p{Lo}]{2,63})
        (?::\d{2,5})?(?:[/?\#]\S*)?$",
    )
});

/// The words of a text, punctuation marks among them.
pub fn words(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    for piece in text.split_whitespace() {
        cut(piece, &mut out);
    }
    out
}

/// How many sentences a text has: a sentence ends with a mark such as `.` that is a word of its own, and the next
/// begins with the next word that is no punctuation. An empty text has none.
pub fn sentences(text: &str) -> usize {
    let mut n = 0;
    let mut ended = true;
    for word in words(text) {
        let is_mark = is_terminal(word);
        let is_punctuation = word.chars().all(is_punctuation);
        // The first word opens a sentence, whatever it is.
        if n == 0 || ended && !is_mark && !is_punctuation {
            n += 1;
            ended = is_mark;
        } else {
            ended |= is_mark;
        }
    }
    n
}

fn is_terminal(word: &str) -> bool {
    let mut chars = word.chars();
    matches!((chars.next(), chars.next()), (Some(c), None) if TERMINAL.binary_search(&c).is_ok())
}

/// Unicode's category P.
fn is_punctuation(c: char) -> bool {
    static P: LazyLock<Regex> = LazyLock::new(|| regex(r"^\p{P}$"));
    if c.is_ascii() {
        c.is_ascii_punctuation() && !matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~')
    } else {
        !c.is_alphanumeric() && P.is_match(c.encode_utf8(&mut [0; 4]))
    }
}

fn is_exception(word: &str) -> bool {
    EXCEPTIONS.contains_key(word)
}

fn prefix_len(word: &str) -> usize {
    let Some(found) = PREFIX.find(word) else { return 0 };
    // The plus sign's look-ahead is part of the match.
    if word.starts_with('+') { 1 } else { found.end() }
}

fn suffix_len(word: &str) -> usize {
    if word.is_empty() {
        return 0;
    }
    let plain = SUFFIX.find(word).map_or(0, |m| m.len());
    let after =
        SUFFIX_AFTER.captures(word).and_then(|c| c.iter().skip(1).flatten().next()).map_or(0, |m| m.len());
    plain.max(after)
}

fn cut<'a>(piece: &'a str, out: &mut Vec<&'a str>) {
    // Most words are letters only, and then nothing but an exception cuts them.
    if piece.bytes().all(|b| b.is_ascii_alphabetic()) {
        return cut_exception(piece, out).unwrap_or_else(|| out.push(piece));
    }
    let mut word = piece;
    let mut suffixes: Vec<&'a str> = Vec::new();
    while !word.is_empty() && !is_exception(word) {
        let before = word.len();
        let prefix = prefix_len(word);
        let rest = &word[prefix..];
        if prefix > 0 && is_exception(rest) {
            out.push(&word[..prefix]);
            word = rest;
            break;
        }
        let suffix = suffix_len(rest);
        let stem = &word[..word.len() - suffix];
        if suffix > 0 && is_exception(stem) {
            suffixes.push(&word[stem.len()..]);
            word = stem;
            break;
        }
        if prefix > 0 {
            out.push(&word[..prefix]);
        }
        if suffix > 0 {
            suffixes.push(&word[word.len() - suffix..]);
        }
        word = &word[prefix..word.len() - suffix];
        if word.len() == before {
            break;
        }
    }
    if cut_exception(word, out).is_some() {
        // Cut by rule.
    } else if LINK.is_match(word) {
        out.push(word);
    } else {
        cut_infixes(word, out);
    }
    out.extend(suffixes.into_iter().rev());
}

/// Cuts a word that a rule names.
fn cut_exception<'a>(word: &'a str, out: &mut Vec<&'a str>) -> Option<()> {
    let mut at = 0;
    for part in EXCEPTIONS.get(word)? {
        // The parts spell the word.
        out.extend(word.get(at..at + part.len()));
        at += part.len();
    }
    Some(())
}

fn cut_infixes<'a>(word: &'a str, out: &mut Vec<&'a str>) {
    let mut start = 0;
    let mut at = 0;
    while at < word.len() {
        let len = infix_len(word, at);
        if len == 0 {
            at += word[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        if at > start {
            out.push(&word[start..at]);
        }
        out.push(&word[at..at + len]);
        at += len;
        start = at;
    }
    if start < word.len() {
        out.push(&word[start..]);
    }
}

/// Length of the infix that begins at a place inside a word, 0 where none does.
fn infix_len(word: &str, at: usize) -> usize {
    let rest = &word[at..];
    let Some(c) = rest.chars().next() else { return 0 };
    if c.is_alphanumeric() {
        return 0;
    }
    let after_len = |len: usize| rest[len..].chars().next();
    if rest.starts_with("..") {
        return rest.len() - rest.trim_start_matches('.').len();
    }
    if c == '…' || is_icon(c) {
        return c.len_utf8();
    }
    let before = word[..at].chars().next_back();
    let after = after_len(c.len_utf8());
    let (Some(before), Some(after)) = (before, after) else { return 0 };
    let is_quote = |c: char| "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧".contains(c);
    let is_lower = |c: char| c.is_alphabetic() && !c.is_uppercase();
    let is_upper = |c: char| c.is_alphabetic() && !c.is_lowercase();
    if matches!(c, '+' | '-' | '*' | '^')
        && before.is_ascii_digit()
        && (after.is_ascii_digit() || after == '-')
    {
        return 1;
    }
    if c == '.' && (is_lower(before) || is_quote(before)) && (is_upper(after) || is_quote(after)) {
        return 1;
    }
    if c == ',' && before.is_alphabetic() && after.is_alphabetic() {
        return 1;
    }
    let before_word = before.is_alphabetic() || before.is_ascii_digit();
    if before_word {
        for hyphen in ["---", "--", "——", "-", "–", "—", "~"] {
            if let Some(tail) = rest.strip_prefix(hyphen)
                && tail.chars().next().is_some_and(char::is_alphabetic)
            {
                return hyphen.len();
            }
        }
    }
    usize::from(matches!(c, ':' | '<' | '>' | '=' | '/') && before_word && after.is_alphabetic())
}

fn is_icon(c: char) -> bool {
    static SO: LazyLock<Regex> = LazyLock::new(|| regex(r"^[\p{So}¦©®°]$"));
    !c.is_ascii() && SO.is_match(c.encode_utf8(&mut [0; 4]))
}
