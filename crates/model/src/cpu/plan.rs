use half::bf16;
use tch::{Device, Kind, Tensor};

use super::kernels::Width;
use super::matrix::{Matrix, elements};
use super::norm::PlainNorm;
use crate::{Activation, Attention, Block, Decoder, Mlp, Norm};

/// Batches of up to so many rows run faster here than in libtorch, whose products are made for many.
const MAX_ROWS: usize = 32;

/// A decoder laid out for the kernels: borrowed weights, norms as plain numbers.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) width: Width,
    pub(super) layers: Vec<Layer<'a>>,
    pub(super) norm: PlainNorm,
    pub(super) head: Matrix<'a>,
    /// Rounded to the model's dtype, as transformers does.
    embedding_scale: f32,
}

/// One block.
#[derive(Debug)]
pub(super) struct Layer<'a> {
    pub(super) attention_norms: (Option<PlainNorm>, Option<PlainNorm>),
    /// Queries, keys, values: one matrix, or three.
    pub(super) qkv: Vec<Matrix<'a>>,
    pub(super) qk_norm: Option<(PlainNorm, PlainNorm)>,
    pub(super) o_proj: Matrix<'a>,
    pub(super) attention: &'a Attention,
    pub(super) mlp_norms: (Option<PlainNorm>, Option<PlainNorm>),
    pub(super) mlp: PlainMlp<'a>,
    pub(super) local_rope: bool,
}

/// The feed-forward part of a block.
#[derive(Debug)]
pub(super) struct PlainMlp<'a> {
    /// Gate and up, side by side: one matrix, or two. Or up alone.
    pub(super) up: Vec<Matrix<'a>>,
    /// Whether the first half of what `up` gives is a gate for the second.
    pub(super) gated: bool,
    pub(super) down: Matrix<'a>,
    pub(super) activation: Activation,
}

impl<'a> Plan<'a> {
    /// `None` where the kernels do not know the decoder: see [`super`].
    pub(crate) fn new(decoder: &'a Decoder) -> Option<Self> {
        if decoder.device != Device::Cpu || !matches!(decoder.kind, Kind::Float | Kind::BFloat16) {
            return None;
        }
        let layers = decoder.blocks.iter().map(Layer::new).collect::<Option<_>>()?;
        let head = match &decoder.lm_head {
            Some(head) => Matrix::of(head)?,
            None => Matrix::of_tensor(&decoder.embedding, None)?,
        };
        let scale = decoder.config.embedding_scale as f32;
        let embedding_scale =
            if decoder.kind == Kind::BFloat16 { bf16::from_f32(scale).to_f32() } else { scale };
        let norm = PlainNorm::new(&decoder.norm);
        let width = *Width::here().first()?;
        Some(Plan { decoder, width, layers, norm, head, embedding_scale })
    }

    /// Puts fp32 weights that came from fewer bits back into them. It takes as long as a few steps, and every step after
    /// it reads less memory.
    pub(crate) fn compact(&mut self) {
        for layer in &mut self.layers {
            layer.matrices().for_each(Matrix::compact);
        }
        self.head.compact();
    }

    /// Whether a batch of so many rows is better run here than by libtorch.
    pub(crate) fn takes(rows: usize) -> bool {
        rows <= MAX_ROWS
    }

    /// The embedding of a token, scaled, in fp32.
    pub(super) fn embed(&self, id: i64, position: i64, out: &mut [f32]) {
        add_row(&self.decoder.embedding, id, out);
        if self.embedding_scale != 1.0 {
            for x in out.iter_mut() {
                *x *= self.embedding_scale;
            }
        }
        if let Some(table) = &self.decoder.position_embedding {
            add_row(table, position, out);
        }
    }
}

/// Adds row `i` of a table of (rows, C).
fn add_row(table: &Tensor, i: i64, out: &mut [f32]) {
    let places = i as usize * out.len()..(i as usize + 1) * out.len();
    if let Some(all) = elements::<f32>(table, Kind::Float) {
        out.iter_mut().zip(&all[places]).for_each(|(x, w)| *x += w);
    } else if let Some(all) = elements::<bf16>(table, Kind::BFloat16) {
        out.iter_mut().zip(&all[places]).for_each(|(x, w)| *x += w.to_f32());
    }
}

impl<'a> Layer<'a> {
    fn new(block: &'a Block) -> Option<Self> {
        let attention = &block.attention;
        let pair = |norms: &(Option<Norm>, Option<Norm>)| {
            (norms.0.as_ref().map(PlainNorm::new), norms.1.as_ref().map(PlainNorm::new))
        };
        let (up, gated, down, activation) = match &block.mlp {
            Mlp::Gated { gate_up, down_proj, activation } => {
                (matrices(gate_up.whole(), gate_up.linears())?, true, down_proj, activation)
            }
            Mlp::Plain { up_proj, down_proj, activation } => {
                (vec![Matrix::of(up_proj)?], false, down_proj, activation)
            }
            Mlp::Moe { .. } => return None,
        };
        Some(Layer {
            attention_norms: pair(&block.attention_norms),
            qkv: matrices(attention.qkv.whole(), attention.qkv.linears())?,
            qk_norm: attention.qk_norm.as_ref().map(|(q, k)| (PlainNorm::new(q), PlainNorm::new(k))),
            o_proj: Matrix::of(&attention.o_proj)?,
            attention,
            mlp_norms: pair(&block.mlp_norms),
            mlp: PlainMlp { up, gated, down: Matrix::of(down)?, activation: *activation },
            local_rope: block.local_rope,
        })
    }

    fn matrices(&mut self) -> impl Iterator<Item = &mut Matrix<'a>> {
        let mlp = &mut self.mlp;
        self.qkv.iter_mut().chain([&mut self.o_proj, &mut mlp.down]).chain(&mut mlp.up)
    }
}

/// Layers with one input: as one matrix where their weights are kept as one, else one by one.
fn matrices<'a>(
    whole: Option<(&'a Tensor, Option<&'a Tensor>)>,
    linears: Vec<&'a crate::Linear>,
) -> Option<Vec<Matrix<'a>>> {
    match whole {
        Some((weight, bias)) if !linears.iter().any(|linear| linear.has_adapter()) => {
            Some(vec![Matrix::of_tensor(weight, bias)?])
        }
        _ => linears.into_iter().map(Matrix::of).collect(),
    }
}
