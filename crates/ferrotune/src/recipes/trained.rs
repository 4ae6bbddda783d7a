//! What a run trains: an adapter, or the model itself.

use anyhow::{Result, bail};
use ferrotune_model::{Decoder, Weight};
use ferrotune_peft::{Adapter, LoraLayer, ParameterKind};
use ferrotune_train::{Freeze, Param, unfreeze};

/// What a run trains.
#[derive(Debug, Clone, Copy)]
pub enum Trained<'a> {
    /// An adapter, which hangs on the frozen model.
    Adapter(&'a Adapter),
    /// Tensors of the model itself, from [`whole_model`].
    Model(&'a [Param]),
}

impl<'a> From<&'a Adapter> for Trained<'a> {
    fn from(adapter: &'a Adapter) -> Self {
        Trained::Adapter(adapter)
    }
}

impl Trained<'_> {
    /// What the optimiser moves. An adapter's B, and what has one dimension (biases, DoRA's magnitudes), learns at
    /// `loraplus_ratio` times the rate, as in PEFT's LoRA+; what has one dimension has no weight decay.
    pub(crate) fn params(&self, loraplus_ratio: f64) -> Vec<Param> {
        match self {
            Trained::Adapter(adapter) => adapter
                .parameters()
                .into_iter()
                .map(|(name, tensor)| {
                    let kind = ParameterKind::of(&name, &tensor);
                    let lr_scale = if kind == ParameterKind::A { 1.0 } else { loraplus_ratio };
                    Param { lr_scale, decay: kind != ParameterKind::Vector, ..Param::new(name, tensor) }
                })
                .collect(),
            Trained::Model(params) => params
                .iter()
                .map(|p| Param { name: p.name.clone(), tensor: p.tensor.shallow_clone(), ..*p })
                .collect(),
        }
    }

    /// Runs `f` with the adapter off; of the model itself nothing can be switched off.
    pub(crate) fn without<T>(&self, f: impl FnOnce() -> T) -> T {
        match self {
            Trained::Adapter(adapter) => adapter.without(f),
            Trained::Model(_) => f(),
        }
    }

    /// Whether it is an adapter that adds exactly nothing yet, so that its products can be left out.
    pub(crate) fn adds_nothing(&self) -> bool {
        let fresh = |l: &LoraLayer| l.magnitude.is_none() && l.b.count_nonzero(None).int64_value(&[]) == 0;
        matches!(self, Trained::Adapter(adapter) if adapter.layers().iter().all(fresh))
    }

    /// Turns dropout on or off; the model itself has none.
    pub(crate) fn set_training(&self, on: bool) {
        if let Trained::Adapter(adapter) = self {
            adapter.set_training(on);
        }
    }
}

/// The model's own tensors, gradients turned on, but for what `freeze` holds.
///
/// # Errors
/// A model in 4 or 8 bits; what [`unfreeze`] refuses.
pub fn whole_model(decoder: &Decoder, freeze: &Freeze) -> Result<Vec<Param>> {
    if decoder.linears().iter().any(|l| matches!(l.weight, Weight::Packed(_))) {
        bail!("a quantised model cannot be trained whole: train an adapter on it");
    }
    Ok(unfreeze(decoder.leaves(), freeze)?)
}
