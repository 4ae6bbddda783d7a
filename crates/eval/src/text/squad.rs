use crate::text::{Prf, counted, shared};

/// Whether two answers are the same after SQuAD's normalisation: lower case, no punctuation, no articles, single
/// spaces (Rajpurkar et al. 2016, `evaluate-v1.1.py`).
pub fn exact_match(answer: &str, reference: &str) -> bool {
    normalised(answer) == normalised(reference)
}

/// Words that two answers share, after the same normalisation. Two empty answers agree fully
/// (`evaluate-v2.0.py`).
pub fn token_f1(answer: &str, reference: &str) -> Prf {
    let (answer, reference) = (normalised(answer), normalised(reference));
    if answer.is_empty() && reference.is_empty() {
        return Prf { precision: 1.0, recall: 1.0, f1: 1.0 };
    }
    let (a, r) = (counted(&answer), counted(&reference));
    Prf::of(shared(&a, &r) as f64, answer.len() as f64, reference.len() as f64)
}

fn normalised(text: &str) -> Vec<String> {
    let bare: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    bare.split_whitespace().filter(|word| !["a", "an", "the"].contains(word)).map(str::to_owned).collect()
}
