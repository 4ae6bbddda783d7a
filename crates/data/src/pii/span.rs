use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What a piece of personal data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An e-mail address.
    Email,
    /// A telephone or fax number, its extension included.
    Phone,
    /// A payment card's number: issuer range and Luhn digit agree.
    Card,
    /// An international bank account number (ISO 13616).
    Iban,
    /// A number that a state gives to a person: social security, tax, health, identity card, passport, licence.
    NationalId,
    /// An IPv4 or IPv6 address.
    Ip,
    /// A hardware address.
    Mac,
    /// The `user:password` of a URL; the rest of the URL stays.
    UrlCredentials,
    /// A date announced as someone's birthday.
    DateOfBirth,
    /// Any other date, with its time of day where one follows; a weekday's name.
    Date,
    /// A cryptocurrency address.
    Crypto,
    /// An API key, token, private key or password.
    Secret,
    /// A postal address or a part of one: street, unit, box, postcode.
    Address,
    /// A person's name, without the title.
    Person,
    /// The n-th of [`super::PiiConfig::custom`]. It cannot be named in a configuration: custom patterns are
    /// always on.
    #[serde(skip)]
    Custom(usize),
}

impl Kind {
    /// Every built-in kind.
    pub const ALL: [Kind; 14] = [
        Kind::Email,
        Kind::Phone,
        Kind::Card,
        Kind::Iban,
        Kind::NationalId,
        Kind::Ip,
        Kind::Mac,
        Kind::UrlCredentials,
        Kind::DateOfBirth,
        Kind::Date,
        Kind::Crypto,
        Kind::Secret,
        Kind::Address,
        Kind::Person,
    ];

    /// The label that placeholders carry: `EMAIL` in `[EMAIL_1]`. A custom pattern's is its own name
    /// ([`super::PiiConfig::label`]); here it is `CUSTOM`.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Email => "EMAIL",
            Kind::Phone => "PHONE",
            Kind::Card => "CARD",
            Kind::Iban => "IBAN",
            Kind::NationalId => "NATIONAL_ID",
            Kind::Ip => "IP",
            Kind::Mac => "MAC",
            Kind::UrlCredentials => "URL_CREDENTIALS",
            Kind::DateOfBirth => "DATE_OF_BIRTH",
            Kind::Date => "DATE",
            Kind::Crypto => "CRYPTO",
            Kind::Secret => "SECRET",
            Kind::Address => "ADDRESS",
            Kind::Person => "PERSON",
            Kind::Custom(_) => "CUSTOM",
        }
    }

    /// Who wins an overlap before scores are compared: what the user wrote, then what a shape or checksum
    /// proves, then a date, then what word lists suggest.
    fn rank(self) -> u8 {
        match self {
            Kind::Custom(usize::MAX) => 5, // placeholders, see `find`
            Kind::Custom(_) => 4,
            Kind::Date | Kind::DateOfBirth => 2,
            Kind::Address => 1,
            Kind::Person => 0,
            _ => 3,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// A piece of personal data in a text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Span {
    /// Its first byte.
    pub start: usize,
    /// One past its last byte. Both lie on character boundaries.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
    /// How sure, 0 to 1: about 0.5 for a shape that is often right, 0.9 and more for a checksum or a shape
    /// with its context.
    pub score: f32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize, kind: Kind, score: f32) -> Span {
        Span { start, end, kind, score: score.clamp(0.0, 1.0) }
    }

    /// The bytes it covers.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// The spans' ends counted in characters (Unicode scalar values) instead of bytes, as Python counts.
/// `spans` must be sorted, as [`super::find`] returns them.
pub fn char_offsets(text: &str, spans: &[Span]) -> Vec<Range<usize>> {
    let (mut byte, mut chars) = (0, 0);
    let mut at = |target: usize| {
        chars += text[byte..target].chars().count();
        byte = target;
        chars
    };
    spans.iter().map(|s| at(s.start)..at(s.end)).collect()
}

/// Sorted, disjoint spans that cover the same letters and digits as the given ones. The winner of an overlap
/// keeps its whole span; the loser keeps what is left of it.
pub(crate) fn resolve(text: &str, mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by(|a, b| {
        (b.kind.rank().cmp(&a.kind.rank()))
            .then(b.score.total_cmp(&a.score))
            .then((b.end - b.start).cmp(&(a.end - a.start)))
            .then(a.start.cmp(&b.start))
            .then(a.kind.cmp(&b.kind))
    });
    let mut kept: BTreeMap<usize, Span> = BTreeMap::new();
    for span in spans {
        let reaching_in = kept.range(..=span.start).next_back().map_or(0, |(_, k)| k.end);
        let mut start = span.start.max(reaching_in);
        while start < span.end {
            let next = kept.range(start..span.end).next().map(|(_, k)| *k);
            if let Some(piece) = trimmed(text, start, next.map_or(span.end, |k| k.start), &span) {
                kept.insert(piece.start, piece);
            }
            let Some(next) = next else { break };
            start = next.end;
        }
    }
    kept.into_values().collect()
}

/// `start..end` without the blanks and punctuation at its edges where it was cut; none if nothing is left.
fn trimmed(text: &str, start: usize, end: usize, whole: &Span) -> Option<Span> {
    if start == whole.start && end == whole.end {
        return (start < end).then_some(*whole);
    }
    let piece = text.get(start..end)?;
    let left = piece.find(char::is_alphanumeric)?;
    let right = piece.rfind(char::is_alphanumeric)?;
    let last = piece[right..].chars().next().map_or(1, char::len_utf8);
    Some(Span { start: start + left, end: start + right + last, ..*whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spans: &[(usize, usize, Kind, f32)], expect: &[(usize, usize, Kind)]) {
        let text = "0123456789 123456789 123456789";
        let spans = spans.iter().map(|&(s, e, k, score)| Span::new(s, e, k, score)).collect();
        let got: Vec<_> = resolve(text, spans).iter().map(|s| (s.start, s.end, s.kind)).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn the_winner_keeps_its_span_and_the_loser_what_is_left() {
        use Kind::{Address, Card, Phone};
        check(&[(0, 5, Phone, 0.5), (0, 9, Card, 0.9)], &[(0, 9, Card)]);
        check(&[(0, 5, Phone, 0.9), (3, 9, Card, 0.5)], &[(0, 5, Phone), (5, 9, Card)]);
        check(
            &[(0, 30, Address, 0.9), (11, 20, Phone, 0.5)],
            &[(0, 10, Address), (11, 20, Phone), (21, 30, Address)],
        );
        check(
            &[(2, 4, Phone, 0.5), (6, 8, Phone, 0.5), (0, 9, Address, 0.6)],
            &[(0, 2, Address), (2, 4, Phone), (4, 6, Address), (6, 8, Phone), (8, 9, Address)],
        );
    }

    #[test]
    fn characters_are_not_bytes() {
        let text = "é sam@x.org";
        let spans = [Span::new(3, 12, Kind::Email, 1.0)];
        assert_eq!(char_offsets(text, &spans).first(), Some(&(2..11)));
    }
}
