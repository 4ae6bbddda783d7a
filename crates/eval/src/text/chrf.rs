use crate::text::{counted, shared};

const CHAR_ORDER: usize = 6;

/// chrF2 of one answer, from 0 to 100: runs of 1 to 6 characters without spaces, recall weighing twice as much
/// (Popović 2015; `sacrebleu.sentence_chrf`).
pub fn chrf(answer: &str, reference: &str) -> f64 {
    score(&[statistics(answer, reference, 0)])
}

/// chrF2++: [`chrf`] with runs of one and two words besides (Popović 2017).
pub fn chrf_plus_plus(answer: &str, reference: &str) -> f64 {
    score(&[statistics(answer, reference, 2)])
}

/// chrF2 of all answers together: counts are summed before they are divided. Pairs are (answer, reference).
pub fn corpus_chrf<S: AsRef<str>>(pairs: &[(S, S)]) -> f64 {
    let all: Vec<Vec<[f64; 3]>> = pairs.iter().map(|(a, r)| statistics(a.as_ref(), r.as_ref(), 0)).collect();
    score(&all)
}

/// For each order: runs in the answer, in the reference, in both.
fn statistics(answer: &str, reference: &str, word_order: usize) -> Vec<[f64; 3]> {
    let chars = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<Vec<char>>();
    let (a, r) = (chars(answer), chars(reference));
    let of_chars = (1..=CHAR_ORDER).map(|n| runs(&a, &r, n));
    let (a, r) = (words(answer), words(reference));
    let of_words = (1..=word_order).map(|n| runs(&a, &r, n));
    of_chars.chain(of_words).collect()
}

fn runs<T: Ord>(answer: &[T], reference: &[T], n: usize) -> [f64; 3] {
    let common = shared(&counted(answer.windows(n)), &counted(reference.windows(n)));
    let count = |items: &[T]| (items.len() + 1).saturating_sub(n) as f64;
    // An order that the reference has no room for is not held against the answer.
    let of_answer = if reference.len() < n { 0.0 } else { count(answer) };
    [of_answer, count(reference), common as f64]
}

/// Precision and recall averaged over the orders that both sides have, then F with beta 2.
fn score(all: &[Vec<[f64; 3]>]) -> f64 {
    let orders = all.first().map_or(0, Vec::len);
    let (mut precision, mut recall, mut used) = (0.0, 0.0, 0.0);
    for order in 0..orders {
        let sum = |part: usize| all.iter().map(|s| s[order][part]).sum::<f64>();
        let [answer, reference, common] = [sum(0), sum(1), sum(2)];
        if answer > 0.0 && reference > 0.0 {
            precision += common / answer;
            recall += common / reference;
            used += 1.0;
        }
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / used, recall / used);
    100.0 * 5.0 * precision * recall / (4.0 * precision + recall)
}

/// Words with one punctuation mark split off at their end, else at their start.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        let mut chars = word.chars();
        match (chars.next(), chars.next_back()) {
            (Some(_), Some(last)) if last.is_ascii_punctuation() => {
                out.extend([word[..word.len() - 1].to_owned(), last.to_string()]);
            }
            (Some(first), Some(_)) if first.is_ascii_punctuation() => {
                out.extend([first.to_string(), word[1..].to_owned()]);
            }
            _ => out.push(word.to_owned()),
        }
    }
    out
}
