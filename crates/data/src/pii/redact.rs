use std::collections::{BTreeMap, BTreeSet};

use super::fake::fake;
use super::key::{PiiKey, hex};
use super::scan::Scan;
use super::{Kind, Operator, PiiConfig, Span, find};
use crate::DataError;

/// A text without its personal data, and what was done to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Redacted {
    /// The new text.
    pub text: String,
    /// Each replacement, in order.
    pub replacements: Vec<Replacement>,
}

/// One replacement.
#[derive(Debug, Clone, PartialEq)]
pub struct Replacement {
    /// Where, in the text as it was.
    pub span: Span,
    /// What stood there.
    pub before: String,
    /// What stands there now.
    pub after: String,
}

/// Replaces the personal data of one text, which is a record of its own. For rows and vaults see
/// [`super::PiiStep`].
///
/// Afterwards nothing is found any more: where a replacement lets something new be seen (a neighbour that
/// was part of a longer number), that is replaced too.
///
/// # Errors
/// [`DataError::Config`] for a setting out of range, [`DataError::Vault`] where an operator needs the key and
/// the environment does not hold it.
pub fn redact(text: &str, config: &PiiConfig) -> Result<Redacted, DataError> {
    config.validate()?;
    let key = if config.needs_key() { Some(PiiKey::from_env(&config.key_env)?) } else { None };
    let mut numbers = Numbers::default();
    numbers.reserve(text, config);
    Ok(replace(text, &hide_all(text, config), config, key.as_ref(), &mut |kind, label, value| {
        numbers.placeholder(kind, label, value)
    }))
}

/// Gives the placeholder of a value: `(kind, label, value)`.
pub(crate) type Numbering<'a> = dyn FnMut(Kind, &str, &str) -> String + 'a;

/// Puts each span's replacement in its place.
pub(crate) fn replace(
    text: &str,
    spans: &[Span],
    config: &PiiConfig,
    key: Option<&PiiKey>,
    number: &mut Numbering,
) -> Redacted {
    let mut replacements = Vec::with_capacity(spans.len());
    for span in spans {
        let before = &text[span.range()];
        let after = replacement(*span, before, config, key, number);
        replacements.push(Replacement { span: *span, before: before.to_owned(), after });
    }
    let mut fresh = String::with_capacity(text.len());
    let mut at = 0;
    for r in &replacements {
        fresh.push_str(&text[at..r.span.start]);
        fresh.push_str(&r.after);
        at = r.span.end;
    }
    fresh.push_str(&text[at..]);
    Redacted { text: fresh, replacements }
}

fn replacement(
    span: Span,
    value: &str,
    config: &PiiConfig,
    key: Option<&PiiKey>,
    number: &mut Numbering,
) -> String {
    let label = config.label(span.kind);
    match (config.operator_of(span.kind), key) {
        (Operator::Placeholder, _) => number(span.kind, label, value),
        (Operator::Pseudonym, Some(key)) => {
            let code = key.mac("pseudonym", &[label, &identity(span.kind, value)]);
            format!("[{label}:{}]", hex(&code[..6]))
        }
        (Operator::Fake, Some(key)) => fake(span.kind, label, value, &identity(span.kind, value), key),
        (Operator::Mask { with, keep_last }, _) => mask(span.kind, value, *with, *keep_last),
        // Without a key (which `PiiStep::new` and `redact` refuse) the safe thing is to tell nothing.
        (Operator::Redact | Operator::Pseudonym | Operator::Fake, _) => "[REDACTED]".to_owned(),
    }
}

fn mask(kind: Kind, value: &str, with: char, keep_last: usize) -> String {
    let keep = if matches!(kind, Kind::Person | Kind::Secret | Kind::Address | Kind::UrlCredentials) {
        0
    } else {
        keep_last
    };
    let n = value.chars().filter(|c| c.is_alphanumeric()).count();
    // A value that is hardly longer than what would stay is hidden whole.
    let hidden = if n >= 3 * keep { n - keep } else { n };
    let mut seen = 0;
    value
        .chars()
        .map(|c| {
            seen += usize::from(c.is_alphanumeric());
            if c.is_whitespace() || seen > hidden { c } else { with }
        })
        .collect()
}

/// What to replace in `text`, which `context` (a column's name) introduces.
pub(crate) fn spans_in(context: &str, text: &str, config: &PiiConfig) -> Vec<Span> {
    if context.is_empty() {
        return hide_all(text, config);
    }
    let head = format!("{context}: ");
    let mut spans = hide_all(&format!("{head}{text}"), config);
    spans.retain(|s| s.start >= head.len());
    for span in &mut spans {
        span.start -= head.len();
        span.end -= head.len();
    }
    spans
}

/// The spans to replace so that nothing is found afterwards.
pub(crate) fn hide_all(text: &str, config: &PiiConfig) -> Vec<Span> {
    let mut spans = find(text, config);
    // Each round covers more of the text than the one before. One or two is what it takes.
    for _ in 0..16 {
        let trial: Vec<(Span, String)> = spans
            .iter()
            .map(|s| {
                let value = &text[s.range()];
                let stand_in = match config.operator_of(s.kind) {
                    Operator::Mask { with, keep_last } => mask(s.kind, value, *with, *keep_last),
                    _ => "[REDACTED]".to_owned(),
                };
                (*s, stand_in)
            })
            .collect();
        let (blanked, places) = blank(text, &trial);
        let more = find(&blanked, config);
        if more.is_empty() || spans.is_empty() {
            break;
        }
        for found in more {
            spans.push(Span {
                start: origin(&places, found.start, false),
                end: origin(&places, found.end, true),
                ..found
            });
        }
        spans = merge(spans);
    }
    spans
}

/// For every replacement: its place in the new text and in the old.
type Places = Vec<(std::ops::Range<usize>, std::ops::Range<usize>)>;

fn blank(text: &str, trial: &[(Span, String)]) -> (String, Places) {
    let (mut fresh, mut places, mut at) = (String::with_capacity(text.len()), Vec::new(), 0);
    for (span, stand_in) in trial {
        fresh.push_str(&text[at..span.start]);
        places.push((fresh.len()..fresh.len() + stand_in.len(), span.range()));
        fresh.push_str(stand_in);
        at = span.end;
    }
    fresh.push_str(&text[at..]);
    (fresh, places)
}

/// The byte of the old text that byte `at` of the new one stands for; a byte inside a replacement stands for
/// its end or its start.
fn origin(places: &Places, at: usize, is_end: bool) -> usize {
    let mut shift = 0isize;
    for (new, old) in places {
        if new.start > at || new.start == at && is_end {
            break;
        }
        if at < new.end || (at == new.end && is_end) {
            return if is_end { old.end } else { old.start };
        }
        shift = old.end as isize - new.end as isize;
    }
    (at as isize + shift) as usize
}

/// Sorted spans, overlapping ones made one that bears the first one's kind.
fn merge(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by_key(|s| (s.start, std::cmp::Reverse(s.end)));
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.start < last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    merged
}

/// What makes two values one: letter case in an address, blanks and signs in a number do not part them.
fn identity(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Phone | Kind::Card | Kind::Iban | Kind::NationalId | Kind::Mac => {
            value.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
        }
        Kind::Email | Kind::Person | Kind::Address | Kind::Ip => {
            value.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
        }
        _ => value.to_owned(),
    }
}

/// The placeholders given so far, and the original of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers {
    /// By label and identity: the number, and every spelling in the order of its coming.
    entities: BTreeMap<(String, String), (usize, Vec<String>)>,
    next: BTreeMap<String, usize>,
    /// Placeholders that the texts held before anything was replaced: their numbers are not given again.
    reserved: BTreeSet<String>,
}

impl Numbers {
    /// Notes the placeholders that already stand in `text`.
    pub(crate) fn reserve(&mut self, text: &str, config: &PiiConfig) {
        if !text.contains('[') {
            return;
        }
        let scan = Scan::new(text, config);
        for i in (0..scan.tokens.len()).filter(|&i| scan.tokens[i].is_opaque()) {
            let body = scan.str(i).trim_matches(['[', ']']);
            self.reserved.insert(body.split('.').next().unwrap_or(body).to_owned());
        }
    }

    /// `[LABEL_n]`, or `[LABEL_n.k]` for the k-th spelling of the same value.
    pub(crate) fn placeholder(&mut self, kind: Kind, label: &str, value: &str) -> String {
        let key = (label.to_owned(), identity(kind, value));
        if !self.entities.contains_key(&key) {
            let next = self.next.entry(label.to_owned()).or_insert(0);
            *next += 1;
            while self.reserved.contains(&format!("{label}_{next}")) {
                *next += 1;
            }
            self.entities.insert(key.clone(), (*next, Vec::new()));
        }
        let Some((n, spellings)) = self.entities.get_mut(&key) else { return "[REDACTED]".to_owned() };
        let place = spellings.iter().position(|s| s == value).unwrap_or_else(|| {
            spellings.push(value.to_owned());
            spellings.len() - 1
        });
        written(label, *n, place)
    }

    /// The placeholder that `value` has been given, in this spelling.
    pub(crate) fn given(&self, kind: Kind, label: &str, value: &str) -> Option<String> {
        let (n, spellings) = self.entities.get(&(label.to_owned(), identity(kind, value)))?;
        let place = spellings.iter().position(|s| s == value)?;
        Some(written(label, *n, place))
    }
}

fn written(label: &str, n: usize, place: usize) -> String {
    if place == 0 { format!("[{label}_{n}]") } else { format!("[{label}_{n}.{}]", place + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, operator: Operator, expect: &str) {
        let config = PiiConfig { operator, ..PiiConfig::default() };
        assert_eq!(redact(text, &config).unwrap().text, expect);
    }

    #[test]
    fn the_same_value_gets_the_same_number() {
        check(
            "a@x.org, b@x.org, A@x.org; a@x.org",
            Operator::Placeholder,
            "[EMAIL_1], [EMAIL_2], [EMAIL_1.2]; [EMAIL_1]",
        );
    }

    #[test]
    fn a_placeholder_that_stands_there_already_is_not_given_again() {
        check("[EMAIL_1] wrote to b@x.org", Operator::Placeholder, "[EMAIL_1] wrote to [EMAIL_2]");
    }

    #[test]
    fn masks_and_redactions() {
        let mask = |keep_last| Operator::Mask { with: '*', keep_last };
        check("card 4929 3600 0381 1724", mask(4), "card **** **** **** 1724");
        check("Hi Sarah, mail a@x.org", mask(0), "Hi *****, mail *******");
        check("Hi Sarah, mail a@x.org", Operator::Redact, "Hi [REDACTED], mail [REDACTED]");
    }

    #[test]
    fn a_keyed_operator_without_its_key_is_an_error() {
        let config = PiiConfig {
            operator: Operator::Pseudonym,
            key_env: "FERROTUNE_NO_SUCH_KEY".into(),
            ..PiiConfig::default()
        };
        let error = redact("a@x.org", &config).unwrap_err().to_string();
        assert!(error.contains("FERROTUNE_NO_SUCH_KEY"), "{error}");
    }

    #[test]
    fn pseudonyms_are_the_same_under_one_key_only() {
        let config = PiiConfig { operator: Operator::Pseudonym, ..PiiConfig::default() };
        let run = |key: &PiiKey, text| {
            replace(text, &hide_all(text, &config), &config, Some(key), &mut |_, _, _| String::new()).text
        };
        let (one, two) = (PiiKey::generate(), PiiKey::generate());
        assert_eq!(run(&one, "Sam@x.org"), run(&one, "sam@X.org"));
        assert_ne!(run(&one, "sam@x.org"), run(&two, "sam@x.org"));
        assert!(find(&run(&one, "call +49 30 901820"), &config).is_empty());
    }
}
