use std::f64::consts::PI;

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
    /// sequence is that each belongs to; only LongRoPE and dynamic scaling ask.
    pub fn new(config: &RopeConfig, positions: &Tensor, lengths: &[i64], kind: Kind, device: Device) -> Self {
        let lengths: Vec<i64> = lengths.iter().map(|&n| telling_length(&config.scaling, n)).collect();
        let mut different = lengths.clone();
        different.sort_unstable();
        different.dedup();
        let table: Vec<f32> = different.iter().flat_map(|&n| inverse_frequencies(config, n)).collect();
        let mut inverse = Tensor::from_slice(&table).view([-1, (config.dim / 2) as i64]).to_device(device);
        if different.len() > 1 {
            let row = |n: &i64| different.partition_point(|other| other < n) as i64;
            let rows: Vec<i64> = lengths.iter().map(row).collect();
            inverse = inverse.index_select(0, &Tensor::from_slice(&rows).to_device(device));
        }
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

/// What of a sequence's length the frequencies depend on: lengths that give the same ones become the same.
fn telling_length(scaling: &RopeScaling, length: i64) -> i64 {
    match scaling {
        RopeScaling::Factors { original_max, .. } => length.clamp(*original_max, original_max + 1),
        RopeScaling::Dynamic { original_max, .. } => length.max(*original_max),
        _ => 0,
    }
}

/// One frequency for every pair of features, (dim / 2), as transformers' `modeling_rope_utils` computes them for a
/// sequence of `length` tokens: the powers in fp32, by libtorch, so that they agree to the last bit.
fn inverse_frequencies(config: &RopeConfig, length: i64) -> Vec<f32> {
    let dim = config.dim as f64;
    let theta = match config.scaling {
        RopeScaling::Dynamic { factor, original_max } => {
            let stretch = factor * length as f64 / original_max as f64 - (factor - 1.0);
            config.theta * stretch.powf(dim / (dim - 2.0))
        }
        _ => config.theta,
    };
    let exponents = Tensor::arange_start_step(0, config.dim as i64, 2, (Kind::Float, Device::Cpu));
    let plain = Tensor::pow_scalar(theta, &(exponents / dim)).reciprocal();
    let plain = Vec::<f32>::try_from(plain).unwrap_or_default();
    let scaled = |(i, frequency): (usize, f32)| {
        let frequency = f64::from(frequency);
        let scaled = match &config.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
                let wavelength = 2.0 * PI / frequency;
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
            RopeScaling::Yarn { factor, .. } => {
                let divided = yarn_ramp(config, i);
                frequency / factor * divided + frequency * (1.0 - divided)
            }
            RopeScaling::Factors { short, long, original_max, .. } => {
                let factors = if length > *original_max { long } else { short };
                frequency / factors.get(i).copied().unwrap_or(1.0)
            }
        };
        scaled as f32
    };
    plain.into_iter().enumerate().map(scaled).collect()
}

/// How much of frequency `i` YaRN divides, from 0 to 1.
fn yarn_ramp(config: &RopeConfig, i: usize) -> f64 {
    let RopeScaling::Yarn { beta_fast, beta_slow, truncate, original_max, .. } = config.scaling else {
        return 0.0;
    };
    let dim = config.dim as f64;
    // The feature that turns so many times in the original context.
    let feature = |turns: f64| dim * (original_max / (turns * 2.0 * PI)).ln() / (2.0 * config.theta.ln());
    let (mut low, mut high) = (feature(beta_fast), feature(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)
}
