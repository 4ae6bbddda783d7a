use tch::{Kind, Tensor};

use crate::linear::Joined;
use crate::{Activation, Linear};

/// The feed-forward part of a block.
#[derive(Debug)]
pub enum Mlp {
    /// down(act(gate(x)) · up(x)).
    Gated {
        /// Gate and up projections.
        gate_up: GateUp,
        /// (C, I).
        down_proj: Linear,
        /// Between them.
        activation: Activation,
    },
    /// down(act(up(x))).
    Plain {
        /// (I, C).
        up_proj: Linear,
        /// (C, I).
        down_proj: Linear,
        /// Between them.
        activation: Activation,
    },
    /// A router sends each token to a few experts (arXiv 2401.04088).
    Moe {
        /// (E, C).
        router: Linear,
        /// E gated ones.
        experts: Vec<Mlp>,
        /// How many a token visits.
        top_k: usize,
        /// Whether the chosen weights are made to sum to 1.
        normalise: bool,
    },
}

/// The gate and up projections, as the checkpoint stores them.
#[derive(Debug)]
pub enum GateUp {
    /// Two layers.
    Split {
        /// (I, C).
        gate_proj: Linear,
        /// (I, C).
        up_proj: Linear,
        /// Their weights as one.
        joined: JoinedGateUp,
    },
    /// One layer, the gate first: Phi-3.
    Fused(
        /// (2·I, C).
        Linear,
    ),
}

/// The two weights of [`GateUp::Split`] as one, where they could be joined.
#[derive(Debug)]
pub struct JoinedGateUp(Option<Joined>);

impl GateUp {
    /// Two layers, their weights moved into one tensor.
    pub fn split(mut gate_proj: Linear, mut up_proj: Linear) -> Self {
        let joined = JoinedGateUp(Joined::join(&mut [&mut gate_proj, &mut up_proj]));
        GateUp::Split { gate_proj, up_proj, joined }
    }

    /// The layers, in order.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            GateUp::Split { gate_proj, up_proj, .. } => vec![gate_proj, up_proj],
            GateUp::Fused(gate_up_proj) => vec![gate_up_proj],
        }
    }

    /// The layers' weights and biases as one, where they are kept as one: (2·I, C).
    pub fn whole(&self) -> Option<(&Tensor, Option<&Tensor>)> {
        match self {
            GateUp::Split { joined: JoinedGateUp(joined), .. } => joined.as_ref()?.whole(&self.linears()),
            GateUp::Fused(_) => None,
        }
    }

    /// x of (…, C) → gate and up, (…, I) each.
    pub fn forward(&self, x: &Tensor) -> (Tensor, Tensor) {
        let whole = match self {
            GateUp::Fused(gate_up_proj) => gate_up_proj.forward(x),
            GateUp::Split { gate_proj, up_proj, joined: JoinedGateUp(joined) } => {
                match joined.as_ref().and_then(|joined| joined.forward(x, &[gate_proj, up_proj])) {
                    Some(whole) => whole,
                    None => return (gate_proj.forward(x), up_proj.forward(x)),
                }
            }
        };
        let inner = whole.size().last().unwrap_or(&0) / 2;
        (whole.narrow(-1, 0, inner), whole.narrow(-1, inner, inner))
    }
}

impl Mlp {
    /// x of (T, C) → (T, C).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Mlp::Gated { gate_up, down_proj, activation } => {
                let (gate, up) = gate_up.forward(x);
                down_proj.forward(&(activation.forward(&gate) * up))
            }
            Mlp::Plain { up_proj, down_proj, activation } => {
                down_proj.forward(&activation.forward(&up_proj.forward(x)))
            }
            Mlp::Moe { router, experts, top_k, normalise } => moe(x, router, experts, *top_k, *normalise),
        }
    }

    /// Its linear layers that an adapter may replace; a router is none of them.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Mlp::Gated { gate_up: GateUp::Split { gate_proj, up_proj, .. }, down_proj, .. } => {
                vec![gate_proj, up_proj, down_proj]
            }
            Mlp::Gated { gate_up: GateUp::Fused(gate_up_proj), down_proj, .. } => {
                vec![gate_up_proj, down_proj]
            }
            Mlp::Plain { up_proj, down_proj, .. } => vec![up_proj, down_proj],
            Mlp::Moe { experts, .. } => experts.iter().flat_map(Mlp::linears).collect(),
        }
    }

    /// As [`Self::linears`].
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Mlp::Gated { gate_up: GateUp::Split { gate_proj, up_proj, .. }, down_proj, .. } => {
                vec![gate_proj, up_proj, down_proj]
            }
            Mlp::Gated { gate_up: GateUp::Fused(gate_up_proj), down_proj, .. } => {
                vec![gate_up_proj, down_proj]
            }
            Mlp::Plain { up_proj, down_proj, .. } => vec![up_proj, down_proj],
            Mlp::Moe { experts, .. } => experts.iter_mut().flat_map(Mlp::linears_mut).collect(),
        }
    }
}

/// Each token's output is the weighted sum of its experts'. Tokens are gathered by expert, so that an expert runs
/// once over all of its own.
fn moe(x: &Tensor, router: &Linear, experts: &[Mlp], top_k: usize, normalise: bool) -> Tensor {
    let probabilities = router.forward(x).softmax(-1, Kind::Float);
    let (weights, chosen) = probabilities.topk(top_k as i64, -1, true, true); // (T, k) each
    let weights = if normalise {
        &weights / weights.sum_dim_intlist([-1i64].as_slice(), true, Kind::Float)
    } else {
        weights
    };
    let weights = weights.to_kind(x.kind());
    let mut out = x.zeros_like();
    for (e, expert) in experts.iter().enumerate() {
        let places = chosen.eq(e as i64).nonzero(); // (visits, 2): token, rank
        if places.size()[0] == 0 {
            continue;
        }
        let (tokens, ranks) = (places.select(1, 0), places.select(1, 1));
        let share = weights.index(&[Some(&tokens), Some(&ranks)]).unsqueeze(-1);
        out = out.index_add(0, &tokens, &(expert.forward(&x.index_select(0, &tokens)) * share));
    }
    out
}

impl Activation {
    /// Element-wise.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Activation::Silu => x.silu(),
            Activation::Gelu => x.gelu("none"),
            Activation::GeluTanh => x.gelu("tanh"),
            Activation::Relu => x.relu(),
        }
    }
}
