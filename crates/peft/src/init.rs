use ferrotune_model::{Linear, Weight};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tch::{Device, Kind, Tensor};

use crate::PeftError;
use crate::config::{Init, LoraConfig};
use crate::layer::{LoraLayer, squared_row_norms};
use crate::target::Target;

/// The stream that all of an adapter's random numbers come from, layer after layer in the order of the forward
/// pass. It is ChaCha8, not libtorch's generator: the same seed gives the same bytes with every libtorch, on
/// every device.
pub(crate) struct InitRng(ChaCha8Rng);

impl InitRng {
    pub(crate) fn new(seed: u64) -> Self {
        InitRng(ChaCha8Rng::seed_from_u64(seed))
    }

    /// In [0, 1), of 24 bits.
    fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// U(−bound, bound).
    fn uniform(&mut self, size: [i64; 2], bound: f64) -> Tensor {
        let n = (size[0] * size[1]) as usize;
        let values: Vec<f32> = (0..n).map(|_| (2.0 * self.unit() - 1.0) * bound as f32).collect();
        Tensor::from_slice(&values).view(size)
    }

    /// N(0, std²), by Box and Muller.
    fn normal(&mut self, size: [i64; 2], std: f64) -> Tensor {
        let n = (size[0] * size[1]) as usize;
        let values: Vec<f32> = (0..n)
            .map(|_| {
                let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt(); // 1 − u lies in (0, 1]
                radius * (std::f32::consts::TAU * self.unit()).cos() * std as f32
            })
            .collect();
        Tensor::from_slice(&values).view(size)
    }
}

/// A new layer for `target` on `linear`, trained, beginning as its base (but for [`Init::Random`]).
pub(crate) fn new_layer(
    config: &LoraConfig,
    target: &Target,
    linear: &Linear,
    device: Device,
    rng: &mut InitRng,
) -> Result<LoraLayer, PeftError> {
    let (outputs, inputs) = linear.weight.size();
    let r = target.r;
    let limit = outputs.min(inputs);
    // Plain LoRA may have any rank; a factorisation has no more directions than the smaller side.
    if r > limit && matches!(config.init_lora_weights, Init::Pissa | Init::Olora) {
        return Err(PeftError::Rank { path: target.path.clone(), r, limit, outputs, inputs });
    }
    // kaiming_uniform with a = √5, torch.nn.Linear's own: √(6 / (1 + 5) / in) = 1 / √in.
    let bound = 1.0 / (inputs as f64).sqrt();
    let zero_b = || Tensor::zeros([outputs, r], (Kind::Float, Device::Cpu));
    let (a, b) = match &config.init_lora_weights {
        Init::Default => (rng.uniform([r, inputs], bound), zero_b()),
        Init::Gaussian => (rng.normal([r, inputs], 1.0 / r as f64), zero_b()),
        Init::Random => {
            let a = rng.uniform([r, inputs], bound);
            (a, rng.uniform([outputs, r], 1.0 / (r as f64).sqrt()))
        }
        Init::Pissa => pissa(&linear.weight, r, target.scale)?,
        Init::Olora => olora(&linear.weight, r)?,
        Init::Other(name) => return Err(PeftError::Unsupported(format!("init_lora_weights {name:?}"))),
    };
    let trained = |t: Tensor| t.to_device(device).set_requires_grad(true);
    let origin = match config.init_lora_weights {
        Init::Pissa | Init::Olora => Some((a.copy().to_device(device), b.copy().to_device(device))),
        _ => None,
    };
    let mut layer = LoraLayer {
        path: target.path.clone(),
        a: trained(a),
        b: trained(b),
        scale: target.scale,
        magnitude: None,
        origin,
        squared_norm: None,
    };
    if config.use_dora {
        let squared = tch::no_grad(|| squared_row_norms(&linear.weight));
        layer.squared_norm = Some(squared);
        layer.magnitude = Some(layer.row_norms(linear).set_requires_grad(true));
    }
    Ok(layer)
}

/// B·A = the r largest singular directions of W / s: A = √S Vᵀ, B = U √S (arXiv 2404.02948).
fn pissa(weight: &Weight, r: i64, scale: f64) -> Result<(Tensor, Tensor), PeftError> {
    let _guard = tch::no_grad_guard();
    let w = weight.dense(Kind::Float).to_device(Device::Cpu);
    let (u, s, v) = w.f_svd(true, true)?;
    let root = (s.narrow(0, 0, r) / scale).sqrt();
    Ok((v.tr().narrow(0, 0, r) * root.unsqueeze(1), u.narrow(1, 0, r) * root))
}

/// The first r rows of R and columns of Q, W = QR (arXiv 2406.01775).
fn olora(weight: &Weight, r: i64) -> Result<(Tensor, Tensor), PeftError> {
    let _guard = tch::no_grad_guard();
    let w = weight.dense(Kind::Float).to_device(Device::Cpu);
    let (q, upper) = Tensor::f_linalg_qr(&w, "reduced")?;
    Ok((upper.narrow(0, 0, r).contiguous(), q.narrow(1, 0, r).contiguous()))
}
