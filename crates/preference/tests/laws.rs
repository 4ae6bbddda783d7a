//! What must hold for every loss, whatever the numbers.

use ferrotune_preference::{
    Cpo, CpoLoss, Divergence, Kto, KtoLoss, Loss, Objective, PairLogps, PreferenceError, bradley_terry,
    mismatched, orpo, sum_answers,
};
use proptest::prelude::*;
use tch::{Kind, Tensor};

/// log π(c), log π(r), log π_ref(c), log π_ref(r), tokens of both answers.
type Pair = (f64, f64, f64, f64, (usize, usize));

fn pair() -> impl Strategy<Value = Pair> {
    let logp = || -60.0..-0.5f64;
    (logp(), logp(), logp(), logp(), (1..40usize, 1..40usize))
}

fn logps(pairs: &[Pair]) -> PairLogps {
    let column = |pick: fn(&Pair) -> f64| Tensor::from_slice(&pairs.iter().map(pick).collect::<Vec<f64>>());
    let lengths: Vec<(usize, usize)> = pairs.iter().map(|p| p.4).collect();
    PairLogps::new((column(|p| p.0), column(|p| p.1)), (column(|p| p.2), column(|p| p.3)), &lengths).unwrap()
}

fn objective(loss: Loss) -> Objective {
    let label_smoothing = match loss {
        Loss::Robust | Loss::ExoPair | Loss::Cdpo => 0.1,
        _ => 0.0,
    };
    Objective { label_smoothing, ..Objective::new(loss, 0.1) }
}

fn values(objective: &Objective, pairs: &[Pair]) -> Vec<f64> {
    Vec::try_from(objective.loss(&logps(pairs)).unwrap().losses).unwrap()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

/// The losses that fall whenever the margin grows.
const MONOTONE: [Loss; 9] = [
    Loss::Sigmoid,
    Loss::Hinge,
    Loss::Robust,
    Loss::BcoPair,
    Loss::Aot,
    Loss::AotUnpaired,
    Loss::ApoZero,
    Loss::Sft,
    Loss::SigmoidNorm,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn the_order_of_pairs_does_not_matter(pairs in prop::collection::vec(pair(), 1..8), turn in 0..8usize) {
        for loss in Loss::ALL {
            let mut turned = pairs.clone();
            turned.rotate_left(turn % pairs.len());
            let (a, b) = (mean(&values(&objective(loss), &pairs)), mean(&values(&objective(loss), &turned)));
            prop_assert!(close(a, b), "{loss:?}: {a} and {b}");
        }
    }

    #[test]
    fn a_better_chosen_answer_costs_less(pairs in prop::collection::vec(pair(), 1..6), gain in 0.01..5.0f64) {
        for loss in MONOTONE {
            let better: Vec<Pair> = pairs.iter().map(|p| (p.0 + gain, p.1, p.2, p.3, p.4)).collect();
            let (a, b) = (mean(&values(&objective(loss), &pairs)), mean(&values(&objective(loss), &better)));
            prop_assert!(b <= a + 1e-12, "{loss:?}: {a} became {b}");
        }
    }

    /// Whatever is subtracted from both answers of policy and reference alike changes nothing.
    #[test]
    fn only_ratios_to_the_reference_count(pairs in prop::collection::vec(pair(), 1..6), shift in -9.0..9.0f64) {
        for loss in Loss::ALL.into_iter().filter(|&l| l != Loss::Sft) {
            let shifted: Vec<Pair> =
                pairs.iter().map(|p| (p.0 + shift, p.1 + shift, p.2 + shift, p.3 + shift, p.4)).collect();
            let (a, b) = (mean(&values(&objective(loss), &pairs)), mean(&values(&objective(loss), &shifted)));
            prop_assert!((a - b).abs() <= 1e-6 * a.abs().max(1.0), "{loss:?}: {a} and {b}");
        }
    }

    /// Swapping chosen and rejected turns d into −d: −log σ(x) − (−log σ(−x)) = −x, and the hinge likewise in
    /// its linear part; the margins of the rewards change sign.
    #[test]
    fn swapped_labels_are_the_mirror_image(p in pair()) {
        let swapped = (p.1, p.0, p.3, p.2, (p.4.1, p.4.0));
        let objective = objective(Loss::Sigmoid);
        let d = (p.0 - p.2) - (p.1 - p.3);
        let (a, b) = (values(&objective, &[p])[0], values(&objective, &[swapped])[0]);
        prop_assert!(close(a - b, -0.1 * d), "{a} {b} {d}");
        let margin = |pair| {
            let out = objective.loss(&logps(&[pair])).unwrap();
            (out.chosen_rewards - out.rejected_rewards).double_value(&[0])
        };
        prop_assert!(close(margin(p), -margin(swapped)));
    }

    /// Where the formula is antisymmetric: ℓ(d) − ℓ(−d) is a multiple of the margin alone.
    #[test]
    fn losses_of_swapped_pairs_differ_by_a_multiple_of_the_margin(p in pair()) {
        let swapped = (p.1, p.0, p.3, p.2, (p.4.1, p.4.0));
        let (beta, smoothing) = (0.1, 0.1);
        let d = (p.0 - p.2) - (p.1 - p.3);
        let normed = (p.0 - p.2) / p.4.0 as f64 - (p.1 - p.3) / p.4.1 as f64;
        let cases = [
            (Loss::Cdpo, -(1.0 - 2.0 * smoothing) * beta * d),
            (Loss::Robust, -beta * d / (1.0 - 2.0 * smoothing)),
            (Loss::Ipo, -2.0 / beta * normed),
            (Loss::SigmoidNorm, -beta * normed),
            (Loss::Aot, -beta * d),
            // The hinge is linear between its corners only.
            (Loss::Hinge, if (beta * d).abs() < 1.0 { -2.0 * beta * d } else { -d.signum() * (1.0 + (beta * d).abs()) }),
        ];
        for (loss, expected) in cases {
            let found = values(&objective(loss), &[p])[0] - values(&objective(loss), &[swapped])[0];
            prop_assert!((found - expected).abs() <= 1e-9 * expected.abs().max(100.0), "{loss:?}: {found}, not {expected}");
        }
    }

    #[test]
    fn losses_without_a_reference_fall_with_the_margin(c in -9.0..-0.5f64, r in -9.0..-0.5f64, gain in 0.01..0.4f64) {
        let of = |x: f64| Tensor::from_slice(&[x]);
        for loss_type in [CpoLoss::Sigmoid, CpoLoss::Hinge, CpoLoss::Simpo] {
            let cpo = Cpo { loss_type, ..Cpo::default() };
            let at = |c: f64, r: f64| cpo.loss(&of(c), &of(r)).unwrap().losses.double_value(&[0]);
            prop_assert!(at(c + gain, r) <= at(c, r) && at(c, r + gain) >= at(c, r), "{loss_type:?}");
        }
        let at = |c: f64, r: f64| orpo(&of(c), &of(r), 0.1).losses.double_value(&[0]);
        prop_assert!(at(c + gain, r) <= at(c, r) + 1e-7 && at(c, r + gain) >= at(c, r) - 1e-7, "orpo");
        let at = |c: f64, r: f64| bradley_terry(&of(c), &of(r), None, None).unwrap().double_value(&[0]);
        prop_assert!(at(c + gain, r) < at(c, r));
        prop_assert!(close(at(c, r) - at(r, c), r - c), "a reward model's loss is antisymmetric");
    }

    #[test]
    fn a_thumb_pulls_its_answer_its_way(policy in -60.0..-1.0f64, reference in -60.0..-1.0f64, gain in 0.01..5.0f64) {
        let of = |x: f64| Tensor::from_slice(&[x as f32]);
        for loss_type in [KtoLoss::Kto, KtoLoss::ApoZeroUnpaired] {
            let kto = Kto { loss_type, ..Kto::default() };
            let at = |policy: f64, up: bool| {
                kto.loss(&of(policy), &of(reference), &[up], None).unwrap().losses.double_value(&[0])
            };
            prop_assert!(at(policy + gain, true) <= at(policy, true) && at(policy + gain, false) >= at(policy, false));
        }
    }

    #[test]
    fn with_policy_as_reference_the_loss_is_the_expected_one(pairs in prop::collection::vec(pair(), 1..6)) {
        let same: Vec<Pair> = pairs.iter().map(|p| (p.0, p.1, p.0, p.1, p.4)).collect();
        for loss in Loss::ALL {
            let objective = objective(loss);
            let found = mean(&values(&objective, &same));
            let expected = objective.expected_at_start();
            prop_assert_eq!(expected.is_none(), loss == Loss::Sft);
            prop_assert!(expected.is_none_or(|e| close(found, e)), "{:?}: {} for {:?}", loss, found, expected);
            prop_assert!(objective.check_start(found, 1e-6).is_ok());
        }
        for kind in [Divergence::ForwardKl, Divergence::JsDivergence, Divergence::AlphaDivergence] {
            let objective = Objective { f_divergence_type: kind, ..objective(Loss::Sigmoid) };
            prop_assert!(close(mean(&values(&objective, &same)), std::f64::consts::LN_2), "{kind:?}");
        }
    }

    #[test]
    fn a_wrong_reference_is_noticed(p in pair()) {
        prop_assume!(((p.0 - p.2) - (p.1 - p.3)).abs() > 0.1);
        let objective = objective(Loss::Sigmoid);
        let refused = objective.check_start(values(&objective, &[p])[0], 1e-4);
        let refused = matches!(refused, Err(PreferenceError::Start { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn a_mixture_is_the_weighted_sum_of_its_parts(pairs in prop::collection::vec(pair(), 1..5), w in 0.0..2.0f64) {
        let losses = vec![Loss::Sigmoid, Loss::Sft];
        let mixed = Objective { loss_type: losses, loss_weights: Some(vec![1.0, w]), ..Objective::default() };
        let (a, b) = (values(&objective(Loss::Sigmoid), &pairs), values(&objective(Loss::Sft), &pairs));
        let sum: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + w * b).collect();
        prop_assert!(values(&mixed, &pairs).iter().zip(&sum).all(|(x, y)| close(*x, *y)));
    }

    #[test]
    fn summed_tokens_are_the_answers(lengths in prop::collection::vec((1..6usize, 1..6usize), 1..5), alpha in 0.0..1.0f64) {
        let n: usize = lengths.iter().map(|(c, r)| c + r).sum();
        let tokens: Vec<f64> = (0..n).map(|i| -(i as f64) - 1.0).collect();
        let (chosen, rejected) = sum_answers(&Tensor::from_slice(&tokens), &lengths, Some(alpha)).unwrap();
        let mut rest = tokens.as_slice();
        for (i, &(c, r)) in lengths.iter().enumerate() {
            for (side, len) in [(&chosen, c), (&rejected, r)] {
                let (answer, after) = rest.split_at(len);
                rest = after;
                let expected: f64 =
                    answer.iter().enumerate().map(|(t, v)| if t < c.min(r) { *v } else { alpha * v }).sum();
                prop_assert!(close(side.double_value(&[i as i64]), expected));
            }
        }
    }

    /// No combination of extreme log-probabilities gives anything but a number, gradient included.
    #[test]
    fn orpo_and_kto_stay_numbers(c in -40.0..=0.0f64, r in -40.0..=0.0f64) {
        let leaf = |v: f64| Tensor::from_slice(&[v as f32]).set_requires_grad(true);
        let (chosen, rejected) = (leaf(c), leaf(r));
        let out = orpo(&chosen, &rejected, 0.1);
        out.losses.sum(Kind::Float).backward();
        for t in [&out.losses, &chosen.grad(), &rejected.grad()] {
            prop_assert!(t.isfinite().all().int64_value(&[]) == 1, "{c} {r}");
        }
        let kto = Kto { loss_type: KtoLoss::Kto, ..Kto::default() };
        let loss = kto.loss(&leaf(c * 100.0), &leaf(r * 100.0), &[c < r], None).unwrap().losses;
        prop_assert!((0.0..=1.0).contains(&loss.double_value(&[0])));
    }
}

#[test]
fn bad_input_is_refused() {
    let t = |n: usize| Tensor::from_slice(&vec![-1.0f32; n]);
    let check = |lengths: &[(usize, usize)], n: usize, expect: &str| {
        let error = PairLogps::new((t(n), t(n)), (t(n), t(n)), lengths).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(&[(1, 0)], 1, "pair 0 of the batch has an empty rejected answer");
    check(&[(1, 1)], 2, "policy chosen is [2] where [1]");
    let error = sum_answers(&t(3), &[(1, 1)], None).unwrap_err().to_string();
    assert!(error.contains("[3] where [2]"), "{error}");
}

#[test]
fn settings_that_nothing_reads_are_refused() {
    let check = |json: &str, expect: Option<&str>| {
        let objective: Objective = serde_json::from_str(json).unwrap();
        match (objective.check(), expect) {
            (Ok(()), None) => {}
            (Err(error), Some(expect)) => assert!(error.to_string().contains(expect), "{error}"),
            (result, _) => panic!("{json}: {result:?}"),
        }
    };
    check(r#"{"loss_type": ["sigmoid"], "label_smoothing": 0.1}"#, Some("cdpo"));
    check(r#"{"loss_type": ["cdpo"], "label_smoothing": 0.1}"#, None);
    check(r#"{"loss_type": ["exo_pair"]}"#, Some("exo_pair"));
    check(r#"{"loss_type": ["robust"], "label_smoothing": 0.5}"#, Some("below 0.5"));
    check(r#"{"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}"#, Some("1 loss_weights for 2"));
    check(r#"{"loss_type": ["nca_pair"], "f_divergence_type": "js_divergence"}"#, Some("f_divergence_type"));
    check(r#"{"beta": 0}"#, Some("beta"));
    assert!(serde_json::from_str::<Objective>(r#"{"bet": 0.1}"#).is_err());
    let error = Loss::from_name("dpo").unwrap_err().to_string();
    assert!(error.contains("sigmoid, cdpo, hinge"), "{error}");
    assert!(Loss::ALL.into_iter().all(|l| Loss::from_name(l.name()).unwrap() == l));
}

#[test]
fn mismatched_rows_borrow_the_answer_before() {
    assert_eq!(mismatched(4), [3, 0, 1, 2]);
    assert!(mismatched(0).is_empty());
}
