use half::bf16;
use tch::{Device, Kind, Tensor};

use super::matrix::{Matrix, elements, floats};
use super::team::Team;
use crate::{Activation, Attention, Block, Decoder, GateUp, Mlp, Norm};

/// A decoder laid out for the kernels: borrowed weights, norms as plain numbers, scratch space.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) team: Team,
    pub(super) layers: Vec<Layer<'a>>,
    pub(super) norm: PlainNorm,
    pub(super) head: Matrix<'a>,
    /// Rounded to the model's dtype, as transformers does.
    pub(super) embedding_scale: f32,
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
pub(super) enum PlainMlp<'a> {
    /// Gate and up side by side: from one matrix or two.
    Gated { gate_up: Vec<Matrix<'a>>, down: Matrix<'a>, activation: Activation },
    Plain { up: Matrix<'a>, down: Matrix<'a>, activation: Activation },
    /// Through libtorch.
    Other(&'a Mlp),
}

/// A norm with its weight as numbers.
#[derive(Debug)]
pub(super) struct PlainNorm {
    weight: Vec<f32>,
    /// Of a layer norm.
    bias: Option<Vec<f32>>,
    eps: f32,
    centred: bool,
}

impl<'a> Plan<'a> {
    /// `None` where the decoder is on another device or in a dtype that the kernels do not know.
    pub(crate) fn new(decoder: &'a Decoder) -> Option<Self> {
        if decoder.device != Device::Cpu || !matches!(decoder.kind, Kind::Float | Kind::BFloat16) {
            return None;
        }
        let layers = decoder.blocks.iter().map(Layer::new).collect();
        let head = match &decoder.lm_head {
            Some(head) => Matrix::of(head),
            None => Matrix::of_tensor(&decoder.embedding, None)?,
        };
        let scale = decoder.config.embedding_scale as f32;
        let embedding_scale =
            if decoder.kind == Kind::BFloat16 { bf16::from_f32(scale).to_f32() } else { scale };
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
        let norm = PlainNorm::new(&decoder.norm);
        Some(Plan { decoder, team: Team::new(threads), layers, norm, head, embedding_scale })
    }

    /// The embedding of a token, scaled, in fp32.
    pub(super) fn embed(&self, id: i64, position: i64, out: &mut [f32]) {
        read_row(&self.decoder.embedding, id, out);
        if self.embedding_scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= self.embedding_scale);
        }
        if let Some(table) = &self.decoder.position_embedding {
            let mut row = vec![0.0; out.len()];
            read_row(table, position, &mut row);
            out.iter_mut().zip(&row).for_each(|(x, p)| *x += p);
        }
    }
}

/// Row `i` of a table of (rows, C), in fp32.
fn read_row(table: &Tensor, i: i64, out: &mut [f32]) {
    let rows = i as usize * out.len()..(i as usize + 1) * out.len();
    if let Some(all) = elements::<f32>(table, Kind::Float) {
        out.copy_from_slice(&all[rows]);
    } else if let Some(all) = elements::<bf16>(table, Kind::BFloat16) {
        out.iter_mut().zip(&all[rows]).for_each(|(x, w)| *x = w.to_f32());
    } else {
        out.copy_from_slice(&floats(&table.get(i)));
    }
}

impl<'a> Layer<'a> {
    fn new(block: &'a Block) -> Self {
        let attention = &block.attention;
        let pair = |norms: &(Option<Norm>, Option<Norm>)| {
            (norms.0.as_ref().map(PlainNorm::new), norms.1.as_ref().map(PlainNorm::new))
        };
        let joined = |whole: Option<(&'a Tensor, Option<&'a Tensor>)>| {
            whole.and_then(|(weight, bias)| Matrix::of_tensor(weight, bias))
        };
        let qkv = match joined(attention.qkv.joined()) {
            Some(whole) => vec![whole],
            None => attention.qkv.linears().into_iter().map(Matrix::of).collect(),
        };
        let mlp = match &block.mlp {
            Mlp::Gated { gate_up, down_proj, activation } => {
                let gate_up = match (joined(gate_up.joined()), gate_up) {
                    (Some(whole), _) => vec![whole],
                    (None, GateUp::Split { gate_proj, up_proj, .. }) => {
                        vec![Matrix::of(gate_proj), Matrix::of(up_proj)]
                    }
                    (None, GateUp::Fused(gate_up_proj)) => vec![Matrix::of(gate_up_proj)],
                };
                PlainMlp::Gated { gate_up, down: Matrix::of(down_proj), activation: *activation }
            }
            Mlp::Plain { up_proj, down_proj, activation } => PlainMlp::Plain {
                up: Matrix::of(up_proj),
                down: Matrix::of(down_proj),
                activation: *activation,
            },
            moe @ Mlp::Moe { .. } => PlainMlp::Other(moe),
        };
        Layer {
            attention_norms: pair(&block.attention_norms),
            qkv,
            qk_norm: attention.qk_norm.as_ref().map(|(q, k)| (PlainNorm::new(q), PlainNorm::new(k))),
            o_proj: Matrix::of(&attention.o_proj),
            attention,
            mlp_norms: pair(&block.mlp_norms),
            mlp,
            local_rope: block.local_rope,
        }
    }
}

impl PlainNorm {
    fn new(norm: &Norm) -> Self {
        match norm {
            Norm::Rms { weight, eps, weight_plus_one } => {
                let shift = if *weight_plus_one { 1.0 } else { 0.0 };
                let weight = floats(weight).into_iter().map(|w| w + shift).collect();
                PlainNorm { weight, bias: None, eps: *eps as f32, centred: false }
            }
            Norm::Layer { weight, bias, eps } => PlainNorm {
                weight: floats(weight),
                bias: bias.as_ref().map(floats),
                eps: *eps as f32,
                centred: true,
            },
        }
    }

    /// How many features it runs over.
    pub(super) fn width(&self) -> usize {
        self.weight.len()
    }

    /// Every row of `x`, (rows, width), in place.
    pub(super) fn apply(&self, x: &mut [f32]) {
        let n = self.width();
        for row in x.chunks_exact_mut(n) {
            if self.centred {
                let mean = row.iter().sum::<f32>() / n as f32;
                row.iter_mut().for_each(|x| *x -= mean);
            }
            let square = sum_of_squares(row) / n as f32;
            let scale = 1.0 / (square + self.eps).sqrt();
            row.iter_mut().zip(&self.weight).for_each(|(x, w)| *x = *x * scale * w);
            if let Some(bias) = &self.bias {
                row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        }
    }
}

/// In eight sums, which the compiler makes a vector of.
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x * x);
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>()
}
