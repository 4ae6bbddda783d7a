//! The checkable things that a text states: amounts, figures with their units, times, names, addresses.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

/// What a fact is about: facts of one kind can contradict each other, others cannot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Money,
    Percent,
    Time,
    /// A figure of this unit: days, points, items; empty where nothing follows it.
    Figure(String),
    Weekday,
    Month,
    /// An e-mail or web address.
    Address,
    /// A capitalised word inside a sentence.
    Name,
}

/// One fact, in a form in which equal facts are equal: `$75.00` is 75 of [`Kind::Money`], `two weeks` is 14 days.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fact {
    pub(super) kind: Kind,
    pub(super) value: String,
}

struct Patterns {
    address: Regex,
    money: Regex,
    percent: Regex,
    time: Regex,
    clock: Regex,
    figure: Regex,
    name: Regex,
}

const FIGURE: &str = r"\d(?:[\d,]*\d)?(?:\.\d+)?";

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let pattern = |text: &str| Regex::new(text).expect("a constant pattern");
    let words = NUMBER_WORDS.map(|(word, _)| word).join("|");
    Patterns {
        address: pattern(r"(?i)[\w.+-]+@[\w-]+(?:\.[\w-]+)+|\bhttps?://[^\s)>\]]+|\bwww\.[^\s)>\]]+"),
        money: pattern(&format!(
            r"(?i)[$€£]\s?({FIGURE})|({FIGURE}|\b(?:{words}))[\s-](?:us\s)?(?:dollars?|usd|euros?|eur|pounds?|gbp)\b"
        )),
        percent: pattern(&format!(r"(?i)({FIGURE}|\b(?:{words}))\s?(?:%|percent\b|per cent\b)")),
        time: pattern(r"(?i)\b(\d{1,2})(?:[:.](\d{2}))?\s?([ap])\.?\s?m\b|\b(noon|midnight)\b"),
        clock: pattern(r"\b(\d{1,2}):(\d{2})\b"),
        figure: pattern(&format!(
            r"(?i)({FIGURE}|\b(?:{words})\b)(?:st|nd|rd|th)?(?:[\s-]+(?:business|working|calendar|consecutive|full|loyalty|bonus)\b)?(?:[\s-]+([a-z]+))?"
        )),
        name: pattern(r"\b\p{Lu}[\w’'&-]+"),
    }
});

const NUMBER_WORDS: [(&str, u32); 29] = [
    ("seventeen", 17),
    ("seventy", 70),
    ("sixteen", 16),
    ("sixty", 60),
    ("fourteen", 14),
    ("forty", 40),
    ("eighteen", 18),
    ("eighty", 80),
    ("nineteen", 19),
    ("ninety", 90),
    ("thirteen", 13),
    ("thirty", 30),
    ("fifteen", 15),
    ("fifty", 50),
    ("twelve", 12),
    ("twenty", 20),
    ("eleven", 11),
    ("hundred", 100),
    ("one", 1),
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("seven", 7),
    ("eight", 8),
    ("nine", 9),
    ("ten", 10),
    ("dozen", 12),
];

const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// The facts of a text, each once.
pub(super) fn facts(text: &str) -> BTreeSet<Fact> {
    let mut found = BTreeSet::new();
    // Each pattern blanks out what it took, so that the 75 of $75 is not a bare figure as well.
    let mut rest = text.to_owned();
    let mut take =
        |rest: &mut String, pattern: &Regex, read: &dyn Fn(&regex::Captures<'_>) -> Option<Fact>| {
            let mut blanked = String::with_capacity(rest.len());
            let mut at = 0;
            for captures in pattern.captures_iter(rest) {
                let whole = captures.get_match();
                if let Some(fact) = read(&captures) {
                    found.insert(fact);
                    blanked.push_str(&rest[at..whole.start()]);
                    blanked.push_str(" ; ");
                    at = whole.end();
                }
            }
            blanked.push_str(&rest[at..]);
            *rest = blanked;
        };
    let first_group = |c: &regex::Captures<'_>| c.iter().skip(1).flatten().next().map(|m| number(m.as_str()));
    take(&mut rest, &PATTERNS.address, &|c| {
        let address = c.get_match().as_str().to_lowercase();
        Some(Fact { kind: Kind::Address, value: address.trim_end_matches(['.', '/', ',']).to_owned() })
    });
    take(&mut rest, &PATTERNS.money, &|c| Some(Fact { kind: Kind::Money, value: first_group(c)? }));
    take(&mut rest, &PATTERNS.percent, &|c| Some(Fact { kind: Kind::Percent, value: first_group(c)? }));
    take(&mut rest, &PATTERNS.time, &|c| Some(Fact { kind: Kind::Time, value: time_of_day(c)? }));
    take(&mut rest, &PATTERNS.clock, &|c| {
        let (hours, minutes): (u32, u32) = (c[1].parse().ok()?, c[2].parse().ok()?);
        (hours < 24 && minutes < 60)
            .then(|| Fact { kind: Kind::Time, value: format!("{}", hours * 60 + minutes) })
    });
    take(&mut rest, &PATTERNS.figure, &|c| {
        let unit = c.get(2).map_or("", |m| m.as_str());
        // "one" alone is a pronoun more often than a number.
        let counts = !c[1].eq_ignore_ascii_case("one") || is_measure(unit);
        counts.then(|| figure(&number(&c[1]), unit))
    });
    for (word, starts_sentence) in words(&rest) {
        let lower = word.to_lowercase();
        let lower = lower.trim_end_matches("'s").trim_end_matches("’s");
        if let Some(day) = WEEKDAYS.iter().find(|day| lower == **day || lower.strip_suffix('s') == Some(day))
        {
            found.insert(Fact { kind: Kind::Weekday, value: (*day).to_owned() });
        } else if MONTHS.contains(&lower) && word.starts_with(char::is_uppercase) && !starts_sentence {
            found.insert(Fact { kind: Kind::Month, value: lower.to_owned() });
        } else if !starts_sentence && lower.len() > 1 && PATTERNS.name.is_match(word) && !is_plain(lower) {
            found.insert(Fact { kind: Kind::Name, value: lower.to_owned() });
        }
    }
    found
}

/// Each word with whether it opens a sentence, where a capital says nothing.
fn words(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut opens = true;
    text.split_whitespace().map(move |piece| {
        let word = piece.trim_matches(|c: char| !c.is_alphanumeric());
        let opened = opens;
        opens = piece.ends_with(['.', '!', '?', ':', '"', '”', ';']) || (opened && word.is_empty());
        (word, opened)
    })
}

/// Words that stand in capitals for politeness or emphasis and name nothing.
fn is_plain(lower: &str) -> bool {
    [
        "i", "i'm", "i'll", "i’m", "yes", "no", "not", "we", "you", "ok", "please", "dear", "hi", "hello",
        "thank", "thanks", "the", "customer", "sir", "madam", "faq",
    ]
    .contains(&lower)
}

fn is_measure(unit: &str) -> bool {
    [
        "day", "days", "week", "weeks", "month", "months", "year", "years", "hour", "hours", "minute",
        "minutes", "point", "points",
    ]
    .contains(&unit.to_lowercase().as_str())
}

/// `1,000.50` as `1000.5`; `thirty` as `30`.
fn number(text: &str) -> String {
    let lower = text.to_lowercase();
    if let Some((_, value)) = NUMBER_WORDS.iter().find(|(word, _)| *word == lower) {
        return value.to_string();
    }
    let plain = lower.replace(',', "");
    if plain.contains('.') { plain.trim_end_matches('0').trim_end_matches('.').to_owned() } else { plain }
}

/// A figure with its unit in the singular; weeks become days and years months.
fn figure(value: &str, unit: &str) -> Fact {
    let lower = unit.to_lowercase();
    let (factor, unit) = match lower.as_str() {
        "week" | "weeks" => (7.0, "day"),
        "year" | "years" => (12.0, "month"),
        "day" | "days" => (1.0, "day"),
        other if STOP_UNITS.contains(&other) => (1.0, ""),
        other => (1.0, other.strip_suffix('s').filter(|stem| stem.len() > 2).unwrap_or(other)),
    };
    let value = match value.parse::<f64>() {
        Ok(number) if factor != 1.0 => (number * factor).to_string(),
        _ => value.to_owned(),
    };
    Fact { kind: Kind::Figure(unit.to_owned()), value }
}

/// Words after a figure that are no unit.
const STOP_UNITS: [&str; 24] = [
    "a", "an", "and", "as", "at", "but", "by", "for", "from", "if", "in", "is", "of", "on", "or", "per",
    "the", "to", "with", "you", "we", "are", "will", "after",
];

/// Minutes since midnight.
fn time_of_day(c: &regex::Captures<'_>) -> Option<String> {
    if let Some(word) = c.get(4) {
        return Some(if word.as_str().eq_ignore_ascii_case("noon") { "720" } else { "0" }.to_owned());
    }
    let hours: u32 = c[1].parse().ok().filter(|h| (1..=12).contains(h))?;
    let minutes: u32 = c.get(2).map_or(Some(0), |m| m.as_str().parse().ok()).filter(|m| *m < 60)?;
    let half = if c[3].eq_ignore_ascii_case("p") { 12 } else { 0 };
    Some(((hours % 12 + half) * 60 + minutes).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(&str, &str)]) {
        let found: Vec<(String, String)> =
            facts(text).into_iter().map(|f| (format!("{:?}", f.kind), f.value)).collect();
        let found: Vec<(&str, &str)> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn facts_take_one_form() {
        check("Orders over $75.00 ship free", &[("Money", "75")]);
        check("It costs 1,200 dollars or 15 percent", &[("Money", "1200"), ("Percent", "15")]);
        check("within two weeks", &[("Figure(\"day\")", "14")]);
        check("within fourteen business days", &[("Figure(\"day\")", "14")]);
        check("open 9 a.m. to 8:30 PM", &[("Time", "1230"), ("Time", "540")]);
        check("from noon until 17:00", &[("Time", "1020"), ("Time", "720")]);
        check("Closed on Sundays", &[("Weekday", "sunday")]);
        check("write to Help@Shop.example.", &[("Address", "help@shop.example")]);
        check("We ship to Canada. You may ask.", &[("Name", "canada")]);
        check("one of them", &[]);
        check("one year", &[("Figure(\"month\")", "12")]);
        check("100 points are 5", &[("Figure(\"\")", "5"), ("Figure(\"point\")", "100")]);
        check("Seventeen items", &[("Figure(\"item\")", "17")]);
        check("", &[]);
    }
}
