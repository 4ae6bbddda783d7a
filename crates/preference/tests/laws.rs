//! What must hold for every loss, whatever the numbers.

use ferrotune_preference::{
    Cpo, CpoLoss, Divergence, Kto, KtoLoss, Loss, Objective, PairLogps, PreferenceError, bradley_terry,
    check_beta, mismatched, orpo, sum_answers,
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

/// Equal but for the last digits of fp32, which may depend on the place in a tensor.
fn near(a: &[f32], b: &[f32]) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.len(), b.len());
    let equal = |(x, y): (&f32, &f32)| (x - y).abs() <= 1e-5 * x.abs().max(1.0);
    prop_assert!(a.iter().zip(b).all(equal), "{:?} and {:?}", a, b);
    Ok(())
}

/// A list in another order.
fn in_order<T: Clone>(list: &[T], order: &[usize]) -> Vec<T> {
    order.iter().map(|&i| list[i].clone()).collect()
}

/// Rows of some kind, and any order of them.
fn rows_in_any_order<T: std::fmt::Debug + Clone>(
    row: impl Strategy<Value = T>,
) -> impl Strategy<Value = (Vec<T>, Vec<usize>)> {
    prop::collection::vec(row, 1..8).prop_flat_map(|rows| {
        let order: Vec<usize> = (0..rows.len()).collect();
        (Just(rows), Just(order).prop_shuffle())
    })
}

/// The losses that fall whenever the chosen answer gains.
const FALL_WITH_CHOSEN: [Loss; 9] = [
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

/// The losses that fall whenever the rejected answer loses.
const FALL_WITH_REJECTED: [Loss; 10] = [
    Loss::Sigmoid,
    Loss::Hinge,
    Loss::Robust,
    Loss::NcaPair,
    Loss::BcoPair,
    Loss::Aot,
    Loss::AotUnpaired,
    Loss::ApoZero,
    Loss::ApoDown,
    Loss::SigmoidNorm,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn the_order_of_pairs_does_not_matter((pairs, order) in rows_in_any_order(pair())) {
        let other = in_order(&pairs, &order);
        for loss in Loss::ALL {
            let (before, after) = (values(&objective(loss), &pairs), values(&objective(loss), &other));
            prop_assert!(close(mean(&before), mean(&after)), "{loss:?}: {before:?} and {after:?}");
            // A loss that looks at pairs one by one says the same of each, wherever it stands.
            if !matches!(loss, Loss::Aot | Loss::AotUnpaired | Loss::Sft) {
                let same = in_order(&before, &order).iter().zip(&after).all(|(a, b)| close(*a, *b));
                prop_assert!(same, "{loss:?}: {before:?} and {after:?}");
            }
        }
    }

    #[test]
    fn the_order_of_rows_does_not_matter_without_a_reference((rows, order) in rows_in_any_order((-9.0..-0.1f32, -9.0..-0.1f32))) {
        let columns = |rows: &[(f32, f32)]| {
            let column = |pick: fn(&(f32, f32)) -> f32| Tensor::from_slice(&rows.iter().map(pick).collect::<Vec<_>>());
            (column(|r| r.0), column(|r| r.1))
        };
        let list = |t: &Tensor| Vec::<f32>::try_from(t).unwrap();
        let ((c, r), (c2, r2)) = (columns(&rows), columns(&in_order(&rows, &order)));
        for loss_type in [CpoLoss::Sigmoid, CpoLoss::Hinge, CpoLoss::Ipo, CpoLoss::Simpo] {
            let cpo = Cpo { loss_type, ..Cpo::default() };
            let (before, after) = (cpo.loss(&c, &r).unwrap(), cpo.loss(&c2, &r2).unwrap());
            near(&in_order(&list(&before.losses), &order), &list(&after.losses))?;
            near(&in_order(&list(&before.chosen_rewards), &order), &list(&after.chosen_rewards))?;
            near(&in_order(&list(&before.rejected_rewards), &order), &list(&after.rejected_rewards))?;
        }
        let (before, after) = (orpo(&c, &r, 0.1), orpo(&c2, &r2, 0.1));
        near(&in_order(&list(&before.losses), &order), &list(&after.losses))?;
        near(&in_order(&list(&before.chosen_rewards), &order), &list(&after.chosen_rewards))?;
        prop_assert!((before.log_odds_ratio - after.log_odds_ratio).abs() <= 1e-5);
        prop_assert!((before.log_odds_chosen - after.log_odds_chosen).abs() <= 1e-5);
        let (before, after) = (bradley_terry(&c, &r, None, None).unwrap(), bradley_terry(&c2, &r2, None, None).unwrap());
        near(&in_order(&list(&before), &order), &list(&after))?;
    }

    /// The reference point is a mean over the mismatched rows, whose order is free too.
    #[test]
    fn the_order_of_thumbs_does_not_matter(
        (rows, order) in rows_in_any_order((-60.0..-0.5f32, -60.0..-0.5f32, -60.0..-0.5f32, any::<bool>())),
    ) {
        let kto = |loss_type| Kto { loss_type, desirable_weight: 1.3, undesirable_weight: 0.8, ..Kto::default() };
        let run = |loss_type, rows: &[(f32, f32, f32, bool)]| {
            let column = |pick: fn(&(f32, f32, f32, bool)) -> f32| {
                Tensor::from_slice(&rows.iter().map(pick).collect::<Vec<_>>())
            };
            let (policy, reference, other) = (column(|r| r.0), column(|r| r.1), column(|r| r.2));
            let thumbs: Vec<bool> = rows.iter().map(|r| r.3).collect();
            let out = kto(loss_type).loss(&policy, &reference, &thumbs, Some((&other, &reference))).unwrap();
            let list = |t: &Tensor| Vec::<f32>::try_from(t).unwrap();
            (list(&out.losses), list(&out.rewards), out.kl)
        };
        for loss_type in [KtoLoss::Kto, KtoLoss::ApoZeroUnpaired] {
            let (before, after) = (run(loss_type, &rows), run(loss_type, &in_order(&rows, &order)));
            near(&in_order(&before.0, &order), &after.0)?;
            near(&in_order(&before.1, &order), &after.1)?;
            prop_assert!((before.2 - after.2).abs() <= 1e-5 * before.2.abs().max(1.0));
        }
    }

    #[test]
    fn a_better_chosen_answer_costs_less(pairs in prop::collection::vec(pair(), 1..6), gain in 0.01..5.0f64) {
        for loss in FALL_WITH_CHOSEN {
            let better: Vec<Pair> = pairs.iter().map(|p| (p.0 + gain, p.1, p.2, p.3, p.4)).collect();
            let (a, b) = (mean(&values(&objective(loss), &pairs)), mean(&values(&objective(loss), &better)));
            prop_assert!(b < a || (loss == Loss::Hinge && b == a), "{loss:?}: {a} became {b}");
        }
    }

    #[test]
    fn a_worse_rejected_answer_costs_less(pairs in prop::collection::vec(pair(), 1..6), fall in 0.01..5.0f64) {
        for loss in FALL_WITH_REJECTED {
            let better: Vec<Pair> = pairs.iter().map(|p| (p.0, p.1 - fall, p.2, p.3, p.4)).collect();
            let (a, b) = (mean(&values(&objective(loss), &pairs)), mean(&values(&objective(loss), &better)));
            prop_assert!(b < a || (loss == Loss::Hinge && b == a), "{loss:?}: {a} became {b}");
        }
        let worse: Vec<Pair> = pairs.iter().map(|p| (p.0, p.1 - fall, p.2, p.3, p.4)).collect();
        prop_assert_eq!(values(&objective(Loss::Sft), &pairs), values(&objective(Loss::Sft), &worse));
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

    /// Whichever of the two weights is set to a bound or between them, both thumbs are then balanced; beyond, they are not.
    #[test]
    fn the_weights_that_a_balance_names_keep_it(
        (n_up, n_down) in (1..100_000usize, 1..100_000usize), (up, down) in (0.01..50.0f64, 0.01..50.0f64), at in 0.0..=1.0f64,
    ) {
        let kto = Kto { desirable_weight: up, undesirable_weight: down, ..Kto::default() };
        let named = kto.balance(n_up, n_down).unwrap();
        let between = |(low, high): (f64, f64)| low + at * (high - low);
        let with_up = |weight| Kto { desirable_weight: weight, ..kto.clone() }.balance(n_up, n_down).unwrap();
        let with_down = |weight| Kto { undesirable_weight: weight, ..kto.clone() }.balance(n_up, n_down).unwrap();
        prop_assert!(with_up(between(named.desirable_weight)).is_balanced(), "{:?}", named);
        prop_assert!(with_down(between(named.undesirable_weight)).is_balanced(), "{:?}", named);
        let ((low, high), (least, most)) = (named.desirable_weight, named.undesirable_weight);
        prop_assert!(close(with_up(low).ratio, 1.0) && close(with_up(high).ratio, 4.0 / 3.0));
        prop_assert!(close(with_down(most).ratio, 1.0) && close(with_down(least).ratio, 4.0 / 3.0));
        for beyond in [with_up(low * 0.95), with_up(high * 1.05), with_down(least * 0.95), with_down(most * 1.05)] {
            prop_assert!(!beyond.is_balanced(), "{:?}", beyond);
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
    let error =
        Kto::default().loss(&t(2), &t(2), &[true, false], Some((&t(2), &t(1)))).unwrap_err().to_string();
    assert!(error.contains("reference of mismatched rows is [1] where [2]"), "{error}");
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
    check(r#"{"loss_type": ["hinge"], "discopop_tau": 0.1}"#, Some("hinge does not read discopop_tau"));
    check(r#"{"loss_type": ["hinge", "discopop"], "discopop_tau": 0.1}"#, None);
    check(r#"{"loss_type": ["discopop"], "discopop_tau": 0.0}"#, Some("discopop_tau is 0"));
    check(r#"{"f_alpha_divergence_coef": 0.7}"#, Some("alpha_divergence alone"));
    let divergence =
        |kind: &str| format!(r#"{{"f_divergence_type": "{kind}", "f_alpha_divergence_coef": 0.7}}"#);
    check(&divergence("forward_kl"), Some("alpha_divergence alone"));
    check(&divergence("alpha_divergence"), None);
    // What is set to its default is not set.
    check(r#"{"loss_type": ["nca_pair"], "discopop_tau": 0.05, "f_alpha_divergence_coef": 0.5}"#, None);
    for losses in [r#"["sft"]"#, r#"["sigmoid", "sft"]"#] {
        let with = |alpha: &str| format!(r#"{{"loss_type": {losses}, "ld_alpha": {alpha}}}"#);
        check(&with("0.4"), Some("leave out ld_alpha or sft"));
        check(&with("1.0"), None);
        check(&with("null"), None);
    }
    check(r#"{"loss_type": ["sigmoid", "ipo"], "ld_alpha": 0.4}"#, None);
    check(r#"{"ld_alpha": 1.5}"#, Some("ld_alpha is 1.5"));
    check(r#"{"loss_weights": [-1.0]}"#, Some("one of loss_weights is -1"));
    check(r#"{"loss_type": ["sigmoid", "sft"], "loss_weights": [0.0, 0.0]}"#, Some("all 0"));
    check(r#"{"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.0]}"#, None);
    assert!(serde_json::from_str::<Objective>(r#"{"bet": 0.1}"#).is_err());
    let error = Loss::from_name("dpo").unwrap_err().to_string();
    assert!(error.contains("sigmoid, cdpo, hinge"), "{error}");
    assert!(Loss::ALL.into_iter().all(|l| Loss::from_name(l.name()).unwrap() == l));
}

/// NaN cannot be written in JSON, but a TOML file or a caller may hold it.
#[test]
fn what_is_no_number_is_refused() {
    let check = |found: Result<(), PreferenceError>, expect: &str| {
        let error = found.unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let objective = Objective::default;
        check(Objective { beta: x, ..objective() }.check(), "beta is");
        check(Objective { loss_weights: Some(vec![x]), ..objective() }.check(), "loss_weights");
        check(Objective { label_smoothing: x, ..objective() }.check(), "label_smoothing");
        check(Objective { discopop_tau: x, ..objective() }.check(), "discopop_tau");
        check(Objective { f_alpha_divergence_coef: x, ..objective() }.check(), "f_alpha_divergence_coef");
        check(Objective { ld_alpha: Some(x), ..objective() }.check(), "ld_alpha");
        check(Cpo { beta: x, ..Cpo::default() }.check(), "beta is");
        check(Cpo { label_smoothing: x, ..Cpo::default() }.check(), "label_smoothing");
        check(Cpo::simpo(2.0, x).check(), "simpo_gamma");
        check(Cpo { cpo_alpha: x, ..Cpo::default() }.check(), "cpo_alpha");
        check(Cpo { alpha: x, ..Cpo::default() }.check(), "alpha is");
        check(Kto { beta: x, ..Kto::default() }.check(), "beta is");
        check(Kto { desirable_weight: x, ..Kto::default() }.check(), "desirable_weight");
        check(Kto { undesirable_weight: x, ..Kto::default() }.check(), "undesirable_weight");
        check(check_beta(x), "beta is");
    }
}

#[test]
fn losses_without_a_reference_refuse_what_they_do_not_read() {
    let tensor = || Tensor::from_slice(&[-1.0f32]);
    let check = |cpo: Cpo, expect: Option<&str>| match (cpo.loss(&tensor(), &tensor()), expect) {
        (Ok(_), None) => {}
        (Err(error), Some(expect)) => assert!(error.to_string().contains(expect), "{error}"),
        (result, _) => panic!("{cpo:?}: {result:?}"),
    };
    let cpo = |loss_type| Cpo { loss_type, ..Cpo::default() };
    for loss_type in [CpoLoss::Hinge, CpoLoss::Ipo] {
        check(Cpo { label_smoothing: 0.1, ..cpo(loss_type) }, Some("label_smoothing is read by"));
    }
    for loss_type in [CpoLoss::Hinge, CpoLoss::Ipo, CpoLoss::Sigmoid] {
        check(Cpo { simpo_gamma: 1.0, ..cpo(loss_type) }, Some("simpo_gamma is read by"));
        check(cpo(loss_type), None);
    }
    check(Cpo { label_smoothing: 0.1, ..cpo(CpoLoss::Sigmoid) }, None);
    check(Cpo { label_smoothing: 0.1, ..Cpo::simpo(2.0, 1.0) }, None);
    check(Cpo::simpo(2.0, -1.0), Some("simpo_gamma is -1"));
    check(Cpo { cpo_alpha: -1.0, ..Cpo::default() }, Some("cpo_alpha is -1"));
    // One β for all: above 0, or the preference is not learnt, or the wrong way round.
    for beta in [0.0, -1.0] {
        let expect = format!("beta is {beta}, not above 0");
        check(Cpo { beta, ..Cpo::default() }, Some(&expect));
        assert!(check_beta(beta).unwrap_err().to_string().contains(&expect));
        assert!(Kto { beta, ..Kto::default() }.check().unwrap_err().to_string().contains(&expect));
    }
    check_beta(0.1).unwrap();
    let kto = |up, down| Kto { desirable_weight: up, undesirable_weight: down, ..Kto::default() };
    assert!(kto(0.0, 0.0).check().unwrap_err().to_string().contains("both 0"));
    assert!(kto(1.0, -1.0).check().unwrap_err().to_string().contains("undesirable_weight is -1"));
    kto(1.0, 0.0).check().unwrap();
}

#[test]
fn thumbs_are_weighed_as_the_paper_asks() {
    // Counts, λ_d, λ_u; the ratio; whether it will do; what would. TRL's `KTOTrainer` warns of the same rows, and names
    // the same weights to two digits.
    let check =
        |(n_up, n_down): (usize, usize), (up, down): (f64, f64), ratio: f64, will_do: bool, line: &str| {
            let kto = Kto { desirable_weight: up, undesirable_weight: down, ..Kto::default() };
            let balance = kto.balance(n_up, n_down).unwrap();
            assert!(close(balance.ratio, ratio), "{balance:?}");
            assert_eq!(balance.is_balanced(), will_do, "{balance:?}");
            assert_eq!(balance.to_string(), line);
        };
    check((100, 100), (1.0, 1.0), 1.0, true, "100 thumbs up weigh 1 times what 100 thumbs down do");
    check(
        (300, 100),
        (1.0, 1.0),
        3.0,
        false,
        "300 thumbs up weigh 3 times what 100 thumbs down do, not 1 to 1.33: desirable_weight of 0.333 to 0.444 would \
         do, or undesirable_weight of 2.25 to 3, not both",
    );
    check(
        (100, 400),
        (1.0, 2.0),
        0.125,
        false,
        "100 thumbs up weigh 0.125 times what 400 thumbs down do, not 1 to 1.33: desirable_weight of 8 to 10.7 would \
         do, or undesirable_weight of 0.188 to 0.25, not both",
    );
    check((300, 100), (0.4, 1.0), 1.2, true, "300 thumbs up weigh 1.2 times what 100 thumbs down do");
    check((300, 100), (1.0, 2.5), 1.2, true, "300 thumbs up weigh 1.2 times what 100 thumbs down do");
    let kto = Kto::default();
    assert!(kto.balance(0, 5).is_none() && kto.balance(5, 0).is_none() && kto.balance(0, 0).is_none());
    assert!(Kto { undesirable_weight: 0.0, ..kto }.balance(5, 5).is_none());
}

#[test]
fn mismatched_rows_borrow_the_answer_before() {
    assert_eq!(mismatched(4), [3, 0, 1, 2]);
    assert!(mismatched(0).is_empty());
}
