use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::key::PiiKey;
use super::lexicon::{self, COUNTRY, MONTH, PARTICLE, STATE, STREET, STREET_BEFORE, TITLE, UNIT, WEEKDAY};
use super::{Kind, detect};

/// A made-up value of the same kind and form: the same for the same key and `identity` (the value in its
/// normal form). Where the standards reserve values for examples, it is one of those.
pub(crate) fn fake(kind: Kind, label: &str, value: &str, identity: &str, key: &PiiKey) -> String {
    let mut rng = ChaCha8Rng::from_seed(key.mac("fake", &[label, identity]));
    match kind {
        Kind::Email => email(&mut rng),
        Kind::Phone => phone(value, &mut rng),
        Kind::Card => card(value, &mut rng),
        Kind::Iban => iban(value, &mut rng),
        Kind::NationalId => national_id(value, &mut rng),
        Kind::Ip if value.contains(':') => {
            format!("2001:db8::{:x}:{:x}", rng.random_range(1..=0xffffu32), rng.random_range(1..=0xffffu32))
        }
        Kind::Ip => {
            let block = ["192.0.2", "198.51.100", "203.0.113"][rng.random_range(0..3)];
            format!("{block}.{}", rng.random_range(1..255u32))
        }
        Kind::Mac => mac(value, &mut rng),
        Kind::UrlCredentials => {
            format!("user{}:{}", rng.random_range(10..100u32), scramble("aB3dE5gH", &mut rng))
        }
        Kind::Date | Kind::DateOfBirth => date(value, &mut rng),
        Kind::Crypto | Kind::Secret | Kind::Custom(_) => scramble(value, &mut rng),
        Kind::Address => address(value, &mut rng),
        Kind::Person => person(value, &mut rng),
    }
}

const FIRST_NAMES: [&str; 16] = [
    "Alex", "Robin", "Maria", "Jonas", "Elena", "Peter", "Nadia", "Oscar", "Clara", "Simon", "Irene", "Hugo",
    "Laura", "Victor", "Teresa", "Martin",
];
const SURNAMES: [&str; 16] = [
    "Miller", "Novak", "Larsen", "Costa", "Keller", "Moreau", "Ricci", "Jensen", "Fischer", "Ortega",
    "Walsh", "Lindgren", "Kovacs", "Bakker", "Santos", "Harris",
];

fn pick<'a>(from: &[&'a str], rng: &mut ChaCha8Rng) -> &'a str {
    from[rng.random_range(0..from.len())]
}

fn email(rng: &mut ChaCha8Rng) -> String {
    let (first, last) = (pick(&FIRST_NAMES, rng).to_lowercase(), pick(&SURNAMES, rng).to_lowercase());
    format!("{first}.{last}{}@example.{}", rng.random_range(10..1000u32), pick(&["com", "org", "net"], rng))
}

/// Every letter and digit replaced by one of its class: digits stay digits, capitals capitals.
fn scramble(value: &str, rng: &mut ChaCha8Rng) -> String {
    value.chars().map(|c| like(c, rng)).collect()
}

fn like(c: char, rng: &mut ChaCha8Rng) -> char {
    match c {
        '0'..='9' => char::from(b'0' + rng.random_range(0..10u8)),
        'A'..='Z' => char::from(b'A' + rng.random_range(0..26u8)),
        'a'..='z' => char::from(b'a' + rng.random_range(0..26u8)),
        c if c.is_alphabetic() => 'x',
        c => c,
    }
}

/// `digits` written over the digits of `value`, in order.
fn overwrite(value: &str, digits: &[u8]) -> String {
    let mut digits = digits.iter();
    value
        .chars()
        .map(|c| if c.is_ascii_digit() { digits.next().map_or(c, |d| char::from(*d)) } else { c })
        .collect()
}

/// The leading digits that tell country or trunk stay; a North American number gets an exchange of 555 and a
/// line of 01xx, which are reserved for fiction.
fn phone(value: &str, rng: &mut ChaCha8Rng) -> String {
    let (number, extension) = value.split_at(value.find(['x', 'X', 'e', 'E']).unwrap_or(value.len()));
    let mut digits: Vec<u8> = number.bytes().filter(u8::is_ascii_digit).collect();
    let n = digits.len();
    let lengths: Vec<usize> =
        number.split(|c: char| !c.is_ascii_digit()).map(str::len).filter(|&l| l > 0).collect();
    if n >= 10 && lengths.ends_with(&[3, 3, 4]) {
        digits[n - 10] = b'2' + rng.random_range(0..8u8);
        digits[n - 7..n - 2].copy_from_slice(b"55501");
        (n - 2..n).for_each(|i| digits[i] = b'0' + rng.random_range(0..10u8));
    } else {
        let keep = if number.starts_with('+') { 2 } else { usize::from(n > 0 && digits[0] == b'0') };
        (keep.min(n)..n).for_each(|i| digits[i] = b'1' + rng.random_range(0..9u8));
    }
    overwrite(number, &digits) + &scramble(extension, rng).replace(|c: char| c.is_ascii_alphabetic(), "x")
}

/// The first digit stays (it names the network), then zeros where test numbers have them, and Luhn.
fn card(value: &str, rng: &mut ChaCha8Rng) -> String {
    let mut digits: Vec<u8> = value.bytes().filter(u8::is_ascii_digit).collect();
    let n = digits.len();
    let fixed = if digits.first() == Some(&b'4') { 1 } else { 4 };
    for (i, digit) in digits.iter_mut().enumerate().take(n.saturating_sub(1)).skip(fixed) {
        *digit = if i < 6 { b'0' } else { b'0' + rng.random_range(0..10u8) };
    }
    if let Some((last, body)) = digits.split_last_mut() {
        *last = detect::luhn_digit(body);
    }
    overwrite(value, &digits)
}

fn iban(value: &str, rng: &mut ChaCha8Rng) -> String {
    let compact: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
    let Some((country, account)) = compact.get(..2).zip(compact.get(4..)) else {
        return scramble(value, rng);
    };
    let account = scramble(account, rng);
    let check = detect::iban_check_digits(country, &account);
    let mut fresh = country.chars().chain(check.chars()).chain(account.chars());
    value.chars().map(|c| if c.is_ascii_alphanumeric() { fresh.next().unwrap_or(c) } else { c }).collect()
}

/// A number in the US form gets an area of 9xx, which is never issued.
fn national_id(value: &str, rng: &mut ChaCha8Rng) -> String {
    let fresh = scramble(value, rng);
    let is_ssn = value.len() == 11 && value.split(['-', ' ']).map(str::len).eq([3, 2, 4]);
    if is_ssn { format!("9{}", &fresh[1..]) } else { fresh }
}

/// A locally administered address.
fn mac(value: &str, rng: &mut ChaCha8Rng) -> String {
    let mut at = 0;
    let mut fresh = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_ascii_hexdigit() {
            let digit = match at {
                0 => 0,
                1 => 2,
                _ => rng.random_range(0..16u32),
            };
            let digit = char::from_digit(digit, 16).unwrap_or('0');
            fresh.push(if value.contains(|c: char| c.is_ascii_uppercase()) {
                digit.to_ascii_uppercase()
            } else {
                digit
            });
            at += 1;
        } else {
            fresh.push(c);
        }
    }
    fresh
}

/// Days and months become 1 to 12 (right for either), years move by up to two, weekdays and times stay.
fn date(value: &str, rng: &mut ChaCha8Rng) -> String {
    let time = value.find(':').map_or(value.len(), |colon| {
        value[..colon].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1)
    });
    let (day, time) = value.split_at(time);
    let mut fresh = String::with_capacity(value.len());
    let mut rest = day;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        fresh.push_str(&rest[..at]);
        let end = rest[at..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |e| at + e);
        let digits = &rest[at..end];
        let made = match (digits.len(), digits.parse::<u32>()) {
            (4, Ok(year)) => format!("{:04}", year + rng.random_range(1..=4u32) - 2),
            (1, _) => rng.random_range(1..=9u32).to_string(),
            (2, _) => format!("{:02}", rng.random_range(1..=12u32)),
            _ => digits.to_owned(),
        };
        fresh.push_str(&made);
        rest = &rest[end..];
    }
    fresh + rest + time
}

/// House numbers and postcodes scrambled, names replaced; street words, units, states and countries stay.
fn address(value: &str, rng: &mut ChaCha8Rng) -> String {
    by_word(value, |word| {
        if word.contains(|c: char| c.is_ascii_digit()) {
            return scramble(word, rng);
        }
        let keeps = STREET | STREET_BEFORE | UNIT | STATE | COUNTRY | PARTICLE | TITLE | MONTH | WEEKDAY;
        if lexicon::roles(word) & keeps != 0 || word.len() < 3 {
            word.to_owned()
        } else {
            in_case_of(word, pick(&SURNAMES, rng))
        }
    })
}

fn person(value: &str, rng: &mut ChaCha8Rng) -> String {
    let mut is_first = true;
    by_word(value, |word| {
        let names = if is_first { &FIRST_NAMES } else { &SURNAMES };
        is_first = false;
        if word.chars().count() == 1 { scramble(word, rng) } else { in_case_of(word, pick(names, rng)) }
    })
}

fn by_word(value: &str, mut replace: impl FnMut(&str) -> String) -> String {
    let mut fresh = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find(char::is_alphanumeric) {
        fresh.push_str(&rest[..at]);
        let end = rest[at..].find(|c: char| !c.is_alphanumeric()).map_or(rest.len(), |e| at + e);
        fresh.push_str(&replace(&rest[at..end]));
        rest = &rest[end..];
    }
    fresh + rest
}

fn in_case_of(model: &str, name: &str) -> String {
    if !model.contains(char::is_lowercase) {
        name.to_uppercase()
    } else if !model.contains(char::is_uppercase) {
        name.to_lowercase()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pii::{PiiConfig, find};

    /// The fake has the form given (`9` for a digit, `a` and `A` for letters, others as they stand) and is
    /// found as the same kind.
    fn check(kind: Kind, value: &str, form: &str) {
        let key = PiiKey::from_hex(&"07".repeat(32)).unwrap();
        let made = fake(kind, kind.label(), value, value, &key);
        assert_eq!(made, fake(kind, kind.label(), value, value, &key));
        assert_ne!(made, value);
        let got: String = made
            .chars()
            .map(|c| match c {
                '0'..='9' => '9',
                'a'..='z' => 'a',
                'A'..='Z' => 'A',
                c => c,
            })
            .collect();
        assert_eq!(got, form, "{made}");
        let text = format!("{} {made}", kind.label().to_lowercase());
        let found = find(&text, &PiiConfig::everything());
        assert!(found.iter().any(|s| s.kind == kind && s.end == text.len()), "{text}: {found:?}");
    }

    #[test]
    fn a_fake_keeps_the_form_and_is_found_as_the_same_kind() {
        check(Kind::Card, "4929 3600 0381 1724", "9999 9999 9999 9999");
        check(Kind::Iban, "DE89 3704 0044 0532 0130 00", "AA99 9999 9999 9999 9999 99");
        check(Kind::Phone, "(978) 645-9740x11", "(999) 999-9999a99");
        check(Kind::Phone, "089 72 63 41", "999 99 99 99");
        check(Kind::NationalId, "308-63-0237", "999-99-9999");
        check(Kind::Date, "1993-01-04 14:56:41", "9999-99-99 99:99:99");
        check(Kind::Date, "11/15/1979", "99/99/9999");
    }
}
