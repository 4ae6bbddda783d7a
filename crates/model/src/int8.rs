use tch::{Kind, Tensor};

use crate::cpu::{self, Packed, int8_product};
use crate::{Decoder, GateUp, Linear, Mlp, PackedWeight, Qkv, Weight};

/// A weight in 8 bits with a scale for every row: w ≈ q · s, q in −127..=127.
#[derive(Debug)]
pub struct Int8Weight {
    /// q in panels of 16 rows, (out / 16, in / 4, 16, 4), int8; zeros beyond the weight's end.
    panels: Tensor,
    /// s, (out), bf16.
    scales: Tensor,
    /// The sum of each row of q, (out / 16, 16), int32.
    sums: Tensor,
    /// (out, in).
    size: (i64, i64),
}

impl Int8Weight {
    /// Rounds a weight of (out, in) to 8 bits.
    pub fn quantize(weight: &Tensor) -> Self {
        let Packed { panels, scales, sums } = cpu::pack(weight);
        let device = weight.device();
        Int8Weight {
            panels: panels.to_device(device),
            scales: scales.to_device(device),
            sums: sums.to_device(device),
            size: weight.size2().unwrap_or((0, 0)),
        }
    }

    /// Whole numbers, (out / 16, in / 4, 16, 4), int8: row 16 a + c and column 4 b + d lie at (a, b, c, d).
    pub fn panels(&self) -> &Tensor {
        &self.panels
    }

    /// (out), bf16.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// (out / 16, 16), int32: the sum of each row's whole numbers.
    pub fn sums(&self) -> &Tensor {
        &self.sums
    }
}

impl PackedWeight for Int8Weight {
    fn size(&self) -> (i64, i64) {
        self.size
    }

    /// In whole numbers on a CPU, as in a step of generation (libtorch's own product for 8 bits,
    /// `_weight_int8pack_mm`, reads beyond small weights); elsewhere the weight is widened first.
    fn matmul(&self, x: &Tensor) -> Tensor {
        // Where a gradient must come back to x, libtorch multiplies.
        let fast = if x.requires_grad() { None } else { int8_product(self, x) };
        fast.unwrap_or_else(|| x.linear(&self.dequantize(x.kind()), None::<&Tensor>))
    }

    fn dequantize(&self, kind: Kind) -> Tensor {
        let (n, k) = self.size;
        let size = self.panels.size();
        let rows = self.panels.transpose(1, 2).reshape([size[0] * size[2], size[1] * size[3]]);
        rows.narrow(0, 0, n).narrow(1, 0, k).to_kind(kind) * self.scales.to_kind(kind).unsqueeze(1)
    }

    fn n_bytes(&self) -> usize {
        self.panels.numel() + 2 * self.scales.numel() + 4 * self.sums.numel()
    }

    fn as_int8(&self) -> Option<&Int8Weight> {
        Some(self)
    }
}

/// Rounds every weight that is multiplied with, the LM head included, to 8 bits: for inference alone. Query, key
/// and value projections become one layer, and so do gate and up projections, unless an adapter hangs on one.
///
/// A row of a weight keeps 7 bits of precision relative to its greatest element; the loss in perplexity is well
/// under 1 % (`docs/models.md` has the figures). Generation reads half the bytes of bf16, which is what its speed
/// is made of.
pub fn quantize_int8(decoder: &mut Decoder) {
    for block in &mut decoder.blocks {
        fuse_qkv(&mut block.attention.qkv);
        fuse_mlp(&mut block.mlp);
        for linear in block.linears_mut() {
            pack(linear);
        }
    }
    let head = decoder
        .lm_head
        .get_or_insert_with(|| Linear::new("lm_head", decoder.embedding.shallow_clone(), None));
    pack(head);
}

fn pack(linear: &mut Linear) {
    if let Weight::Dense(weight) = &linear.weight {
        linear.weight = Weight::Packed(Box::new(Int8Weight::quantize(weight)));
    }
}

fn fuse_qkv(qkv: &mut Qkv) {
    if let Some(fused) = fuse(&qkv.linears(), "qkv_proj") {
        *qkv = Qkv::Fused(fused);
    }
}

fn fuse_mlp(mlp: &mut Mlp) {
    match mlp {
        Mlp::Gated { gate_up, .. } => {
            if let GateUp::Split { gate_proj, up_proj, .. } = gate_up
                && let Some(fused) = fuse(&[gate_proj, up_proj], "gate_up_proj")
            {
                *gate_up = GateUp::Fused(fused);
            }
        }
        Mlp::Moe { experts, .. } => experts.iter_mut().for_each(fuse_mlp),
        Mlp::Plain { .. } => {}
    }
}

/// Several layers with one input as one, under a name beside the first's.
fn fuse(linears: &[&Linear], name: &str) -> Option<Linear> {
    if linears.len() < 2 || linears.iter().any(|l| l.has_adapter()) {
        return None;
    }
    let mut weights = Vec::new();
    let mut biases = Vec::new();
    for linear in linears {
        let Weight::Dense(weight) = &linear.weight else { return None };
        weights.push(weight.detach());
        biases.extend(linear.bias.as_ref().map(Tensor::detach));
    }
    if !biases.is_empty() && biases.len() != linears.len() {
        return None;
    }
    let parent = linears[0].name.rsplit_once('.').map_or("", |(parent, _)| parent);
    let bias = (!biases.is_empty()).then(|| Tensor::cat(&biases, 0));
    Some(Linear::new(format!("{parent}.{name}"), Tensor::cat(&weights, 0), bias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rounded_weight_multiplies_almost_as_before() {
        let weight = Tensor::randn([24, 16], (Kind::Float, tch::Device::Cpu));
        let packed = Int8Weight::quantize(&weight);
        let x = Tensor::randn([3, 16], (Kind::Float, tch::Device::Cpu));
        let error = (packed.matmul(&x) - x.matmul(&weight.transpose(0, 1))).abs().max().double_value(&[]);
        assert!(error > 0.0 && error < 0.2, "{error}");
        // No number is further from its own than half a step, which is 1/254 of its row's greatest.
        let off = (packed.dequantize(Kind::Float) - &weight).abs();
        let step = weight.abs().amax([1i64].as_slice(), true) / 254.0 * 1.01 + 1e-7;
        assert!(off.le_tensor(&step).all().int64_value(&[]) == 1, "{off}");
        assert_eq!((packed.size(), packed.n_bytes()), ((24, 16), 32 * 16 + 24 * 2 + 32 * 4));
        let zero = Int8Weight::quantize(&weight.zeros_like());
        assert_eq!(zero.matmul(&x).abs().max().double_value(&[]), 0.0);
    }
}
