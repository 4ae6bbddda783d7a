use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::LazyLock;

use ferrotune_types::Embed;
use regex::Regex;

use crate::analyze::carries_meaning;
use crate::answer::Attributed;
use crate::{Analyzer, GroundConfig, Hit, RagError, sentences};

/// A citation mark in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The source's number, from 1.
    pub number: usize,
    /// Where the brackets stand, in bytes. `[1, 3]` is two marks of the same range.
    pub range: Range<usize>,
}

static MARK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\[\s*(\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*)\s*\]").expect("a constant pattern"));
static FIGURE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\d(?:[\d,]*\d)?(?:\.\d+)?").expect("a constant pattern"));
static NEGATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)\b(?:not|no|never|none|without|cannot|unable|nor|neither|except|excluding|excluded|only|unless|final)\b|n['’]t\b",
    )
    .expect("a constant pattern")
});

/// The marks of a text in order: `[2]`, `[1, 3]` and the range `[1-3]`.
///
/// ```
/// let numbers: Vec<usize> = ferrotune_rag::marks("So [2]. And [1, 3-4].").iter().map(|m| m.number).collect();
/// assert_eq!(numbers, [2, 1, 3, 4]);
/// ```
pub fn marks(text: &str) -> Vec<Mark> {
    let mut found = Vec::new();
    for whole in MARK.find_iter(text) {
        let inside = whole.as_str().trim_matches(|c: char| c == '[' || c == ']' || c.is_whitespace());
        for part in inside.split([',', ';']) {
            let mut ends = part.split(['-', '–']).filter_map(|n| n.trim().parse::<usize>().ok());
            let (Some(first), last) = (ends.next(), ends.next_back()) else { continue };
            // A range that runs backwards or over hundreds of sources is no citation but someone's figures.
            let last = last.filter(|&last| last >= first && last - first < 20).unwrap_or(first);
            found.extend((first..=last).map(|number| Mark { number, range: whole.range() }));
        }
    }
    found
}

/// The text without its marks and without the space before them.
pub fn strip_marks(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for mark in MARK.find_iter(text) {
        out.push_str(text[at..mark.start()].trim_end_matches(' '));
        at = mark.end();
    }
    if at == 0 {
        return text.to_owned();
    }
    out.push_str(&text[at..]);
    out
}

/// What follows the marks that open a text.
pub(crate) fn strip_leading_marks(text: &str) -> &str {
    let mut rest = text;
    while let Some(mark) = MARK.find(rest).filter(|mark| mark.start() == 0) {
        rest = rest[mark.end()..].trim_start();
    }
    rest
}

/// How well a source supports a sentence, from 0 to 1.
///
/// It is the share of the sentence's meaningful terms that two neighbouring sentences of the source have between
/// them (its heading counted in), figures weighing double. Two checks overrule it: a figure that neither the source
/// nor the question has makes it 0, and a negation on one side only takes 0.4 of it.
pub fn support(sentence: &str, question: &str, hit: &Hit, analyzer: &Analyzer) -> f64 {
    let terms = analyzer.terms(&strip_marks(sentence)).into_iter();
    // A figure that only repeats the question is no claim.
    let asked = analyzer.terms(question);
    let is_figure = |term: &String| term.bytes().any(|b| b.is_ascii_digit());
    let terms: BTreeSet<String> =
        terms.filter(|term| carries_meaning(term) && !(is_figure(term) && asked.contains(term))).collect();
    if terms.is_empty() || invents_figures(sentence, question, hit) {
        return 0.0;
    }
    let negates = NEGATION.is_match(sentence);
    let heading: BTreeSet<String> = analyzer.terms(&hit.chunk.heading).into_iter().collect();
    let mut best = 0f64;
    for window in windows(&hit.chunk.text) {
        let held: BTreeSet<String> = analyzer.terms(window).into_iter().collect();
        let (mut found, mut total) = (0.0, 0.0);
        for term in &terms {
            let weight = if is_figure(term) { 2.0 } else { 1.0 };
            total += weight;
            found += if held.contains(term) || heading.contains(term) { weight } else { 0.0 };
        }
        let factor = if negates == NEGATION.is_match(window) { 1.0 } else { 0.6 };
        // Of three words one missing is the point of the sentence, of ten it is a synonym: short ones must fit better.
        let share = if found < total { found / (total + 0.5) } else { 1.0 };
        best = best.max(factor * share);
    }
    best
}

/// Each sentence alone and each with its neighbour. Alone matters for negations: "Shirts may be returned.
/// Underwear may not." says two different things.
fn windows(text: &str) -> Vec<&str> {
    let found = sentences(text);
    let alone = found.iter().map(|s| &text[s.clone()]);
    let paired = found.windows(2).map(|pair| &text[pair[0].start..pair[1].end]);
    alone.chain(paired).collect()
}

fn invents_figures(sentence: &str, question: &str, hit: &Hit) -> bool {
    let known: BTreeSet<String> =
        [&hit.chunk.text, &hit.chunk.heading, question].into_iter().flat_map(figures).collect();
    FIGURE.find_iter(&strip_marks(sentence)).any(|figure| !known.contains(&plain_figure(figure.as_str())))
}

/// The figures of a text in one form: `1,000.50` is `1000.5`, `thirty` is `30`.
pub(crate) fn figures(text: &(impl AsRef<str> + ?Sized)) -> Vec<String> {
    const WORDS: [(&str, &str); 28] = [
        ("one", "1"),
        ("two", "2"),
        ("three", "3"),
        ("four", "4"),
        ("five", "5"),
        ("six", "6"),
        ("seven", "7"),
        ("eight", "8"),
        ("nine", "9"),
        ("ten", "10"),
        ("eleven", "11"),
        ("twelve", "12"),
        ("thirteen", "13"),
        ("fourteen", "14"),
        ("fifteen", "15"),
        ("sixteen", "16"),
        ("seventeen", "17"),
        ("eighteen", "18"),
        ("nineteen", "19"),
        ("twenty", "20"),
        ("thirty", "30"),
        ("forty", "40"),
        ("fifty", "50"),
        ("sixty", "60"),
        ("seventy", "70"),
        ("eighty", "80"),
        ("ninety", "90"),
        ("hundred", "100"),
    ];
    let text = text.as_ref();
    let digits = FIGURE.find_iter(text).map(|figure| plain_figure(figure.as_str()));
    let words = text.split(|c: char| !c.is_alphabetic()).filter_map(|word| {
        let known = WORDS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
        known.map(|(_, digits)| (*digits).to_owned())
    });
    digits.chain(words).collect()
}

fn plain_figure(figure: &str) -> String {
    let figure = figure.replace(',', "");
    if figure.contains('.') { figure.trim_end_matches('0').trim_end_matches('.').to_owned() } else { figure }
}

/// Finds for each sentence of a text the source that supports it best.
///
/// A source that the text itself cites is kept where it supports the sentence well enough, even where another
/// supports it better. With an embedder, meaning is compared too: a paraphrase counts half of what its cosine
/// says, and only where it invents no figure.
///
/// # Errors
/// The embedder's own.
pub fn attribute(
    text: &str,
    question: &str,
    hits: &[Hit],
    embedder: Option<&dyn Embed>,
    config: &GroundConfig,
) -> Result<Vec<Attributed>, RagError> {
    let analyzer = Analyzer::new(config.language);
    let found: Vec<&str> = sentences(text).into_iter().map(|s| &text[s]).collect();
    let plain: Vec<String> = found.iter().map(|s| strip_marks(s).trim().to_owned()).collect();
    let cosines = match embedder {
        Some(embedder) if !plain.is_empty() => Some(cosines(embedder, &plain, hits)?),
        _ => None,
    };
    let mut out = Vec::with_capacity(found.len());
    for (i, (sentence, plain)) in found.iter().zip(plain).enumerate() {
        let supports: Vec<f64> = hits
            .iter()
            .enumerate()
            .map(|(h, hit)| {
                let words = support(&plain, question, hit, &analyzer);
                let Some(cosines) = &cosines else { return words };
                // Sentences on one topic lie near 0.45, paraphrases above 0.7 (all-MiniLM-L6-v2).
                let meaning = ((cosines[i][h] - 0.45) / 0.4).clamp(0.0, 1.0);
                if invents_figures(&plain, question, hit) {
                    0.0
                } else {
                    words.max(f64::midpoint(words, meaning))
                }
            })
            .collect();
        let mut claimed: Vec<usize> = marks(sentence).into_iter().map(|mark| mark.number).collect();
        claimed.dedup();
        let best_of = |numbers: &mut dyn Iterator<Item = usize>| {
            numbers
                .filter(|&n| n >= 1 && n <= hits.len())
                .map(|n| (n, supports[n - 1]))
                .reduce(|best, next| if next.1 > best.1 { next } else { best })
                .filter(|(_, support)| *support >= config.min_support)
        };
        let kept = best_of(&mut claimed.iter().copied()).or_else(|| best_of(&mut (1..=hits.len())));
        let support = kept.map_or_else(|| supports.iter().copied().fold(0.0, f64::max), |(_, s)| s);
        out.push(Attributed { text: plain, claimed, source: kept.map(|(n, _)| n), support });
    }
    Ok(out)
}

/// For each sentence and each hit the greatest cosine with one of the hit's windows.
fn cosines(embedder: &dyn Embed, plain: &[String], hits: &[Hit]) -> Result<Vec<Vec<f64>>, RagError> {
    let of_hits: Vec<Vec<&str>> = hits.iter().map(|hit| windows(&hit.chunk.text)).collect();
    let texts: Vec<&str> =
        plain.iter().map(String::as_str).chain(of_hits.iter().flatten().copied()).collect();
    let vectors = embedder.embed(&texts)?;
    let (of_sentences, mut rest) = vectors.split_at(plain.len().min(vectors.len()));
    let mut by_hit = Vec::with_capacity(hits.len());
    for windows in &of_hits {
        let (these, others) = rest.split_at(windows.len().min(rest.len()));
        by_hit.push(these);
        rest = others;
    }
    let nearest = |a: &[f32], windows: &[Vec<f32>]| windows.iter().map(|b| cosine(a, b)).fold(0.0, f64::max);
    Ok(of_sentences.iter().map(|a| by_hit.iter().map(|windows| nearest(a, windows)).collect()).collect())
}

/// The dot product, in f64; both are of unit length.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chunk, Language};
    use proptest::prelude::*;

    fn hit(text: &str) -> Hit {
        let chunk = Chunk {
            id: "d#0".into(),
            doc_id: "d".into(),
            start: 0,
            end: text.len(),
            heading: "Returns".into(),
            text: text.into(),
            fingerprint: String::new(),
            meta: serde_json::Map::new(),
        };
        Hit { chunk, score: 1.0 }
    }

    #[test]
    fn marks_are_read_in_every_form() {
        let check = |text: &str, expect: &[usize]| {
            assert_eq!(marks(text).iter().map(|m| m.number).collect::<Vec<_>>(), expect, "{text}");
        };
        check("[1][2] [ 3 ]", &[1, 2, 3]);
        check("[1,2;4-6]", &[1, 2, 4, 5, 6]);
        check("[9-3] [1-999]", &[9, 1]);
        check("a[i] [x] [] [1234] (1)", &[]);
        assert_eq!(strip_marks("So it is [1]. Yes [2, 3]!"), "So it is. Yes!");
    }

    #[test]
    fn support_is_the_share_said_and_figures_rule() {
        let analyzer = Analyzer::new(Language::English);
        let source =
            hit("Items may be returned within thirty days. A receipt is needed. Underwear is final sale.");
        let check = |sentence: &str, range: std::ops::RangeInclusive<f64>| {
            let found = support(sentence, "Can I return it after 10 days?", &source, &analyzer);
            assert!(range.contains(&found), "{sentence}: {found}");
        };
        check("You may return items within 30 days.", 0.5..=0.8);
        check("Items may be returned within thirty days and a receipt is needed.", 1.0..=1.0);
        check("Items may be returned within 60 days.", 0.0..=0.0);
        check("After 10 days items may be returned.", 0.5..=1.0);
        check("Items may not be returned.", 0.0..=0.6);
        check("The shop opens on Mondays.", 0.0..=0.0);
        check("", 0.0..=0.0);
    }

    #[test]
    fn a_wrong_mark_is_set_right() {
        let hits = [hit("We ship to Canada."), hit("A receipt is needed for every return.")];
        let config = GroundConfig::default();
        let found = attribute(
            "A receipt is needed [1]. We ship to Canada [1]. Dogs bark [9].",
            "q",
            &hits,
            None,
            &config,
        )
        .unwrap();
        assert_eq!(found.iter().map(|a| a.source).collect::<Vec<_>>(), [Some(2), Some(1), None]);
        assert_eq!(found[2].claimed, [9]);
    }

    #[test]
    fn figures_take_one_form() {
        assert_eq!(figures("$1,000.50, 6.00 or Thirty"), ["1000.5", "6", "30"]);
    }

    proptest! {
        #[test]
        fn a_sentence_of_the_source_is_supported_by_it(words in prop::collection::vec("[a-z]{4,9}", 3..12)) {
            let analyzer = Analyzer::new(Language::English);
            let sentence = format!("{}.", words.join(" "));
            prop_assume!(analyzer.terms(&sentence).iter().any(|term| carries_meaning(term)));
            let source = hit(&format!("Before it. {sentence} After it."));
            prop_assert!(support(&sentence, "", &source, &analyzer) > 0.999);
        }
    }
}
