use std::sync::LazyLock;

use regex::Regex;

use crate::text::{counted, shared};

const ORDER: usize = 4;

/// BLEU of one answer, from 0 to 100 (`sacrebleu.sentence_bleu`: 13a words, exponential smoothing, effective
/// order).
pub fn bleu(answer: &str, reference: &str) -> f64 {
    let mut counts = Counts::default();
    counts.add(answer, reference);
    counts.score(true)
}

/// BLEU of all answers together, from 0 to 100: counts are summed before they are divided
/// (`sacrebleu.corpus_bleu`; Papineni et al. 2002, Post 2018). Pairs are (answer, reference).
pub fn corpus_bleu<S: AsRef<str>>(pairs: &[(S, S)]) -> f64 {
    let mut counts = Counts::default();
    for (answer, reference) in pairs {
        counts.add(answer.as_ref(), reference.as_ref());
    }
    counts.score(false)
}

#[derive(Default)]
struct Counts {
    correct: [usize; ORDER],
    total: [usize; ORDER],
    answer_len: usize,
    reference_len: usize,
}

impl Counts {
    fn add(&mut self, answer: &str, reference: &str) {
        let (answer, reference) = (words_13a(answer), words_13a(reference));
        self.answer_len += answer.len();
        self.reference_len += reference.len();
        for n in 1..=ORDER {
            self.correct[n - 1] += shared(&counted(answer.windows(n)), &counted(reference.windows(n)));
            self.total[n - 1] += (answer.len() + 1).saturating_sub(n);
        }
    }

    /// `effective` stops at the longest run that the answer has room for, which short answers need.
    fn score(&self, effective: bool) -> f64 {
        if self.correct.iter().all(|&n| n == 0) {
            return 0.0;
        }
        let (mut smooth, mut logs, mut order) = (1.0, 0.0, 0);
        for (&correct, &total) in self.correct.iter().zip(&self.total) {
            if total == 0 {
                if effective {
                    break;
                }
                return 0.0;
            }
            let precision = if correct == 0 {
                smooth *= 2.0;
                1.0 / (smooth * total as f64)
            } else {
                correct as f64 / total as f64
            };
            logs += precision.ln();
            order += 1;
        }
        let (answer, reference) = (self.answer_len as f64, self.reference_len as f64);
        let brevity = if answer < reference { (1.0 - reference / answer).exp() } else { 1.0 };
        100.0 * brevity * (logs / f64::from(order)).exp()
    }
}

/// The WMT tokenizer `mteval-v13a`: punctuation stands alone, except within numbers.
fn words_13a(text: &str) -> Vec<String> {
    static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        let rule = |pattern| Regex::new(pattern).expect("a constant pattern");
        [
            (rule(r"([{-~\[-` -&(-+:-@/])"), " $1 "),
            (rule(r"([^0-9])([.,])"), "$1 $2 "),
            (rule(r"([.,])([^0-9])"), " $1 $2"),
            (rule(r"([0-9])(-)"), "$1 $2 "),
        ]
    });
    let mut line = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if line.contains('&') {
        line = line.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    }
    line = format!(" {line} ");
    for (pattern, with) in RULES.iter() {
        line = pattern.replace_all(&line, *with).into_owned();
    }
    line.split_whitespace().map(str::to_owned).collect()
}
