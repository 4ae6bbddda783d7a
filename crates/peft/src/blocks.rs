//! Blockwise quantisation to a table of values, as bitsandbytes does it: each block is divided by its largest
//! magnitude, and every value becomes the index of the nearest of a sorted table.

use tch::{Kind, Tensor};

/// (blocks, block) → (blocks): the largest magnitude of each block.
pub(crate) fn absmax_of(blocks: &Tensor) -> Tensor {
    blocks.abs().amax([1i64].as_slice(), false)
}

/// (blocks, block) and the blocks' scales → the same shape in u8: which of the sorted `table` is nearest. A value
/// right between two goes to the lower.
pub(crate) fn nearest(blocks: &Tensor, absmax: &Tensor, table: &Tensor) -> Tensor {
    let inverse = absmax.clamp_min(1e-38).reciprocal().unsqueeze(1);
    let scaled = (blocks * inverse).clamp(-1.0, 1.0);
    let n = table.size()[0];
    let middles = (table.narrow(0, 0, n - 1) + table.narrow(0, 1, n - 1)) / 2.0;
    scaled.bucketize(&middles, true, false).to_kind(Kind::Uint8)
}

/// (n) codes in u8 → (n) fp32, `block` of them to a scale.
pub(crate) fn dequantize_codes(codes: &Tensor, absmax: &Tensor, table: &Tensor, block: i64) -> Tensor {
    let n = codes.size()[0];
    let values = table.index_select(0, &codes.to_kind(Kind::Int));
    let scales = absmax.repeat_interleave_self_int(block, 0, None).narrow(0, 0, n);
    values * scales
}

/// The signed 8-bit table of arXiv 1511.04561 as bitsandbytes' `create_dynamic_map` makes it: seven decades of
/// magnitude, each with twice the steps of the one below, and 0 and 1. Computed in fp32 in the same order, so
/// that it is the same table bit by bit.
pub(crate) fn dynamic_map() -> Vec<f32> {
    let mut data = vec![0.0f32, 1.0];
    for exponent in 0..7i32 {
        let items = (1i64 << exponent) + 1;
        let ends = Tensor::linspace(0.1, 1.0, items, (Kind::Float, tch::Device::Cpu));
        let means = (ends.narrow(0, 0, items - 1) + ends.narrow(0, 1, items - 1)) / 2.0;
        // Python multiplies a double by an fp32 tensor: the factor is rounded to fp32 first.
        let factor = 10f64.powi(exponent - 6);
        let scaled: Vec<f32> = Vec::try_from(means * factor).unwrap_or_default();
        data.extend(scaled.iter().flat_map(|&v| [v, -v]));
    }
    data.sort_by(f32::total_cmp);
    data
}
