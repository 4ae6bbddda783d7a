use ferrotune_model::Decoder;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tch::{Kind, Tensor};

use crate::PeftError;
use crate::adapter::{Adapter, targets};
use crate::config::{Init, LoraConfig, Pattern, Targets};
use crate::layer::LoraLayer;

/// How several adapters become one; PEFT's `add_weighted_adapter` by its names.
///
/// `linear`, `ties` and `dare_linear` work on A and on B apart, as PEFT's do: cheap, but B·A of sums is not the
/// sum of B·A. `cat` and `svd` combine the updates themselves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Combination {
    /// Weighted sums of the As and of the Bs; equal ranks.
    Linear,
    /// A above A, B beside B: exactly the weighted sum of the updates, of the ranks' sum.
    Cat,
    /// The weighted sum of the updates, cut to the `rank` largest singular directions.
    Svd {
        /// Of the result.
        rank: i64,
    },
    /// TIES (arXiv 2306.01708) on A and on B: keep the largest `density` of each, elect signs, average who agrees.
    Ties {
        /// Share of values kept, 0 < d ≤ 1.
        density: f64,
    },
    /// TIES on the updates, then cut to `rank`.
    TiesSvd {
        /// Share of values kept, 0 < d ≤ 1.
        density: f64,
        /// Of the result.
        rank: i64,
    },
    /// DARE (arXiv 2311.03099) on A and on B: drop all but a random `density`, scale up the rest, sum.
    DareLinear {
        /// Share of values kept, 0 < d ≤ 1.
        density: f64,
        /// Of the ChaCha8 stream that draws what is dropped.
        seed: u64,
    },
    /// DARE on the updates, then cut to `rank`.
    DareLinearSvd {
        /// Share of values kept, 0 < d ≤ 1.
        density: f64,
        /// Of the result.
        rank: i64,
        /// Of the ChaCha8 stream that draws what is dropped.
        seed: u64,
    },
}

/// One adapter of several on the same base, each with a weight (negative ones subtract). The result is plain
/// LoRA with scale 1, on no model yet. A layer that only some adapters have is combined of those.
///
/// # Errors
/// [`PeftError::Combine`] where there is none, one has DoRA, biases or whole modules, ranks differ where they
/// must not, or a density is out of range.
pub fn combine(
    decoder: &Decoder,
    adapters: &[(&Adapter, f64)],
    how: Combination,
) -> Result<Adapter, PeftError> {
    let bad = |reason: &str| Err(PeftError::Combine(reason.to_owned()));
    let Some((first, _)) = adapters.first() else { return bad("none given") };
    if adapters.iter().any(|(a, _)| !a.whole.is_empty() || a.layers.iter().any(|l| l.magnitude.is_some())) {
        return bad("DoRA, biases and modules_to_save do not add up");
    }
    if let Combination::Ties { density }
    | Combination::TiesSvd { density, .. }
    | Combination::DareLinear { density, .. }
    | Combination::DareLinearSvd { density, .. } = how
        && !(density > 0.0 && density <= 1.0)
    {
        return bad("density is not in 0 < d <= 1");
    }
    let _guard = tch::no_grad_guard();
    let mut drops = Drops::new(how);
    let mut layers = Vec::new();
    for linear in decoder.linears() {
        let parts: Vec<(&LoraLayer, f64)> = adapters
            .iter()
            .filter_map(|(a, w)| Some((a.layers.iter().find(|l| l.path == linear.name)?, *w)))
            .collect();
        if parts.is_empty() {
            continue;
        }
        let (a, b) = combined(&parts, how, &mut drops)?;
        let trained =
            |t: Tensor| t.to_kind(Kind::Float).contiguous().to_device(decoder.device).set_requires_grad(true);
        layers.push(LoraLayer {
            path: linear.name.clone(),
            a: trained(a),
            b: trained(b),
            scale: 1.0,
            magnitude: None,
            origin: None,
            squared_norm: None,
        });
    }
    let config = config_of(&first.config, &layers);
    let chosen = targets(decoder, &config)?;
    Adapter::from_parts(decoder, config, layers, &chosen)
}

/// A config under which exactly these layers, with their ranks and scale 1, are rebuilt.
fn config_of(first: &LoraConfig, layers: &[LoraLayer]) -> LoraConfig {
    let r = layers.iter().map(LoraLayer::r).max().unwrap_or(1);
    let others = || layers.iter().filter(move |l| l.r() != r).map(|l| (regex::escape(&l.path), l.r()));
    LoraConfig {
        r,
        lora_alpha: r as f64,
        target_modules: Some(Targets::Suffixes(layers.iter().map(|l| l.path.clone()).collect())),
        rank_pattern: Pattern(others().collect()),
        alpha_pattern: Pattern(others().map(|(path, r)| (path, r as f64)).collect()),
        init_lora_weights: Init::Default,
        base_model_name_or_path: first.base_model_name_or_path.clone(),
        task_type: first.task_type.clone(),
        fan_in_fan_out: first.fan_in_fan_out,
        ..LoraConfig::default()
    }
}

fn combined(
    parts: &[(&LoraLayer, f64)],
    how: Combination,
    drops: &mut Drops,
) -> Result<(Tensor, Tensor), PeftError> {
    let updates = || parts.iter().map(|(l, _)| l.delta()).collect::<Vec<_>>();
    let weights: Vec<f64> = parts.iter().map(|(_, w)| *w).collect();
    match how {
        Combination::Cat => {
            let factors: Vec<(Tensor, Tensor)> = parts
                .iter()
                .map(|(l, w)| {
                    let (a, b) = l.factors(Kind::Float);
                    (a * (w * l.scale), b)
                })
                .collect();
            let stack = |pick: fn(&(Tensor, Tensor)) -> &Tensor, dim| {
                Tensor::cat(&factors.iter().map(pick).collect::<Vec<_>>(), dim)
            };
            Ok((stack(|f| &f.0, 0), stack(|f| &f.1, 1)))
        }
        Combination::Svd { rank } => cut(&weighted_sum(&updates(), &weights), rank, parts[0].0),
        Combination::TiesSvd { density, rank } => cut(&ties(&updates(), &weights, density), rank, parts[0].0),
        Combination::DareLinearSvd { density, rank, .. } => {
            let kept: Vec<Tensor> = updates().iter().map(|t| drops.keep(t, density)).collect();
            cut(&weighted_sum(&kept, &weights), rank, parts[0].0)
        }
        Combination::Linear | Combination::Ties { .. } | Combination::DareLinear { .. } => {
            let factors: Vec<(Tensor, Tensor)> = parts.iter().map(|(l, _)| l.factors(Kind::Float)).collect();
            if factors.iter().any(|(a, _)| a.size()[0] != factors[0].0.size()[0]) {
                let path = &parts[0].0.path;
                return Err(PeftError::Combine(format!("ranks differ at {path}: use cat or svd")));
            }
            // √(w·s) on each side; the sign of w on A's.
            let roots: Vec<f64> = parts.iter().map(|(l, w)| (w * l.scale).abs().sqrt()).collect();
            let signed: Vec<f64> =
                roots.iter().zip(parts).map(|(root, (l, w))| root * (w * l.scale).signum()).collect();
            let mut side = |pick: fn(&(Tensor, Tensor)) -> &Tensor, weights: &[f64]| {
                let tensors: Vec<Tensor> = factors.iter().map(|f| pick(f).shallow_clone()).collect();
                match how {
                    Combination::Ties { density } => ties(&tensors, weights, density),
                    Combination::DareLinear { density, .. } => {
                        let kept: Vec<Tensor> = tensors.iter().map(|t| drops.keep(t, density)).collect();
                        weighted_sum(&kept, weights)
                    }
                    _ => weighted_sum(&tensors, weights),
                }
            };
            Ok((side(|f| &f.0, &signed), side(|f| &f.1, &roots)))
        }
    }
}

fn weighted_sum(tensors: &[Tensor], weights: &[f64]) -> Tensor {
    let weighted: Vec<Tensor> = tensors.iter().zip(weights).map(|(t, w)| t * *w).collect();
    Tensor::stack(&weighted, 0).sum_dim_intlist([0i64].as_slice(), false, Kind::Float)
}

/// (out, in) → A of (rank, in) and B of (out, rank): B holds the singular values, as PEFT's.
fn cut(update: &Tensor, rank: i64, layer: &LoraLayer) -> Result<(Tensor, Tensor), PeftError> {
    let (outputs, inputs) = update.size2()?;
    let limit = outputs.min(inputs);
    if !(1..=limit).contains(&rank) {
        return Err(PeftError::Rank { path: layer.path.clone(), r: rank, limit, outputs, inputs });
    }
    let (u, s, v) = update.f_svd(true, true)?;
    Ok((v.tr().narrow(0, 0, rank), u.narrow(1, 0, rank) * s.narrow(0, 0, rank)))
}

/// Trim, elect the sign of the sum (a tie goes to plus), average the weighted values that agree with it.
fn ties(tensors: &[Tensor], weights: &[f64], density: f64) -> Tensor {
    let trimmed: Vec<Tensor> = tensors.iter().map(|t| trim(t, density)).collect();
    let all = Tensor::stack(&trimmed, 0);
    let dim = [0i64];
    let sum = all.sum_dim_intlist(dim.as_slice(), false, Kind::Float);
    let elected = sum.ge(0.0).to_kind(Kind::Float) * 2.0 - 1.0;
    let agree = all.sign().eq_tensor(&elected).to_kind(Kind::Float);
    let weighted: Vec<Tensor> = trimmed.iter().zip(weights).map(|(t, w)| t * *w).collect();
    let kept = (Tensor::stack(&weighted, 0) * &agree).sum_dim_intlist(dim.as_slice(), false, Kind::Float);
    kept / agree.sum_dim_intlist(dim.as_slice(), false, Kind::Float).clamp_min(1.0)
}

/// Zeroes all but the `density` share of largest magnitude.
fn trim(tensor: &Tensor, density: f64) -> Tensor {
    if density >= 1.0 {
        return tensor.shallow_clone();
    }
    let flat = tensor.reshape([-1]);
    let keep = (density * flat.numel() as f64) as i64;
    let (_, largest) = flat.abs().topk(keep, 0, true, true);
    let mask = flat.zeros_like().index_fill(0, &largest, 1.0);
    (flat * mask).view_as(tensor)
}

/// What DARE drops, drawn from ChaCha8 so that a seed means the same everywhere.
struct Drops(ChaCha8Rng);

impl Drops {
    fn new(how: Combination) -> Self {
        let seed = match how {
            Combination::DareLinear { seed, .. } | Combination::DareLinearSvd { seed, .. } => seed,
            _ => 0,
        };
        Drops(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Each value with probability `density`, divided by it; else zero.
    fn keep(&mut self, tensor: &Tensor, density: f64) -> Tensor {
        let mask: Vec<f32> = (0..tensor.numel())
            .map(|_| {
                if f64::from(self.0.next_u32()) < density * 4_294_967_296.0 {
                    (1.0 / density) as f32
                } else {
                    0.0
                }
            })
            .collect();
        tensor * Tensor::from_slice(&mask).view_as(tensor).to_device(tensor.device())
    }
}
