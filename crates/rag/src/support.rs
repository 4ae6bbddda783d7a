use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::analyze::carries_meaning;
use crate::figures::{Figure, figures};
use crate::{Analyzer, Hit, sentences, strip_marks};

static NEGATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)\b(?:not|no|non|never|none|without|cannot|unable|nor|neither|except|excluding|excluded|only|unless|final)\b|n['’]t\b",
    )
    .expect("a constant pattern")
});
static OPENING_NO: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)^\W*no\s*[,.;:!–—-]").expect("a constant pattern"));
/// Where a sentence may change its mind.
static TURN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i);|\b(?:but|however|although|though|while|whereas|except|excluding|unless)\b")
        .expect("a constant pattern")
});
/// Where a sentence may go on to another thing with another figure.
static STEP: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)[,;:]\s|[()–—]|\b(?:and|or|but|while|whereas|although|though|however)\b")
        .expect("a constant pattern")
});

/// Of a sentence with fewer terms that mean something, nobody can tell whether a source says it.
const MIN_TERMS: usize = 2;

/// How well a source supports a sentence, from 0 to 1.
///
/// It is the share of the sentence's meaningful terms that two neighbouring sentences of the source have between
/// them (its heading counted in), figures weighing double. Three rules overrule it:
///
/// - A sentence with fewer than two meaningful terms has support 0.
/// - So has one with a figure that the source lacks, in digits or in words, or has of another unit, or says of
///   something else: its sentence has less in common with what the figure is said of than a sentence with another
///   figure has. That the question has the figure does not help.
/// - Where the sentence of the source that fits best is negated and this one is not, or the other way round, 0.4 of
///   the share is left.
pub fn support(sentence: &str, hit: &Hit, analyzer: &Analyzer) -> f64 {
    Source::new(hit, analyzer).check(&Claim::new(sentence, analyzer)).support()
}

/// What a source says of a sentence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Check {
    share: f64,
    is_founded: bool,
    contradicts: bool,
}

impl Check {
    /// See [`support`].
    pub(crate) fn support(self) -> f64 {
        match (self.is_founded, self.contradicts) {
            (false, _) => 0.0,
            (true, true) => 0.4 * self.share,
            (true, false) => self.share,
        }
    }

    /// Whether nothing forbids that the source says the sentence in other words.
    pub(crate) fn may_paraphrase(self) -> bool {
        self.is_founded && !self.contradicts
    }
}

/// A sentence that is looked for in sources.
pub(crate) struct Claim {
    terms: BTreeSet<String>,
    clauses: Vec<Clause>,
    parts: Vec<Part>,
    opens_with_no: bool,
    pub(crate) negates: bool,
}

/// As much of a sentence as one negation covers.
struct Clause {
    terms: BTreeSet<String>,
    negates: bool,
}

/// As much of a sentence as one figure is said of.
struct Part {
    terms: BTreeSet<String>,
    figures: Vec<Figure>,
}

impl Claim {
    pub(crate) fn new(sentence: &str, analyzer: &Analyzer) -> Self {
        let text = strip_marks(sentence);
        let terms = terms_of(&text, analyzer);
        Claim {
            clauses: clauses(&text, analyzer),
            parts: parts(&text, analyzer),
            opens_with_no: OPENING_NO.is_match(&text),
            negates: NEGATION.is_match(&text),
            terms,
        }
    }
}

/// A hit, read for comparison with sentences.
pub(crate) struct Source<'a> {
    heading: Part,
    sentences: Vec<Part>,
    clauses: Vec<Clause>,
    /// The terms of the sentences that open with `No,`.
    noes: Vec<BTreeSet<String>>,
    /// Each sentence alone, then each with its neighbour.
    pub(crate) windows: Vec<&'a str>,
    window_terms: Vec<BTreeSet<String>>,
    pub(crate) negates: Vec<bool>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(hit: &'a Hit, analyzer: &Analyzer) -> Self {
        let text = hit.chunk.text.as_str();
        let found = sentences(text);
        let alone: Vec<&str> = found.iter().map(|s| &text[s.clone()]).collect();
        let plain: Vec<String> = alone.iter().map(|sentence| strip_marks(sentence)).collect();
        let paired = found.windows(2).map(|pair| &text[pair[0].start..pair[1].end]);
        let windows: Vec<&str> = alone.iter().copied().chain(paired).collect();
        Source {
            heading: Part::new(&hit.chunk.heading, analyzer),
            sentences: plain.iter().map(|sentence| Part::new(sentence, analyzer)).collect(),
            clauses: plain.iter().flat_map(|sentence| clauses(sentence, analyzer)).collect(),
            noes: plain
                .iter()
                .filter(|sentence| OPENING_NO.is_match(sentence))
                .map(|sentence| terms_of(sentence, analyzer))
                .collect(),
            window_terms: windows.iter().map(|window| terms_of(window, analyzer)).collect(),
            negates: plain.iter().map(|sentence| NEGATION.is_match(sentence)).collect(),
            windows,
        }
    }

    pub(crate) fn check(&self, claim: &Claim) -> Check {
        Check {
            share: self.share(claim),
            is_founded: claim.terms.len() >= MIN_TERMS
                && claim.parts.iter().all(|part| self.has_figures(part)),
            contradicts: claim.clauses.iter().any(|clause| self.contradicts(clause))
                || (claim.opens_with_no && self.says_yes(claim)),
        }
    }

    fn share(&self, claim: &Claim) -> f64 {
        let total: f64 = claim.terms.iter().map(|term| weight(term)).sum();
        let of_window = |held: &BTreeSet<String>| {
            let is_held = |term: &&String| held.contains(*term) || self.heading.terms.contains(*term);
            let found: f64 = claim.terms.iter().filter(is_held).map(|term| weight(term)).sum();
            // Of three words one missing is the point of the sentence, of ten it is a synonym: short ones must fit better.
            if found < total { found / (total + 0.5) } else { 1.0 }
        };
        self.window_terms.iter().map(of_window).fold(0.0, f64::max)
    }

    /// Whether a clause of the other sign fits no worse than the best of the same sign. A clause without a negation
    /// is contradicted only by one that says half of it: of a longer sentence, a negation may cover the rest.
    fn contradicts(&self, clause: &Clause) -> bool {
        let against = self.best_fit(&clause.terms, !clause.negates);
        let own = overlap(&clause.terms, &clause.terms);
        let is_enough = against > 0 && (clause.negates || 2 * against >= own);
        is_enough && against >= self.best_fit(&clause.terms, clause.negates)
    }

    /// Whether what fits a sentence that opens with `No,` best is neither negated nor opens so.
    fn says_yes(&self, claim: &Claim) -> bool {
        let noes = self.noes.iter().map(|terms| overlap(terms, &claim.terms)).max().unwrap_or(0);
        self.best_fit(&claim.terms, false) > self.best_fit(&claim.terms, true).max(noes)
    }

    fn best_fit(&self, terms: &BTreeSet<String>, negates: bool) -> usize {
        let same = self.clauses.iter().filter(|held| held.negates == negates);
        same.map(|held| overlap(&held.terms, terms)).max().unwrap_or(0)
    }

    fn has_figures(&self, part: &Part) -> bool {
        part.figures.iter().filter(|figure| figure.is_claim()).all(|figure| self.has_figure(figure, part))
    }

    fn has_figure(&self, figure: &Figure, part: &Part) -> bool {
        let fit = |held: &Part| overlap(&held.terms, &part.terms);
        let (with, without): (Vec<&Part>, Vec<&Part>) =
            self.sentences.iter().partition(|held| held.figures.iter().any(|f| f.equals(figure)));
        let Some(best) = with.into_iter().map(fit).max() else {
            return self.heading.figures.iter().any(|f| f.equals(figure));
        };
        let is_rival = |f: &Figure| f.is_of_the_kind_of(figure) && !part.figures.iter().any(|p| p.equals(f));
        let rivals = without.into_iter().filter(|held| held.figures.iter().any(is_rival));
        rivals.map(fit).max().unwrap_or(0) <= best
    }
}

impl Part {
    fn new(text: &str, analyzer: &Analyzer) -> Self {
        Part { terms: terms_of(text, analyzer), figures: figures(text) }
    }
}

fn terms_of(text: &str, analyzer: &Analyzer) -> BTreeSet<String> {
    analyzer.terms(text).into_iter().filter(|term| carries_meaning(term)).collect()
}

fn weight(term: &str) -> f64 {
    if is_figure(term) { 2.0 } else { 1.0 }
}

fn is_figure(term: &str) -> bool {
    term.bytes().any(|b| b.is_ascii_digit())
}

/// How many words two texts share; figures are compared by themselves.
fn overlap(a: &BTreeSet<String>, b: &BTreeSet<String>) -> usize {
    a.intersection(b).filter(|term| !is_figure(term)).count()
}

/// An opening `No,` answers the question and is no part of what the sentence says.
fn clauses(sentence: &str, analyzer: &Analyzer) -> Vec<Clause> {
    let sentence = &sentence[OPENING_NO.find(sentence).map_or(0, |no| no.end())..];
    let ranges = cut(sentence, &TURN).into_iter();
    let clause = |text: &str| Clause { terms: terms_of(text, analyzer), negates: NEGATION.is_match(text) };
    ranges.map(|range| clause(&sentence[range])).collect()
}

fn parts(sentence: &str, analyzer: &Analyzer) -> Vec<Part> {
    // Units are read across the cuts: "3 or 5 days".
    let figures = figures(sentence);
    let part = |range: Range<usize>| Part {
        terms: terms_of(&sentence[range.clone()], analyzer),
        figures: figures.iter().filter(|figure| range.contains(&figure.at)).cloned().collect(),
    };
    cut(sentence, &STEP).into_iter().map(part).collect()
}

/// The stretches of a text that begin where the pattern is found.
fn cut(text: &str, at: &Regex) -> Vec<Range<usize>> {
    let starts: Vec<usize> =
        std::iter::once(0).chain(at.find_iter(text).map(|found| found.start())).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Chunk, GroundConfig, Language};
    use proptest::prelude::*;

    pub(crate) fn hit(text: &str) -> Hit {
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

    fn check(source: &str, cases: &[(&str, std::ops::RangeInclusive<f64>)]) {
        let (source, analyzer) = (hit(source), Analyzer::new(Language::English));
        for (sentence, range) in cases {
            let found = support(sentence, &source, &analyzer);
            assert!(range.contains(&found), "{sentence}: {found}");
        }
    }

    #[test]
    fn support_is_the_share_said() {
        check(
            "Items may be returned within thirty days. A receipt is needed. Underwear is final sale.",
            &[
                ("You may return items within 30 days.", 0.5..=0.8),
                ("Items may be returned within thirty days and a receipt is needed.", 1.0..=1.0),
                ("The shop opens on Mondays.", 0.0..=0.0),
                ("The answer is needed.", 0.0..=0.5),
                ("The answer is no.", 0.0..=0.0),
                ("Returns.", 0.0..=0.0),
                ("", 0.0..=0.0),
            ],
        );
    }

    #[test]
    fn a_negation_on_one_side_only_leaves_too_little() {
        let least = GroundConfig::default().min_support;
        let refused = || 0.0..=least - 0.1;
        let kept = || least..=1.0;
        check(
            "Items may be returned within 30 days. A receipt is needed for a refund.\n\nGift cards cannot be refunded.",
            &[
                ("Gift cards cannot be refunded.", kept()),
                ("No, gift cards cannot be refunded.", kept()),
                ("Gift cards can't be refunded, but items may be returned within 30 days.", kept()),
                ("Gift cards can be refunded.", refused()),
                ("No, gift cards can be refunded.", refused()),
                ("No, items may be returned within 30 days.", refused()),
                ("Gift cards can be refunded, and a receipt is needed.", refused()),
                ("Items may not be returned within 30 days.", refused()),
                ("Items may never be returned within 30 days.", refused()),
                ("A receipt is not needed for a refund.", refused()),
            ],
        );
        // What one sentence allows is not forbidden by its neighbour.
        check(
            "Shirts may be returned to a shop. Underwear may not be returned to a shop.",
            &[
                ("Shirts may be returned to a shop.", kept()),
                ("Underwear may not be returned to a shop.", kept()),
                ("Underwear may be returned to a shop.", refused()),
                ("Shirts may not be returned to a shop.", refused()),
            ],
        );
        check(
            "May I return shirts?\nNo, shirts go back to the maker.",
            &[("No, shirts go back to the maker.", kept()), ("Shirts go back to the maker.", kept())],
        );
        check(
            "Items can be returned within 30 days, except underwear.",
            &[("Items can be returned within 30 days.", kept()), ("Underwear can be returned.", refused())],
        );
    }

    #[test]
    fn a_figure_must_be_the_sources_own() {
        let none = || 0.0..=0.0;
        let kept = || 0.6..=1.0;
        check(
            "Shirts may be returned within 30 days. Shoes may be returned within 60 days.\n\n\
             Shipping costs 5 dollars and takes 3 days. The shop opens at 9 a.m. on Mondays.",
            &[
                ("Shirts may be returned within 30 days.", kept()),
                ("Shirts may be returned within thirty days.", kept()),
                ("Shirts may be returned within 30 days and shoes within 60 days.", kept()),
                ("Shipping costs $5 and takes 3 days.", kept()),
                ("Shirts may be returned within sixty-five days.", none()),
                ("Shirts may be returned within 60 days.", none()),
                ("Shirts may be returned within sixty days.", none()),
                ("Shirts may be returned within 60 days, and shoes may be returned within 30 days.", none()),
                ("Shirts may be returned within 30 minutes.", none()),
                ("Shipping costs 3 dollars and takes 5 days.", none()),
                ("Shipping costs 5 euros.", none()),
                ("Shipping costs 5%.", none()),
                ("The shop opens at 9 p.m. on Mondays.", none()),
            ],
        );
        // "One" is no figure here.
        check("Shirts may be returned.", &[("Any one of the shirts may be returned.", 0.5..=1.0)]);
        // The heading's figures are the source's too.
        let mut of_year = hit("The bridge was opened by the premier.");
        of_year.chunk.heading = "The year 1932".into();
        let analyzer = Analyzer::new(Language::English);
        assert!(support("The bridge was opened in 1932.", &of_year, &analyzer) >= 0.6);
    }

    proptest! {
        #[test]
        fn a_sentence_of_the_source_is_supported_by_it(words in prop::collection::vec("[a-z]{4,9}", 3..12)) {
            let analyzer = Analyzer::new(Language::English);
            let sentence = format!("{}.", words.join(" "));
            prop_assume!(terms_of(&sentence, &analyzer).len() >= MIN_TERMS);
            let source = hit(&format!("Before it. {sentence} After it."));
            prop_assert!(support(&sentence, &source, &analyzer) > 0.999);
        }
    }
}
