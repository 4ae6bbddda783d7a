//! Answers that say they do not know, and answers that refuse.

/// Phrases of an honest gap, in lower case with straight quotes.
const GAPS: &[&str] = &[
    "i don't have that information",
    "i don't have information",
    "i don't have this information",
    "i do not have that information",
    "i do not have information",
    "we don't have that information",
    "we don't have information",
    "don't have details on",
    "don't have an answer to",
    "i don't know",
    "i do not know",
    "i'm not sure",
    "i am not sure",
    "i'm not certain",
    "i can't find",
    "i couldn't find",
    "i wasn't able to find",
    "can't see that information",
    "no information about",
    "no information on",
    "isn't something i know",
    "not something i know",
    "nothing about that",
    "not able to confirm",
    "unable to confirm",
    "can't confirm",
    "das weiß ich nicht",
    "dazu habe ich keine informationen",
    "dazu liegen mir keine",
    "je ne sais pas",
    "je n'ai pas cette information",
    "no lo sé",
    "no tengo esa información",
];

const REFUSALS: &[&str] = &[
    "i can't help with",
    "i cannot help with",
    "i can't assist",
    "i cannot assist",
    "i'm unable to help",
    "i am unable to help",
    "i'm unable to assist",
    "i'm not able to help",
    "i can't do that",
    "i can't provide",
    "i cannot provide",
    "i won't be able to",
    "i can't share",
    "i'm sorry, but i can't",
    "i'm sorry, but i cannot",
    "as an ai language model",
    "as an ai, i",
    "das kann ich leider nicht",
    "je ne peux pas vous aider",
    "no puedo ayudar",
];

fn has_any(text: &str, phrases: &[&str]) -> bool {
    let lower = text.to_lowercase().replace('\u{2019}', "'");
    phrases.iter().any(|phrase| lower.contains(phrase))
}

/// Whether an answer says that it does not know. A list of phrases in English, and the commonest in German,
/// French and Spanish: what it says otherwise is missed.
///
/// ```
/// use ferrotune_data::inspect::is_honest_gap;
/// assert!(is_honest_gap("Sorry, I don’t have that information. Please ask the shop in Leeds."));
/// assert!(!is_honest_gap("We open at nine."));
/// ```
pub fn is_honest_gap(answer: &str) -> bool {
    has_any(answer, GAPS)
}

/// Whether an answer declines to help; by phrases, as [`is_honest_gap`].
pub fn is_refusal(answer: &str) -> bool {
    has_any(answer, REFUSALS)
}
