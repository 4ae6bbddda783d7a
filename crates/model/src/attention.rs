use ferrotune_types::Segment;
use tch::{Kind, Tensor};

use crate::rope::Rope;
use crate::{Linear, Norm};

/// Grouped-query attention (arXiv 2305.13245) over a flat stream of segments.
#[derive(Debug)]
pub struct Attention {
    /// (H·D, C).
    pub q_proj: Linear,
    /// (Hkv·D, C).
    pub k_proj: Linear,
    /// (Hkv·D, C).
    pub v_proj: Linear,
    /// (C, H·D).
    pub o_proj: Linear,
    /// Norms on queries and keys, per head (D) or whole (H·D, Hkv·D).
    pub qk_norm: Option<(Norm, Norm)>,
    /// D.
    pub head_dim: i64,
    /// Scores are multiplied by this.
    pub scale: f64,
    /// Scores become cap · tanh(score / cap).
    pub softcap: Option<f64>,
    /// How many tokens back a token sees, itself counted; `None` is all.
    pub sliding_window: Option<i64>,
}

impl Attention {
    /// x of (T, C) → (T, C); tokens see only what their segment lets them see.
    pub fn forward(&self, x: &Tensor, rope: Option<&Rope>, segments: &[Segment]) -> Tensor {
        let (q, k, v) = self.project(x, rope);
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
        let merged = if outputs.len() == 1 { outputs[0].shallow_clone() } else { Tensor::cat(&outputs, 0) };
        self.o_proj.forward(&merged)
    }

    /// x of (T, C) → q (T, H, D), k and v (T, Hkv, D), normed and rotated.
    pub fn project(&self, x: &Tensor, rope: Option<&Rope>) -> (Tensor, Tensor, Tensor) {
        let heads = |t: Tensor| {
            let t_len = t.size()[0];
            t.view([t_len, -1, self.head_dim])
        };
        let (mut q, mut k) = (self.q_proj.forward(x), self.k_proj.forward(x));
        let v = heads(self.v_proj.forward(x));
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            let per_head = matches!(q_norm, Norm::Rms { weight, .. } if weight.size()[0] == self.head_dim);
            (q, k) = if per_head {
                (q_norm.forward(&heads(q)), k_norm.forward(&heads(k)))
            } else {
                (q_norm.forward(&q), k_norm.forward(&k))
            };
        }
        let (q, k) = (heads(q.flatten(1, -1)), heads(k.flatten(1, -1)));
        match rope {
            Some(rope) => (rope.rotate(&q), rope.rotate(&k), v),
            None => (q, k, v),
        }
    }

    /// One segment: q of (n, H, D) against k and v of (m, Hkv, D), the last n of which are its own → (n, H·D).
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let (n, m, heads) = (q.size()[0], k.size()[0], q.size()[1]);
        let groups = heads / k.size()[1];
        let batch = |t: &Tensor| t.unsqueeze(0).transpose(1, 2); // (1, H, n, D)
        let grouped = |t: &Tensor| if groups == 1 { t.shallow_clone() } else { repeat_heads(t, groups) };
        let (q, k, v) = (batch(q), batch(&grouped(k)), batch(&grouped(v)));
        let window = self.sliding_window.filter(|&w| w < m);
        let causal = n == m && window.is_none();
        let mask = if causal { None } else { Some(causal_mask(n, m, window, q.device())) };
        let out = match self.softcap {
            None => Tensor::scaled_dot_product_attention(
                &q,
                &k,
                &v,
                mask,
                0.0,
                causal && n > 1,
                self.scale,
                false,
            ),
            Some(cap) => {
                let scores = q.matmul(&k.transpose(-2, -1)) * self.scale;
                let mask = mask.unwrap_or_else(|| causal_mask(n, m, None, q.device()));
                let scores = (scores / cap).tanh() * cap;
                let scores = scores.masked_fill(&mask.logical_not(), f64::NEG_INFINITY);
                scores.softmax(-1, Kind::Float).to_kind(v.kind()).matmul(&v)
            }
        };
        out.transpose(1, 2).reshape([n, heads * self.head_dim])
    }
}

/// (n, Hkv, D) → (n, Hkv·groups, D): each head `groups` times in a row.
fn repeat_heads(x: &Tensor, groups: i64) -> Tensor {
    let (n, heads, dim) = x.size3().unwrap_or((0, 0, 0));
    x.unsqueeze(2).expand([n, heads, groups, dim], false).reshape([n, heads * groups, dim])
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
