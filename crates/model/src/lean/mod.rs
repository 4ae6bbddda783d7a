//! A forward and a backward pass written out by hand, for the models that most people use.
//!
//! Autograd is general and pays for it: it takes an RMS norm or a gated activation apart into operations that each
//! read and write all of a layer's activations, keeps what they happen to need, and gives LoRA's small products no
//! chance to be joined. Written out, a block is eight products, the attention's, and five kernels; it keeps
//! per token and layer what the backward pass reads and nothing else, and asks no gradient of what is frozen.
//!
//! [`Lean::fits`] says whether a pass can go this way: a pre-norm decoder with RMS norms, rotary positions over whole
//! heads and a SiLU-gated feed-forward part (Llama, Mistral, Qwen2 and their kin), in fp32 or bf16 on the CPU, whose
//! adapters are plain LoRA. Everything else takes autograd's way, and a test holds the two ways to the same
//! gradients. Base weights may be frozen or trained, dense or packed.
//!
//! [`Decoder::hidden`] and the reading of prompts go the forward half of it, where no gradient is asked for.

mod attention;
mod block;
mod product;
mod reached;

use crate::{Activation, Block, Decoder, GateUp, Linear, Mlp, Norm, Pass, Qkv, RopeConfig, Update, Weight};
use ferrotune_types::Batch;
use tch::{Device, Kind, Tensor};

use self::attention::Island;
pub use self::attention::n_kept;
use self::block::{Lay, Tape, Wanted};
pub use self::product::accumulate;
use self::reached::Reached;
use crate::kernels::{self, rms_backward, rms_forward};

/// What a pass keeps for its backward pass.
#[derive(Clone, Copy)]
pub struct Keep<'a> {
    /// Only the blocks' inputs, from which everything else is computed again.
    pub checkpointing: bool,
    /// From which of the batch's segments the loss learns. Of the others' targets it has no gradient; so nothing is kept of
    /// an answer that it only looks at.
    pub learns_from: &'a dyn Fn(usize) -> bool,
}

/// A pass over one batch.
pub struct Lean<'a> {
    decoder: &'a Decoder,
    batch: &'a Batch,
    pass: Pass<'a>,
    islands: Vec<Island>,
    /// What of it the backward pass is about, where that is not all.
    reached: Option<Reached>,
    /// What each block's backward pass reads; a block's input alone where activations are checkpointed.
    tapes: Vec<Tape<'a>>,
    /// Which rows of the last block's output are graded, (N).
    rows: Tensor,
    /// Those rows, (N, C), and one over their root mean squares, (N).
    last: Tensor,
    inverse: Tensor,
}

impl<'a> Lean<'a> {
    /// Whether a pass over this batch can go this way.
    pub fn fits(decoder: &Decoder, batch: &Batch) -> bool {
        let head_dim = decoder.config.head_dim;
        let turns_whole_heads =
            |rope: &Option<RopeConfig>| rope.as_ref().is_none_or(|rope| rope.dim == head_dim);
        let plain = decoder.device == Device::Cpu
            && turns_whole_heads(&decoder.config.rope)
            && turns_whole_heads(&decoder.config.rope_local)
            && kernels::computes(decoder.kind)
            && decoder.position_embedding.is_none()
            && decoder.config.embedding_scale == 1.0
            && matches!(decoder.norm, Norm::Rms { .. });
        let Some(islands) = attention::islands(batch.segments()).filter(|_| plain) else { return false };
        let longest = islands.iter().map(|i| i.range.len()).max().unwrap_or(0);
        decoder.blocks.iter().all(|block| block_fits(block, longest as i64))
    }

    /// Runs the blocks from the embeddings x, (T, C); gives the hidden states that predict targets, normed, (N, C).
    pub fn run(
        decoder: &'a Decoder,
        batch: &'a Batch,
        pass: Pass<'a>,
        mut x: Tensor,
        rows: Tensor,
        keep: Option<Keep<'_>>,
    ) -> (Self, Tensor) {
        let _guard = tch::no_grad_guard();
        let islands = attention::islands(batch.segments()).unwrap_or_default();
        let reached =
            keep.and_then(|keep| Reached::of(&islands, &learnt(batch, keep.learns_from), x.device()));
        let lay = Lay { pass: &pass, islands: &islands };
        let mut tapes = Vec::new();
        for block in &decoder.blocks {
            let input = keep.filter(|keep| keep.checkpointing).map(|_| Tape::Input(x.shallow_clone()));
            let wanted = if keep.is_some() && input.is_none() { Wanted::Tape } else { Wanted::All };
            let (y, tape) = block::forward(block, x, &lay, &wanted, |_, _| {});
            let tape = input.or(tape);
            tapes.extend(match &reached {
                Some(reached) => tape.map(|tape| tape.reached(block, reached, &islands)),
                None => tape,
            });
            x = y;
        }
        let last = x.index_select(0, &rows);
        let (graded, inverse) = match &decoder.norm {
            Norm::Rms { eps, .. } => rms_forward(&last, &norm_weight(&decoder.norm), *eps),
            Norm::Layer { .. } => (decoder.norm.forward(&last), Tensor::new()),
        };
        (Lean { decoder, batch, pass, islands, reached, tapes, rows, last, inverse }, graded)
    }

    /// Bytes of what the blocks keep for their backward passes.
    pub fn tape_bytes(&self) -> usize {
        self.tapes.iter().map(Tape::n_bytes).sum()
    }

    /// Adds to every trained tensor's `.grad` the gradient of a loss with `gradient` (N, C) with respect to the
    /// states that [`Self::run`] gave. It must be zero outside the segments that the loss learns from.
    pub fn backward(mut self, gradient: &Tensor) {
        let _guard = tch::no_grad_guard();
        let decoder = self.decoder;
        let gradient = gradient.to_kind(decoder.kind).contiguous();
        norm_gradient(&decoder.norm, &self.last, &self.inverse, &gradient);
        let into = self.last.zeros_like();
        rms_backward(&self.last, &norm_weight(&decoder.norm), &self.inverse, &gradient, &into);
        let mut gradient =
            Tensor::zeros([self.batch.n_tokens() as i64, into.size()[1]], (decoder.kind, decoder.device))
                .index_add_(0, &self.rows, &into);
        let reached = self.reached.as_ref();
        if let Some(reached) = reached {
            let left = reached.rows(&gradient);
            debug_assert_eq!(
                left.count_nonzero(None::<i64>),
                gradient.count_nonzero(None::<i64>),
                "a gradient of what is not learnt from"
            );
            gradient = left;
        }

        let embedding_trains = decoder.embedding.requires_grad();
        let lowest =
            if embedding_trains { 0 } else { first_trained(decoder).unwrap_or(decoder.blocks.len()) };
        let pass = reached.map(|reached| self.pass.of_tokens(&reached.tokens));
        let islands = reached.map_or(&self.islands, |reached| &reached.islands);
        let lay = Lay { pass: pass.as_ref().unwrap_or(&self.pass), islands };
        for (block_idx, block) in decoder.blocks.iter().enumerate().rev() {
            if block_idx < lowest {
                break;
            }
            let Some(tape) = self.tapes.pop() else { break };
            let tape = match tape {
                Tape::Input(x) => block::forward(block, x, &lay, &Wanted::Tape, |_, _| {}).1,
                whole @ Tape::Whole(_) => Some(whole),
            };
            let Some(Tape::Whole(kept)) = tape else { break };
            gradient = block::backward(block, *kept, gradient, &lay, block_idx > lowest || embedding_trains);
        }
        if embedding_trains {
            let ids = Tensor::from_slice(self.batch.ids());
            let ids = reached.map_or_else(|| ids.shallow_clone(), |reached| reached.rows(&ids));
            accumulate(
                &decoder.embedding,
                &decoder.embedding.zeros_like().detach().index_add_(0, &ids, &gradient),
            );
        }
    }
}

/// Which tokens lie in the segments that `learns_from` names.
fn learnt(batch: &Batch, learns_from: &dyn Fn(usize) -> bool) -> Vec<bool> {
    let segments = batch.segments().iter().enumerate();
    segments.flat_map(|(i, segment)| std::iter::repeat_n(learns_from(i), segment.range.len())).collect()
}

/// Whether [`read`] takes a batch: it fits, and no weight would have to be made anew for it.
pub(crate) fn reads(decoder: &Decoder, batch: &Batch) -> bool {
    let dense = |linear: &&Linear| matches!(linear.weight, Weight::Dense(_));
    Lean::fits(decoder, batch) && decoder.linears().iter().all(dense)
}

/// The last block's output, (T, C), or (N, C) of the tokens in `rows` alone, for the embeddings x of a batch that [`reads`]
/// takes; keeps nothing for a backward pass. `look` sees the keys and values of every block and island, (Hkv, n, D)
/// each, in order.
pub(crate) fn read(
    decoder: &Decoder,
    batch: &Batch,
    pass: &Pass<'_>,
    mut x: Tensor,
    rows: Option<&Tensor>,
    mut look: impl FnMut(usize, usize, &Tensor, &Tensor),
) -> Tensor {
    let _guard = tch::no_grad_guard();
    let islands = attention::islands(batch.segments()).unwrap_or_default();
    let lay = Lay { pass, islands: &islands };
    for (block_idx, block) in decoder.blocks.iter().enumerate() {
        let heads = block::heads(block);
        let wanted = match rows {
            Some(rows) if block_idx + 1 == decoder.blocks.len() => Wanted::Rows(rows),
            _ => Wanted::All,
        };
        x = block::forward(block, x, &lay, &wanted, |k, v| {
            for (i, island) in islands.iter().enumerate() {
                let [k, v] = [k, v].map(|t| attention::view(t, island, heads));
                look(block_idx, i, &k, &v);
            }
        })
        .0;
    }
    x
}

/// The first block in which anything is trained.
fn first_trained(decoder: &Decoder) -> Option<usize> {
    decoder.blocks.iter().position(|block| {
        let norms = [&block.attention_norms.0, &block.mlp_norms.0];
        norms.into_iter().flatten().any(|norm| norm.weight().requires_grad())
            || block.linears().into_iter().any(trains)
    })
}

fn trains(linear: &Linear) -> bool {
    let dense = matches!(&linear.weight, Weight::Dense(w) if w.requires_grad());
    let bias = linear.bias.as_ref().is_some_and(Tensor::requires_grad);
    let update =
        matches!(linear.update(), Update::LowRank { a, b, .. } if a.requires_grad() || b.requires_grad());
    dense || bias || update
}

fn block_fits(block: &Block, longest: i64) -> bool {
    let norms = matches!(
        (&block.attention_norms, &block.mlp_norms),
        ((Some(Norm::Rms { .. }), None), (Some(Norm::Rms { .. }), None))
    );
    let attention = &block.attention;
    let attends = matches!(attention.qkv, Qkv::Split { .. })
        && attention.qk_norm.is_none()
        && attention.softcap.is_none()
        && attention.sliding_window.is_none_or(|w| w >= longest);
    let gated =
        matches!(block.mlp, Mlp::Gated { gate_up: GateUp::Split { .. }, activation: Activation::Silu, .. });
    let plain = block.linears().iter().all(|linear| !matches!(linear.update(), Update::Opaque));
    norms && attends && gated && plain
}

/// What a norm multiplies by, (C) in fp32.
fn norm_weight(norm: &Norm) -> Tensor {
    match norm {
        Norm::Rms { weight, weight_plus_one: true, .. } => (weight + 1.0).to_kind(Kind::Float),
        _ => norm.weight().detach().to_kind(Kind::Float),
    }
}

/// Adds a trained norm's gradient: Σ over rows of g · x / rms.
fn norm_gradient(norm: &Norm, x: &Tensor, inverse: &Tensor, gradient: &Tensor) {
    if norm.weight().requires_grad() {
        let normed = x.to_kind(Kind::Float) * inverse.unsqueeze(-1);
        accumulate(
            norm.weight(),
            &(normed * gradient).sum_dim_intlist([0i64].as_slice(), false, Kind::Float),
        );
    }
}
