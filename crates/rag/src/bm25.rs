//! The ranking function of Lucene: BM25 without the constant factor k1 + 1 (Kamphuis et al., ECIR 2020,
//! "accurate" and "Lucene" rows).
//!
//! score(q, d) = sum over the query's terms, repetitions counted:
//! idf(t) * tf / (tf + k1 * (1 - b + b * |d| / mean |d|)).

/// How fast repetitions of a term stop counting.
pub const K1: f64 = 1.2;

/// How much long texts are held back: 0 not at all, 1 in full proportion.
pub const B: f64 = 0.75;

/// ln(1 + (n - df + 0.5) / (df + 0.5)): the rarer a term among `n_docs`, the more it says. Never negative.
pub fn idf(n_docs: usize, df: usize) -> f64 {
    let (n, df) = (n_docs as f64, df as f64);
    (1.0 + (n - df + 0.5) / (df + 0.5)).ln()
}

/// What `tf` occurrences in a text of `len` terms weigh, from 0 up to 1; to be multiplied by [`idf`].
pub fn term_weight(tf: u32, len: u32, mean_len: f64) -> f64 {
    let tf = f64::from(tf);
    tf / (tf + K1 * (1.0 - B + B * f64::from(len) / mean_len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_worked_out_by_hand() {
        assert!((idf(10, 1) - (1.0_f64 + 9.5 / 1.5).ln()).abs() < 1e-15);
        assert!((term_weight(1, 10, 10.0) - 1.0 / 2.2).abs() < 1e-15);
    }

    proptest! {
        #[test]
        fn more_occurrences_weigh_more_and_longer_texts_less(tf in 1..50u32, len in 1..500u32, mean in 1.0..500f64) {
            let weight = term_weight(tf, len, mean);
            prop_assert!((0.0..1.0).contains(&weight));
            prop_assert!(term_weight(tf + 1, len, mean) > weight);
            prop_assert!(term_weight(tf, len + 1, mean) < weight);
        }

        #[test]
        fn rarer_terms_say_more(n in 2..1000usize, df in 1..1000usize) {
            prop_assume!(df < n);
            prop_assert!(idf(n, df) > idf(n, df + 1));
            prop_assert!(idf(n, df + 1) > 0.0);
        }
    }
}
