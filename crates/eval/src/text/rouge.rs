use crate::text::{Prf, counted, shared};

/// ROUGE-N: runs of `n` words that both texts have (Lin 2004; `rouge_score` 0.1.2 without its stemmer).
pub fn rouge_n(answer: &str, reference: &str, n: usize) -> Prf {
    let (answer, reference) = (words(answer), words(reference));
    let (n, grams) = (n.max(1), |words: &[String]| words.len().saturating_sub(n.max(1) - 1) as f64);
    let common = shared(&counted(answer.windows(n)), &counted(reference.windows(n)));
    Prf::of(common as f64, grams(&answer), grams(&reference))
}

/// ROUGE-L: the longest run of words that both texts have in the same order, gaps allowed.
pub fn rouge_l(answer: &str, reference: &str) -> Prf {
    let (answer, reference) = (words(answer), words(reference));
    let common = longest_common(&answer, &reference);
    Prf::of(common as f64, answer.len() as f64, reference.len() as f64)
}

/// `rouge_score`'s words: runs of ASCII letters and digits in lower case.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let pieces = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
    pieces.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Length of the longest common subsequence, in one row of memory.
pub(crate) fn longest_common<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}
