use std::ops::Range;

use crate::{Block, Linear, Mlp, Norm, Pass};
use tch::Tensor;

use super::attention::{self, Island, Kept};
use super::product::Product;
use super::reached::Reached;
use super::{norm_gradient, norm_weight};
use crate::kernels::{
    Heads, join_heads, rms_backward, rms_forward, rms_normed, silu_backward, silu_forward, split_heads,
    split_qkv, unsplit_qkv,
};

/// What all blocks of a pass share.
pub(crate) struct Lay<'a, 'b> {
    pub(crate) pass: &'a Pass<'b>,
    pub(crate) islands: &'a [Island],
}

/// What a block's backward pass reads.
pub(crate) enum Tape<'a> {
    /// Only the block's input: the rest is computed again.
    Input(Tensor),
    Whole(Box<Whole<'a>>),
}

/// Everything that a block's backward pass reads; what is cheap to compute again is not here.
pub(crate) struct Whole<'a> {
    /// (T, C): the block's input and what the attention made of it, each with 1 / rms.
    x: (Tensor, Tensor),
    middle: (Tensor, Tensor),
    /// Rotated queries and keys, values, by island.
    qkv: [Tensor; 3],
    probabilities: Vec<Kept>,
    /// (T, H·D).
    attended: Tensor,
    /// (T, 2·I).
    gate_up: Tensor,
    products: Products<'a>,
    /// Each product's x Aᵀ.
    low: [Option<Tensor>; 4],
}

impl Tape<'_> {
    /// What of it a gradient reaches; `islands` are the batch's.
    pub(super) fn reached(self, block: &Block, reached: &Reached, islands: &[Island]) -> Self {
        let rows = |t: Tensor| reached.rows(&t);
        let whole = match self {
            Tape::Input(x) => return Tape::Input(rows(x)),
            Tape::Whole(whole) => *whole,
        };
        let heads = heads(block);
        let pair = |(x, inverse)| (rows(x), rows(inverse));
        let [q, k, v] = whole.qkv;
        Tape::Whole(Box::new(Whole {
            x: pair(whole.x),
            middle: pair(whole.middle),
            qkv: [
                reached.by_island(&q, islands, heads, heads.group),
                reached.by_island(&k, islands, heads, 1),
                reached.by_island(&v, islands, heads, 1),
            ],
            probabilities: reached.kept(whole.probabilities, islands),
            attended: rows(whole.attended),
            gate_up: rows(whole.gate_up),
            products: whole.products,
            low: whole.low.map(|low| low.map(rows)),
        }))
    }

    /// Bytes that it holds; the adapters' factors in the model's dtype are not counted.
    pub(crate) fn n_bytes(&self) -> usize {
        let whole = match self {
            Tape::Input(x) => return bytes(x),
            Tape::Whole(whole) => whole,
        };
        let pairs =
            [&whole.x.0, &whole.x.1, &whole.middle.0, &whole.middle.1, &whole.attended, &whole.gate_up];
        pairs.into_iter().map(bytes).sum::<usize>()
            + whole.qkv.iter().chain(whole.probabilities.iter().flatten()).map(bytes).sum::<usize>()
            + whole.low.iter().flatten().map(bytes).sum::<usize>()
    }
}

fn bytes(t: &Tensor) -> usize {
    t.numel() * t.kind().elt_size_in_bytes()
}

/// A block's four products.
struct Products<'a> {
    qkv: Product<'a>,
    output: Product<'a>,
    gate_up: Product<'a>,
    down: Product<'a>,
}

impl<'a> Products<'a> {
    /// `None` for a block that [`super::Lean::fits`] does not let in.
    fn of(block: &'a Block, kind: tch::Kind) -> Option<Self> {
        let Mlp::Gated { gate_up, down_proj, .. } = &block.mlp else { return None };
        let attention = &block.attention;
        let one = |linear: &'a Linear| Product::new(vec![linear], None, kind);
        Some(Products {
            qkv: Product::new(attention.qkv.linears(), attention.qkv.whole(), kind),
            output: one(&attention.o_proj),
            gate_up: Product::new(gate_up.linears(), gate_up.whole(), kind),
            down: one(down_proj),
        })
    }
}

pub(super) fn heads(block: &Block) -> Heads {
    let attention = &block.attention;
    Heads {
        n_kv: attention.n_kv_heads as usize,
        group: (attention.n_heads / attention.n_kv_heads) as usize,
        dim: attention.head_dim as usize,
    }
}

fn eps(norm: &Norm) -> f64 {
    match norm {
        Norm::Rms { eps, .. } | Norm::Layer { eps, .. } => *eps,
    }
}

/// Which tokens' output of a block is wanted.
pub(crate) enum Wanted<'a> {
    /// All, and what the backward pass reads.
    Tape,
    All,
    /// These, (N): nothing else reads them from the last block.
    Rows(&'a Tensor),
}

/// x of (T, C) → (T or N, C), and the tape where it is wanted. `look` sees keys and values, by island.
pub(crate) fn forward<'a>(
    block: &'a Block,
    mut x: Tensor,
    lay: &Lay<'_, '_>,
    wanted: &Wanted<'_>,
    look: impl FnOnce(&Tensor, &Tensor),
) -> (Tensor, Option<Tape<'a>>) {
    let (Some(attention_norm), Some(mlp_norm)) = (&block.attention_norms.0, &block.mlp_norms.0) else {
        return (x, None);
    };
    let (Some(products), Some(rope)) = (Products::of(block, x.kind()), lay.pass.rope_of(block)) else {
        return (x, None);
    };
    let ((cos, sin), heads, ranges) = (rope.tables(), heads(block), ranges(lay.islands));
    let keep = matches!(wanted, Wanted::Tape);

    let (normed, x_inverse) = rms_forward(&x, &norm_weight(attention_norm), eps(attention_norm));
    let (qkv, low_qkv) = products.qkv.forward(&normed);
    let qkv = split_qkv(&qkv, cos, sin, heads, &ranges);
    look(&qkv[1], &qkv[2]);
    let (values, probabilities) = attention::forward(&qkv, lay.islands, heads, block.attention.scale, keep);
    let mut attended = join_heads(&values, heads, &ranges);
    if let Wanted::Rows(rows) = wanted {
        (attended, x) = (attended.index_select(0, rows), x.index_select(0, rows));
    }
    let (mut middle, low_output) = products.output.forward(&attended);
    let _ = middle.g_add_(&x);

    let (normed, middle_inverse) = rms_forward(&middle, &norm_weight(mlp_norm), eps(mlp_norm));
    let (gate_up, low_gate_up) = products.gate_up.forward(&normed);
    let (mut y, low_down) = products.down.forward(&silu_forward(&gate_up));
    let _ = y.g_add_(&middle);

    let tape = keep.then(|| {
        Tape::Whole(Box::new(Whole {
            x: (x, x_inverse),
            middle: (middle, middle_inverse),
            qkv,
            probabilities,
            attended,
            gate_up,
            products,
            low: [low_qkv, low_output, low_gate_up, low_down],
        }))
    });
    (y, tape)
}

/// The gradient with respect to the block's input, from g with respect to its output; what is trained gets its own.
/// Where the input's is not `wanted`, what comes back is not to be used.
pub(crate) fn backward(block: &Block, kept: Whole<'_>, g: Tensor, lay: &Lay<'_, '_>, wanted: bool) -> Tensor {
    let (Some(attention_norm), Some(mlp_norm)) = (&block.attention_norms.0, &block.mlp_norms.0) else {
        return g;
    };
    let Some(rope) = lay.pass.rope_of(block) else { return g };
    let ((cos, sin), heads, ranges) = (rope.tables(), heads(block), ranges(lay.islands));
    let Whole {
        x: (x, x_inverse),
        middle: (middle, middle_inverse),
        qkv,
        probabilities,
        attended,
        gate_up,
        products,
        low,
    } = kept;
    let [low_qkv, low_output, low_gate_up, low_down] = low;

    // The feed-forward part: the gated activation's gradient takes gate_up's place.
    let act = silu_forward(&gate_up);
    let Some(d_act) = products.down.backward(|| act, low_down, &g, true) else { return g };
    silu_backward(&gate_up, &d_act);
    drop(d_act);
    let weight = norm_weight(mlp_norm);
    let normed = || rms_normed(&middle, &weight, &middle_inverse);
    if let Some(d_normed) = products.gate_up.backward(normed, low_gate_up, &gate_up, true) {
        norm_gradient(mlp_norm, &middle, &middle_inverse, &d_normed);
        rms_backward(&middle, &weight, &middle_inverse, &d_normed, &g);
    }
    drop(gate_up);

    // The attention.
    let Some(d_attended) = products.output.backward(|| attended, low_output, &g, true) else { return g };
    let d_values = split_heads(&d_attended, heads, &ranges);
    let d_qkv =
        attention::backward(&qkv, probabilities, &d_values, lay.islands, heads, block.attention.scale);
    let d_qkv = unsplit_qkv(&d_qkv, cos, sin, heads, &ranges);
    let weight = norm_weight(attention_norm);
    let normed = || rms_normed(&x, &weight, &x_inverse);
    let wanted = wanted || attention_norm.weight().requires_grad();
    if let Some(d_normed) = products.qkv.backward(normed, low_qkv, &d_qkv, wanted) {
        norm_gradient(attention_norm, &x, &x_inverse, &d_normed);
        rms_backward(&x, &weight, &x_inverse, &d_normed, &g);
    }
    g
}

fn ranges(islands: &[Island]) -> Vec<Range<usize>> {
    islands.iter().map(|island| island.range.clone()).collect()
}
