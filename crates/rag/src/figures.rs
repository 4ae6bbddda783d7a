use std::sync::LazyLock;

use regex::Regex;

/// A number of a text and what it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    /// Where it begins, in bytes.
    pub(crate) at: usize,
    /// In digits: `1,000.50` is `1000.5`, `twenty-five` is `25`, `2 million` is `2000000`.
    pub(crate) value: String,
    /// The currency, or up to three words after it, in the singular: `4 interest-free payments` counts `interest`,
    /// `free` and `payment`.
    pub(crate) counts: Vec<String>,
    is_written_out: bool,
}

static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"\d{1,2}:\d{2}\b|\d(?:[\d,]*\d)?(?:\.\d+)?|(?i:[ap]\.?m\b\.?)|[\p{L}\p{M}]+(?:['’]\p{L}+)?|[$€£¥%]|[.,;:!?()|]",
    )
    .expect("a constant pattern")
});

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const SCALES: [(&str, f64); 3] = [("thousand", 1e3), ("million", 1e6), ("billion", 1e9)];

/// Units under their names; two figures of different units are never the same.
const UNITS: [(&str, &[&str]); 26] = [
    ("second", &["seconds", "sec", "secs"]),
    ("minute", &["minutes", "min", "mins"]),
    ("hour", &["hours", "hr", "hrs"]),
    ("day", &["days"]),
    ("night", &["nights"]),
    ("week", &["weeks"]),
    ("month", &["months"]),
    ("year", &["years", "yr", "yrs"]),
    ("am", &["a.m", "a.m."]),
    ("pm", &["p.m", "p.m."]),
    ("dollar", &["dollars", "usd", "$"]),
    ("cent", &["cents"]),
    ("euro", &["euros", "eur", "€"]),
    ("pound", &["pounds", "gbp", "£", "lb", "lbs"]),
    ("yen", &["jpy", "¥"]),
    ("percent", &["%"]),
    ("mile", &["miles"]),
    ("kilometre", &["kilometres", "kilometer", "kilometers", "km"]),
    ("metre", &["metres", "meter", "meters"]),
    ("centimetre", &["centimetres", "centimeter", "centimeters", "cm"]),
    ("inch", &["inches"]),
    ("foot", &["feet", "ft"]),
    ("gram", &["grams"]),
    ("kilogram", &["kilograms", "kg"]),
    ("ounce", &["ounces", "oz"]),
    ("degree", &["degrees"]),
];

/// Words that end what a figure counts.
const ENDS: [&str; 28] = [
    "a", "an", "and", "are", "as", "at", "by", "can", "each", "every", "for", "from", "if", "in", "is",
    "may", "of", "on", "or", "per", "than", "that", "the", "to", "was", "were", "will", "with",
];

/// The figures of a text, in digits or in English words, in the order of the text.
pub(crate) fn figures(text: &str) -> Vec<Figure> {
    let tokens: Vec<(usize, &str)> = TOKEN.find_iter(text).map(|t| (t.start(), t.as_str())).collect();
    let words: Vec<String> = tokens.iter().map(|(_, token)| token.to_lowercase()).collect();
    let mut found = Vec::new();
    let mut i = 0;
    while i < words.len() {
        let Some((value, end)) = number(&words, i) else {
            i += 1;
            continue;
        };
        let currency = i.checked_sub(1).and_then(|before| currency(&words[before]));
        let counts = currency.map_or_else(|| counted(&words, end), |unit| vec![unit.to_owned()]);
        let is_written_out = !words[i].starts_with(|c: char| c.is_ascii_digit());
        found.push(Figure { at: tokens[i].0, value, counts, is_written_out });
        i = end;
    }
    found
}

impl Figure {
    /// Whether the other may stand for it: the same number, and not of another unit.
    pub(crate) fn equals(&self, other: &Figure) -> bool {
        self.value == other.value
            && (self.counts.is_empty()
                || other.counts.is_empty()
                || self.shares_count(other)
                || !(self.has_unit() || other.has_unit()))
    }

    /// Whether both count the same thing, be it `days` or nothing that is said.
    pub(crate) fn is_of_the_kind_of(&self, other: &Figure) -> bool {
        self.shares_count(other) || !(self.has_unit() || other.has_unit())
    }

    /// Whether it says how much. `one` without a unit is as often a pronoun.
    pub(crate) fn is_claim(&self) -> bool {
        !(self.is_written_out && self.value == "1") || self.has_unit()
    }

    fn shares_count(&self, other: &Figure) -> bool {
        self.counts.iter().any(|word| other.counts.contains(word))
    }

    fn has_unit(&self) -> bool {
        self.counts.iter().any(|word| UNITS.iter().any(|(name, _)| name == word))
    }
}

/// The number that begins at a token, in digits, and the token after it.
fn number(words: &[String], start: usize) -> Option<(String, usize)> {
    let (value, end) = if words[start].starts_with(|c: char| c.is_ascii_digit()) {
        (plain(&words[start]), start + 1)
    } else {
        let (value, end) = written_out(words, start)?;
        (value.to_string(), end)
    };
    let scale = words.get(end).and_then(|word| SCALES.iter().find(|(name, _)| name == word));
    match (scale, value.parse::<f64>()) {
        (Some((_, scale)), Ok(value)) => Some(((value * scale).to_string(), end + 1)),
        _ => Some((value, end)),
    }
}

/// `twenty five`, `a hundred`, `one hundred and fifty`.
fn written_out(words: &[String], start: usize) -> Option<(usize, usize)> {
    let is_hundred = |at: usize| words.get(at).is_some_and(|word| word == "hundred");
    let (hundreds, end) = match below_hundred(words, start) {
        Some((count, end)) if is_hundred(end) => (100 * count, end + 1),
        None if is_hundred(start) => (100, start + 1),
        below => return below,
    };
    let rest = end + usize::from(words.get(end).is_some_and(|word| word == "and"));
    match below_hundred(words, rest) {
        Some((count, end)) => Some((hundreds + count, end)),
        None => Some((hundreds, end)),
    }
}

fn below_hundred(words: &[String], start: usize) -> Option<(usize, usize)> {
    let small = |at: usize| words.get(at).and_then(|word| SMALL.iter().position(|name| name == word));
    if let Some(value) = small(start) {
        return Some((value, start + 1));
    }
    let tens = words.get(start).and_then(|word| TENS.iter().position(|name| name == word))?;
    let tens = 10 * (tens + 2);
    Some(match small(start + 1) {
        Some(ones @ 1..=9) => (tens + ones, start + 2),
        _ => (tens, start + 1),
    })
}

fn plain(figure: &str) -> String {
    let figure = figure.replace(',', "");
    match figure.strip_suffix(":00") {
        Some(hour) => hour.to_owned(),
        None if figure.contains('.') => figure.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => figure,
    }
}

fn currency(word: &str) -> Option<&'static str> {
    ["$", "€", "£", "¥", "usd", "eur", "gbp"].contains(&word).then(|| unit(word)).flatten()
}

fn unit(word: &str) -> Option<&'static str> {
    UNITS.iter().find(|(name, others)| *name == word || others.contains(&word)).map(|(name, _)| *name)
}

/// What the words from `start` on say is counted; of `3 to 5 days` also the 3.
fn counted(words: &[String], start: usize) -> Vec<String> {
    let is_ordinal = words.get(start).is_some_and(|word| ["st", "nd", "rd", "th"].contains(&word.as_str()));
    let start = start + usize::from(is_ordinal);
    let is_range = words.get(start).is_some_and(|word| ["to", "or", "and"].contains(&word.as_str()));
    let other_end = start + usize::from(is_range);
    if other_end < words.len() && number(words, other_end).is_some() {
        return number(words, other_end).map_or_else(Vec::new, |(_, end)| counted(words, end));
    }
    let is_word = |word: &&String| {
        !ENDS.contains(&word.as_str()) && (unit(word).is_some() || word.chars().all(char::is_alphabetic))
    };
    words[start..].iter().take(3).take_while(is_word).map(|word| singular(word)).collect()
}

fn singular(word: &str) -> String {
    unit(word).map_or_else(|| word.strip_suffix('s').unwrap_or(word).to_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn figures_take_one_form() {
        let check = |text: &str, expect: &[&str]| {
            assert_eq!(figures(text).into_iter().map(|f| f.value).collect::<Vec<_>>(), expect, "{text}");
        };
        check("$1,000.50, 6.00 or Thirty", &["1000.5", "6", "30"]);
        check("twenty-five, a hundred, one hundred and fifty, ninety, one", &["25", "100", "150", "90", "1"]);
        check("4.2 million pounds, two thousand", &["4200000", "2000"]);
        check("from 11:00 a.m. to 5:30", &["11", "5:30"]);
        check("nothing", &[]);
    }

    #[test]
    fn figures_are_equal_where_number_and_unit_are() {
        let check = |a: &str, b: &str, expect: bool| {
            assert_eq!(figures(a)[0].equals(&figures(b)[0]), expect, "{a} / {b}");
        };
        check("30 days", "thirty days", true);
        check("a 30-day window", "30 calendar days", true);
        check("$5", "5 dollars", true);
        check("20%", "20 percent off", true);
        check("3 to 5 business days", "3 days", true);
        check("4 payments", "4 interest-free payments", true);
        check("4 instalments", "4 payments", true);
        check("opens at 11", "11:00 a.m.", true);
        check("30 days", "30 minutes", false);
        check("5 euros", "5 dollars", false);
        check("30 points", "30 days", false);
        check("11 p.m.", "11 a.m.", false);
    }

    proptest! {
        #[test]
        fn any_text_has_its_figures_in_order(text in "(?:[a-z0-9.,:$% -]|one|twenty|hundred|and|days){0,40}") {
            let found = figures(&text);
            prop_assert!(found.windows(2).all(|pair| pair[0].at < pair[1].at));
            prop_assert!(found.iter().all(|figure| figure.equals(figure)));
        }
    }
}
