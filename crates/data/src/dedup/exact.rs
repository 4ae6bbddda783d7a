//! Texts that are equal but for case and white space.

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use super::lsh::{ClusterStats, Clusters, largest};
use super::texts::{Facet, Texts};

/// Clusters of texts that are equal, case and white space aside.
pub(super) fn exact_clusters<T: Texts + ?Sized>(texts: &T) -> Clusters {
    let of: Vec<usize> = exact_twins(texts).into_iter().map(|first| first as usize).collect();
    let exact = of.iter().enumerate().filter(|&(text, &first)| text != first).count();
    let largest = largest(&of);
    Clusters { of, stats: ClusterStats { exact, largest, ..ClusterStats::default() } }
}

/// For each text the first with the same normalised facets (case and white space do not count).
pub(super) fn exact_twins<T: Texts + ?Sized>(texts: &T) -> Vec<u32> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

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
