//! SimHash (Charikar 2002): 64 bits that differ little between texts that differ little.

use rayon::prelude::*;

use super::forest::Forest;
use super::lsh::{ClusterStats, Clusters, largest};
use super::shingle::{Cut, Kind, Shingling, mix};
use super::texts::Texts;

/// A text's fingerprint: bit i is the majority of bit i over the hashes of its shingles, repeats counted.
pub fn simhash(text: &str, how: &Shingling) -> u64 {
    let cut = Cut::new(text);
    let kind = if cut.n_words() < how.short_words { Kind::Short } else { Kind::Long };
    let mut shingles = Vec::new();
    cut.shingles(kind, how, 0, &mut shingles);
    let mut votes = [0_i32; 64];
    for hash in shingles {
        for (bit, vote) in votes.iter_mut().enumerate() {
            *vote += if hash >> bit & 1 == 1 { 1 } else { -1 };
        }
    }
    votes.iter().enumerate().fold(0, |bits, (bit, &vote)| bits | u64::from(vote > 0) << bit)
}

/// Clusters of texts whose fingerprints differ in at most `max_distance` bits (3 of 64 is usual), facets taken as
/// one text. All such pairs are found: two numbers that differ in k bits agree in one of any k + 1 blocks.
///
/// Coarser than [`super::clusters`], which verifies against the texts; for texts that are long and many.
///
/// ```
/// use ferrotune_data::dedup::{simhash_clusters, Shingling};
/// let twice = "the same words again and again ".repeat(20);
/// let found = simhash_clusters(&[&*twice, "another", &*twice.to_uppercase()], &Shingling::default(), 3);
/// assert_eq!(found.of, [0, 1, 0]);
/// ```
pub fn simhash_clusters<T: Texts + ?Sized>(texts: &T, how: &Shingling, max_distance: u32) -> Clusters {
    let n = texts.count();
    let prints: Vec<u64> = (0..n)
        .into_par_iter()
        .map(|text| {
            let parts: Vec<String> = texts.facets(text).into_iter().map(|f| f.text.into_owned()).collect();
            simhash(&parts.join("\n\n"), how)
        })
        .collect();
    let mut forest = Forest::new(n);
    let mut stats = ClusterStats::default();
    let mut unique: Vec<(u64, u32)> = prints.iter().enumerate().map(|(text, &p)| (p, text as u32)).collect();
    unique.par_sort_unstable();
    for twins in unique.chunk_by(|a, b| a.0 == b.0) {
        for &(_, text) in &twins[1..] {
            forest.union(twins[0].1 as usize, text as usize);
            stats.exact += 1;
        }
    }
    unique.dedup_by_key(|&mut (print, _)| print);

    let blocks = max_distance.min(63) + 1;
    for block in 0..blocks {
        // Blocks that tile the 64 bits, as even as can be.
        let (from, to) = (64 * block / blocks, 64 * (block + 1) / blocks);
        let mask = (u64::MAX >> (64 - (to - from))) << from;
        let mut keyed: Vec<(u64, u64, u32)> =
            unique.iter().map(|&(p, text)| (mix(p & mask), p, text)).collect();
        keyed.par_sort_unstable();
        let buckets: Vec<&[(u64, u64, u32)]> = keyed.chunk_by(|a, b| a.0 == b.0).collect();
        let near: Vec<(usize, Vec<(u32, u32)>)> = buckets
            .par_iter()
            .map(|bucket| {
                let mut pairs = Vec::new();
                for (j, b) in bucket.iter().enumerate() {
                    let close = bucket[..j].iter().filter(|a| (a.1 ^ b.1).count_ones() <= max_distance);
                    pairs.extend(close.map(|a| (a.2, b.2)));
                }
                (bucket.len() * (bucket.len() - 1) / 2, pairs)
            })
            .collect();
        for (candidates, pairs) in near {
            stats.candidates += candidates;
            for (a, b) in pairs {
                stats.verified += usize::from(forest.root(a as usize) != forest.root(b as usize));
                forest.union(a as usize, b as usize);
            }
        }
    }
    let of = forest.roots();
    stats.largest = largest(&of);
    Clusters { of, stats }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_pairs_within_the_distance_are_found(
            words in prop::collection::vec(prop::collection::vec(0..4_u8, 30..60), 2..12), distance in 0..12_u32
        ) {
            let how = Shingling { short_words: 0, ngram: 2, ..Shingling::default() };
            let texts: Vec<String> =
                words.iter().map(|w| w.iter().map(|x| format!("w{x}")).collect::<Vec<_>>().join(" ")).collect();
            let of = simhash_clusters(&texts, &how, distance).of;
            for i in 0..texts.len() {
                for j in 0..i {
                    let apart = (simhash(&texts[i], &how) ^ simhash(&texts[j], &how)).count_ones();
                    prop_assert!(apart > distance || of[i] == of[j]);
                }
            }
        }
    }
}
