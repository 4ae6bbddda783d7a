//! Retrieval metrics as trec_eval defines them. Each takes a ranking, best first and without repetitions, and
//! the relevant ids; where nothing is relevant the result is 0, and such queries are best left out of a mean.
//! A relevant id that is given twice counts once.

use std::collections::BTreeSet;

/// Share of the relevant ids among the first `k` (trec_eval `recall.k`).
pub fn recall_at<S: AsRef<str>, R: AsRef<str>>(ranking: &[S], relevant: &[R], k: usize) -> f64 {
    ratio(hits(ranking, relevant, k), distinct(relevant))
}

/// Share of the first `k` that are relevant (trec_eval `P.k`); a shorter ranking is padded with misses.
pub fn precision_at<S: AsRef<str>, R: AsRef<str>>(ranking: &[S], relevant: &[R], k: usize) -> f64 {
    ratio(hits(ranking, relevant, k), k)
}

/// 1 where any of the first `k` is relevant, else 0 (trec_eval `success.k`).
pub fn hit_at<S: AsRef<str>, R: AsRef<str>>(ranking: &[S], relevant: &[R], k: usize) -> f64 {
    f64::from(hits(ranking, relevant, k) > 0)
}

/// 1 / the rank of the first relevant id, or 0 (trec_eval `recip_rank`).
pub fn reciprocal_rank<S: AsRef<str>, R: AsRef<str>>(ranking: &[S], relevant: &[R]) -> f64 {
    ranking.iter().position(|id| is_relevant(id, relevant)).map_or(0.0, |i| 1.0 / (i + 1) as f64)
}

/// Mean, over the relevant ids, of the precision at each one's rank; an id not ranked adds 0 (trec_eval `map`).
pub fn average_precision<S: AsRef<str>, R: AsRef<str>>(ranking: &[S], relevant: &[R]) -> f64 {
    let (mut found, mut sum) = (0, 0.0);
    for (i, id) in ranking.iter().enumerate() {
        if is_relevant(id, relevant) {
            found += 1;
            sum += f64::from(found) / (i + 1) as f64;
        }
    }
    if relevant.is_empty() { 0.0 } else { sum / distinct(relevant) as f64 }
}

/// Discounted gain over that of the ideal ranking, both cut at `k` (trec_eval `ndcg_cut.k`).
///
/// `gains` pairs each relevant id with its grade; the gain is the grade itself, the discount log2(rank + 1).
pub fn ndcg_at<S: AsRef<str>, R: AsRef<str>>(ranking: &[S], gains: &[(R, f64)], k: usize) -> f64 {
    let discounted = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
        gains.take(k).enumerate().map(|(i, gain)| gain / ((i + 2) as f64).log2()).sum()
    };
    let gain_of =
        |id: &S| gains.iter().find(|(rel, _)| rel.as_ref() == id.as_ref()).map_or(0.0, |(_, g)| g.max(0.0));
    let mut seen = BTreeSet::new();
    let distinct = gains.iter().filter(|(id, _)| seen.insert(id.as_ref()));
    let mut ideal: Vec<f64> = distinct.map(|(_, gain)| gain.max(0.0)).collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    let best = discounted(&mut ideal.into_iter());
    if best == 0.0 { 0.0 } else { discounted(&mut ranking.iter().map(gain_of)) / best }
}

fn hits<S: AsRef<str>, R: AsRef<str>>(ranking: &[S], relevant: &[R], k: usize) -> usize {
    ranking.iter().take(k).filter(|id| is_relevant(id, relevant)).count()
}

fn distinct<R: AsRef<str>>(relevant: &[R]) -> usize {
    relevant.iter().map(AsRef::as_ref).collect::<BTreeSet<&str>>().len()
}

fn is_relevant<S: AsRef<str>, R: AsRef<str>>(id: &S, relevant: &[R]) -> bool {
    relevant.iter().any(|rel| rel.as_ref() == id.as_ref())
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
