use tch::{Kind, Tensor};

use crate::{Decoder, GateUp, Linear, Mlp, PackedWeight, Qkv, Weight};

/// A weight in 8 bits with a scale for every row: w ≈ q · s, q in −127..=127.
#[derive(Debug)]
pub struct Int8Weight {
    /// (out, in), int8.
    weight: Tensor,
    /// (out), bf16.
    scales: Tensor,
    /// (out), int32: the sum of each row of `weight`.
    sums: Tensor,
}

impl Int8Weight {
    /// Rounds a weight of (out, in) to 8 bits.
    pub fn quantize(weight: &Tensor) -> Self {
        let weight = weight.detach().to_kind(Kind::Float);
        let greatest = weight.abs().amax([1i64].as_slice(), true).clamp_min(1e-12);
        // The scale is rounded before it is used, so that its own rounding costs nothing.
        let scales = (greatest / 127.0).to_kind(Kind::BFloat16);
        let rounded = (weight / scales.to_kind(Kind::Float)).round().clamp(-127, 127).to_kind(Kind::Int8);
        let sums = rounded.sum_dim_intlist([1i64].as_slice(), false, Kind::Int);
        Int8Weight { weight: rounded, scales: scales.view(-1), sums }
    }

    /// (out, in), int8.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// (out), bf16.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// (out), int32: the sum of each row of [`Self::weight`].
    pub fn sums(&self) -> &Tensor {
        &self.sums
    }
}

impl PackedWeight for Int8Weight {
    fn size(&self) -> (i64, i64) {
        self.weight.size2().unwrap_or((0, 0))
    }

    /// Widens the weight first, which many rows pay for; a step of generation multiplies the 8 bits as they are
    /// (libtorch's own product for that, `_weight_int8pack_mm`, reads beyond small weights).
    fn matmul(&self, x: &Tensor) -> Tensor {
        x.linear(&self.dequantize(x.kind()), None::<&Tensor>)
    }

    fn dequantize(&self, kind: Kind) -> Tensor {
        self.weight.to_kind(kind) * self.scales.to_kind(kind).unsqueeze(1)
    }

    fn n_bytes(&self) -> usize {
        self.weight.numel() + 6 * self.scales.numel()
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
        assert_eq!((packed.size(), packed.n_bytes()), ((24, 16), 24 * 16 + 24 * 6));
        let zero = Int8Weight::quantize(&weight.zeros_like());
        assert_eq!(zero.matmul(&x).abs().max().double_value(&[]), 0.0);
    }
}
