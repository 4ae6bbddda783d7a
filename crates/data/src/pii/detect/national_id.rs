use super::checksum::{luhn, mod_11_10, verhoeff, weighted};
use super::national_id_others;
use super::with_context;
use crate::pii::lexicon::{SAYS_CARD, SAYS_ID, SAYS_ORDER};
use crate::pii::scan::{Scan, Token};
use crate::pii::{Kind, Span};

/// A number that a state gives to a person. `test` sees it in upper case without separators, with the lengths
/// of its groups, and returns the score that its shape and check digits deserve without any context.
pub(super) struct Scheme {
    pub(super) length: usize,
    pub(super) test: fn(&[u8], &[usize]) -> Option<f32>,
}

const SCHEMES: &[Scheme] = &[
    Scheme { length: 9, test: us_ssn },
    Scheme { length: 9, test: uk_nino },
    Scheme { length: 10, test: uk_nhs },
    Scheme { length: 11, test: de_tax },
    Scheme { length: 12, test: de_pension },
    Scheme { length: 15, test: fr_nir },
    Scheme { length: 9, test: es_dni },
    Scheme { length: 16, test: it_fiscal },
    Scheme { length: 12, test: in_aadhaar },
    Scheme { length: 10, test: in_pan },
    Scheme { length: 11, test: br_cpf },
    Scheme { length: 11, test: pl_pesel },
    Scheme { length: 9, test: nl_bsn },
    Scheme { length: 9, test: ca_sin },
    Scheme { length: 10, test: se_personnummer },
    Scheme { length: 12, test: se_personnummer },
];

/// The longest number has eighteen characters.
const LONGEST: usize = 18;

/// Social security, tax, health and identity-card numbers of the US, UK, DE, FR, ES, IT, IN, BR, PL, NL, CA and
/// SE, those of [`national_id_others`], and any passport or driving licence number that is announced as such.
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    for &i in &scan.numeric {
        if scan.in_url(scan.tokens[i].start) {
            continue;
        }
        out.extend(by_shape(scan, i));
        // "QQ 12 34 56 C" begins with a word without digits.
        if i > 0
            && scan.tokens[i - 1].len() == 2
            && scan.tokens[i - 1].is_all_caps()
            && scan.gap(i - 1) == " "
        {
            out.extend(by_shape(scan, i - 1));
        }
        out.extend(announced(scan, i));
    }
}

/// The best scheme for the groups that start at token `first`.
fn by_shape(scan: &Scan, first: usize) -> Option<Span> {
    let start = scan.tokens[first].start;
    // The shortest number has nine characters, in groups of one or more.
    let next = scan.tokens.get(first + 1);
    let is_alone = scan.tokens[first].len() < 9 && next.is_none_or(|t| t.start > scan.tokens[first].end + 2);
    if is_alone || scan.tokens[first].len() > LONGEST || scan.glued_before(start) {
        return None;
    }
    let mut compact = Vec::with_capacity(20);
    let mut lengths = Vec::with_capacity(8);
    let mut best: Option<(f32, usize)> = None;
    for last in first..scan.tokens.len().min(first + 8) {
        let word = scan.str(last).as_bytes();
        if !word.iter().all(u8::is_ascii_alphanumeric) || compact.len() + word.len() > LONGEST {
            break;
        }
        compact.extend(word.iter().map(u8::to_ascii_uppercase));
        lengths.push(word.len());
        let score = SCHEMES
            .iter()
            .chain(national_id_others::SCHEMES)
            .filter(|s| s.length == compact.len())
            .filter_map(|s| (s.test)(&compact, &lengths))
            .max_by(f32::total_cmp);
        if let Some(score) = score {
            // "680 36 4022" with blanks is as often a house and a street.
            let is_blank = lengths == [3, 2, 4] && scan.gap(first) == " ";
            let score = if is_blank { 0.4 } else { score };
            if !goes_on(scan, last) {
                best = Some((score, last));
            }
        }
        if !matches!(scan.gap(last), " " | "-" | "." | "/" | "\u{a0}") {
            break;
        }
    }
    let (base, last) = best?;
    let score = match scan.nearest_before(first, 6, SAYS_ID | SAYS_ORDER) {
        _ if scan.near_before(first, 3, SAYS_ID) => with_context(base, true),
        near if near & SAYS_ID != 0 => with_context(base, true),
        near if near & SAYS_ORDER != 0 => base - 0.4,
        _ if scan.near_before(first, 4, SAYS_CARD) => base - 0.4,
        _ => with_context(base, scan.near_after(last, 2, SAYS_ID)),
    };
    Some(Span::new(start, scan.tokens[last].end, Kind::NationalId, score))
}

/// Whether the number goes on after token `last` (`-12`, `.5`, `_x`).
fn goes_on(scan: &Scan, last: usize) -> bool {
    let end = scan.tokens[last].end;
    scan.byte(end) == Some(b'_')
        || matches!(scan.byte(end), Some(b'-' | b'.' | b'/' | b':'))
            && scan.byte(end + 1).is_some_and(|b| b.is_ascii_digit())
}

/// "passport number X1234567", "my driver's license is 425700624": nothing but the announcement proves it.
fn announced(scan: &Scan, i: usize) -> Option<Span> {
    let start = scan.tokens[i].start;
    // "S530-4608-9987-12": a licence in groups.
    let mut last = i;
    while last < i + 4 && scan.gap(last) == "-" && scan.tokens.get(last + 1).is_some_and(Token::has_digit) {
        last += 1;
    }
    let end = scan.tokens[last].end;
    if !(6..=18).contains(&(end - start)) || scan.glued_before(start) {
        return None;
    }
    let digits = scan.text[start..end].bytes().filter(u8::is_ascii_digit).count();
    // Between the announcement and the number stand only words such as "number", "no" and "is".
    let mut words = scan.before(i, 5).map(|j| scan.str(j).to_lowercase());
    let filler =
        ["number", "no", "nr", "num", "is", "id", "card", "s", "nummer", "numéro", "número", "numero", "de"];
    let word = words.find(|w| !filler.contains(&w.as_str()))?;
    let documents = [
        "passport",
        "license",
        "licence",
        "licencia",
        "reisepass",
        "passeport",
        "pasaporte",
        "passaporto",
        "führerschein",
        "personalausweis",
        "dl",
        "permis",
        "driver",
        "drivers",
    ];
    (digits * 2 >= end - start && documents.contains(&word.as_str()))
        .then(|| Span::new(start, end, Kind::NationalId, 0.75))
}

pub(super) fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok().filter(|s| s.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

pub(super) fn all_digits(id: &[u8]) -> bool {
    id.iter().all(u8::is_ascii_digit)
}

pub(super) fn is_one_digit_repeated(id: &[u8]) -> bool {
    id.iter().all(|d| *d == id[0])
}

/// US social security number or ITIN, `123-45-6789`: no area 000 or 666, no group 00, no serial 0000.
fn us_ssn(id: &[u8], groups: &[usize]) -> Option<f32> {
    let (area, group, serial) = (number(&id[..3])?, number(&id[3..5])?, number(&id[5..])?);
    if !all_digits(id) || area == 0 || area == 666 || group == 0 || serial == 0 || is_one_digit_repeated(id) {
        return None;
    }
    match groups {
        [3, 2, 4] => Some(0.75),
        [9] if area < 900 => Some(0.15),
        _ => None,
    }
}

/// UK national insurance number, `QQ 12 34 56 C` (HMRC manual NIM39110). One with letters that are not given out,
/// as made-up and temporary numbers have, counts only where it is announced.
fn uk_nino(id: &[u8], groups: &[usize]) -> Option<f32> {
    let letter = |b: u8, not: &[u8]| b.is_ascii_uppercase() && !not.contains(&b);
    let is_prefix = letter(id[0], b"DFIQUV")
        && letter(id[1], b"DFIOQUV")
        && ![*b"BG", *b"GB", *b"NK", *b"KN", *b"TN", *b"NT", *b"ZZ"].contains(&[id[0], id[1]]);
    let has_shape = id[..2].iter().chain(&id[8..]).all(u8::is_ascii_uppercase) && all_digits(&id[2..8]);
    let is_given = is_prefix && (b'A'..=b'D').contains(&id[8]);
    match groups {
        _ if !has_shape => None,
        [2, 2, 2, 2, 1] | [2, 6, 1] => Some(if is_given { 0.75 } else { 0.2 }),
        [9] => Some(if is_given { 0.4 } else { 0.15 }),
        _ => None,
    }
}

/// UK health service number, `943 476 5919`: weights 10 to 2, modulo 11.
fn uk_nhs(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !all_digits(id) {
        return None;
    }
    let check = (11 - weighted(id, &[10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11) % 11;
    let fits = check == u32::from(id[9] - b'0') && !is_one_digit_repeated(id);
    (fits && matches!(groups, [3, 3, 4] | [10])).then_some(0.25)
}

/// German tax number (Steuer-ID): one digit of the first ten comes two or three times; ISO 7064 mod 11,10.
fn de_tax(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !all_digits(id) || id[0] == b'0' || !mod_11_10(id) {
        return None;
    }
    let mut counts = [0; 10];
    id[..10].iter().for_each(|d| counts[usize::from(d - b'0')] += 1);
    let most = counts.into_iter().max()?;
    ((2..=3).contains(&most) && matches!(groups, [11] | [2, 3, 3, 3])).then_some(if groups.len() > 1 {
        0.5
    } else {
        0.25
    })
}

/// German pension insurance number, `15 070649 C 103`: the holder's birthday, letter, and a weighted check.
fn de_pension(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !id[8].is_ascii_uppercase() || !all_digits(&id[..8]) || !all_digits(&id[9..]) {
        return None;
    }
    let letter = u32::from(id[8] - b'A') + 1;
    let mut digits: Vec<u8> = id[..8].to_vec();
    digits.extend([b'0' + (letter / 10) as u8, b'0' + (letter % 10) as u8, id[9], id[10]]);
    let sum: u32 = digits
        .iter()
        .zip([2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1])
        .map(|(d, w)| {
            let product = u32::from(d - b'0') * w;
            product / 10 + product % 10
        })
        .sum();
    (sum % 10 == u32::from(id[11] - b'0') && matches!(groups, [12] | [2, 6, 1, 3])).then_some(0.7)
}

/// French social security number (NIR): sex, year, month, department, …, and 97 − n mod 97.
fn fr_nir(id: &[u8], _groups: &[usize]) -> Option<f32> {
    // Corsica writes 2A and 2B, which count as 19 and 18.
    let mut digits = id.to_vec();
    match &id[5..7] {
        b"2A" => digits[5..7].copy_from_slice(b"19"),
        b"2B" => digits[5..7].copy_from_slice(b"18"),
        _ => {}
    }
    let (body, key) = (number(&digits[..13])?, number(&digits[13..])?);
    let month = number(&id[3..5])?;
    let fits = matches!(id[0], b'1' | b'2')
        && ((1..=12).contains(&month) || (20..=50).contains(&month))
        && 97 - body % 97 == key;
    fits.then_some(0.85)
}

/// Spanish DNI (`12345678Z`) and NIE (`X1234567L`): the letter is the number modulo 23.
fn es_dni(id: &[u8], groups: &[usize]) -> Option<f32> {
    let mut digits = id[..8].to_vec();
    if let b'X'..=b'Z' = id[0] {
        digits[0] = id[0] - b'X' + b'0';
    }
    let letter = b"TRWAGMYFPDXBNJZSQVHLCKE"[(number(&digits)? % 23) as usize];
    (letter == id[8] && matches!(groups, [9] | [8, 1] | [1, 7, 1])).then_some(0.5)
}

/// Italian fiscal code: six letters, year, month letter, day, place, and a check letter.
fn it_fiscal(id: &[u8], groups: &[usize]) -> Option<f32> {
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let shape = b"LLLLLLDDMDDLDDDL";
    let fits = id.iter().zip(shape).all(|(b, s)| match s {
        b'L' => b.is_ascii_uppercase(),
        b'M' => b"ABCDEHLMPRST".contains(b),
        _ => b.is_ascii_digit(),
    });
    if !fits || groups != [16] {
        return None;
    }
    let value = |b: u8| if b.is_ascii_digit() { u32::from(b - b'0') } else { u32::from(b - b'A') };
    let sum: u32 = id[..15]
        .iter()
        .enumerate()
        .map(|(i, &b)| if i % 2 == 0 { ODD[value(b) as usize] } else { value(b) })
        .sum();
    (sum % 26 == u32::from(id[15] - b'A')).then_some(0.95)
}

/// Aadhaar, `2345 6789 0124`: no leading 0 or 1, Verhoeff. With a wrong check digit it must be announced.
fn in_aadhaar(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !all_digits(id) || id[0] < b'2' || is_one_digit_repeated(id) {
        return None;
    }
    match groups {
        [4, 4, 4] if verhoeff(id) => Some(0.6),
        [12] if verhoeff(id) => Some(0.2),
        [4, 4, 4] | [12] => Some(0.12),
        _ => None,
    }
}

/// Indian tax account, `ABCPE1234F`: the fourth letter is the kind of holder; made-up examples ignore that.
fn in_pan(id: &[u8], groups: &[usize]) -> Option<f32> {
    let fits =
        id[..5].iter().all(u8::is_ascii_uppercase) && all_digits(&id[5..9]) && id[9].is_ascii_uppercase();
    let is_holder = b"PCHFATBLJG".contains(&id[3]);
    (fits && groups == [10]).then_some(if is_holder { 0.5 } else { 0.15 })
}

/// Brazilian CPF, `529.982.247-25`: two check digits, modulo 11.
fn br_cpf(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !all_digits(id) || is_one_digit_repeated(id) {
        return None;
    }
    let check = |weights: &[u32]| weighted(id, weights) * 10 % 11 % 10;
    let fits = check(&[10, 9, 8, 7, 6, 5, 4, 3, 2]) == u32::from(id[9] - b'0')
        && check(&[11, 10, 9, 8, 7, 6, 5, 4, 3, 2]) == u32::from(id[10] - b'0');
    match groups {
        [3, 3, 3, 2] if fits => Some(0.9),
        [11] if fits => Some(0.25),
        _ => None,
    }
}

/// Polish PESEL: a birthday (the month carries the century), a serial and a weighted check digit.
fn pl_pesel(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !all_digits(id) {
        return None;
    }
    let (month, day) = (number(&id[2..4])? % 20, number(&id[4..6])?);
    let fits = (10 - weighted(id, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3]) % 10) % 10 == u32::from(id[10] - b'0')
        && (1..=12).contains(&month)
        && (1..=31).contains(&day);
    (fits && groups == [11]).then_some(0.3)
}

/// Dutch BSN: the eleven test, the last digit counting −1.
fn nl_bsn(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !all_digits(id) || is_one_digit_repeated(id) {
        return None;
    }
    let sum = weighted(id, &[9, 8, 7, 6, 5, 4, 3, 2]) + 11 * 9 - u32::from(id[8] - b'0');
    (sum.is_multiple_of(11) && groups == [9]).then_some(0.15)
}

/// Canadian social insurance number, `046 454 286`: Luhn.
fn ca_sin(id: &[u8], groups: &[usize]) -> Option<f32> {
    let fits = all_digits(id) && luhn(id) && !is_one_digit_repeated(id) && id[0] != b'8';
    (fits && matches!(groups, [3, 3, 3] | [9])).then_some(0.15)
}

/// Swedish personnummer, `811218-9876`: a birthday and Luhn over the last ten digits.
fn se_personnummer(id: &[u8], groups: &[usize]) -> Option<f32> {
    let ten = &id[id.len() - 10..];
    let (month, day) = (number(&ten[2..4])?, number(&ten[4..6])?);
    let fits = all_digits(id) && luhn(ten) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let century = id.len() == 10 || matches!(&id[..2], b"19" | b"20");
    match groups {
        [6 | 8, 4] if fits && century => Some(0.5),
        [12] if fits && century => Some(0.3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::NationalId;

    #[test]
    fn numbers_with_their_check_digits() {
        for (text, id) in [
            ("Here's my SSN: 308-63-0237", "308-63-0237"),
            ("ssn 308630237", "308630237"),
            ("816-25-1400.", "816-25-1400"),
            ("AB 12 34 56 C is mine", "AB 12 34 56 C"),
            ("NI number: AB123456C", "AB123456C"),
            ("NI number ZZ 98 25 97 T", "ZZ 98 25 97 T"),
            ("Aadhaar 383378876239", "383378876239"),
            ("NHS 943 476 5919", "943 476 5919"),
            ("Steuer-ID 86095742719", "86095742719"),
            ("RV 15 070649 C 103", "15 070649 C 103"),
            ("2 55 08 14 168 025 38", "2 55 08 14 168 025 38"),
            ("DNI 12345678Z", "12345678Z"),
            ("NIE X1234567L", "X1234567L"),
            ("CF RSSMRA85T10A562S", "RSSMRA85T10A562S"),
            ("aadhaar 2341 2341 2346", "2341 2341 2346"),
            ("PAN: ABCPE1234F", "ABCPE1234F"),
            ("my PAN is ABCDE1234F", "ABCDE1234F"),
            ("529.982.247-25", "529.982.247-25"),
            ("pesel 44051401359", "44051401359"),
            ("bsn 111222333", "111222333"),
            ("SIN 046 454 286", "046 454 286"),
            ("811218-9876", "811218-9876"),
            ("My driver's license number is A56319335", "A56319335"),
            ("passport no. X1234567", "X1234567"),
            ("Driver's License: S530-4608-9987-12", "S530-4608-9987-12"),
        ] {
            check(text, NationalId, &[id]);
        }
    }

    #[test]
    fn not_numbers_of_persons() {
        for text in [
            "000-12-3456",
            "666-12-3456",
            "123-00-4567",
            "order 123-45-6789",
            "308630237",
            "86095742719",
            "383378876239",
            "ZZ 98 25 97 T",
            "12345678A",
            "ABCDE1234F",
            "AB-123-45-6789",
            "SKU AB123456C",
            "123-45-6789-0",
            "license 2.0",
        ] {
            check(text, NationalId, &[]);
        }
    }
}
