use tch::{Kind, Tensor};

/// What ORPO's odds-ratio term gives.
#[derive(Debug)]
pub struct Orpo {
    /// (B): −β·log σ(log odds ratio). The whole loss is their mean plus the NLL of the chosen texts, prompt
    /// and answer together, which the caller adds.
    pub losses: Tensor,
    /// (B), β · mean log π(chosen), no gradient.
    pub chosen_rewards: Tensor,
    /// (B), β · mean log π(rejected), no gradient.
    pub rejected_rewards: Tensor,
    /// Mean of log σ(log odds ratio): TRL's metric `log_odds_ratio`.
    pub log_odds_ratio: f64,
    /// Mean of the log odds ratio: TRL's metric `log_odds_chosen`.
    pub log_odds_chosen: f64,
}

/// ORPO (arXiv 2403.07691, eqs. 4 and 7): no reference; the odds p/(1−p) of the chosen answer over those of
/// the rejected one, p the geometric mean of the tokens' probabilities.
///
/// Both inputs (B): log-probabilities averaged over the answer's tokens, in fp32, below 0. The gradient raises
/// the chosen and lowers the rejected one, and vanishes as the odds ratio grows. β must be above 0, which the caller
/// asks of [`crate::check_beta`] before a run.
pub fn orpo(chosen_mean: &Tensor, rejected_mean: &Tensor, beta: f64) -> Orpo {
    let (chosen, rejected) = (chosen_mean.to_kind(Kind::Float), rejected_mean.to_kind(Kind::Float));
    let log_odds = (&chosen - &rejected) - (log1mexp(&chosen) - log1mexp(&rejected));
    let ratio = log_odds.log_sigmoid();
    let mean = |t: &Tensor| t.mean(Kind::Double).double_value(&[]);
    Orpo {
        chosen_rewards: chosen.detach() * beta,
        rejected_rewards: rejected.detach() * beta,
        log_odds_ratio: mean(&ratio),
        log_odds_chosen: mean(&log_odds),
        losses: ratio * -beta,
    }
}

/// log(1 − eˣ) for x < 0, by log1p or by expm1, whichever keeps its digits. The branch not taken is fed a
/// harmless value, so that its gradient cannot turn the sum into NaN; x is kept below 0 likewise, for an answer
/// that the model is certain of.
fn log1mexp(x: &Tensor) -> Tensor {
    let x = x.clamp_max(-1e-7);
    let far = x.lt(-std::f64::consts::LN_2);
    let half = Tensor::from(-std::f64::consts::LN_2 as f32).to_device(x.device());
    let low = x.where_self(&far, &half).exp().neg().log1p();
    let high = half.where_self(&far, &x).expm1().neg().log();
    low.where_self(&far, &high)
}
