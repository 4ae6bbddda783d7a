use tch::{Device, Kind, Tensor};

use crate::config::{RopeConfig, RopeScaling};

/// Rotary position embedding (arXiv 2104.09864): the cosines and sines for a pass's positions.
#[derive(Debug)]
pub struct Rope {
    /// (T, 1, dim / 2).
    cos: Tensor,
    /// (T, 1, dim / 2).
    sin: Tensor,
    dim: i64,
}

impl Rope {
    /// Tables for `positions` of (T), computed in fp32 and cast to `kind`.
    pub fn new(config: &RopeConfig, positions: &Tensor, kind: Kind, device: Device) -> Self {
        let inverse = Tensor::from_slice(&inverse_frequencies(config)).to_device(device);
        let angles = positions.to_kind(Kind::Float).unsqueeze(-1) * inverse.unsqueeze(0);
        let scale = config.attention_scale();
        let table = |t: Tensor| (t * scale).to_kind(kind).unsqueeze(1);
        Rope { cos: table(angles.cos()), sin: table(angles.sin()), dim: config.dim as i64 }
    }

    /// x of (T, H, D) → the same, its first `dim` features of every head rotated by the token's position.
    pub fn rotate(&self, x: &Tensor) -> Tensor {
        let half = self.dim / 2;
        let width = *x.size().last().unwrap_or(&0);
        let (a, b) = (x.narrow(-1, 0, half), x.narrow(-1, half, half));
        let first = &a * &self.cos - &b * &self.sin;
        let second = b * &self.cos + a * &self.sin;
        if width == self.dim {
            Tensor::cat(&[first, second], -1)
        } else {
            Tensor::cat(&[first, second, x.narrow(-1, self.dim, width - self.dim)], -1)
        }
    }
}

/// One frequency for every pair of features, (dim / 2), as transformers' `modeling_rope_utils` computes them.
fn inverse_frequencies(config: &RopeConfig) -> Vec<f32> {
    let plain = |i: usize| 1.0 / config.theta.powf(2.0 * i as f64 / config.dim as f64);
    (0..config.dim / 2)
        .map(|i| {
            let frequency = plain(i);
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
                        let smooth = (original_max / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                }
                RopeScaling::Factors { factors, .. } => frequency / factors[i],
            };
            scaled as f32
        })
        .collect()
}
