use super::with_context;
use crate::pii::lexicon::{self, MONTH, SAYS_BIRTH, SAYS_VERSION, WEEKDAY};
use crate::pii::scan::{Scan, Token};
use crate::pii::{Kind, Span};

/// Dates with a day: `3/23/1940`, `1993-01-04 14:56:41`, `5. Mai 1990`, `May 5th, 2020`, `Friday, 4 July`;
/// a month with its year; a weekday's name. A time of day that follows belongs to it. Near "born", "DOB" and
/// their like it is a date of birth.
///
/// Bare years, decades, durations and times of day are not dates.
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    let mut resume = 0;
    for &i in &scan.numeric {
        if scan.tokens[i].start >= resume
            && let Some((last, score)) = numeric(scan, i).or_else(|| ideographic(scan, i))
        {
            resume = push(scan, i, last, score, out);
        }
    }
    resume = 0;
    for &i in &scan.dated {
        if scan.tokens[i].start < resume {
            continue;
        }
        let found = if scan.tokens[i].has(MONTH) { with_month(scan, i) } else { None };
        let (first, last, score) = match found {
            Some(found) => found,
            None if scan.tokens[i].has(WEEKDAY) => weekday(scan, i),
            None => continue,
        };
        resume = push(scan, first, last, score, out);
    }
}

/// Adds the span of tokens `first..=last` with its time of day, and returns where it ends.
fn push(scan: &Scan, first: usize, last: usize, score: f32, out: &mut Vec<Span>) -> usize {
    let start = scan.tokens[first].start;
    // What follows the day's sign in its word (`12日に`) is grammar.
    let after_sign = ["日", "일"].iter().find(|sign| scan.str(last).starts_with(*sign));
    let end = after_sign.map_or(scan.tokens[last].end, |sign| scan.tokens[last].start + sign.len());
    let end = time_after(scan, last).unwrap_or(end);
    let is_only_a_weekday = first == last && scan.tokens[first].has(WEEKDAY);
    let is_birth = !is_only_a_weekday
        && (scan.near_before(first, 7, SAYS_BIRTH)
            || scan.near_after(last, 2, SAYS_BIRTH)
            || scan.before(first, 3).map(|j| scan.str(j).to_ascii_lowercase()).eq(["b", "o", "d"]));
    let kind = if is_birth { Kind::DateOfBirth } else { Kind::Date };
    out.push(Span::new(start, end, kind, with_context(score, is_birth)));
    end
}

/// A date of three numbers that starts at token `i`: its last token and score.
fn numeric(scan: &Scan, i: usize) -> Option<(usize, f32)> {
    let [a, b, c] = scan.tokens.get(i..i + 3)? else { return None };
    if !(a.is_digits() && b.is_digits() && c.has_digit()) || a.len() > 4 || b.len() > 2 {
        return None;
    }
    let separator = scan.gap(i);
    if !matches!(separator, "-" | "/" | "." | ". ") || scan.gap(i + 1) != separator || scan.in_url(a.start) {
        return None;
    }
    // `2020-01-05T14:30` joins the day and the hour in one word.
    let third: String = scan.str(i + 2).chars().take_while(char::is_ascii_digit).collect();
    let has_time = scan.str(i + 2)[third.len()..].starts_with('T');
    if third.len() != c.len() && !(has_time && a.len() == 4) {
        return None;
    }
    let number = |s: &str| s.parse::<u32>().unwrap_or(u32::MAX);
    let (x, y, z) = (number(scan.str(i)), number(scan.str(i + 1)), number(&third));
    let is_day_of = |day: u32, month: u32| (1..=31).contains(&day) && (1..=12).contains(&month);
    let is_year = |year: u32| (1850..=2100).contains(&year);
    let score = match (a.len(), third.len()) {
        (4, 1 | 2) if is_year(x) && is_day_of(z, y) => 0.85,
        (1 | 2, 4) if is_year(z) && (is_day_of(x, y) || is_day_of(y, x)) => 0.85,
        (1 | 2, 2) if is_day_of(x, y) || is_day_of(y, x) => match separator {
            "/" => 0.55,
            _ => 0.35,
        },
        _ => return None,
    };
    let end = scan.tokens[i + 2].end;
    let glued = |byte: Option<u8>| byte.is_some_and(|b| b"./-_".contains(&b));
    let goes_on = glued(scan.byte(end)) && scan.byte(end + 1).is_some_and(|b| b.is_ascii_alphanumeric());
    let is_part = glued(scan.byte_before(a.start))
        && a.start >= 2
        && scan.byte(a.start - 2).is_some_and(|b| b.is_ascii_alphanumeric())
        || matches!(scan.byte_before(a.start), Some(b'_' | b'$'));
    if goes_on || is_part {
        return None;
    }
    let is_version = separator == "." && scan.near_before(i, 2, SAYS_VERSION);
    Some((i + 2, if is_version { 0.1 } else { score }))
}

/// `1985年3月12日`, `1985년 3월 12일`.
fn ideographic(scan: &Scan, i: usize) -> Option<(usize, f32)> {
    let units = [["年", "년"], ["月", "월"], ["日", "일"]];
    let [y, _, m, _, d, _] = scan.tokens.get(i..i + 6)? else { return None };
    let fits = y.is_digits()
        && is_year(scan.str(i))
        && m.is_digits()
        && is_day(scan.str(i + 2))
        && d.is_digits()
        && is_day(scan.str(i + 4))
        && units.iter().zip([i + 1, i + 3, i + 5]).all(|(unit, at)| {
            let has_unit = unit.iter().any(|u| scan.str(at).starts_with(u));
            has_unit && scan.gap(at - 1).is_empty() && (at == i + 5 || matches!(scan.gap(at), "" | " "))
        });
    fits.then_some((i + 5, 0.85))
}

/// A date around the month's name at token `m`: its first and last token and score.
fn with_month(scan: &Scan, m: usize) -> Option<(usize, usize, f32)> {
    if scan.in_url(scan.tokens[m].start) || lexicon::month(scan.str(m)).is_none() {
        return None;
    }
    let day_before = day_before(scan, m);
    let mut last = m;
    let mut year = None;
    let mut day_after = None;
    // "May 5", "May 5th, 2020"; then a year after either form.
    if day_before.is_none()
        && joins(scan.gap(m), &[" ", ". ", "-"])
        && scan.tokens.get(m + 1).is_some_and(|_| is_day(scan.str(m + 1)))
    {
        let next_is_digit = scan.gap(m + 1) == ":"
            || (scan.gap(m + 1) == "." || scan.gap(m + 1) == ",")
                && scan.tokens.get(m + 2).is_some_and(Token::has_digit);
        if !next_is_digit || scan.gap(m + 1) == "," {
            day_after = Some(m + 1);
            last = m + 1;
        }
    }
    let year_gaps = [" ", ", ", ",", ". ", "-", " , ", "/", " de ", " del ", " of "];
    let mut j = last;
    let mut gap = scan.gap(j).to_owned();
    // "5 de mayo de 1990": the connecting word is a token of its own.
    if scan.tokens.get(j + 1).is_some_and(|_| matches!(scan.str(j + 1), "de" | "del" | "of")) {
        gap = format!("{gap}{}{}", scan.str(j + 1), scan.gap(j + 1));
        j += 1;
    }
    // "12-Mar-85", "3 May '21": after a full date two digits are a year too.
    let is_short_year = |t: &Token| t.is_digits() && t.len() == 2 && day_before.is_some();
    let next = scan.tokens.get(j + 1).filter(|t| t.is_digits());
    if next.is_some_and(|t| {
        joins(&gap, &year_gaps) && is_year(scan.str(j + 1))
            || matches!(gap.as_str(), "-" | "/" | " '" | " ’") && is_short_year(t)
    }) {
        year = Some(j + 1);
        last = j + 1;
    }
    if day_before.is_none() && day_after.is_none() && year.is_none() {
        return None;
    }
    // "may 5" and "march 3" in lower case are more often verbs.
    let is_word = scan.tokens[m].has(lexicon::COMMON) && !scan.tokens[m].is_capitalised();
    let is_verb =
        is_word && ["may", "march"].iter().any(|w| scan.str(m).eq_ignore_ascii_case(w)) && year.is_none();
    let has_day = day_before.is_some() || day_after.is_some();
    let score = match (has_day, year.is_some()) {
        _ if is_verb => 0.3,
        (true, true) => 0.95,
        (true, false) => 0.7,
        _ => 0.55,
    };
    let first = day_before.unwrap_or(m);
    let first = match first.checked_sub(1) {
        Some(w)
            if scan.tokens[w].has(WEEKDAY) && joins(scan.gap(w), &[" ", ", ", ",", ". ", " the ", " , "]) =>
        {
            w
        }
        _ => first,
    };
    Some((first, last, score))
}

/// "5 May", "5. Mai", "5th of May", "5-May": the day's token.
fn day_before(scan: &Scan, m: usize) -> Option<usize> {
    let mut d = m.checked_sub(1)?;
    let mut gap = scan.gap(d);
    if matches!(scan.str(d), "of" | "de" | "di" | "day") {
        d = d.checked_sub(1)?;
        gap = scan.gap(d);
    }
    (joins(gap, &[" ", ". ", "-", ".", "/"])
        && is_day(scan.str(d))
        && !scan.glued_before(scan.tokens[d].start))
    .then_some(d)
}

fn joins(gap: &str, allowed: &[&str]) -> bool {
    allowed.contains(&gap)
}

/// `5`, `05`, `5th`, `1er`.
fn is_day(word: &str) -> bool {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let is_ordinal =
        matches!(word[digits..].to_ascii_lowercase().as_str(), "" | "st" | "nd" | "rd" | "th" | "er" | "º");
    (1..=2).contains(&digits)
        && is_ordinal
        && word[..digits].parse::<u32>().is_ok_and(|d| (1..=31).contains(&d))
}

fn is_year(word: &str) -> bool {
    word.len() == 4 && word.parse::<u32>().is_ok_and(|y| (1000..=2100).contains(&y))
}

/// A weekday alone. In a name ("Black Friday", "Sunday Times") it counts less.
fn weekday(scan: &Scan, i: usize) -> (usize, usize, f32) {
    let next_is_name = scan.gap(i) == " "
        && scan
            .tokens
            .get(i + 1)
            .is_some_and(|t| t.is_capitalised() && !t.has(lexicon::COMMON) && !t.has(MONTH));
    let after_name = i > 0
        && scan.gap(i - 1) == " "
        && scan.tokens[i - 1].is_capitalised()
        && !scan.tokens[i - 1].has(lexicon::COMMON);
    (i, i, if next_is_name || after_name { 0.45 } else { 0.6 })
}

/// Where a time of day that follows token `last` ends: `14:56:41.5Z`, `at 2:30 pm`, `T14:30+01:00`.
fn time_after(scan: &Scan, last: usize) -> Option<usize> {
    let end = scan.tokens[last].end;
    let word = scan.str(last);
    // The hour may hang on the day's word ("05T14").
    let from = match word.find('T') {
        Some(t) if word[..t].bytes().all(|b| b.is_ascii_digit()) => end - (word.len() - t) + 1,
        _ => {
            let rest = &scan.text[end..];
            let lead = [", at ", " at ", ", ", " ", "T"].into_iter().find(|l| rest.starts_with(l))?;
            end + lead.len()
        }
    };
    let bytes = scan.text.as_bytes();
    let digits = |at: usize| bytes[at.min(bytes.len())..].iter().take_while(|b| b.is_ascii_digit()).count();
    let hour = digits(from);
    if !(1..=2).contains(&hour) || bytes.get(from + hour) != Some(&b':') || digits(from + hour + 1) != 2 {
        return None;
    }
    let mut at = from + hour + 3;
    if bytes.get(at) == Some(&b':') && digits(at + 1) == 2 {
        at += 3;
        if matches!(bytes.get(at), Some(b'.' | b',')) && digits(at + 1) > 0 && digits(at + 1) <= 9 {
            at += 1 + digits(at + 1);
        }
    }
    let rest = &scan.text[at..];
    for suffix in [" am", " pm", " AM", " PM", "am", "pm", "AM", "PM", " a.m.", " p.m.", "Z", " UTC", " GMT"]
    {
        if rest.starts_with(suffix) && !rest[suffix.len()..].starts_with(|c: char| c.is_alphanumeric()) {
            return Some(at + suffix.len());
        }
    }
    if matches!(bytes.get(at), Some(b'+' | b'-'))
        && digits(at + 1) == 2
        && bytes.get(at + 3) == Some(&b':')
        && digits(at + 4) == 2
    {
        at += 6;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::{Date, DateOfBirth};

    #[test]
    fn dates_in_many_forms() {
        check("since 11/15/1979.", Date, &["11/15/1979"]);
        check("When: 1993-01-04 14:56:41\n", Date, &["1993-01-04 14:56:41"]);
        check(
            "at 2020-01-05T14:30:00.5Z and 2020-01-05T14:30+01:00",
            Date,
            &["2020-01-05T14:30:00.5Z", "2020-01-05T14:30+01:00"],
        );
        check("am 5. Mai 1990 und 05.12.1990", Date, &["5. Mai 1990", "05.12.1990"]);
        check("el 5 de mayo de 1990, le 1er août 2001", Date, &["5 de mayo de 1990", "1er août 2001"]);
        check("On Friday, May 5th, 2020 at 2:30 pm we met", Date, &["Friday, May 5th, 2020 at 2:30 pm"]);
        check("the 4th of July and Dec 25", Date, &["4th of July", "Dec 25"]);
        check("in June 2019, on sunday, 3/4/21", Date, &["June 2019", "sunday", "3/4/21"]);
        check("12-Mar-1988", Date, &["12-Mar-1988"]);
        check("12-MAR-85, 3 May '21 and 3 May 21 people", Date, &["12-MAR-85", "3 May '21", "3 May"]);
        check("1985年3月12日に、 1985년 3월 12일에", Date, &["1985年3月12日", "1985년 3월 12일"]);
    }

    #[test]
    fn birthdays() {
        check("She was born on 2/7/1961 in Rome", DateOfBirth, &["2/7/1961"]);
        check("tell me your date of birth. It's 3/23/1940", DateOfBirth, &["3/23/1940"]);
        check("D.O.B. 12-03-1985", DateOfBirth, &["12-03-1985"]);
        check("DOB: 01.02.90", DateOfBirth, &["01.02.90"]);
        check("生日是1985年3月12日。", DateOfBirth, &["1985年3月12日"]);
        check("geboren am 5. Mai 1990", DateOfBirth, &["5. Mai 1990"]);
        check("Born on a Monday.", DateOfBirth, &[]);
    }

    #[test]
    fn not_dates() {
        for text in [
            "in 1965 and the 1990s",
            "within 30 days",
            "10:30",
            "2.10.3",
            "v1.2.21",
            "1/2",
            "you may 5 times",
            "24/7",
            "31/31/2000",
            "1.2.2003.4",
            "https://x.org/2019/05/01/a",
            "May I?",
            "13/13/2013",
            "2 months",
        ] {
            check(text, Date, &[]);
        }
    }
}
