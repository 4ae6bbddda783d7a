use std::ops::Range;

use crate::{Linear, Update};
use tch::{Kind, Tensor};

use crate::kernels::wide;

/// The product of one input with several layers side by side, their LoRA updates joined as well:
/// y = x Wᵀ + b + (x Aᵀ) Bᵀ, where A stacks the layers' A and B holds their s·B on its diagonal.
pub(crate) struct Product<'a> {
    linears: Vec<&'a Linear>,
    whole: Option<Tensor>,
    bias: Option<Tensor>,
    factors: Option<Factors>,
    kind: Kind,
}

struct Factors {
    /// (R, in), in the model's dtype.
    a: Tensor,
    /// (out, R), scaled, in the model's dtype.
    b: Tensor,
    parts: Vec<Part>,
}

/// One layer's update within the joined one.
struct Part {
    a: Tensor,
    b: Tensor,
    scale: f64,
    ranks: Range<i64>,
    outputs: Range<i64>,
}

impl<'a> Product<'a> {
    /// `whole` is the layers' weights and biases as one, where they are kept as one.
    pub(crate) fn new(
        linears: Vec<&'a Linear>,
        whole: Option<(&Tensor, Option<&Tensor>)>,
        kind: Kind,
    ) -> Self {
        let bias = match (&whole, linears.as_slice()) {
            (Some((_, bias)), _) => bias.map(Tensor::detach),
            (None, [only]) => only.bias.as_ref().map(Tensor::detach),
            (None, many) => {
                let zeros = |l: &Linear| Tensor::zeros([l.out_features()], (kind, tch::Device::Cpu));
                let parts = many.iter().map(|l| l.bias.as_ref().map_or_else(|| zeros(l), Tensor::detach));
                many.iter().any(|l| l.bias.is_some()).then(|| Tensor::cat(&parts.collect::<Vec<_>>(), 0))
            }
        };
        let factors = Factors::of(&linears, kind);
        Product { whole: whole.map(|(weight, _)| weight.detach()), bias, factors, linears, kind }
    }

    /// (out, in); made anew for every use where it is packed.
    fn weight(&self) -> Tensor {
        match (&self.whole, self.linears.as_slice()) {
            (Some(whole), _) => whole.shallow_clone(),
            (None, [only]) => only.weight.dense(self.kind).detach(),
            (None, many) => {
                Tensor::cat(&many.iter().map(|l| l.weight.dense(self.kind).detach()).collect::<Vec<_>>(), 0)
            }
        }
    }

    /// x of (T, in) → y of (T, out) and x Aᵀ of (T, R), which the backward pass wants back.
    pub(crate) fn forward(&self, x: &Tensor) -> (Tensor, Option<Tensor>) {
        let kind = x.kind();
        let x = wide(x);
        let mut y = x.linear(&wide(&self.weight()), self.bias.as_ref().map(wide).as_ref());
        let low = self.factors.as_ref().map(|factors| {
            let low = x.linear(&wide(&factors.a), None::<&Tensor>).to_kind(kind);
            let _ = y.addmm_(&wide(&low), &wide(&factors.b).tr());
            low
        });
        (y.to_kind(kind), low)
    }

    /// From g, the gradient with respect to y: adds those of what is trained to their `.grad`, and gives the one
    /// with respect to x, (T, in), where it is wanted. `x` is called only where it is needed.
    pub(crate) fn backward(
        &self,
        x: impl FnOnce() -> Tensor,
        low: Option<Tensor>,
        g: &Tensor,
        wanted: bool,
    ) -> Option<Tensor> {
        let kind = g.kind();
        let g = wide(g);
        let mut dx = wanted.then(|| g.matmul(&wide(&self.weight())));
        let base_trains = self.base_trains();
        let x = (self.factors.as_ref().is_some_and(Factors::trains) || base_trains).then(|| wide(&x()));
        if let (Some(factors), Some(low)) = (&self.factors, low) {
            let dlow = g.matmul(&wide(&factors.b)); // (T, R)
            if let Some(dx) = &mut dx {
                let _ = dx.addmm_(&dlow, &wide(&factors.a));
            }
            if let Some(x) = &x {
                factors.accumulate(&dlow.tr().matmul(x), &g.tr().matmul(&wide(&low)));
            }
        }
        if let Some(x) = x.filter(|_| base_trains) {
            let mut start = 0;
            for linear in &self.linears {
                let rows = linear.out_features();
                let g = g.narrow(1, start, rows);
                if let crate::Weight::Dense(weight) = &linear.weight
                    && weight.requires_grad()
                {
                    accumulate(weight, &g.tr().matmul(&x));
                }
                if let Some(bias) = linear.bias.as_ref().filter(|b| b.requires_grad()) {
                    accumulate(bias, &g.sum_dim_intlist([0i64].as_slice(), false, Kind::Float));
                }
                start += rows;
            }
        }
        dx.map(|dx| dx.to_kind(kind))
    }

    fn base_trains(&self) -> bool {
        self.linears.iter().any(|l| {
            matches!(&l.weight, crate::Weight::Dense(w) if w.requires_grad())
                || l.bias.as_ref().is_some_and(Tensor::requires_grad)
        })
    }
}

impl Factors {
    fn of(linears: &[&Linear], kind: Kind) -> Option<Self> {
        let mut parts = Vec::new();
        let (mut rank, mut start) = (0, 0);
        for linear in linears {
            let rows = linear.out_features();
            if let Update::LowRank { a, b, scale } = linear.update() {
                let r = a.size()[0];
                parts.push(Part { a, b, scale, ranks: rank..rank + r, outputs: start..start + rows });
                rank += r;
            }
            start += rows;
        }
        let first = parts.first()?;
        let a = match parts.as_slice() {
            [only] => only.a.detach().to_kind(kind),
            many => Tensor::cat(&many.iter().map(|p| p.a.detach()).collect::<Vec<_>>(), 0).to_kind(kind),
        };
        let scaled =
            |part: &Part| if part.scale == 1.0 { part.b.detach() } else { part.b.detach() * part.scale };
        let b = if parts.len() == 1 && linears.len() == 1 {
            scaled(first).to_kind(kind)
        } else {
            let b = Tensor::zeros([start, rank], (kind, a.device()));
            for part in &parts {
                let place = b.narrow(0, part.outputs.start, part.outputs.end - part.outputs.start);
                place.narrow(1, part.ranks.start, part.ranks.end - part.ranks.start).copy_(&scaled(part));
            }
            b
        };
        Some(Factors { a, b, parts })
    }

    fn trains(&self) -> bool {
        self.parts.iter().any(|p| p.a.requires_grad() || p.b.requires_grad())
    }

    /// Hands the joined gradients, (R, in) and (out, R), out to the layers.
    fn accumulate(&self, da: &Tensor, db: &Tensor) {
        for part in &self.parts {
            let (rank, n_rank) = (part.ranks.start, part.ranks.end - part.ranks.start);
            if part.a.requires_grad() {
                accumulate(&part.a, &da.narrow(0, rank, n_rank));
            }
            if part.b.requires_grad() {
                let rows = db.narrow(0, part.outputs.start, part.outputs.end - part.outputs.start);
                accumulate(&part.b, &(rows.narrow(1, rank, n_rank).to_kind(part.b.kind()) * part.scale));
            }
        }
    }
}

/// Adds to a leaf's `.grad`.
pub fn accumulate(leaf: &Tensor, gradient: &Tensor) {
    let mut sum = leaf.grad();
    if sum.defined() {
        let _ = sum.g_add_(gradient);
    } else {
        // Only autograd can make a leaf's first gradient: that of Σ leaf · gradient.
        let gradient = gradient.detach().to_kind(leaf.kind());
        tch::with_grad(|| (leaf * gradient).sum(leaf.kind()).backward());
    }
}
