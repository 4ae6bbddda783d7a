//! Prints every paired loss and its gradient over the margin, so that their shapes can be compared.
//!
//! `cargo run -p ferrotune-preference --example losses`

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::fmt::Write;

use ferrotune_preference::{Loss, Objective, PairLogps};
use tch::{Kind, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let margins = [-20.0f32, -5.0, 0.0, 5.0, 20.0];
    println!("{:<14}{}", "beta = 0.1", margins.map(|d| format!("{:>18}", format!("margin {d}"))).concat());
    for loss in Loss::ALL {
        let label_smoothing =
            if matches!(loss, Loss::ExoPair | Loss::Cdpo | Loss::Robust) { 0.1 } else { 0.0 };
        let objective = Objective { label_smoothing, ..Objective::new(loss, 0.1) };
        let mut line = format!("{:<14}", loss.name());
        for margin in margins {
            // Half of the margin is the chosen answer's gain, half the rejected one's loss.
            let chosen = Tensor::from_slice(&[-30.0 + margin / 2.0]).set_requires_grad(true);
            let rejected = Tensor::from_slice(&[-30.0 - margin / 2.0]);
            let reference = || Tensor::from_slice(&[-30.0f32]);
            let logps =
                PairLogps::new((chosen.shallow_clone(), rejected), (reference(), reference()), &[(20, 20)])?;
            let value = objective.loss(&logps)?.losses.mean(Kind::Float);
            value.backward();
            let text = format!("{:.3} ({:+.3})", value.double_value(&[]), chosen.grad().double_value(&[0]));
            write!(line, "{text:>18}")?;
        }
        println!("{line}");
    }
    Ok(())
}
