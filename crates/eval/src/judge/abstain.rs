//! Who says that they do not know: an answer in one of its sentences, a reference with all that it says.

use std::sync::LazyLock;

use regex::Regex;

use super::facts::{Kind, facts};

/// Words of a reference that does not know, at most.
const SHORT: usize = 40;

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a constant pattern")
}

/// What is said of one's own knowledge.
static UNKNOWN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:(?:do(?:es)? not|don['’]t|doesn['’]t|not) (?:currently |actually )?(?:know|have (?:\w+ ){0,3}(?:information|details|answer))|(?:have|has|had|is|are|get|got|find|found) no (?:\w+ )?information|(?:not|in)sufficient information|(?:unable|not able) to (?:answer|say|find|confirm)|cannot (?:answer|say|confirm|find)|can['’]t (?:answer|say|confirm|find)|(?:not|isn['’]t) (?:sure|certain) (?:about|if|whether|of))\b|['’]s no (?:\w+ )?information\b|^\W*no (?:\w+ )?information\b",
    )
});
/// Whatever stands behind these in a sentence hangs on a condition, or is said of somebody.
static DEPENDENT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:if|when|whenever|where|while|unless|until|once|whether|in case|because|who|whose|which)\b",
    )
});
static PERHAPS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)\b(?:may|might|should|could|would|can|will)\b"));
/// A clause up to its verb whose subject is the speaker, what the speaker has read, or nobody.
static SPEAKER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)^\W*(?:(?:and|but|so|well|sorry|unfortunately|currently|however|honestly|afraid|regret|that|right now|at the moment|for now|as an? \w+|i['’]?m (?:afraid|sorry)|i am (?:afraid|sorry))\W+)*(?:(?:i|we)(?:['’](?:m|re|ve))?\b[\w\s]{0,60}|(?:there|it|this|that)\b[\w\s]{0,30}|(?:the|these|our) (?:\w+ )?(?:documents?|context|texts?|sources?|passages?|articles?|records?)\b[\w\s]{0,30})?$",
    )
});
/// What one does not find or confirm oneself; what a shop does not confirm is a rule of it.
static MYSELF: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)^(?:.*\W)?(?:i|i['’]m)\b[\w\s]{0,60}$|^\W*$"));
static COURTESY: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:sorry|apolog\w+|thanks?|contact|reach out|reach us|ask|call us|e-?mail us|write to|check with|happy to help|assist|support team|customer (?:service|support|care))\b",
    )
});

/// Whether a text says in a main clause that its speaker does not know.
pub(super) fn abstains(text: &str) -> bool {
    sentences(text).any(is_abstention)
}

/// Whether a reference says that the answer is not known, and nothing else: it is short, states no figure, time or day,
/// and what it says besides is courtesy.
pub(super) fn is_unknown(reference: &str) -> bool {
    let n_words = |sentence: &str| sentence.split_whitespace().count();
    let states_figures =
        || facts(reference).iter().any(|fact| !matches!(fact.kind, Kind::Name | Kind::Address));
    let (mut abstaining, mut other) = (0, 0);
    for sentence in sentences(reference) {
        if is_abstention(sentence) {
            abstaining += n_words(sentence);
        } else if !COURTESY.is_match(sentence) {
            other += n_words(sentence);
        }
    }
    abstaining > 0 && 2 * other <= abstaining && n_words(reference) <= SHORT && !states_figures()
}

/// Sentences, cut also where a new main clause begins.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split(['.', '!', '?', ';', '\n']).flat_map(|sentence| sentence.split(", but "))
}

fn is_abstention(sentence: &str) -> bool {
    UNKNOWN.find_iter(sentence).any(|found| {
        let before = &sentence[..found.start()];
        let clause = before.rsplit([',', ':', '—']).next().unwrap_or(before);
        let said = found.as_str().to_lowercase();
        let is_own = !["find", "confirm"].iter().any(|verb| said.ends_with(verb)) || MYSELF.is_match(clause);
        is_own && !DEPENDENT.is_match(before) && !PERHAPS.is_match(clause) && SPEAKER.is_match(clause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_know_says_so_in_a_main_clause() {
        let check = |text: &str, expect: bool| assert_eq!(abstains(text), expect, "{text}");
        for text in [
            "I don't know.",
            "I'm sorry, I do not have information about that.",
            "Thank you for your question, but we currently do not have that information.",
            "I'm afraid that I am not able to say.",
            "There is no public information about it.",
            "There's no information on this in the documents.",
            "No information available.",
            "The sources do not have the answer.",
            "Not sure about that, sorry.",
            "I cannot find it.",
            "We are not sure whether it will come back.",
            "It costs $5. I don't know more.",
        ] {
            check(text, true);
        }
        for text in [
            "If you can't find your order number, look in the confirmation email.",
            "Tracking pages may show no information for the first 24 hours.",
            "If you are not sure about your size, order two.",
            "We cannot confirm checks, so we take cards and PayPal only.",
            "Customers who do not have an answer within 2 days get a voucher.",
            "When tracking has no information, wait a day.",
            "You cannot find peace by avoiding life.",
            "Shoppers do not know the price before they log in.",
            "You have 30 days.",
            "",
        ] {
            check(text, false);
        }
    }

    #[test]
    fn a_reference_that_says_more_is_known() {
        let check = |text: &str, expect: bool| assert_eq!(is_unknown(text), expect, "{text}");
        check("I don't have that information.", true);
        check("We do not have that information. Please contact our support team for help.", true);
        check("I am an AI and I don't know the answer", true);
        check("We don't know the day yet. It will be announced in our newsletter for all members.", false);
        check("We do not know the exact date, but it is usually in early May.", false);
        check("I'm not sure about the color, but you can see it in the confirmation email.", false);
        check("We have no information before 9 a.m. on Monday.", false);
        check("If you don't know it, ask us.", false);
    }
}
