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

/// One fact, in a form in which equal facts are equal: `$75.00` is `75 usd`, `two weeks` is 14 days.
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

/// A number in figures or words: `1,500`, `1.5 million`, `twenty-five`, `a hundred and ten`, `dozen`.
fn number_pattern() -> String {
    let of = |words: &[(&str, f64)]| words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join("|");
    let (ones, teens, tens, scales) = (of(&ONES), of(&TEENS), of(&TENS), of(&SCALES));
    let small = format!(r"(?:(?:{tens})(?:[\s-](?:{ones}))?|{teens}|{ones})\b");
    let scaled = format!(r"(?:[\s-](?:{scales})\b(?:[\s-](?:and\s)?{small})?)");
    format!(r"(?:(?:{FIGURE}|\b{small}|\ban?\b){scaled}+|{FIGURE}|\b{small}|\b(?:{scales})\b)")
}

/// A minus that belongs to the number after it, and not to a range such as 3-5.
const SIGN: &str = r"(?:^|[\s(])[-−]";

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let pattern = |text: &str| Regex::new(text).expect("a constant pattern");
    let number = number_pattern();
    Patterns {
        address: pattern(r"(?i)[\w.+-]+@[\w-]+(?:\.[\w-]+)+|\bhttps?://[^\s)>\]]+|\bwww\.[^\s)>\]]+"),
        money: pattern(&format!(
            r"(?i)({SIGN})?((?:\bus\s?)?\$|[€£¥₹]|\b(?:usd|eur|gbp|jpy|inr)\b)\s?({number})|({SIGN})?({number})([$£¥₹]|\s?€|[\s-]?(?:us\s)?(?:dollars?|usd|euros?|eur|pounds?|gbp|yen|jpy|rupees?|inr)\b)"
        )),
        percent: pattern(&format!(r"(?i)({SIGN})?({number})\s?(?:%|percent\b|per cent\b)")),
        time: pattern(r"(?i)\b(\d{1,2})(?:[:.](\d{2}))?\s?([ap])\.?\s?m\b|\b(noon|midnight)\b"),
        clock: pattern(r"\b(\d{1,2}):(\d{2})\b"),
        figure: pattern(&format!(
            r"(?i)({SIGN}|\bminus\s)?({number})(?:st|nd|rd|th)?(?:[\s-]+(?:business|working|calendar|consecutive|full|loyalty|bonus)\b)?(?:[\s-]+([a-z]+))?"
        )),
        name: pattern(r"\b\p{Lu}[\w’'&-]+"),
    }
});

const ONES: [(&str, f64); 9] = [
    ("one", 1.0),
    ("two", 2.0),
    ("three", 3.0),
    ("four", 4.0),
    ("five", 5.0),
    ("six", 6.0),
    ("seven", 7.0),
    ("eight", 8.0),
    ("nine", 9.0),
];
const TEENS: [(&str, f64); 10] = [
    ("ten", 10.0),
    ("eleven", 11.0),
    ("twelve", 12.0),
    ("thirteen", 13.0),
    ("fourteen", 14.0),
    ("fifteen", 15.0),
    ("sixteen", 16.0),
    ("seventeen", 17.0),
    ("eighteen", 18.0),
    ("nineteen", 19.0),
];
const TENS: [(&str, f64); 8] = [
    ("twenty", 20.0),
    ("thirty", 30.0),
    ("forty", 40.0),
    ("fifty", 50.0),
    ("sixty", 60.0),
    ("seventy", 70.0),
    ("eighty", 80.0),
    ("ninety", 90.0),
];
/// What multiplies the number before it.
const SCALES: [(&str, f64); 6] = [
    ("dozen", 12.0),
    ("hundred", 100.0),
    ("thousand", 1e3),
    ("million", 1e6),
    ("billion", 1e9),
    ("trillion", 1e12),
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
    take(&mut rest, &PATTERNS.address, &|c| {
        let address = c.get_match().as_str().to_lowercase();
        Some(Fact { kind: Kind::Address, value: address.trim_end_matches(['.', '/', ',']).to_owned() })
    });
    take(&mut rest, &PATTERNS.money, &|c| {
        let (sign, amount, unit) = if c.get(3).is_some() { (1, 3, 2) } else { (4, 5, 6) };
        Some(Fact { kind: Kind::Money, value: format!("{} {}", signed(c, sign, amount), currency(&c[unit])) })
    });
    take(&mut rest, &PATTERNS.percent, &|c| Some(Fact { kind: Kind::Percent, value: signed(c, 1, 2) }));
    take(&mut rest, &PATTERNS.time, &|c| Some(Fact { kind: Kind::Time, value: time_of_day(c)? }));
    take(&mut rest, &PATTERNS.clock, &|c| {
        let (hours, minutes): (u32, u32) = (c[1].parse().ok()?, c[2].parse().ok()?);
        (hours < 24 && minutes < 60)
            .then(|| Fact { kind: Kind::Time, value: format!("{}", hours * 60 + minutes) })
    });
    take(&mut rest, &PATTERNS.figure, &|c| {
        let unit = c.get(3).map_or("", |m| m.as_str());
        // "one" alone is a pronoun more often than a number.
        let counts = !c[2].eq_ignore_ascii_case("one") || is_measure(unit);
        counts.then(|| figure(&signed(c, 1, 2), unit))
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

/// The number of one group with the sign of another.
fn signed(c: &regex::Captures<'_>, sign: usize, of: usize) -> String {
    let minus = if c.get(sign).is_some() { "-" } else { "" };
    format!("{minus}{}", number(&c[of]))
}

/// `1,000.50` as `1000.5`; `twenty-five` as `25`; `1.5 million` as `1500000`.
fn number(text: &str) -> String {
    let plain = text.to_lowercase().replace(',', "");
    if plain.bytes().all(|b| b.is_ascii_digit()) {
        return plain;
    }
    let (mut sum, mut part) = (0.0, 0.0);
    for word in plain.split([' ', '\t', '\n', '\r', '-']) {
        let of =
            |words: &[(&str, f64)]| words.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        if let Some(scale) = of(&SCALES) {
            part = if part == 0.0 { scale } else { part * scale };
            // Hundreds and dozens are still counted by what follows: two hundred thousand.
            if scale >= 1000.0 {
                sum += std::mem::take(&mut part);
            }
        } else if let Some(value) = of(&ONES).or(of(&TEENS)).or(of(&TENS)) {
            part += value;
        } else if word == "a" || word == "an" {
            part += 1.0;
        } else {
            part += word.parse().unwrap_or(0.0);
        }
    }
    // Rounded, because 2.3 million is 2299999.9999999995.
    format!("{:.6}", sum + part).trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn currency(said: &str) -> &'static str {
    let lower = said.to_lowercase();
    let names: [(&str, &[&str]); 4] = [
        ("eur", &["€", "eur"]),
        ("gbp", &["£", "gbp", "pound"]),
        ("jpy", &["¥", "jpy", "yen"]),
        ("inr", &["₹", "inr", "rupee"]),
    ];
    let named = names.iter().find(|(_, names)| names.iter().any(|name| lower.contains(name)));
    named.map_or("usd", |(code, _)| code)
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
        check("Orders over $75.00 ship free", &[("Money", "75 usd")]);
        check("It costs 1,200 dollars or 15 percent", &[("Money", "1200 usd"), ("Percent", "15")]);
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

    #[test]
    fn amounts_keep_their_currency() {
        for ten in ["$10", "US$10", "US $10", "10 dollars", "ten US dollars", "10$", "10-dollar", "USD 10"] {
            check(ten, &[("Money", "10 usd")]);
        }
        for ten in ["€10", "€ 10.00", "10 €", "10€", "10 euros", "ten euro", "EUR 10"] {
            check(ten, &[("Money", "10 eur")]);
        }
        check("£10 or ten pounds", &[("Money", "10 gbp")]);
        check("¥500, 500 yen, ₹20, 20 rupees", &[("Money", "20 inr"), ("Money", "500 jpy")]);
        check("$1.5 million", &[("Money", "1500000 usd")]);
        check("the balance is -$5", &[("Money", "-5 usd")]);
    }

    #[test]
    fn numbers_keep_their_sign() {
        for cold in ["It was -5 degrees.", "-5 degrees", "minus five degrees", "(−5 degrees)"] {
            check(cold, &[("Figure(\"degree\")", "-5")]);
        }
        check("it fell by -2.5%", &[("Percent", "-2.5")]);
        check("3-5 days", &[("Figure(\"\")", "3"), ("Figure(\"day\")", "5")]);
        check("Shipping - 5 days", &[("Figure(\"day\")", "5")]);
    }

    #[test]
    fn numbers_are_read_in_words() {
        let check = |text: &str, expect: &str| check(text, &[("Figure(\"user\")", expect)]);
        check("twenty-five users", "25");
        check("twenty five users", "25");
        check("a hundred users", "100");
        check("one hundred and twenty-one users", "121");
        check("two thousand five hundred users", "2500");
        check("three hundred and twelve thousand and six users", "312006");
        check("1.5 million users", "1500000");
        check("1,500,000 users", "1500000");
        check("2.3 million users", "2300000");
        check("1.5 billion users", "1500000000");
        check("two dozen users", "24");
        check("dozen users", "12");
        check("123456789012345678901 users", "123456789012345678901");
    }
}
