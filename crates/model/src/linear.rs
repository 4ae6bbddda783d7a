use tch::{Kind, Tensor};

use crate::decoder::multiplies_as_recorded;
use crate::kernels::{wide, widens};

/// A linear layer, y = x Wᵀ + b, that an adapter may replace.
///
/// It keeps its place in the model as the checkpoint names it (`model.layers.0.self_attn.q_proj`), because
/// adapters choose their targets by that name and save under it.
#[derive(Debug)]
pub struct Linear {
    /// Module path as in the Hugging Face checkpoint.
    pub name: String,
    /// (out, in).
    pub weight: Weight,
    /// (out).
    pub bias: Option<Tensor>,
    adapter: Option<Box<dyn LinearAdapter>>,
}

/// A weight as stored: plain, or packed into fewer bits.
#[derive(Debug)]
pub enum Weight {
    /// (out, in), in the model's dtype.
    Dense(Tensor),
    /// NF4, int8, …
    Packed(Box<dyn PackedWeight>),
}

/// A weight in fewer bits. Implemented by `ferrotune-peft` (NF4) and for int8 inference.
pub trait PackedWeight: Send + std::fmt::Debug {
    /// (out, in).
    fn size(&self) -> (i64, i64);
    /// x Wᵀ for x of (…, in).
    fn matmul(&self, x: &Tensor) -> Tensor;
    /// The weight again as (out, in).
    fn dequantize(&self, kind: Kind) -> Tensor;
    /// Bytes that it takes, tables included.
    fn n_bytes(&self) -> usize;
    /// Itself, where it is in 8 bits with a scale for each row: the CPU kernels know that form.
    fn as_int8(&self) -> Option<&crate::Int8Weight> {
        None
    }
}

/// What stands in for a linear layer's forward pass: LoRA and its relatives, in `ferrotune-peft`.
pub trait LinearAdapter: Send + std::fmt::Debug {
    /// The layer's output for x of (…, in). Call [`Linear::base`] for the layer underneath.
    fn forward(&self, x: &Tensor, linear: &Linear) -> Tensor;

    /// The same as factors, for a caller that makes the forward and the backward pass itself.
    fn update(&self) -> Update {
        Update::Opaque
    }
}

/// What an adapter adds to its layer, as far as it can be said without calling it.
#[derive(Debug)]
pub enum Update {
    /// Nothing: it is switched off.
    None,
    /// s · (x Aᵀ) Bᵀ, and nothing else.
    LowRank {
        /// A, (r, in), the leaf that is trained.
        a: Tensor,
        /// B, (out, r), the leaf that is trained.
        b: Tensor,
        /// s.
        scale: f64,
    },
    /// Something else: call [`LinearAdapter::forward`].
    Opaque,
}

/// x Wᵀ + b, where no gradient is asked for in the dtype that the CPU multiplies best. (With one, autograd would keep
/// the widened weight.)
pub(crate) fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    if widens(x.kind(), x.device()) && !multiplies_as_recorded() {
        wide(x).linear(&wide(weight), bias.map(wide).as_ref()).to_kind(x.kind())
    } else {
        x.linear(weight, bias)
    }
}

impl Linear {
    /// A plain layer.
    pub fn new(name: impl Into<String>, weight: Tensor, bias: Option<Tensor>) -> Self {
        Linear { name: name.into(), weight: Weight::Dense(weight), bias, adapter: None }
    }

    /// x of (…, in) → (…, out), through the adapter where one is set.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match &self.adapter {
            Some(adapter) => adapter.forward(x, self),
            None => self.base(x),
        }
    }

    /// x of (…, in) → (…, out), without any adapter.
    pub fn base(&self, x: &Tensor) -> Tensor {
        match &self.weight {
            Weight::Dense(w) => product(x, w, self.bias.as_ref()),
            Weight::Packed(w) => match &self.bias {
                Some(b) => w.matmul(x) + b,
                None => w.matmul(x),
            },
        }
    }

    /// Sets or removes the adapter; gives back the one that was there.
    pub fn set_adapter(&mut self, adapter: Option<Box<dyn LinearAdapter>>) -> Option<Box<dyn LinearAdapter>> {
        std::mem::replace(&mut self.adapter, adapter)
    }

    /// What the layer's adapter adds.
    pub fn update(&self) -> Update {
        self.adapter.as_ref().map_or(Update::None, |adapter| adapter.update())
    }

    /// Whether an adapter is set.
    pub fn has_adapter(&self) -> bool {
        self.adapter.is_some()
    }

    /// Inputs a row of the weight reads.
    pub fn in_features(&self) -> i64 {
        self.weight.size().1
    }

    /// Rows of the weight.
    pub fn out_features(&self) -> i64 {
        self.weight.size().0
    }
}

impl Weight {
    /// (out, in).
    pub fn size(&self) -> (i64, i64) {
        match self {
            Weight::Dense(w) => w.size2().unwrap_or((0, 0)),
            Weight::Packed(w) => w.size(),
        }
    }

    /// The weight as a plain tensor of `kind`, (out, in). A copy only where one is needed.
    pub fn dense(&self, kind: Kind) -> Tensor {
        match self {
            Weight::Dense(w) => w.to_kind(kind),
            Weight::Packed(w) => w.dequantize(kind),
        }
    }

    /// Bytes that it takes.
    pub fn n_bytes(&self) -> usize {
        match self {
            Weight::Dense(w) => bytes_of(w),
            Weight::Packed(w) => w.n_bytes(),
        }
    }
}

fn bytes_of(t: &Tensor) -> usize {
    t.numel() * t.kind().elt_size_in_bytes()
}

/// The weights of several layers with one input, kept as one tensor of which each layer's weight is a view:
/// one product instead of several, for no memory.
#[derive(Debug)]
pub(crate) struct Joined {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Joined {
    /// Moves the layers' weights into one tensor; `None` where they are packed or only some have a bias.
    pub(crate) fn join(linears: &mut [&mut Linear]) -> Option<Joined> {
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for linear in &*linears {
            let Weight::Dense(weight) = &linear.weight else { return None };
            weights.push(weight.shallow_clone());
            biases.extend(linear.bias.as_ref().map(Tensor::shallow_clone));
        }
        if !biases.is_empty() && biases.len() != linears.len() {
            return None;
        }
        let weight = Tensor::cat(&weights, 0);
        let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)) };
        let mut start = 0;
        for linear in linears {
            let rows = linear.out_features();
            linear.weight = Weight::Dense(weight.narrow(0, start, rows));
            linear.bias = bias.as_ref().map(|b| b.narrow(0, start, rows));
            start += rows;
        }
        Some(Joined { weight, bias })
    }

    /// All outputs side by side, (…, in) → (…, sum of out); `None` where a layer has an adapter, another weight
    /// by now, or one that is being trained.
    pub(crate) fn forward(&self, x: &Tensor, linears: &[&Linear]) -> Option<Tensor> {
        for linear in linears {
            let Weight::Dense(weight) = &linear.weight else { return None };
            let bias_trains = linear.bias.as_ref().is_some_and(Tensor::requires_grad);
            if linear.has_adapter() || weight.requires_grad() || bias_trains {
                return None;
            }
        }
        let (weight, bias) = self.whole(linears)?;
        Some(product(x, weight, bias))
    }

    /// The joined weight and bias, where the layers' own are still views of them.
    pub(crate) fn whole(&self, linears: &[&Linear]) -> Option<(&Tensor, Option<&Tensor>)> {
        let mut weights = self.weight.data_ptr() as usize;
        let mut biases = self.bias.as_ref().map(|bias| bias.data_ptr() as usize);
        for linear in linears {
            let Weight::Dense(weight) = &linear.weight else { return None };
            let bias = linear.bias.as_ref().map(|bias| bias.data_ptr() as usize);
            if weight.data_ptr() as usize != weights || bias != biases {
                return None;
            }
            weights += bytes_of(weight);
            biases = biases.zip(linear.bias.as_ref()).map(|(address, bias)| address + bytes_of(bias));
        }
        Some((&self.weight, self.bias.as_ref()))
    }
}
