use ferrotune_model::PackedWeight;
use tch::{Device, Kind, Tensor};

use crate::blocks::{absmax_of, dequantize_codes, dynamic_map, nearest};

/// The 16 values of NF4 (arXiv 2305.14314): quantiles of the normal distribution, with an exact zero.
pub(crate) const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Values that share one scale.
pub(crate) const BLOCK: i64 = 64;
/// Scales that share one scale of their own, under double quantisation.
pub(crate) const NESTED_BLOCK: i64 = 256;

/// A linear layer's weight in 4 bits, as bitsandbytes stores it: the base of QLoRA.
///
/// 64 values in a row share a scale (their largest magnitude); with double quantisation the scales are 8-bit
/// numbers themselves, and a value takes 4.13 bits instead of 4.5. The forward pass builds the plain weight,
/// multiplies, and drops it. Under autograd the product keeps it until the backward pass, so train with
/// activation checkpointing by block: then one block's plain weights exist at a time.
#[derive(Debug)]
pub struct Nf4Weight {
    /// (⌈n/2⌉, 1), u8: two codes a byte, the first in the high half.
    pub(crate) packed: Tensor,
    pub(crate) scales: Scales,
    pub(crate) size: (i64, i64),
    /// The dtype that it was made from, which bitsandbytes remembers.
    pub(crate) kind: Kind,
    /// (256, 2), fp32: the two values of each byte.
    values: Tensor,
}

/// The blocks' scales.
#[derive(Debug)]
pub(crate) enum Scales {
    /// (blocks), fp32.
    Plain(Tensor),
    /// scale = map[code] · absmax[block / 256] + offset.
    Nested {
        /// (blocks), u8.
        codes: Tensor,
        /// (⌈blocks/256⌉), fp32.
        absmax: Tensor,
        /// The scales' mean.
        offset: f32,
    },
}

impl Nf4Weight {
    /// weight of (out, in), fp32, bf16 or fp16, on any device. Ties between two values go to the lower one.
    ///
    /// # Errors
    /// [`tch::TchError`] where libtorch runs out of memory.
    pub fn quantize(weight: &Tensor, double_quant: bool) -> Result<Self, tch::TchError> {
        let _guard = tch::no_grad_guard();
        let size = weight.size2()?;
        let n = size.0 * size.1;
        let device = weight.device();
        let flat = weight.to_kind(Kind::Float).contiguous().view([-1]);
        let padded = flat.f_constant_pad_nd([0, (-n).rem_euclid(BLOCK)])?.view([-1, BLOCK]);
        let absmax = absmax_of(&padded);
        let codes = nearest(&padded, &absmax, &Tensor::from_slice(&NF4).to_device(device)).view([-1, 2]);
        let packed = codes.select(1, 0) * 16 + codes.select(1, 1);
        let packed = packed.narrow(0, 0, (n + 1) / 2).unsqueeze(1).contiguous();
        let scales = if double_quant { nested(&absmax)? } else { Scales::Plain(absmax) };
        Ok(Nf4Weight::from_parts(packed, scales, size, weight.kind()))
    }

    pub(crate) fn from_parts(packed: Tensor, scales: Scales, size: (i64, i64), kind: Kind) -> Self {
        let pairs: Vec<f32> = (0..256).flat_map(|byte: usize| [NF4[byte >> 4], NF4[byte & 15]]).collect();
        let values = Tensor::from_slice(&pairs).view([256, 2]).to_device(packed.device());
        Nf4Weight { packed, scales, size, kind, values }
    }

    /// The same weight on `device`.
    #[must_use]
    pub fn to_device(&self, device: Device) -> Self {
        let scales = match &self.scales {
            Scales::Plain(absmax) => Scales::Plain(absmax.to_device(device)),
            Scales::Nested { codes, absmax, offset } => Scales::Nested {
                codes: codes.to_device(device),
                absmax: absmax.to_device(device),
                offset: *offset,
            },
        };
        Nf4Weight::from_parts(self.packed.to_device(device), scales, self.size, self.kind)
    }

    /// (blocks), fp32.
    fn absmax(&self) -> Tensor {
        match &self.scales {
            Scales::Plain(absmax) => absmax.shallow_clone(),
            Scales::Nested { codes, absmax, offset } => {
                let map = Tensor::from_slice(&dynamic_map()).to_device(codes.device());
                dequantize_codes(codes, absmax, &map, NESTED_BLOCK) + f64::from(*offset)
            }
        }
    }
}

/// The scales, less their mean, in 8 bits.
fn nested(absmax: &Tensor) -> Result<Scales, tch::TchError> {
    let n = absmax.size()[0];
    let offset = absmax.mean(Kind::Float);
    let padded = (absmax - &offset).f_constant_pad_nd([0, (-n).rem_euclid(NESTED_BLOCK)])?;
    let padded = padded.view([-1, NESTED_BLOCK]);
    let outer = absmax_of(&padded);
    let map = Tensor::from_slice(&dynamic_map()).to_device(absmax.device());
    let codes = nearest(&padded, &outer, &map).view([-1]).narrow(0, 0, n).contiguous();
    Ok(Scales::Nested { codes, absmax: outer, offset: offset.double_value(&[]) as f32 })
}

impl PackedWeight for Nf4Weight {
    fn size(&self) -> (i64, i64) {
        self.size
    }

    fn matmul(&self, x: &Tensor) -> Tensor {
        x.linear(&self.dequantize(x.kind()), None::<&Tensor>)
    }

    fn dequantize(&self, kind: Kind) -> Tensor {
        let _guard = tch::no_grad_guard();
        let (outputs, inputs) = self.size;
        let n = outputs * inputs;
        let absmax = self.absmax();
        let bytes = self.packed.view([-1]);
        let missing = absmax.size()[0] * BLOCK / 2 - bytes.size()[0];
        let bytes = if missing > 0 { bytes.constant_pad_nd([0, missing]) } else { bytes };
        let mut values = self.values.index_select(0, &bytes.to_kind(Kind::Int)).view([-1, BLOCK]);
        // In fp32 first, then cast: what bitsandbytes does.
        let plain = values.g_mul_(&absmax.unsqueeze(1)).view([-1]);
        let plain = if plain.size()[0] > n { plain.narrow(0, 0, n) } else { plain };
        plain.view([outputs, inputs]).to_kind(kind)
    }

    fn n_bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(absmax) => 4 * absmax.numel(),
            Scales::Nested { codes, absmax, .. } => codes.numel() + 4 * absmax.numel() + 4,
        };
        self.packed.numel() + scales + 4 * self.values.numel()
    }
}
