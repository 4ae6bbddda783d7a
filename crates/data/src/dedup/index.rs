//! The index: sketched texts, and the search for similar pairs among those that share a band.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::banding::Banding;
use super::columns::Columns;
use super::exact::exact_key;
use super::forest::Forest;
use super::lsh::MinHashConfig;
use super::shingle::{Cut, Kind, critical, jaccard_of_sets, kind_of_pair, mix};
use super::sketch::{Fingerprint, Sketcher, band_names};
use super::texts::Texts;
use crate::DataError;

/// Sketched texts. A text whose facets' lengths lie near the border of short and long has an entry for each way
/// that a partner may make it be compared.
pub(super) struct Index<'a, T: ?Sized> {
    texts: &'a T,
    config: &'a MinHashConfig,
    pub(super) banding: Banding,
    pub(super) columns: Columns,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    text: u32,
    /// Bit i: facet i is taken as long.
    kinds: u32,
    bits: Fingerprint,
}

pub(super) struct Found {
    pub(super) pairs: Vec<(usize, usize)>,
    pub(super) candidates: usize,
    pub(super) is_capped: bool,
}

impl<'a, T: Texts + ?Sized> Index<'a, T> {
    pub(super) fn build(texts: &'a T, exact: &[u32], config: &'a MinHashConfig) -> Result<Self, DataError> {
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
    pub(super) fn search(&self, bucket: &[u64], forest: &Forest) -> Found {
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
