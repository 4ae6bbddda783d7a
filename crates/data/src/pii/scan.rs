use std::ops::Range;

use super::lexicon::{self, FIRST, GREETING, LAST, MONTH, Roles, SAYS_NAME, SAYS_SECRET, TITLE, WEEKDAY};
use super::{Kind, PiiConfig};

/// A text cut into words once, with what each detector starts from.
///
/// A token is a maximal run of letters and digits, or one whole placeholder such as `[EMAIL_1]`, which is
/// opaque: it holds nothing and means nothing, so that redacted text stays redacted. Where a script without
/// spaces meets another (`電話は03-1234-5678です`) a token ends.
pub(crate) struct Scan<'t> {
    pub(crate) text: &'t str,
    pub(crate) tokens: Vec<Token>,
    /// Tokens that hold a digit.
    pub(crate) numeric: Vec<usize>,
    /// Tokens of one to four hexadecimal digits before `:`, `-` or `.`, and ones after `::`.
    pub(crate) hex: Vec<usize>,
    /// Names, titles, greetings.
    pub(crate) named: Vec<usize>,
    /// Months and weekdays.
    pub(crate) dated: Vec<usize>,
    /// Words that announce a password or key.
    pub(crate) secret: Vec<usize>,
    /// Bytes that hold `@`, or begin its `%40` in a URL.
    pub(crate) ats: Vec<usize>,
    /// URLs with a scheme.
    pub(crate) urls: Vec<Range<usize>>,
}

/// A run of letters and digits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) shape: u8,
    pub(crate) roles: Roles,
}

const DIGIT: u8 = 1;
const LETTER: u8 = 2;
const FIRST_UPPER: u8 = 4;
const LATER_UPPER: u8 = 8;
const LOWER: u8 = 16;
const OPAQUE: u8 = 32;

impl Token {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// ASCII digits only.
    pub(crate) fn is_digits(&self) -> bool {
        self.shape & (DIGIT | LETTER) == DIGIT
    }

    pub(crate) fn has_digit(&self) -> bool {
        self.shape & DIGIT != 0
    }

    pub(crate) fn is_word(&self) -> bool {
        self.shape & (DIGIT | LETTER) == LETTER
    }

    /// `Smith`, `McDonald`, `J`: a capital first.
    pub(crate) fn is_capitalised(&self) -> bool {
        self.is_word() && self.shape & FIRST_UPPER != 0
    }

    /// `SMITH`: two letters or more, all of them capital.
    pub(crate) fn is_all_caps(&self) -> bool {
        self.is_word() && self.shape & (FIRST_UPPER | LATER_UPPER | LOWER) == FIRST_UPPER | LATER_UPPER
    }

    /// `BlueSky`, `iPhone`: a capital after a small letter or the like.
    pub(crate) fn is_mixed_case(&self) -> bool {
        self.shape & (LATER_UPPER | LOWER) == LATER_UPPER | LOWER
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.shape & OPAQUE != 0
    }

    pub(crate) fn has(&self, roles: Roles) -> bool {
        self.roles & roles != 0
    }
}

impl<'t> Scan<'t> {
    pub(crate) fn new(text: &'t str, config: &PiiConfig) -> Self {
        let mut scan = Scan {
            text,
            tokens: Vec::with_capacity(text.len() / 5 + 1),
            numeric: Vec::new(),
            hex: Vec::new(),
            named: Vec::new(),
            dated: Vec::new(),
            secret: Vec::new(),
            ats: Vec::new(),
            urls: Vec::new(),
        };
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if byte.is_ascii_alphanumeric() || byte >= 0x80 {
                at = scan.word(at);
                continue;
            }
            match byte {
                b'@' => scan.ats.push(at),
                b'%' if bytes[at..].starts_with(b"%40") => scan.ats.push(at),
                b':' if bytes[at..].starts_with(b"://") => scan.url(at),
                b'[' => {
                    if let Some(end) = placeholder_end(text, at, config) {
                        scan.tokens.push(Token { start: at, end, shape: OPAQUE, roles: 0 });
                        at = end;
                        continue;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        scan
    }

    /// Takes the word at byte `start`, or one character that is no letter, and returns where it ends.
    fn word(&mut self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let (mut at, mut shape, mut is_hex) = (start, 0, true);
        let mut is_unspaced_word = false;
        while let Some(&byte) = bytes.get(at) {
            if byte < 0x80 {
                if is_unspaced_word {
                    break;
                }
                let case = match byte {
                    b'0'..=b'9' => DIGIT,
                    b'a'..=b'z' => LETTER | LOWER,
                    b'A'..=b'Z' if at == start => LETTER | FIRST_UPPER,
                    b'A'..=b'Z' => LETTER | LATER_UPPER,
                    _ => break,
                };
                is_hex &= byte.is_ascii_hexdigit();
                shape |= case;
                at += 1;
            } else {
                let Some(c) = self.text[at..].chars().next() else { break };
                // A combining accent or a soft hyphen does not end a word.
                let joins =
                    at > start && matches!(c, '\u{300}'..='\u{36f}' | '\u{ad}' | '\u{200c}' | '\u{200d}');
                if !c.is_alphanumeric() && !joins {
                    break;
                }
                if !joins && c >= UNSPACED {
                    if at > start && is_unspaced(c) != is_unspaced_word {
                        break;
                    }
                    is_unspaced_word = is_unspaced(c);
                } else if is_unspaced_word && !joins {
                    break;
                }
                is_hex = false;
                shape |= LETTER;
                shape |= match c {
                    c if c.is_lowercase() => LOWER,
                    c if c.is_uppercase() && at == start => FIRST_UPPER,
                    c if c.is_uppercase() => LATER_UPPER,
                    _ => 0,
                };
                at += c.len_utf8();
            }
        }
        if at == start {
            return start + self.text[start..].chars().next().map_or(1, char::len_utf8);
        }
        let index = self.tokens.len();
        let mut token = Token { start, end: at, shape, roles: 0 };
        if token.has_digit() {
            self.numeric.push(index);
        } else if is_unspaced_word {
            token.roles = lexicon::roles_within(&self.text[start..at]);
        } else {
            token.roles = lexicon::roles(&self.text[start..at]);
            if token.has(FIRST | LAST | TITLE | GREETING | SAYS_NAME) {
                self.named.push(index);
            }
            if token.has(MONTH | WEEKDAY) {
                self.dated.push(index);
            }
            if token.has(SAYS_SECRET) {
                self.secret.push(index);
            }
        }
        let follows_colons = start >= 2 && &bytes[start - 2..start] == b"::";
        if is_hex && at - start <= 4 && (follows_colons || matches!(bytes.get(at), Some(b':' | b'-' | b'.')))
        {
            self.hex.push(index);
        }
        self.tokens.push(token);
        at
    }

    /// Notes the URL whose `://` is at byte `colon`.
    fn url(&mut self, colon: usize) {
        let scheme = self.text[..colon]
            .bytes()
            .rev()
            .take_while(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b))
            .count();
        let start = colon - scheme;
        if scheme == 0 || self.urls.last().is_some_and(|u| u.end > start) {
            return;
        }
        let rest = &self.text[colon..];
        let length = rest.find(|c: char| c.is_whitespace() || "<>\"`|\\^".contains(c)).unwrap_or(rest.len());
        self.urls.push(start..colon + length);
    }

    pub(crate) fn str(&self, i: usize) -> &'t str {
        &self.text[self.tokens[i].start..self.tokens[i].end]
    }

    pub(crate) fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    pub(crate) fn byte_before(&self, at: usize) -> Option<u8> {
        at.checked_sub(1).and_then(|at| self.byte(at))
    }

    /// What stands between token `i` and the next one; the rest of the text after the last.
    pub(crate) fn gap(&self, i: usize) -> &'t str {
        let end = self.tokens.get(i + 1).map_or(self.text.len(), |t| t.start);
        &self.text[self.tokens[i].end..end]
    }

    pub(crate) fn in_url(&self, at: usize) -> bool {
        let i = self.urls.partition_point(|u| u.end <= at);
        self.urls.get(i).is_some_and(|u| u.contains(&at))
    }

    /// The tokens before `i`, nearest first: at most `n`, at most 60 bytes away, not across a blank line.
    pub(crate) fn before(&self, i: usize, n: usize) -> impl Iterator<Item = usize> + '_ {
        let from = self.tokens.get(i).map_or(self.text.len(), |t| t.start);
        (0..i).rev().take(n).take_while(move |&j| {
            let token = &self.tokens[j];
            let gap = self.gap(j);
            from - token.end <= 60 && !(gap.len() > 1 && gap.contains("\n\n"))
        })
    }

    /// The tokens after `i`, nearest first: at most `n`, on the same line.
    pub(crate) fn after(&self, i: usize, n: usize) -> impl Iterator<Item = usize> + '_ {
        (i + 1..self.tokens.len()).take(n).take_while(|&j| !self.gap(j - 1).contains('\n'))
    }

    pub(crate) fn near_before(&self, i: usize, n: usize, roles: Roles) -> bool {
        self.before(i, n).any(|j| self.tokens[j].has(roles))
    }

    pub(crate) fn near_after(&self, i: usize, n: usize, roles: Roles) -> bool {
        self.after(i, n).any(|j| self.tokens[j].has(roles))
    }

    /// Of several roles, those of the nearest word before `i` that has any.
    pub(crate) fn nearest_before(&self, i: usize, n: usize, roles: Roles) -> Roles {
        self.before(i, n).map(|j| self.tokens[j].roles & roles).find(|&r| r != 0).unwrap_or(0)
    }

    /// Whether a byte just before a number shows that it is part of something else: `#48213`, `$75`, `a_1`.
    pub(crate) fn glued_before(&self, at: usize) -> bool {
        let Some(byte) = self.byte_before(at) else { return false };
        match byte {
            b'_' | b'#' | b'$' | b'%' | b'=' | b'*' | b'~' | b'^' | b'&' | b'/' | b'\\' => true,
            0xac | 0xa3 => self.text[..at].ends_with(['€', '£']),
            b'-' | b'.' | b',' | b':' => {
                at >= 2
                    && self.byte(at - 2).is_some_and(|b| {
                        b.is_ascii_digit() || (byte != b':' && b.is_ascii_alphabetic() && byte != b',')
                    })
            }
            _ => false,
        }
    }
}

/// The first letter of the scripts that [`is_unspaced`] knows.
const UNSPACED: char = '\u{e00}';

/// Letters of scripts whose words no space parts from a number or a Latin word: Thai, Lao, kana, ideographs, Hangul.
pub(crate) fn is_unspaced(c: char) -> bool {
    matches!(c, UNSPACED..='\u{eff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

/// Where the placeholder that starts at `[` ends: `[EMAIL_1]`, `[EMAIL_1.2]`, `[EMAIL:9f2c41d07ab3]`, `[REDACTED]`.
fn placeholder_end(text: &str, start: usize, config: &PiiConfig) -> Option<usize> {
    let bytes = text.as_bytes();
    if !bytes.get(start + 1)?.is_ascii_uppercase() {
        return None;
    }
    let rest = &bytes[start + 1..bytes.len().min(start + 80)];
    let length = rest.iter().position(|&b| b == b']')?;
    let body = text.get(start + 1..start + 1 + length)?;
    is_placeholder_body(body, config).then_some(start + length + 2)
}

fn is_placeholder_body(body: &str, config: &PiiConfig) -> bool {
    let known = |label: &str| {
        Kind::ALL.iter().any(|k| k.label() == label) || config.custom.iter().any(|p| p.name() == label)
    };
    if body == "REDACTED" {
        return true;
    }
    if let Some((label, code)) = body.split_once(':') {
        return known(label) && code.len() == 12 && code.bytes().all(|b| b.is_ascii_hexdigit());
    }
    let Some((label, number)) = body.rsplit_once('_') else { return false };
    let digits = |s: &str| !s.is_empty() && s.len() <= 9 && s.bytes().all(|b| b.is_ascii_digit());
    known(label)
        && number.split_once('.').map_or(digits(number), |(n, spelling)| digits(n) && digits(spelling))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        let config = PiiConfig::default();
        let scan = Scan::new(text, &config);
        let got: Vec<_> = (0..scan.tokens.len()).map(|i| scan.str(i)).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        check("Hi, O'Brien: 555-01x7", &["Hi", "O", "Brien", "555", "01x7"]);
        check("ΠΥΡΓΑ, 猫 – e\u{301}t", &["ΠΥΡΓΑ", "猫", "e\u{301}t"]);
        check("\u{feff}é€5", &["é", "5"]);
        check("電話は03-1234番a", &["電話は", "03", "1234", "番", "a"]);
        check("แก0 ç가x", &["แก", "0", "ç", "가", "x"]);
    }

    #[test]
    fn a_placeholder_is_one_token() {
        check("to [EMAIL_1]!", &["to", "[EMAIL_1]"]);
        check(
            "[PHONE:0123456789ab] [CARD_2.3] [REDACTED]",
            &["[PHONE:0123456789ab]", "[CARD_2.3]", "[REDACTED]"],
        );
        check("[EMAIL_x] [NAME_1]", &["EMAIL", "x", "NAME", "1"]);
    }

    #[test]
    fn urls_end_at_blanks() {
        let config = PiiConfig::default();
        let text = "see https://a.b/c?d=1 and x://y";
        let scan = Scan::new(text, &config);
        let urls: Vec<_> = scan.urls.iter().map(|u| &text[u.clone()]).collect();
        assert_eq!(urls, ["https://a.b/c?d=1", "x://y"]);
    }
}
