//! Near-duplicate clusters of texts: MinHash, banding, verification, union.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::banding::Banding;
use super::columns::Columns;
use super::forest::Forest;
use super::shingle::{Cut, Kind, Shingling, critical, jaccard_of_sets, kind_of_pair, mix};
use super::sketch::{Fingerprint, Sketcher, band_names};
use crate::DataError;

/// How near duplicates are found. The defaults find 95% of the pairs at Jaccard 0.7 and more of the nearer ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MinHashConfig {
    /// Two texts are near duplicates where the Jaccard similarity of their shingle sets is at least this.
    pub threshold: f64,
    /// How a text becomes a set.
    pub shingling: Shingling,
    /// Slots of a sketch: more find as much with fewer false candidates.
    pub permutations: usize,
    /// Share of the pairs exactly at the threshold that must be found; [`Banding::choose`] splits by it.
    pub recall: f64,
    /// Seeds the hash functions.
    pub seed: u64,
    /// In a bucket of more texts than this, not all pairs are compared: each text is compared with the bucket's
    /// leaders (texts like no earlier leader, at most this many). Such buckets are counted in the report.
    pub bucket_cap: usize,
    /// Memory for band columns, in MiB; beyond it they go to disk. All else takes about 80 bytes a text.
    pub memory_mib: usize,
    /// Where columns go; the system's temporary folder if unset.
    pub spill_folder: Option<PathBuf>,
}

impl Default for MinHashConfig {
    fn default() -> Self {
        MinHashConfig {
            threshold: 0.7,
            shingling: Shingling::default(),
            permutations: 256,
            recall: 0.95,
            seed: 42,
            bucket_cap: 1000,
            memory_mib: 1024,
            spill_folder: None,
        }
    }
}

impl MinHashConfig {
    /// The split of the sketch that these settings ask for; print it to see its S-curve.
    pub fn banding(&self) -> Banding {
        Banding::choose(self.threshold, self.permutations, self.recall)
    }

    fn check(&self) -> Result<(), DataError> {
        let in_unit = |x: f64| x > 0.0 && x <= 1.0;
        let bad = |what: String| Err(DataError::Config(format!("dedup: {what}")));
        if !in_unit(self.threshold) {
            return bad(format!("threshold must be above 0 and at most 1, not {}", self.threshold));
        }
        if !(0.0..1.0).contains(&self.recall) {
            return bad(format!("recall must be at least 0 and below 1, not {}", self.recall));
        }
        if self.permutations == 0 || self.permutations > 4096 {
            return bad(format!("permutations must be 1 to 4096, not {}", self.permutations));
        }
        if self.shingling.ngram == 0 || self.shingling.short_ngram == 0 {
            return bad("an n-gram has at least one word or character".to_owned());
        }
        Ok(())
    }
}

/// One part of a text that is compared for itself: a question, an answer.
#[derive(Debug, Clone)]
pub struct Facet<'a> {
    /// Only facets with equal tags are compared.
    pub tag: u64,
    /// Its text.
    pub text: Cow<'a, str>,
}

/// Texts that can be read by number, from memory or from anywhere else.
///
/// Two texts are as similar as their least similar facets, and not at all where their facets' tags differ: a row
/// with the same question and another answer is no duplicate.
pub trait Texts: Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// The parts of a text; a plain text has one.
    fn facets(&self, text: usize) -> Vec<Facet<'_>>;
}

impl<T: AsRef<str> + Sync> Texts for [T] {
    fn count(&self) -> usize {
        self.len()
    }

    fn facets(&self, text: usize) -> Vec<Facet<'_>> {
        vec![Facet { tag: 0, text: Cow::Borrowed(self[text].as_ref()) }]
    }
}

impl<T: AsRef<str> + Sync> Texts for Vec<T> {
    fn count(&self) -> usize {
        self.len()
    }

    fn facets(&self, text: usize) -> Vec<Facet<'_>> {
        self.as_slice().facets(text)
    }
}

impl<T: AsRef<str> + Sync, const N: usize> Texts for [T; N] {
    fn count(&self) -> usize {
        N
    }

    fn facets(&self, text: usize) -> Vec<Facet<'_>> {
        self.as_slice().facets(text)
    }
}

/// Which texts belong together, and what finding it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clusters {
    /// For each text the first text of its cluster; its own number where it is alone.
    pub of: Vec<usize>,
    /// What finding it took.
    pub stats: ClusterStats,
}

/// Counts of a clustering.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStats {
    /// Texts whose normalised form occurred before.
    pub exact: usize,
    /// Pairs that shared a band and passed the sketch's rough test.
    pub candidates: usize,
    /// Candidates whose true similarity reached the threshold.
    pub verified: usize,
    /// Buckets over the cap, in which not all pairs were compared.
    pub capped_buckets: usize,
    /// Texts of the largest cluster.
    pub largest: usize,
    /// Whether band columns went to disk.
    pub spilled: bool,
}

impl Clusters {
    /// The clusters of two texts or more, each in order, by their first text.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (text, &first) in self.of.iter().enumerate() {
            if first != text {
                groups.entry(first).or_insert_with(|| vec![first]).push(text);
            }
        }
        groups.into_values().collect()
    }
}

/// Clusters of near-duplicate texts: the connected components of all found pairs at or above the threshold, each
/// pair verified by its true Jaccard similarity. See [`MinHashConfig`].
///
/// The clusters do not depend on the order of the texts or the number of threads.
///
/// # Errors
/// [`DataError::Config`] for settings out of range; [`DataError::Io`] where columns cannot go to disk.
///
/// ```
/// use ferrotune_data::dedup::{clusters, MinHashConfig};
/// let texts = ["How do I reset my password?", "Where is my parcel?", "how do i  reset my password"];
/// let found = clusters(&texts, &MinHashConfig::default()).unwrap();
/// assert_eq!(found.of, [0, 1, 0]);
/// ```
pub fn clusters<T: Texts + ?Sized>(texts: &T, config: &MinHashConfig) -> Result<Clusters, DataError> {
    config.check()?;
    let n = texts.count();
    let exact = exact_twins(texts);
    let mut forest = Forest::new(n);
    for (text, &first) in exact.iter().enumerate() {
        forest.union(first as usize, text);
    }
    let mut stats = ClusterStats {
        exact: exact.iter().enumerate().filter(|&(text, &first)| text != first as usize).count(),
        ..ClusterStats::default()
    };

    let index = Index::build(texts, &exact, config)?;
    stats.spilled = index.columns.has_spilled();
    for band in 0..index.banding.bands {
        let mut keyed = index.columns.keyed(band)?;
        keyed.par_sort_unstable();
        let buckets: Vec<&[u64]> =
            keyed.chunk_by(|a, b| a >> 32 == b >> 32).filter(|bucket| bucket.len() > 1).collect();
        // A slice at a time, so that the found pairs stay few and later buckets see earlier unions.
        for slice in buckets.chunks(1 << 14) {
            let found: Vec<Found> = slice.par_iter().map(|bucket| index.search(bucket, &forest)).collect();
            for bucket in found {
                stats.candidates += bucket.candidates;
                stats.verified += bucket.pairs.len();
                stats.capped_buckets += usize::from(bucket.is_capped);
                for (a, b) in bucket.pairs {
                    forest.union(a, b);
                }
            }
        }
    }
    let of = forest.roots();
    stats.largest = largest(&of);
    Ok(Clusters { of, stats })
}

/// Clusters of texts that are equal, case and white space aside.
pub(super) fn exact_clusters<T: Texts + ?Sized>(texts: &T) -> Clusters {
    let of: Vec<usize> = exact_twins(texts).into_iter().map(|first| first as usize).collect();
    let exact = of.iter().enumerate().filter(|&(text, &first)| text != first).count();
    let largest = largest(&of);
    Clusters { of, stats: ClusterStats { exact, largest, ..ClusterStats::default() } }
}

pub(super) fn largest(of: &[usize]) -> usize {
    let mut sizes = vec![0_usize; of.len()];
    for &first in of {
        sizes[first] += 1;
    }
    sizes.into_iter().max().unwrap_or(0)
}

/// For each text the first with the same normalised facets (case and white space do not count).
fn exact_twins<T: Texts + ?Sized>(texts: &T) -> Vec<u32> {
    let n = texts.count();
    let mut keyed: Vec<(u128, u32)> =
        (0..n).into_par_iter().map(|text| (exact_key(&texts.facets(text)), text as u32)).collect();
    keyed.par_sort_unstable();
    let mut first = vec![0; n];
    for twins in keyed.chunk_by(|a, b| a.0 == b.0) {
        for &(_, text) in twins {
            first[text as usize] = twins[0].1;
        }
    }
    first
}

/// 128 bits of the facets in lower case with runs of white space as one space: two different texts share it by
/// chance never in practice.
pub(super) fn exact_key(facets: &[Facet<'_>]) -> u128 {
    let mut normal = Vec::with_capacity(facets.iter().map(|f| f.text.len() + 16).sum());
    for facet in facets {
        normal.extend_from_slice(&facet.tag.to_le_bytes());
        let start = normal.len();
        push_normal(&facet.text, &mut normal);
        // The length keeps the end of a facet apart from the beginning of the next.
        normal.extend_from_slice(&((normal.len() - start) as u64).to_le_bytes());
    }
    xxh3_128(&normal)
}

fn push_normal(text: &str, out: &mut Vec<u8>) {
    let mut wants_space = false;
    let start = out.len();
    let mut rest = text;
    while let Some(&byte) = rest.as_bytes().first() {
        if byte < 128 {
            let n = rest.bytes().take_while(|&b| b < 128 && !char::from(b).is_whitespace()).count();
            if n == 0 {
                wants_space = out.len() > start;
                rest = &rest[1..];
                continue;
            }
            if std::mem::take(&mut wants_space) {
                out.push(b' ');
            }
            out.extend(rest.as_bytes()[..n].iter().map(u8::to_ascii_lowercase));
            rest = &rest[n..];
            continue;
        }
        let mut chars = rest.chars();
        let Some(c) = chars.next() else { break };
        rest = chars.as_str();
        if c.is_whitespace() {
            wants_space = out.len() > start;
            continue;
        }
        if std::mem::take(&mut wants_space) {
            out.push(b' ');
        }
        for lower in c.to_lowercase() {
            out.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// How similar two texts are: their least similar facet's [`super::jaccard`]; 0 where facets do not correspond.
pub(crate) fn similarity(a: &[Facet<'_>], b: &[Facet<'_>], how: &Shingling) -> f64 {
    if a.len() != b.len() || a.iter().zip(b).any(|(x, y)| x.tag != y.tag) {
        return 0.0;
    }
    a.iter().zip(b).map(|(x, y)| super::jaccard(&x.text, &y.text, how)).fold(1.0, f64::min)
}

/// Sketched texts. A text whose facets' lengths lie near the border of short and long has an entry for each way
/// that a partner may make it be compared.
struct Index<'a, T: ?Sized> {
    texts: &'a T,
    config: &'a MinHashConfig,
    banding: Banding,
    columns: Columns,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    text: u32,
    /// Bit i: facet i is taken as long.
    kinds: u32,
    bits: Fingerprint,
}

struct Found {
    pairs: Vec<(usize, usize)>,
    candidates: usize,
    is_capped: bool,
}

impl<'a, T: Texts + ?Sized> Index<'a, T> {
    fn build(texts: &'a T, exact: &[u32], config: &'a MinHashConfig) -> Result<Self, DataError> {
        const CHUNK: usize = 4096;
        let banding = config.banding();
        // At least the 128 slots of a fingerprint, where that many were asked for.
        let slots = (banding.bands * banding.rows).max(config.permutations.min(128));
        let sketcher = Sketcher::new(slots, config.seed);
        let folder = config.spill_folder.clone().unwrap_or_else(std::env::temp_dir);
        let mut columns = Columns::new(banding.bands, config.memory_mib << 20, folder);
        let mut entries = Vec::new();
        for start in (0..exact.len()).step_by(CHUNK * 16) {
            let end = exact.len().min(start + CHUNK * 16);
            let unique: Vec<u32> =
                (start..end).filter(|&t| exact[t] as usize == t).map(|t| t as u32).collect();
            let sketched: Vec<(Vec<Entry>, Vec<u32>)> = unique
                .par_chunks(CHUNK / 16)
                .map(|chunk| {
                    let mut work = Work::default();
                    for &text in chunk {
                        work.add(texts, text, &sketcher, banding, config);
                    }
                    (work.entries, work.names)
                })
                .collect();
            for (more, names) in sketched {
                entries.extend(more);
                columns.push(&names)?;
            }
        }
        Ok(Index { texts, config, banding, columns, entries })
    }

    /// The similar pairs of one bucket, given as (name << 32 | entry).
    fn search(&self, bucket: &[u64], forest: &Forest) -> Found {
        let entry = |key: &u64| self.entries[(key & 0xffff_ffff) as usize];
        let mut found =
            Found { pairs: Vec::new(), candidates: 0, is_capped: bucket.len() > self.config.bucket_cap };
        let mut sets = Sets::new(self);
        if !found.is_capped {
            let mut local = Forest::new(bucket.len());
            let roots: Vec<usize> = bucket.iter().map(|key| forest.root(entry(key).text as usize)).collect();
            for j in 1..bucket.len() {
                for i in 0..j {
                    // A pair already joined adds nothing to the closure.
                    let joined = roots[i] == roots[j] || local.root(i) == local.root(j);
                    if !joined && sets.is_similar(entry(&bucket[i]), entry(&bucket[j]), &mut found.candidates)
                    {
                        local.union(i, j);
                        found.pairs.push((entry(&bucket[i]).text as usize, entry(&bucket[j]).text as usize));
                    }
                }
            }
            return found;
        }
        // By content, so that who leads does not depend on the order of the texts.
        let mut members: Vec<(u128, Entry)> = bucket
            .iter()
            .map(|key| (exact_key(&self.texts.facets(entry(key).text as usize)), entry(key)))
            .collect();
        members.sort_unstable_by_key(|&(key, e)| (key, e.kinds));
        let mut leaders: Vec<Entry> = Vec::new();
        for (_, member) in members {
            let like = leaders.iter().find(|&&l| sets.is_similar(l, member, &mut found.candidates));
            match like {
                Some(leader) => found.pairs.push((leader.text as usize, member.text as usize)),
                None if leaders.len() < self.config.bucket_cap => leaders.push(member),
                None => {}
            }
            sets.forget(member, &leaders);
        }
        found
    }
}

/// One thread's work of sketching.
#[derive(Default)]
struct Work {
    entries: Vec<Entry>,
    names: Vec<u32>,
    shingles: Vec<u64>,
    scratch: Vec<u32>,
    sketch: Vec<u32>,
}

impl Work {
    fn add<T: Texts + ?Sized>(
        &mut self,
        texts: &T,
        text: u32,
        sketcher: &Sketcher,
        banding: Banding,
        config: &MinHashConfig,
    ) {
        let how = &config.shingling;
        let facets = texts.facets(text as usize);
        let cuts: Vec<Cut> = facets.iter().map(|f| Cut::new(&f.text)).collect();
        // A facet of at least `short_words` words meets short partners too while it is at most 1/threshold longer.
        let border = (how.short_words as f64 / config.threshold).ceil() as usize;
        let choices: Vec<&[Kind]> = cuts
            .iter()
            .map(|cut| match cut.n_words() {
                words if words < how.short_words => &[Kind::Short][..],
                words if words <= border => &[Kind::Long, Kind::Short],
                _ => &[Kind::Long],
            })
            .collect();
        let variants: usize = choices.iter().map(|c| c.len()).product();
        for variant in 0..variants {
            let (mut rest, mut kinds) = (variant, 0);
            self.shingles.clear();
            for (i, ((facet, cut), choice)) in facets.iter().zip(&cuts).zip(&choices).enumerate() {
                let kind = choice[rest % choice.len()];
                rest /= choice.len();
                kinds |= u32::from(kind == Kind::Long) << (i % 32);
                cut.shingles(kind, how, mix(facet.tag), &mut self.shingles);
            }
            sketcher.sketch(&self.shingles, &mut self.scratch, &mut self.sketch);
            let bits = Fingerprint::new(&self.sketch);
            self.entries.push(Entry { text, kinds, bits });
            band_names(&self.sketch[..banding.bands * banding.rows], banding.rows, &mut self.names);
        }
    }
}

/// The shingle sets of a bucket's texts, cut when first needed.
struct Sets<'a, T: ?Sized> {
    index: &'a Index<'a, T>,
    least: u32,
    cut: BTreeMap<(u32, u32), Vec<FacetSet>>,
}

struct FacetSet {
    tag: u64,
    words: usize,
    set: Vec<u64>,
    critical: Option<(Vec<u64>, usize)>,
}

impl<'a, T: Texts + ?Sized> Sets<'a, T> {
    fn new(index: &'a Index<'a, T>) -> Self {
        let least = Fingerprint::least_agreement(index.config.threshold, index.config.permutations);
        Sets { index, least, cut: BTreeMap::new() }
    }

    fn is_similar(&mut self, a: Entry, b: Entry, candidates: &mut usize) -> bool {
        let agreement = a.bits.agreement(b.bits, self.index.config.permutations);
        if a.text == b.text || a.kinds != b.kinds || agreement < self.least {
            return false;
        }
        *candidates += 1;
        self.load(a);
        self.load(b);
        let (Some(a), Some(b)) = (self.cut.get(&(a.text, a.kinds)), self.cut.get(&(b.text, b.kinds))) else {
            return false;
        };
        let how = &self.index.config.shingling;
        a.len() == b.len()
            && a.iter().zip(b).all(|(x, y)| {
                let kind = kind_of_pair(x.words, y.words, how);
                // Where both are long, the entries that take them as such decide, not these.
                x.tag == y.tag
                    && (kind == Kind::Short) == x.critical.is_some()
                    && (kind == Kind::Long || !how.guard || x.critical == y.critical)
                    && jaccard_of_sets(&x.set, &y.set) >= self.index.config.threshold
            })
    }

    fn load(&mut self, entry: Entry) {
        let Sets { index, cut, .. } = self;
        cut.entry((entry.text, entry.kinds)).or_insert_with(|| {
            let facets = index.texts.facets(entry.text as usize);
            let facets = facets.iter().enumerate().map(|(i, facet)| {
                let words = Cut::new(&facet.text);
                let is_long = entry.kinds >> (i % 32) & 1 == 1;
                let kind = if is_long { Kind::Long } else { Kind::Short };
                FacetSet {
                    tag: facet.tag,
                    words: words.n_words(),
                    set: words.set(kind, &index.config.shingling, mix(facet.tag)),
                    critical: (!is_long).then(|| critical(&facet.text)),
                }
            });
            facets.collect()
        });
    }

    /// Bounds the memory of a bucket over the cap: only leaders are looked at again.
    fn forget(&mut self, member: Entry, leaders: &[Entry]) {
        let leads = leaders.last().is_some_and(|l| (l.text, l.kinds) == (member.text, member.kinds));
        if !leads {
            self.cut.remove(&(member.text, member.kinds));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_but_for_case_and_white_space_is_equal() {
        let check = |a: &[&str], b: &[&str], same: bool| {
            let key = |texts: &[&str]| {
                let facet = |text: &&str| Facet { tag: 1, text: Cow::Owned((*text).to_owned()) };
                exact_key(&texts.iter().map(facet).collect::<Vec<_>>())
            };
            assert_eq!(key(a) == key(b), same, "{a:?} | {b:?}");
        };
        check(&["  Hello\t WORLD\n"], &["hello world"], true);
        check(&["\u{a0}\u{c4}pfel\u{3000}sind da"], &["\u{e4}PFEL SIND DA "], true);
        check(&["a\u{b}b"], &["a b"], true);
        check(&["hello world"], &["helloworld"], false);
        check(&["hello, world"], &["hello world"], false);
        check(&["a", "b"], &["a b"], false);
        check(&["a b", ""], &["a", "b"], false);
        check(&[""], &[" "], true);
        check(&[""], &["", ""], false);
    }
}
