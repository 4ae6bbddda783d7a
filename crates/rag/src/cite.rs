use std::ops::Range;
use std::sync::LazyLock;

use ferrotune_types::Embed;
use regex::Regex;

use crate::answer::Attributed;
use crate::support::{Claim, Source};
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

/// Finds for each sentence of a text the source that supports it best.
///
/// A source that the text itself cites is kept where it supports the sentence well enough, even where another
/// supports it better. With an embedder, meaning is compared too: a paraphrase counts half of what its cosine says,
/// and only where [`crate::support`] finds no figure or negation that speaks against it, and the sentence of the
/// source that lies nearest is negated as it is.
///
/// # Errors
/// The embedder's own.
pub fn attribute(
    text: &str,
    hits: &[Hit],
    embedder: Option<&dyn Embed>,
    config: &GroundConfig,
) -> Result<Vec<Attributed>, RagError> {
    let analyzer = Analyzer::new(config.language);
    let found: Vec<&str> = sentences(text).into_iter().map(|s| &text[s]).collect();
    let plain: Vec<String> = found.iter().map(|s| strip_marks(s).trim().to_owned()).collect();
    let claims: Vec<Claim> = plain.iter().map(|sentence| Claim::new(sentence, &analyzer)).collect();
    let sources: Vec<Source<'_>> = hits.iter().map(|hit| Source::new(hit, &analyzer)).collect();
    let meanings = match embedder {
        Some(embedder) if !plain.is_empty() => meanings(embedder, &plain, &claims, &sources)?,
        _ => vec![vec![0.0; hits.len()]; plain.len()],
    };
    let mut out = Vec::with_capacity(found.len());
    for (((sentence, plain), claim), meanings) in found.iter().zip(plain).zip(&claims).zip(meanings) {
        let supports: Vec<f64> = sources
            .iter()
            .zip(meanings)
            .map(|(source, meaning)| {
                let check = source.check(claim);
                let words = check.support();
                if check.may_paraphrase() { words.max(f64::midpoint(words, meaning)) } else { words }
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

/// For each sentence and each source how near their meanings are, from 0 to 1.
fn meanings(
    embedder: &dyn Embed,
    plain: &[String],
    claims: &[Claim],
    sources: &[Source<'_>],
) -> Result<Vec<Vec<f64>>, RagError> {
    let windows = sources.iter().flat_map(|source| source.windows.iter().copied());
    let texts: Vec<&str> = plain.iter().map(String::as_str).chain(windows).collect();
    let vectors = embedder.embed(&texts)?;
    let (of_claims, mut rest) = vectors.split_at(plain.len().min(vectors.len()));
    let mut by_source = Vec::with_capacity(sources.len());
    for source in sources {
        let (these, others) = rest.split_at(source.windows.len().min(rest.len()));
        by_source.push((source, these));
        rest = others;
    }
    let of_claim = |(claim, vector): (&Claim, &Vec<f32>)| {
        by_source.iter().map(|(source, windows)| meaning(claim, vector, source, windows)).collect()
    };
    Ok(claims.iter().zip(of_claims).map(of_claim).collect())
}

/// 0 where the nearest sentence is negated and the claim is not, or the other way round.
fn meaning(claim: &Claim, vector: &[f32], source: &Source<'_>, windows: &[Vec<f32>]) -> f64 {
    let cosines: Vec<f64> = windows.iter().map(|window| cosine(vector, window)).collect();
    let alone = cosines.iter().zip(&source.negates);
    let nearest = alone.max_by(|a, b| a.0.total_cmp(b.0));
    if nearest.is_none_or(|(_, negates)| *negates != claim.negates) {
        return 0.0;
    }
    // Sentences on one topic lie near 0.45, paraphrases above 0.7 (all-MiniLM-L6-v2).
    ((cosines.into_iter().fold(0.0, f64::max) - 0.45) / 0.4).clamp(0.0, 1.0)
}

/// The dot product, in f64; both are of unit length.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::tests::hit;

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

    /// Says that every text means the same.
    struct AllAlike;

    impl Embed for AllAlike {
        fn name(&self) -> &'static str {
            "alike"
        }

        fn dim(&self) -> usize {
            1
        }

        fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ferrotune_types::ModelError> {
            Ok(vec![vec![1.0]; texts.len()])
        }
    }

    #[test]
    fn an_embedder_forgives_words_and_nothing_else() {
        let hits = [hit("Items may be returned within 30 days. A receipt is needed for a refund.")];
        let check = |text: &str, expect: Option<usize>| {
            let found = attribute(text, &hits, Some(&AllAlike), &GroundConfig::default()).unwrap();
            assert_eq!(found[0].source, expect, "{text}");
        };
        check("Customers can send items back within 30 days.", Some(1));
        check("Customers can send items back within 60 days.", None);
        check("Customers can send items back within thirty minutes.", None);
        check("Customers cannot send items back within 30 days.", None);
        check("A refund is not given.", None);
        check("The answer is no.", None);
    }

    #[test]
    fn a_wrong_mark_is_set_right() {
        let hits = [hit("We ship to Canada."), hit("A receipt is needed for every return.")];
        let config = GroundConfig::default();
        let found =
            attribute("A receipt is needed [1]. We ship to Canada [1]. Dogs bark [9].", &hits, None, &config)
                .unwrap();
        assert_eq!(found.iter().map(|a| a.source).collect::<Vec<_>>(), [Some(2), Some(1), None]);
        assert_eq!(found[2].claimed, [9]);
    }
}
