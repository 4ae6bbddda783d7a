use tch::{Kind, Tensor};

use crate::PreferenceError;
use crate::metrics::Metrics;

/// Reward modelling with the Bradley–Terry model: −log σ(r_c − r_r − m) + c·(r_c + r_r)², of (B).
///
/// chosen and rejected of (B): the head's scores. `margin` of (B): how much better the chosen answer is
/// (Llama 2, arXiv 2307.09288). `centering`: c, which keeps rewards around zero (arXiv 2312.09244); 0.01 is usual.
/// The gradient raises r_c and lowers r_r.
///
/// # Errors
/// [`PreferenceError::Shape`].
pub fn bradley_terry(
    chosen: &Tensor,
    rejected: &Tensor,
    margin: Option<&Tensor>,
    centering: Option<f64>,
) -> Result<Tensor, PreferenceError> {
    let expected = chosen.size();
    for (what, t) in [("rejected rewards", Some(rejected)), ("margin", margin)] {
        if let Some(t) = t.filter(|t| t.size() != expected) {
            return Err(PreferenceError::Shape { what, found: t.size(), expected });
        }
    }
    let difference = chosen - rejected;
    let losses = match margin {
        Some(margin) => (difference - margin).log_sigmoid().neg(),
        None => difference.log_sigmoid().neg(),
    };
    Ok(match centering {
        Some(c) => losses + (chosen + rejected).square() * c,
        None => losses,
    })
}

/// A reward model's metrics under TRL's names.
pub fn reward_metrics(chosen: &Tensor, rejected: &Tensor) -> Metrics {
    tch::no_grad(|| {
        let all = Tensor::cat(&[chosen, rejected], 0);
        let value = |t: Tensor| t.double_value(&[]);
        vec![
            ("min_reward", value(all.min())),
            ("mean_reward", value(all.mean(Kind::Double))),
            ("max_reward", value(all.max())),
            ("accuracy", value(chosen.gt_tensor(rejected).mean(Kind::Double))),
            ("margin", value((chosen - rejected).mean(Kind::Double))),
        ]
    })
}
