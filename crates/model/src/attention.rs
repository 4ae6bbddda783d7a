use ferrotune_types::Segment;
use tch::{Kind, Tensor};

use crate::device::{self, Bf16Products};
use crate::linear::Joined;
use crate::rope::Rope;
use crate::{Linear, Norm};

/// Texts of so many tokens are attended to in bf16 where the CPU multiplies tiles of it.
const TILED: i64 = 256;

/// Grouped-query attention (arXiv 2305.13245) over a flat stream of segments.
#[derive(Debug)]
pub struct Attention {
    /// Query, key and value projections.
    pub qkv: Qkv,
    /// (C, H·D).
    pub o_proj: Linear,
    /// Norms on queries and keys, per head (D) or whole (H·D, Hkv·D).
    pub qk_norm: Option<(Norm, Norm)>,
    /// H.
    pub n_heads: i64,
    /// Hkv.
    pub n_kv_heads: i64,
    /// D.
    pub head_dim: i64,
    /// Scores are multiplied by this.
    pub scale: f64,
    /// Scores become cap · tanh(score / cap).
    pub softcap: Option<f64>,
    /// How many tokens back a token sees, itself counted; `None` is all.
    pub sliding_window: Option<i64>,
}

/// The projections of an attention layer, as its checkpoint stores them.
#[derive(Debug)]
pub enum Qkv {
    /// Three layers.
    Split {
        /// (H·D, C).
        q_proj: Linear,
        /// (Hkv·D, C).
        k_proj: Linear,
        /// (Hkv·D, C).
        v_proj: Linear,
        /// Their weights as one.
        joined: JoinedQkv,
    },
    /// One layer, queries first, then keys, then values: Phi-3, GPT-2.
    Fused(
        /// ((H + 2·Hkv)·D, C).
        Linear,
    ),
}

/// The three weights of [`Qkv::Split`] as one, where they could be joined.
#[derive(Debug)]
pub struct JoinedQkv(Option<Joined>);

impl Qkv {
    /// Three layers, their weights moved into one tensor.
    pub fn split(mut q_proj: Linear, mut k_proj: Linear, mut v_proj: Linear) -> Self {
        let joined = JoinedQkv(Joined::join(&mut [&mut q_proj, &mut k_proj, &mut v_proj]));
        Qkv::Split { q_proj, k_proj, v_proj, joined }
    }

    /// The layers, in order.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Qkv::Split { q_proj, k_proj, v_proj, .. } => vec![q_proj, k_proj, v_proj],
            Qkv::Fused(qkv_proj) => vec![qkv_proj],
        }
    }

    /// As [`Self::linears`].
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Qkv::Split { q_proj, k_proj, v_proj, .. } => vec![q_proj, k_proj, v_proj],
            Qkv::Fused(qkv_proj) => vec![qkv_proj],
        }
    }

    /// The layers' weights and biases as one, where they are kept as one: ((H + 2·Hkv)·D, C).
    pub fn whole(&self) -> Option<(&Tensor, Option<&Tensor>)> {
        match self {
            Qkv::Split { joined: JoinedQkv(joined), .. } => joined.as_ref()?.whole(&self.linears()),
            Qkv::Fused(_) => None,
        }
    }

    /// x of (…, C) → queries, keys and values side by side, (…, (H + 2·Hkv)·D).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self.project(x) {
            Projected::Whole(whole) => whole,
            Projected::Parts(q, k, v) => Tensor::cat(&[q, k, v], -1),
        }
    }

    fn project(&self, x: &Tensor) -> Projected {
        match self {
            Qkv::Fused(qkv_proj) => Projected::Whole(qkv_proj.forward(x)),
            Qkv::Split { q_proj, k_proj, v_proj, joined: JoinedQkv(joined) } => {
                let whole = joined.as_ref().and_then(|joined| joined.forward(x, &[q_proj, k_proj, v_proj]));
                whole.map_or_else(
                    || Projected::Parts(q_proj.forward(x), k_proj.forward(x), v_proj.forward(x)),
                    Projected::Whole,
                )
            }
        }
    }
}

/// What the projections give.
enum Projected {
    /// Queries, keys and values side by side, (…, (H + 2·Hkv)·D): one product gave them.
    Whole(Tensor),
    /// (…, H·D), (…, Hkv·D) and (…, Hkv·D).
    Parts(Tensor, Tensor, Tensor),
}

impl Attention {
    /// x of (T, C) → (T, C); tokens see only what their segment lets them see.
    pub fn forward(&self, x: &Tensor, rope: Option<&Rope>, segments: &[Segment]) -> Tensor {
        let (q, k, v) = self.project(x, rope);
        self.o_proj.forward(&self.attend_segments(&q, &k, &v, segments))
    }

    /// q of (T, H, D), k and v of (T, Hkv, D) → (T, H·D), each segment by itself.
    pub fn attend_segments(&self, q: &Tensor, k: &Tensor, v: &Tensor, segments: &[Segment]) -> Tensor {
        if let [only] = segments
            && only.prefix.is_none()
        {
            return self.attend(q, k, v);
        }
        let lengths: Vec<i64> = segments.iter().map(|s| s.range.len() as i64).collect();
        // One split, whose backward is one cat: narrowing segment by segment would clear a whole gradient each.
        let (qs, ks, vs) = (
            q.split_with_sizes(&lengths, 0),
            k.split_with_sizes(&lengths, 0),
            v.split_with_sizes(&lengths, 0),
        );
        let outputs: Vec<Tensor> = segments
            .iter()
            .enumerate()
            .map(|(i, segment)| match prefix_index(segments, segment) {
                None => self.attend(&qs[i], &ks[i], &vs[i]),
                Some(p) => self.attend(
                    &qs[i],
                    &Tensor::cat(&[&ks[p], &ks[i]], 0),
                    &Tensor::cat(&[&vs[p], &vs[i]], 0),
                ),
            })
            .collect();
        Tensor::cat(&outputs, 0)
    }

    /// x of (T, C) → q (T, H, D), k and v (T, Hkv, D), normed and rotated.
    pub fn project(&self, x: &Tensor, rope: Option<&Rope>) -> (Tensor, Tensor, Tensor) {
        let t_len = x.size()[0];
        let (n_q, n_kv) = (self.n_heads, self.n_kv_heads);
        let heads = |t: &Tensor| t.view([t_len, -1, self.head_dim]);
        let (q, k, v) = match self.qkv.project(x) {
            Projected::Parts(q, k, v) => (heads(&q), heads(&k), heads(&v)),
            Projected::Whole(whole) => {
                let whole = heads(&whole);
                let v = whole.narrow(1, n_q + n_kv, n_kv);
                if let (None, Some(rope)) = (&self.qk_norm, rope) {
                    // Queries and keys are turned by the same angles: in one go.
                    let qk = rope.rotate(&whole.narrow(1, 0, n_q + n_kv));
                    return (qk.narrow(1, 0, n_q), qk.narrow(1, n_q, n_kv), v);
                }
                (whole.narrow(1, 0, n_q), whole.narrow(1, n_q, n_kv), v)
            }
        };
        let (q, k) = match &self.qk_norm {
            None => (q, k),
            Some((q_norm, k_norm)) if q_norm.weight().size()[0] == self.head_dim => {
                (q_norm.forward(&q), k_norm.forward(&k))
            }
            Some((q_norm, k_norm)) => {
                (heads(&q_norm.forward(&q.flatten(1, 2))), heads(&k_norm.forward(&k.flatten(1, 2))))
            }
        };
        match rope {
            Some(rope) => (rope.rotate(&q), rope.rotate(&k), v),
            None => (q, k, v),
        }
    }

    /// One segment: q of (n, H, D) against k and v of (m, Hkv, D), the last n of which are its own → (n, H·D).
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let (n, m) = (q.size()[0], k.size()[0]);
        let window = self.sliding_window.filter(|&w| w < m);
        let causal = n == m && window.is_none();
        let mask =
            if causal && self.softcap.is_none() { None } else { Some(causal_mask(n, m, window, q.device())) };
        let kind = q.kind();
        let widen = attends_in_fp32(q, n);
        let batch = |t: &Tensor| {
            let t = if widen { t.to_kind(Kind::Float) } else { t.shallow_clone() };
            t.unsqueeze(0).transpose(1, 2) // (1, H, n, D)
        };
        let out = self.scores_to_values(&batch(q), &batch(k), &batch(v), mask.as_ref(), n > 1);
        out.transpose(1, 2).reshape([n, self.n_heads * self.head_dim]).to_kind(kind)
    }

    /// q of (B, H, n, D), k and v of (B, Hkv, m, D) → (B, H, n, D). `mask` is true where a query sees a key, and
    /// broadcasts to (B, H, n, m); without one, `causal` or everything.
    pub(crate) fn scores_to_values(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        mask: Option<&Tensor>,
        causal: bool,
    ) -> Tensor {
        let grouped = self.n_heads != self.n_kv_heads;
        if self.softcap.is_none() {
            let causal = causal && mask.is_none();
            return Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, self.scale, grouped);
        }
        let groups = self.n_heads / self.n_kv_heads;
        let (k, v) =
            (k.repeat_interleave_self_int(groups, 1, None), v.repeat_interleave_self_int(groups, 1, None));
        let probabilities = self.probabilities(q, &k, mask);
        probabilities.to_kind(v.kind()).matmul(&v)
    }

    /// softmax(q kᵀ) in fp32, q and k of (B, H, …, D).
    fn probabilities(&self, q: &Tensor, k: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let mut scores = q.matmul(&k.transpose(-2, -1)) * self.scale;
        if let Some(cap) = self.softcap {
            scores = (scores / cap).tanh() * cap;
        }
        if let Some(mask) = mask {
            scores = scores.masked_fill(&mask.logical_not(), f64::NEG_INFINITY);
        }
        scores.softmax(-1, Kind::Float)
    }

    /// How much each token looks at each: x of (n, C), one whole sequence, → (H, n, n), rows summing to 1.
    pub fn map(&self, x: &Tensor, rope: Option<&Rope>) -> Tensor {
        let (q, k, _) = self.project(x, rope);
        let n = q.size()[0];
        let k = k.repeat_interleave_self_int(self.n_heads / self.n_kv_heads, 1, None);
        let mask = causal_mask(n, n, self.sliding_window, q.device());
        self.probabilities(&q.transpose(0, 1), &k.transpose(0, 1), Some(&mask))
    }
}

/// Whether n queries, as `q` is stored, had better be attended to in fp32.
///
/// libtorch's bf16 attention on CPUs without units for it takes 2.6 times as long as its fp32 one, forward and backward,
/// at lengths of about 100: the two casts cost less. With units for tiles of bf16 its forward pass takes a third of
/// fp32's, and its backward pass twice as long on short texts.
pub(crate) fn attends_in_fp32(q: &Tensor, n: i64) -> bool {
    q.kind() == Kind::BFloat16
        && q.device() == tch::Device::Cpu
        && n > 1
        && !(n >= TILED && device::multiplies_bf16() == Bf16Products::Tiles)
}

/// (n, m) booleans: query i, which is key m − n + i, sees the keys up to itself, at most `window` of them.
fn causal_mask(n: i64, m: i64, window: Option<i64>, device: tch::Device) -> Tensor {
    let all = Tensor::ones([n, m], (Kind::Bool, device));
    let past = all.tril(m - n);
    match window {
        Some(w) => past.logical_and(&all.triu(m - n - w + 1)),
        None => past,
    }
}

fn prefix_index(segments: &[Segment], segment: &Segment) -> Option<usize> {
    let prefix = segment.prefix.as_ref()?;
    segments.iter().position(|s| s.range == *prefix)
}
