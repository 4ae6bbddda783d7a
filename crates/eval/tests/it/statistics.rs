use ferrotune_eval::{
    bootstrap_mean, cohen_kappa, mcnemar, paired_bootstrap, sign_test, standard_error, win_rate,
};
use proptest::prelude::*;

#[test]
fn a_clear_difference_is_told_from_chance() {
    let base: Vec<f64> = (0..60).map(|i| f64::from(i % 7) / 7.0).collect();
    let better: Vec<f64> = base.iter().map(|x| x + 0.1).collect();
    let found = paired_bootstrap(&better, &base, 1).unwrap();
    assert!((found.difference - 0.1).abs() < 1e-12 && found.p_value < 0.001 && found.ci95[0] > 0.0);
    let noise: Vec<f64> =
        base.iter().enumerate().map(|(i, x)| if i % 2 == 0 { x + 0.1 } else { x - 0.1 }).collect();
    assert!(paired_bootstrap(&noise, &base, 1).unwrap().p_value > 0.5);
}

#[test]
fn small_cases_by_hand() {
    assert_eq!(win_rate(3, 1, 4), 0.625);
    assert_eq!(win_rate(0, 0, 0), 0.5);
    assert_eq!(mcnemar(&[true, true, false, true], &[false, true, false, false]).unwrap(), sign_test(2, 0));
    assert!((standard_error(&[1.0, 0.0, 1.0, 0.0]) - (1.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    assert_eq!(standard_error(&[1.0]), 0.0);
    assert_eq!(cohen_kappa(&["x", "x"], &["x", "x"]).unwrap(), 1.0);
}

#[test]
fn lists_that_do_not_pair_are_refused() {
    assert!(paired_bootstrap(&[1.0], &[], 0).is_err());
    assert!(paired_bootstrap(&[], &[], 0).is_err());
    assert!(mcnemar(&[true], &[]).is_err());
    assert!(cohen_kappa::<u8>(&[], &[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn an_interval_holds_its_mean_and_the_same_seed_draws_the_same(
        values in prop::collection::vec(0.0..1.0f64, 1..30), seed in 0..9u64,
    ) {
        let found = bootstrap_mean(&values, seed);
        prop_assert_eq!(found, bootstrap_mean(&values, seed));
        prop_assert!(found.ci95[0] <= found.mean + 1e-12 && found.mean <= found.ci95[1] + 1e-12);
        let mirrored: Vec<f64> = values.iter().map(|x| 1.0 - x).collect();
        let mirrored = bootstrap_mean(&mirrored, seed);
        prop_assert!((mirrored.ci95[0] - (1.0 - found.ci95[1])).abs() < 1e-9);
    }
}
