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
    let mut keyed: Vec<(u128, u32)> = (0..n)
        .into_par_iter()
        .map_init(Vec::new, |normal, text| (key_by(normal, &texts.facets(text)), text as u32))
        .collect();
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
    key_by(&mut Vec::new(), facets)
}

/// [`exact_key`] with a buffer to write the normal form into.
fn key_by(normal: &mut Vec<u8>, facets: &[Facet<'_>]) -> u128 {
    normal.clear();
    normal.reserve(facets.iter().map(|f| f.text.len() + 16).sum());
    for facet in facets {
        normal.extend_from_slice(&facet.tag.to_le_bytes());
        let start = normal.len();
        push_normal(&facet.text, normal);
        // The length keeps the end of a facet apart from the beginning of the next.
        normal.extend_from_slice(&((normal.len() - start) as u64).to_le_bytes());
    }
    xxh3_128(normal)
}

fn push_normal(text: &str, out: &mut Vec<u8>) {
    let (start, bytes) = (out.len(), text.as_bytes());
    let (mut at, mut wants_space) = (0, false);
    while at < bytes.len() {
        // Most of most texts: a row of bytes that need nothing but lower case and spaces of one kind.
        if let Some(row) = bytes[at..].first_chunk::<ROW>().and_then(plain) {
            at += ROW;
            // A space at the beginning is one too many after another, and at the end it may be.
            let (from, to) = (usize::from(row[0] == b' '), ROW - usize::from(row[ROW - 1] == b' '));
            if (wants_space || from == 1) && out.len() > start {
                out.push(b' ');
            }
            wants_space = to < ROW;
            out.extend_from_slice(&row[from..to]);
            continue;
        }
        // Else a row's worth of characters, one by one.
        let until = (at + ROW).min(bytes.len());
        while at < until {
            let Some(c) = text[at..].chars().next() else { break };
            at += c.len_utf8();
            if c.is_whitespace() {
                wants_space = out.len() > start;
                continue;
            }
            if std::mem::take(&mut wants_space) {
                out.push(b' ');
            }
            if c.is_ascii() {
                out.push(c.to_ascii_lowercase() as u8);
            } else {
                for lower in c.to_lowercase() {
                    out.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    }
}

/// Bytes looked at together.
const ROW: usize = 32;

/// The row in its normal form, if it is ASCII, without control characters but line ends and tabs, and without two
/// spaces in a row. Every byte is looked at, so that the compiler can take them together.
fn plain(row: &[u8; ROW]) -> Option<[u8; ROW]> {
    let normal = row.map(|b| if b == b'\n' || b == b'\t' { b' ' } else { b.to_ascii_lowercase() });
    let odd = normal.iter().fold(0, |odd, &b| odd | u8::from(b < b' ') | u8::from(b >= 0x7f));
    let doubled =
        normal.windows(2).fold(0, |odd, two| odd | u8::from(two[0] == b' ') & u8::from(two[1] == b' '));
    (odd | doubled == 0).then_some(normal)
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
        let long = "One TWO three four five six seven eight nine ten eleven twelve thirteen";
        for gap in [" ", "  ", "\t", "\n\n", " \u{a0} "] {
            // Whatever byte a gap falls on.
            for lead in 0..40 {
                let spaced = format!("{}{}", " ".repeat(lead), long.to_lowercase().replace(' ', gap));
                check(&[&spaced], &[long], true);
            }
        }
        check(&[&long.replace("x s", "xs")], &[long], false);
        check(&["a b", ""], &["a", "b"], false);
        check(&[""], &[" "], true);
        check(&[""], &["", ""], false);
    }
}
