use tch::{Device, Kind, Tensor};

use crate::config::{RopeConfig, RopeScaling};

/// Rotary position embedding (arXiv 2104.09864): the cosines and sines for a pass's positions.
///
/// Each pair of features (i, i + dim / 2) is turned by the position's angle: out = x · cos + swap(x) · sin, where
/// `swap` exchanges the two halves and the first half of `sin` is negative.
#[derive(Debug)]
pub struct Rope {
    /// (T, 1, dim).
    cos: Tensor,
    /// (T, 1, dim).
    sin: Tensor,
    dim: i64,
}

impl Rope {
    /// Tables for `positions` of (T), computed in fp32 and cast to `kind`. `lengths` of (T) says how long the
    /// sequence is that each belongs to; only LongRoPE asks.
    pub fn new(config: &RopeConfig, positions: &Tensor, lengths: &[i64], kind: Kind, device: Device) -> Self {
        let frequencies = |long| Tensor::from_slice(&inverse_frequencies(config, long)).to_device(device);
        let inverse = match &config.scaling {
            RopeScaling::Factors { original_max, .. } => {
                let is_long: Vec<bool> = lengths.iter().map(|n| n > original_max).collect();
                let is_long = Tensor::from_slice(&is_long).to_device(device).unsqueeze(-1);
                frequencies(true).where_self(&is_long, &frequencies(false))
            }
            _ => frequencies(false).unsqueeze(0),
        };
        let angles = positions.to_kind(Kind::Float).unsqueeze(-1) * inverse;
        let scale = config.attention_scale();
        let table = |left: &Tensor, right: &Tensor| {
            (Tensor::cat(&[left, right], -1) * scale).to_kind(kind).unsqueeze(1)
        };
        let (cos, sin) = (angles.cos(), angles.sin());
        Rope { cos: table(&cos, &cos), sin: table(&-&sin, &sin), dim: config.dim as i64 }
    }

    /// The cosines and the signed sines, (T, 1, dim) each.
    pub fn tables(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// The rows of these positions, from a table of all.
    pub(crate) fn rows(&self, positions: &[i64]) -> Rope {
        let take = |t: &Tensor| match positions {
            [one] => t.narrow(0, *one, 1),
            _ => t.index_select(0, &Tensor::from_slice(positions).to_device(t.device())),
        };
        Rope { cos: take(&self.cos), sin: take(&self.sin), dim: self.dim }
    }

    /// x of (T, H, D) → the same, its first `dim` features of every head rotated by the token's position.
    pub fn rotate(&self, x: &Tensor) -> Tensor {
        let width = *x.size().last().unwrap_or(&0);
        if width == self.dim {
            return self.rotate_whole(x);
        }
        let rotated = self.rotate_whole(&x.narrow(-1, 0, self.dim));
        Tensor::cat(&[rotated, x.narrow(-1, self.dim, width - self.dim)], -1)
    }

    fn rotate_whole(&self, x: &Tensor) -> Tensor {
        (x * &self.cos).addcmul(&x.roll([self.dim / 2].as_slice(), [-1i64].as_slice()), &self.sin)
    }
}

/// One frequency for every pair of features, (dim / 2), as transformers' `modeling_rope_utils` computes them:
/// the powers in fp32, by libtorch, so that they agree to the last bit. `long` picks LongRoPE's second set.
fn inverse_frequencies(config: &RopeConfig, long: bool) -> Vec<f32> {
    let exponents = Tensor::arange_start_step(0, config.dim as i64, 2, (Kind::Float, Device::Cpu));
    let plain = Tensor::pow_scalar(config.theta, &(exponents / config.dim as f64)).reciprocal();
    let plain = Vec::<f32>::try_from(plain).unwrap_or_default();
    let scaled = |(i, frequency): (usize, f32)| {
        let frequency = f64::from(frequency);
        let scaled = match &config.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
                let wavelength = 2.0 * std::f64::consts::PI / frequency;
                if wavelength < original_max / high_freq_factor {
                    frequency
                } else if wavelength > original_max / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth =
                        (original_max / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
            RopeScaling::Factors { short, long: far, .. } => {
                let factors = if long { far } else { short };
                frequency / factors.get(i).copied().unwrap_or(1.0)
            }
        };
        scaled as f32
    };
    plain.into_iter().enumerate().map(scaled).collect()
}
