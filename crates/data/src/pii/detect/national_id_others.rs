use super::checksum::weighted;
use super::national_id::{Scheme, all_digits, is_one_digit_repeated, number};

/// Schemes of further countries: China, South Korea, Norway, Finland, Switzerland, Austria, Turkey and Romania.
pub(super) const SCHEMES: &[Scheme] = &[
    Scheme { length: 18, test: cn_resident },
    Scheme { length: 13, test: kr_rrn },
    Scheme { length: 11, test: no_birth },
    Scheme { length: 10, test: fi_hetu },
    Scheme { length: 11, test: fi_hetu_of_this_century },
    Scheme { length: 13, test: ch_ahv },
    Scheme { length: 10, test: at_svnr },
    Scheme { length: 11, test: tr_kimlik },
    Scheme { length: 13, test: ro_cnp },
];

fn is_month_and_day(month: &[u8], day: &[u8]) -> bool {
    number(month).is_some_and(|m| (1..=12).contains(&m)) && number(day).is_some_and(|d| (1..=31).contains(&d))
}

/// Chinese resident identity number: place, birthday, serial, and a check by ISO 7064 mod 11-2 (GB 11643).
fn cn_resident(id: &[u8], groups: &[usize]) -> Option<f32> {
    let (body, check) = id.split_at(17);
    let century = matches!(&id[6..8], b"18" | b"19" | b"20");
    if groups != [18] || !all_digits(body) || !century || !is_month_and_day(&id[10..12], &id[12..14]) {
        return None;
    }
    let sum = weighted(body, &[7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]);
    (check[0] == b"10X98765432"[(sum % 11) as usize]).then_some(0.95)
}

/// South Korean resident number, `980215-1979190`: birthday, sex and century, serial. Numbers given since October
/// 2020 have no check digit.
fn kr_rrn(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !all_digits(id) || !is_month_and_day(&id[2..4], &id[4..6]) || !(b'1'..=b'8').contains(&id[6]) {
        return None;
    }
    let sum = weighted(id, &[2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]);
    let fits = (11 - sum % 11) % 10 == u32::from(id[12] - b'0');
    match groups {
        [6, 7] => Some(if fits { 0.7 } else { 0.5 }),
        [13] if fits => Some(0.15),
        _ => None,
    }
}

/// Norwegian birth number: birthday (day + 40 for a D number), three digits, two checks modulo 11.
fn no_birth(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !all_digits(id) || !matches!(groups, [11] | [6, 5]) {
        return None;
    }
    let day = number(&id[..2])? % 40;
    let month = number(&id[2..4])?;
    let check =
        |weights: &[u32], digit: u8| (11 - weighted(id, weights) % 11) % 11 == u32::from(digit - b'0');
    let fits = (1..=31).contains(&day)
        && (1..=12).contains(&month)
        && check(&[3, 7, 6, 1, 8, 9, 4, 5, 2], id[9])
        && check(&[5, 4, 3, 2, 7, 6, 5, 4, 3, 2], id[10]);
    fits.then_some(if groups.len() > 1 { 0.7 } else { 0.4 })
}

/// Finnish personal identity code, `150384-608C`: birthday, century, serial, and the number modulo 31 as a sign.
fn fi_hetu(id: &[u8], groups: &[usize]) -> Option<f32> {
    if groups != [6, 4] || !all_digits(&id[..9]) || !is_month_and_day(&id[2..4], &id[..2]) {
        return None;
    }
    let sign = b"0123456789ABCDEFHJKLMNPRSTUVWXY"[(number(&id[..9])? % 31) as usize];
    (id[9] == sign).then_some(0.9)
}

/// The same of those born since 2000, `160724A859V`: a letter stands for the dash.
fn fi_hetu_of_this_century(id: &[u8], groups: &[usize]) -> Option<f32> {
    let parts = [&id[..6], &id[7..]].concat();
    (groups == [11] && (b'A'..=b'F').contains(&id[6])).then(|| fi_hetu(&parts, &[6, 4])).flatten()
}

/// Swiss (and Liechtenstein's) social security number, `756.1234.5678.97`: an EAN-13 in the range 756.
fn ch_ahv(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !all_digits(id) || !id.starts_with(b"756") {
        return None;
    }
    let sum = weighted(id, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3]);
    let fits = (10 - sum % 10) % 10 == u32::from(id[12] - b'0');
    match groups {
        [3, 4, 4, 2] if fits => Some(0.95),
        [13] if fits => Some(0.3),
        _ => None,
    }
}

/// Austrian social security number, `1237 010180`: serial, check modulo 11, birthday.
fn at_svnr(id: &[u8], groups: &[usize]) -> Option<f32> {
    if !all_digits(id) || id[0] == b'0' || !is_month_and_day(&id[6..8], &id[4..6]) {
        return None;
    }
    let fits = weighted(id, &[3, 7, 9, 0, 5, 8, 4, 2, 1, 6]) % 11 == u32::from(id[3] - b'0');
    match groups {
        [4, 6] if fits => Some(0.5),
        [10] if fits => Some(0.2),
        _ => None,
    }
}

/// Turkish identity number: eleven digits, of which the last two check the others.
fn tr_kimlik(id: &[u8], groups: &[usize]) -> Option<f32> {
    if groups != [11] || !all_digits(id) || id[0] == b'0' || is_one_digit_repeated(id) {
        return None;
    }
    let digit = |i: usize| u32::from(id[i] - b'0');
    let odd: u32 = (0..9).step_by(2).map(digit).sum();
    let even: u32 = (1..8).step_by(2).map(digit).sum();
    let fits = (odd * 7 + 90 - even) % 10 == digit(9) && (0..10).map(digit).sum::<u32>() % 10 == digit(10);
    fits.then_some(0.3)
}

/// Romanian personal number: sex and century, birthday, county, serial, and a check modulo 11.
fn ro_cnp(id: &[u8], groups: &[usize]) -> Option<f32> {
    if groups != [13] || !all_digits(id) || id[0] == b'0' || !is_month_and_day(&id[3..5], &id[5..7]) {
        return None;
    }
    let rest = weighted(id, &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]) % 11;
    (rest % 10 + u32::from(rest == 10) == u32::from(id[12] - b'0')).then_some(0.35)
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::NationalId;

    #[test]
    fn numbers_with_their_check_digits() {
        for (text, id) in [
            ("身份证号是451424198707268259。", "451424198707268259"),
            ("see 421100195409259198 here", "421100195409259198"),
            ("주민등록번호 980215-1979190", "980215-1979190"),
            ("fødselsnummer 26078704828", "26078704828"),
            ("henkilötunnus 150384-608C", "150384-608C"),
            ("see 160724A859V", "160724A859V"),
            ("AHV 756.3827.4906.50", "756.3827.4906.50"),
            ("SVNR 6826170783", "6826170783"),
            ("TC kimlik no 49825979160", "49825979160"),
            ("CNP 4750905249389", "4750905249389"),
        ] {
            check(text, NationalId, &[id]);
        }
    }

    #[test]
    fn not_numbers_of_persons() {
        for text in [
            "451424198707268258",
            "order 980215-9979190",
            "26078704828",
            "150384-608D",
            "756.3827.4906.51",
            "6826170783",
            "49825979160",
            "4750905249389",
        ] {
            check(text, NationalId, &[]);
        }
    }
}
