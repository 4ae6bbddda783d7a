use ferrotune_eval::{
    Perplexity, bleu, chrf, chrf_plus_plus, cohen_kappa, corpus_bleu, corpus_chrf, exact_match, rouge_l,
    rouge_n, sign_test, token_f1, wilson,
};
use ferrotune_types::LogLikelihood;
use proptest::prelude::*;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/metrics.json")).unwrap()
}

fn check(name: &str, found: f64, expect: &Value) {
    let expect = expect.as_f64().unwrap();
    assert!((found - expect).abs() < 1e-9, "{name}: {found} not {expect}");
}

#[test]
fn text_metrics_equal_their_own_programs() {
    let golden = golden();
    let mut pairs = Vec::new();
    for row in golden["pairs"].as_array().unwrap() {
        let (answer, reference) = (row["answer"].as_str().unwrap(), row["reference"].as_str().unwrap());
        for (name, found) in [
            ("rouge1", rouge_n(answer, reference, 1)),
            ("rouge2", rouge_n(answer, reference, 2)),
            ("rougeL", rouge_l(answer, reference)),
        ] {
            check(&format!("{name} precision of {answer}"), found.precision, &row[name][0]);
            check(&format!("{name} recall of {answer}"), found.recall, &row[name][1]);
            check(&format!("{name} F1 of {answer}"), found.f1, &row[name][2]);
        }
        check(&format!("BLEU of {answer}"), bleu(answer, reference), &row["bleu"]);
        check(&format!("chrF of {answer}"), chrf(answer, reference), &row["chrf"]);
        check(&format!("chrF++ of {answer}"), chrf_plus_plus(answer, reference), &row["chrf++"]);
        check(&format!("F1 of {answer}"), token_f1(answer, reference).f1, &row["f1"]);
        assert_eq!(exact_match(answer, reference), row["exact"].as_bool().unwrap(), "{answer}");
        pairs.push((answer, reference));
    }
    check("corpus BLEU", corpus_bleu(&pairs), &golden["corpus_bleu"]);
    check("corpus chrF", corpus_chrf(&pairs), &golden["corpus_chrf"]);
}

#[test]
fn tests_and_intervals_equal_scipy_and_scikit_learn() {
    let golden = golden();
    for row in golden["sign"].as_array().unwrap() {
        let n = |i: usize| row[i].as_u64().unwrap() as usize;
        let (found, expect) = (sign_test(n(0), n(1)), row[2].as_f64().unwrap());
        assert!((found / expect - 1.0).abs() < 1e-9, "{row}: {found}");
        assert_eq!(found, sign_test(n(1), n(0)));
    }
    for row in golden["wilson"].as_array().unwrap() {
        let found = wilson(row[0].as_u64().unwrap() as usize, row[1].as_u64().unwrap() as usize);
        check("low", found.ci95[0], &row[2]);
        check("high", found.ci95[1], &row[3]);
    }
    let letters = |key: &str| golden["kappa"][key].as_str().unwrap().chars().collect::<Vec<_>>();
    check("kappa", cohen_kappa(&letters("a"), &letters("b")).unwrap(), &golden["kappa"]["expect"]);
}

#[test]
fn perplexity_by_hand() {
    let likelihood = |sum, n_tokens| LogLikelihood { sum, n_tokens, is_greedy: false };
    let found =
        Perplexity::from_likelihoods(&["ab cd", "é"], &[likelihood(-6.0, 3), likelihood(-2.0, 1)]).unwrap();
    assert!((found.per_token - 2f64.exp()).abs() < 1e-12);
    assert!((found.per_word - (8.0 / 3.0f64).exp()).abs() < 1e-12);
    assert_eq!((found.tokens, found.words, found.bytes), (4, 3, 7));
    assert!((found.bits_per_byte - 8.0 / 7.0 / 2f64.ln()).abs() < 1e-12);
    assert!(Perplexity::from_likelihoods::<&str>(&[], &[]).is_err());
    assert!(Perplexity::from_likelihoods(&["a"], &[]).is_err());
}

proptest! {
    #[test]
    fn metrics_stay_in_their_range_and_a_text_equals_itself(a in ".{0,40}", b in ".{0,40}") {
        for value in [
            rouge_n(&a, &b, 1).f1, rouge_n(&a, &b, 2).f1, rouge_l(&a, &b).f1, token_f1(&a, &b).f1,
            bleu(&a, &b) / 100.0, chrf(&a, &b) / 100.0, chrf_plus_plus(&a, &b) / 100.0,
        ] {
            prop_assert!((0.0..=1.0 + 1e-12).contains(&value), "{value}");
        }
        prop_assert!(exact_match(&a, &a));
        prop_assert_eq!(token_f1(&a, &a).f1, 1.0);
        prop_assert!((rouge_l(&a, &b).f1 - rouge_l(&b, &a).f1).abs() < 1e-12);
    }
}
