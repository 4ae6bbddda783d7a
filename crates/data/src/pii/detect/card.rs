use super::checksum::luhn;
use super::with_context;
use crate::pii::lexicon::{SAYS_CARD, SAYS_ORDER};
use crate::pii::scan::Scan;
use crate::pii::{Kind, Span};

/// A payment card's number: 12 to 19 digits in an issuer's range that pass Luhn, as one word or in the groups
/// that are printed (4-4-4-4, 4-6-5, 4-6-4, 4-4-4-4-3).
///
/// One number in ten passes Luhn by chance, so a bare run of digits scores less than printed groups, and less
/// still after "order" or "tracking".
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    let mut resume = 0;
    for &i in &scan.numeric {
        let token = scan.tokens[i];
        if token.start < resume || !token.is_digits() || scan.in_url(token.start) {
            continue;
        }
        let Some((last, digits, is_grouped)) = groups(scan, i) else { continue };
        let issuer_score = issuer(&digits);
        let byte_after = scan.byte(scan.tokens[last].end);
        let goes_on = matches!(byte_after, Some(b'-' | b'_' | b'.'))
            && scan.byte(scan.tokens[last].end + 1).is_some_and(|b| b.is_ascii_digit());
        let is_part = matches!(scan.byte_before(token.start), Some(b'_' | b'.' | b'$' | b'=' | b'/'))
            || scan.byte_before(token.start) == Some(b'-')
                && token.start >= 2
                && scan.byte(token.start - 2).is_some_and(|b| b.is_ascii_alphanumeric());
        if goes_on || is_part || !luhn(&digits) || digits.iter().all(|d| *d == digits[0]) {
            continue;
        }
        let base: f32 = if is_grouped { issuer_score + 0.2 } else { issuer_score };
        let near = scan.nearest_before(i, 6, SAYS_CARD | SAYS_ORDER);
        let score = if near & SAYS_CARD != 0 {
            with_context(base, true)
        } else if near & SAYS_ORDER != 0 && !is_grouped {
            base - 0.35
        } else {
            with_context(base, scan.near_after(last, 3, SAYS_CARD))
        };
        let span = Span::new(token.start, scan.tokens[last].end, Kind::Card, score);
        resume = span.end;
        out.push(span);
    }
}

/// The digits of a card-like number that starts at token `i`, its last token, and whether it is grouped.
fn groups(scan: &Scan, i: usize) -> Option<(usize, Vec<u8>, bool)> {
    let first = scan.str(i).as_bytes();
    if (12..=19).contains(&first.len()) {
        return Some((i, first.to_vec(), false));
    }
    if first.len() != 4 {
        return None;
    }
    let gap = scan.gap(i);
    if !matches!(gap, " " | "-" | "." | "\u{a0}") {
        return None;
    }
    let mut digits = first.to_vec();
    let mut lengths = vec![4];
    let mut last = i;
    while scan.gap(last) == gap && lengths.len() < 5 {
        let Some(next) = scan.tokens.get(last + 1).filter(|t| t.is_digits() && t.len() <= 6) else { break };
        last += 1;
        digits.extend_from_slice(scan.str(last).as_bytes());
        lengths.push(next.len());
    }
    // A fifth group of another length belongs to what follows ("4929 3600 0381 1724 12 times").
    while lengths.len() > 3 && !matches!(lengths[..], [4, 4, 4, 4] | [4, 4, 4, 4, 3]) {
        let dropped = lengths.pop().unwrap_or(0);
        digits.truncate(digits.len() - dropped);
        last -= 1;
    }
    if matches!(lengths[..], [4, 4, 4, 4, 3]) && !luhn(&digits) {
        digits.truncate(16);
        last -= 1;
        lengths.pop();
    }
    matches!(lengths[..], [4, 4, 4, 4] | [4, 4, 4, 4, 3] | [4, 6, 5 | 4]).then_some((last, digits, true))
}

/// How likely a bare run of these digits is a card, by issuer range and length (ISO/IEC 7812 ranges as the
/// networks publish them). Where no issuer uses them the word "card" must stand near.
fn issuer(digits: &[u8]) -> f32 {
    let head = |n: usize| digits[..n].iter().fold(0u32, |v, d| v * 10 + u32::from(d - b'0'));
    let (two, three, four, six, n) = (head(2), head(3), head(4), head(6), digits.len());
    let is_major = match n {
        16 => {
            digits[0] == b'4'
                || (51..=55).contains(&two)
                || (2221..=2720).contains(&four)
                || four == 6011
                || (644..=659).contains(&three)
                || (622126..=622925).contains(&six)
                || (3528..=3589).contains(&four)
        }
        15 => two == 34 || two == 37,
        14 => (300..=305).contains(&three) || two == 36 || two == 38,
        _ => false,
    };
    // Lengths and ranges that are rarer, or shared with other numbers (EAN-13, time stamps): context decides.
    let is_minor = match n {
        12 => two == 50 || (56..=69).contains(&two),
        13 => digits[0] == b'4' || two == 50 || (56..=69).contains(&two),
        14 | 15 => four == 2131 || four == 1800 || two == 39 || two == 50 || (56..=69).contains(&two),
        16..=19 => {
            digits[0] == b'4'
                || two == 50
                || (56..=69).contains(&two)
                || two == 81
                || two == 82
                || (2200..=2204).contains(&four)
                || two == 36
                || two == 38
                || two == 39
                || (3528..=3589).contains(&four)
        }
        _ => false,
    };
    // Ranges of four digits that nobody else numbers by: Maestro, JCB, and Visa's 19 digits.
    let is_rare = match n {
        12..=19 if matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6390 | 6759 | 6761..=6763) => true,
        16 => (3500..=3599).contains(&four),
        15 => four == 2131 || four == 1800,
        19 => digits[0] == b'4',
        _ => false,
    };
    match (is_major, is_rare || is_minor) {
        (true, _) => 0.7,
        _ if is_rare => 0.5,
        (_, true) => 0.35,
        _ => 0.15,
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::Card;

    #[test]
    fn card_numbers() {
        check("card 4929360003811724.", Card, &["4929360003811724"]);
        check(
            "4111 1111 1111 1111 12 times; 5555-5555-5555-4444",
            Card,
            &["4111 1111 1111 1111", "5555-5555-5555-4444"],
        );
        check("amex 3782 822463 10005 and 371449635398431", Card, &["3782 822463 10005", "371449635398431"]);
        check("my card is 4222222222222", Card, &["4222222222222"]);
        check("4222222222222 was declined", Card, &["4222222222222"]);
        check(
            "paid by 6762828288072902, then 180074537838309",
            Card,
            &["6762828288072902", "180074537838309"],
        );
    }

    #[test]
    fn not_cards() {
        for text in [
            "4929360003811725",
            "1234567890123452",
            "tracking 4929360003811724",
            "9783161484100",
            "1609459200000",
            "0000000000000000",
            "x-4111111111111111",
            "https://a.b/4111111111111111",
            "4222222222222",
        ] {
            check(text, Card, &[]);
        }
    }
}
