use super::checksum::modulo;
use crate::pii::scan::Scan;
use crate::pii::{Kind, Span};

/// Country and length, from the SWIFT registry (release 99).
const LENGTHS: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 \
    DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 \
    KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 \
    PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30";

/// An IBAN: country, its length, and check digits that make the whole number 1 modulo 97 (ISO 13616). Written
/// as one word, or in groups joined by a blank or `-`. With a wrong check digit it counts only after "IBAN".
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    for &i in &scan.numeric {
        let head = scan.str(i).as_bytes();
        if head.len() < 4
            || !head[..2].iter().all(u8::is_ascii_alphabetic)
            || !head[2..4].iter().all(u8::is_ascii_digit)
        {
            continue;
        }
        let country = [head[0].to_ascii_uppercase(), head[1].to_ascii_uppercase()];
        let is_announced = scan.before(i, 4).any(|j| scan.str(j).eq_ignore_ascii_case("iban"));
        // In one word of another length or country, the check digits or the announcement must do.
        let length =
            match length_of(country).filter(|&n| head.len() <= 4 || head.len() == n || !is_long(head)) {
                Some(length) => length,
                None if is_long(head) => head.len(),
                None => continue,
            };
        let mut number = Vec::with_capacity(34);
        let mut last = i;
        while number.len() < length && last < scan.tokens.len() {
            let word = scan.str(last).as_bytes();
            if !word.iter().all(u8::is_ascii_alphanumeric) {
                break;
            }
            number.extend_from_slice(word);
            if number.len() < length && !matches!(scan.gap(last), " " | "-" | "\u{a0}") {
                break;
            }
            last += 1;
        }
        if number.len() != length {
            continue;
        }
        let is_valid = modulo(number[4..].iter().chain(&number[..4]).copied(), 97) == 1;
        let is_listed = length_of(country) == Some(length);
        let has_digits = number[4..].iter().filter(|b| b.is_ascii_digit()).count() >= 6;
        let score = match (is_valid, is_announced) {
            (true, _) if is_listed => 1.0,
            (true, true) => 0.9,
            (true, false) => 0.5,
            (false, true) => 0.6,
            _ => continue,
        };
        if has_digits {
            out.push(Span::new(scan.tokens[i].start, scan.tokens[last - 1].end, Kind::Iban, score));
        }
    }
}

/// Whether a word is as long as the shortest and the longest account number, in capitals, with digits enough.
fn is_long(word: &[u8]) -> bool {
    (15..=34).contains(&word.len())
        && word.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
        && word.iter().filter(|b| b.is_ascii_digit()).count() >= 10
}

fn length_of(country: [u8; 2]) -> Option<usize> {
    let at = LENGTHS.as_bytes().chunks(5).find(|c| c[..2] == country)?;
    Some(usize::from(at[2] - b'0') * 10 + usize::from(at[3] - b'0'))
}

/// The two check digits that make `country` + them + `account` valid.
pub(crate) fn check_digits(country: &str, account: &str) -> String {
    let rest = modulo(account.bytes().chain(country.bytes()).chain(*b"00"), 97);
    format!("{:02}", 98 - rest)
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn account_numbers() {
        check("IBAN: DE89 3704 0044 0532 0130 00, ok", Kind::Iban, &["DE89 3704 0044 0532 0130 00"]);
        check("my iban is gb82west12345698765432", Kind::Iban, &["gb82west12345698765432"]);
        check(
            "NO9386011117947 FR1420041010050500013M02606",
            Kind::Iban,
            &["NO9386011117947", "FR1420041010050500013M02606"],
        );
        check("my IBAN GB82WEST12345698765433", Kind::Iban, &["GB82WEST12345698765433"]);
        check("refund to GB75WYHC9487574911862 please", Kind::Iban, &["GB75WYHC9487574911862"]);
        check("my iban: AR07PIAO18818174143337761740", Kind::Iban, &["AR07PIAO18818174143337761740"]);
        for text in [
            "GB82WEST12345698765433",
            "AR08PIAO18818174143337761740",
            "GB82",
            "DE89 3704 0044",
            "part DE12345678901234567890",
        ] {
            check(text, Kind::Iban, &[]);
        }
    }

    #[test]
    fn the_table_is_read_in_fives() {
        assert_eq!(LENGTHS.split_whitespace().count() * 5, LENGTHS.len() + 1);
        assert_eq!((length_of(*b"AD"), length_of(*b"YE"), length_of(*b"ZZ")), (Some(24), Some(30), None));
        assert_eq!(check_digits("GB", "WEST12345698765432"), "82");
    }
}
