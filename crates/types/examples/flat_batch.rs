//! How examples and preference pairs lie in a batch. `cargo run -p ferrotune-types --example flat_batch`

use ferrotune_types::{Batch, Example, InvalidValue, PairExample};

fn main() -> Result<(), InvalidValue> {
    let short = Example::new("short", vec![1, 20, 2], vec![false, true, true])?;
    let long = Example::new("long", vec![1, 30, 31, 32, 2], vec![false, false, true, true, true])?;
    show("two examples", &Batch::from_examples(&[&short, &long])?);
    let pair = PairExample::new("pair", vec![1, 10, 11], vec![40, 2], vec![50, 51, 2])?;
    show("a pair that shares its prompt", &Batch::from_pairs(&[&pair])?);
    Ok(())
}

fn show(what: &str, batch: &Batch) {
    eprintln!("{what}: {} tokens, {} of them targets", batch.n_tokens(), batch.n_targets());
    eprintln!("  ids       {:?}", batch.ids());
    eprintln!("  positions {:?}", batch.positions());
    for segment in batch.segments() {
        eprintln!("  segment {:?}, sees {:?} before itself", segment.range, segment.prefix);
    }
    for (predictor, target, _) in batch.targets() {
        eprintln!("  token {target} is predicted from token {predictor}");
    }
}
