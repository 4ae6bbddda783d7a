//! Combined adapters against PEFT's `add_weighted_adapter`, and what must hold for them.

mod tiny;

use ferrotune_model::Decoder;
use ferrotune_peft::{
    Adapter, AdapterSet, Combination, LoadOptions, LoraPlus, PeftError, combine, inject, load, save,
};
use tiny::{base, expected, golden, logits, max_diff};

fn both(decoder: &mut Decoder) -> (Adapter, Adapter) {
    let mut read = |name| {
        let adapter = load(decoder, &golden(name), &LoadOptions::default()).unwrap();
        adapter.detach(decoder);
        adapter
    };
    (read("lora"), read("second"))
}

fn check(how: Combination, case: &str) {
    let mut decoder = base(false);
    let (first, second) = both(&mut decoder);
    let combined = combine(&decoder, &[(&first, 0.7), (&second, -0.4)], how).unwrap();
    combined.attach(&mut decoder).unwrap();
    let found = logits(&decoder);
    let diff = max_diff(&found, &expected("theirs_logits.json", case));
    assert!(diff < 2e-5, "{case}: {diff}");
    // It is an adapter like any other: saved and read again it computes the same.
    let folder = tempfile::tempdir().unwrap();
    save(&combined, folder.path()).unwrap();
    let mut again = base(false);
    load(&mut again, folder.path(), &LoadOptions::default()).unwrap();
    assert!((logits(&again) - found).abs().max().double_value(&[]) < 1e-5, "{case}, read again");
}

#[test]
fn combinations_are_those_of_peft() {
    check(Combination::Linear, "combined_linear");
    check(Combination::Cat, "combined_cat");
    check(Combination::Svd { rank: 3 }, "combined_svd");
    check(Combination::Ties { density: 0.4 }, "combined_ties");
    check(Combination::TiesSvd { density: 0.5, rank: 5 }, "combined_ties_svd");
}

/// DARE's draws are our own: with nothing dropped it is the linear sum, its seed decides, and its mean is the sum.
#[test]
fn dare_drops_at_random_and_keeps_the_mean() {
    let mut decoder = base(false);
    let (first, second) = both(&mut decoder);
    let updates = |how| {
        let combined = combine(&decoder, &[(&first, 0.7), (&second, 0.4)], how).unwrap();
        combined.layers()[1].delta() // k_proj, (8, 16): rank 8 cuts nothing off
    };
    let near = |a: &tch::Tensor, b: &tch::Tensor, limit: f64| (a - b).abs().max().double_value(&[]) < limit;
    let sum = updates(Combination::Linear);
    assert!(near(&updates(Combination::DareLinear { density: 1.0, seed: 1 }), &sum, 1e-6));
    let drawn = |seed| Combination::DareLinearSvd { density: 0.5, rank: 8, seed };
    assert_eq!(updates(drawn(1)), updates(drawn(1)));
    assert_ne!(updates(drawn(1)), updates(drawn(2)));
    let exact = updates(Combination::Svd { rank: 8 });
    // The mean of 20 draws is off by 1/√20 = 0.22 of the update; undivided draws would be off by half of it.
    let mean = (0..20).map(|seed| updates(drawn(seed))).reduce(|a, b| a + b).unwrap() / 20.0;
    let off = (mean - &exact).norm().double_value(&[]) / exact.norm().double_value(&[]);
    assert!(off < 0.33, "{off}");
}

#[test]
fn what_does_not_add_up_is_refused() {
    let mut decoder = base(false);
    let (first, second) = both(&mut decoder);
    let check = |adapters: &[(&Adapter, f64)], how, expect: &str| {
        let error = combine(&decoder, adapters, how).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(&[], Combination::Cat, "none given");
    check(&[(&first, 1.0), (&second, 1.0)], Combination::Ties { density: 0.0 }, "density");
    check(&[(&first, 1.0), (&second, 1.0)], Combination::Svd { rank: 99 }, "rank 99");
    let patterns = load(&mut base(false), &golden("patterns"), &LoadOptions::default()).unwrap();
    check(&[(&first, 1.0), (&patterns, 1.0)], Combination::Linear, "ranks differ");
    let dora = load(&mut base(false), &golden("dora"), &LoadOptions::default()).unwrap();
    check(&[(&dora, 1.0)], Combination::Cat, "DoRA");
}

#[test]
fn adapters_are_switched_by_name() {
    let mut decoder = base(false);
    let plain = logits(&decoder);
    let (first, second) = both(&mut decoder);
    let mut set = AdapterSet::new();
    set.add("first", first).unwrap();
    set.add("second", second).unwrap();
    for (name, case) in [("second", "second"), ("first", "lora"), ("second", "second")] {
        set.activate(&mut decoder, Some(name)).unwrap();
        assert_eq!(set.active(), Some(name));
        assert!(max_diff(&logits(&decoder), &expected("theirs_logits.json", case)) < 1e-5, "{name}");
    }
    let error = set.activate(&mut decoder, Some("third")).unwrap_err().to_string();
    assert!(error.contains("first, second"), "{error}");
    let (third, _) = both(&mut base(false));
    assert!(matches!(set.add("second", third), Err(PeftError::Config(_))), "the active one stays");
    set.activate(&mut decoder, None).unwrap();
    assert_eq!(logits(&decoder), plain);
}

#[test]
fn lora_plus_groups_hold_every_parameter_once() {
    let mut decoder = base(false);
    let (_, config) = tiny::ours().into_iter().find(|(name, _)| *name == "whole").unwrap();
    let adapter = inject(&mut decoder, &config, 1).unwrap();
    let groups = adapter.parameter_groups(&LoraPlus { lr_ratio: 8.0, weight_decay: 0.1 });
    let found: Vec<(&str, f64, f64)> = groups.iter().map(|g| (g.name, g.lr_factor, g.weight_decay)).collect();
    assert_eq!(found, [("A", 1.0, 0.1), ("B", 8.0, 0.1), ("vectors", 8.0, 0.0)]);
    let mut keys: Vec<String> = groups.into_iter().flat_map(|g| g.parameters).map(|(key, _)| key).collect();
    let mut all: Vec<String> = adapter.parameters().into_iter().map(|(key, _)| key).collect();
    keys.sort();
    all.sort();
    assert_eq!(keys, all);
}
