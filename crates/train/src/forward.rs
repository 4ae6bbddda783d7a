use ferrotune_model::lean::{Keep, Lean};
use ferrotune_model::{Decoder, as_recorded, records_gradients};
use ferrotune_types::Batch;
use tch::{Device, Kind, Tensor};

use crate::head::backward_head_weight;
use crate::{HeadOptions, Scored, TrainError};

/// One forward pass with what its backward pass needs.
///
/// Most models take the way that the module `lean` writes out by hand. For the others autograd records the blocks;
/// tch has no user-defined autograd functions, but a surrogate gives exact gradients: where `g` is the
/// gradient of the loss with respect to `x`, the backward pass of `sum(x · g)` with `g` held constant is the
/// backward pass of the loss. So the LM head, which is computed in chunks outside the graph, hands its gradient
/// in here; and activation checkpointing is the same trick block by block.
pub struct Forward<'a> {
    decoder: &'a Decoder,
    batch: &'a Batch,
    /// (N, C): hidden states that predict the batch's targets, in the order of [`Batch::targets`].
    graded: Tensor,
    way: Way<'a>,
}

/// How the blocks were run.
enum Way<'a> {
    /// Written out by hand.
    Lean(Box<Lean<'a>>),
    /// Recorded by autograd.
    Recorded,
    /// Inputs of every block, kept instead of the graph; the last is the final norm's.
    Checkpointed(Vec<Tensor>, Noise),
}

/// What dropout draws from: each block has a seed of its own, so that its recomputation drops the same, and a run with
/// checkpointing the same as one without.
struct Noise(i64);

impl Noise {
    /// A seed out of libtorch's generator, which a step seeds.
    fn draw() -> Self {
        Noise(Tensor::randint(i64::from(i32::MAX), [1], (Kind::Int64, Device::Cpu)).int64_value(&[0]))
    }

    fn seed(&self, block_idx: usize) {
        tch::manual_seed(self.0 + block_idx as i64);
    }
}

impl<'a> Forward<'a> {
    /// Runs the blocks over `batch`. With `checkpointing` each block is computed again in the backward pass:
    /// about a third more time, and memory for one block's graph instead of all. Under `tch::no_grad` nothing is
    /// kept.
    ///
    /// # Errors
    /// [`TrainError::NothingToTrain`] where no token is a target; [`TrainError::Model`] where the model refuses
    /// the batch.
    pub fn run(decoder: &'a Decoder, batch: &'a Batch, checkpointing: bool) -> Result<Self, TrainError> {
        Forward::run_from(decoder, batch, checkpointing, &|x| x)
    }

    /// As [`Self::run`], for a loss that learns from the segments alone that `learns_from` names: the weights of others'
    /// targets must be 0 in the backward pass, which then does without them.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_learning_from(
        decoder: &'a Decoder,
        batch: &'a Batch,
        checkpointing: bool,
        learns_from: &dyn Fn(usize) -> bool,
    ) -> Result<Self, TrainError> {
        let rows = predictors(batch, decoder)?;
        Forward::start(decoder, batch, rows, Keep { checkpointing, learns_from }, &|x| x)
    }

    /// As [`Self::run`], for a loss on the hidden states of `tokens`, whatever they predict: [`Self::graded`] has those, in
    /// that order, and [`Self::backward_from`] takes their gradient.
    ///
    /// # Errors
    /// [`TrainError::NothingToTrain`] where there are no tokens, [`TrainError::Config`] where one is not the batch's;
    /// [`TrainError::Model`] where the model refuses the batch.
    pub fn run_at(
        decoder: &'a Decoder,
        batch: &'a Batch,
        checkpointing: bool,
        tokens: &[usize],
    ) -> Result<Self, TrainError> {
        let keep = Keep { checkpointing, learns_from: &|_| true };
        Forward::start(decoder, batch, rows_of(tokens, batch, decoder)?, keep, &|x| x)
    }

    /// As [`Self::run`], from what `change` makes of the token embeddings, (T, C): NEFTune adds noise there. `change`
    /// must not depend on anything that is trained but the embeddings.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_from(
        decoder: &'a Decoder,
        batch: &'a Batch,
        checkpointing: bool,
        change: &dyn Fn(Tensor) -> Tensor,
    ) -> Result<Self, TrainError> {
        let rows = predictors(batch, decoder)?;
        Forward::start(decoder, batch, rows, Keep { checkpointing, learns_from: &|_| true }, change)
    }

    fn start(
        decoder: &'a Decoder,
        batch: &'a Batch,
        rows: Tensor,
        keep: Keep<'_>,
        change: &dyn Fn(Tensor) -> Tensor,
    ) -> Result<Self, TrainError> {
        if !Lean::fits(decoder, batch) {
            return Forward::recorded_from(decoder, batch, &rows, keep.checkpointing, change);
        }
        let pass = decoder.pass(batch)?;
        let keep = records_gradients().then_some(keep);
        let x = tch::no_grad(|| change(decoder.embed(batch)));
        let (lean, graded) = Lean::run(decoder, batch, pass, x, rows, keep);
        Ok(Forward { decoder, batch, graded, way: Way::Lean(Box::new(lean)) })
    }

    /// As [`Self::run`], by autograd whatever the model: slower, and the same numbers up to rounding. What
    /// [`Self::graded`] gives is then part of the graph.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn recorded(decoder: &'a Decoder, batch: &'a Batch, checkpointing: bool) -> Result<Self, TrainError> {
        let rows = predictors(batch, decoder)?;
        Forward::recorded_from(decoder, batch, &rows, checkpointing, &|x| x)
    }

    fn recorded_from(
        decoder: &'a Decoder,
        batch: &'a Batch,
        rows: &Tensor,
        checkpointing: bool,
        change: &dyn Fn(Tensor) -> Tensor,
    ) -> Result<Self, TrainError> {
        let _guard = as_recorded();
        let pass = decoder.pass(batch)?;
        let noise = records_gradients().then(Noise::draw);
        let mut x = change(decoder.embed(batch));
        let mut block_inputs = checkpointing.then(Vec::new);
        for (block_idx, block) in decoder.blocks.iter().enumerate() {
            if let Some(noise) = &noise {
                noise.seed(block_idx);
            }
            match &mut block_inputs {
                Some(inputs) => {
                    inputs.push(x.shallow_clone());
                    x = tch::no_grad(|| block.forward(&x, &pass));
                }
                None => x = block.forward(&x, &pass),
            }
        }
        if let Some(inputs) = &mut block_inputs {
            x = x.detach().set_requires_grad(true);
            inputs.push(x.shallow_clone());
        }
        // The final norm works on rows, so it too needs only the graded ones.
        let graded = decoder.norm.forward(&x.index_select(0, rows));
        let way =
            block_inputs.zip(noise).map_or(Way::Recorded, |(inputs, noise)| Way::Checkpointed(inputs, noise));
        Ok(Forward { decoder, batch, graded, way })
    }

    /// Hidden states that predict the targets, (N, C), in the order of [`Batch::targets`].
    pub fn graded(&self) -> &Tensor {
        &self.graded
    }

    /// The batch that was run.
    pub fn batch(&self) -> &Batch {
        self.batch
    }

    /// Adds to every trained parameter's `.grad` the gradient of a loss whose derivative with respect to each
    /// target's log-probability is `weights` (N), fp32.
    ///
    /// # Errors
    /// [`TrainError`] where a recomputed pass fails.
    pub fn backward(self, scored: &Scored, weights: &Tensor) -> Result<(), TrainError> {
        if self.decoder.head_weight().requires_grad() {
            backward_head_weight(self.decoder, &self.graded, scored, weights, HeadOptions::default().chunk);
        }
        let gradient = &scored.hidden_gradient * weights.unsqueeze(-1).to_kind(scored.hidden_gradient.kind());
        self.backward_from(&gradient)
    }

    /// As [`Self::backward`], from the loss's gradient with respect to [`Self::graded`], (N, C).
    ///
    /// # Errors
    /// [`TrainError`] where a recomputed pass fails.
    pub fn backward_from(self, gradient: &Tensor) -> Result<(), TrainError> {
        let inputs = match self.way {
            Way::Lean(lean) => {
                lean.backward(gradient);
                return Ok(());
            }
            Way::Recorded => None,
            Way::Checkpointed(inputs, noise) => Some((inputs, noise)),
        };
        surrogate(&self.graded, gradient).f_backward()?;
        let Some((inputs, noise)) = inputs else { return Ok(()) };
        let pass = self.decoder.pass(self.batch)?;
        let mut gradient = inputs[inputs.len() - 1].grad();
        for (block_idx, block) in self.decoder.blocks.iter().enumerate().rev() {
            // The first block's input is the embedding: it asks for a gradient only where embeddings train.
            let leaf = block_idx > 0;
            let x = if leaf {
                inputs[block_idx].detach().set_requires_grad(true)
            } else {
                inputs[block_idx].shallow_clone()
            };
            noise.seed(block_idx);
            let y = block.forward(&x, &pass);
            if !y.requires_grad() {
                break;
            }
            surrogate(&y, &gradient).f_backward()?;
            if leaf {
                gradient = x.grad();
            }
        }
        Ok(())
    }
}

/// Rows of the hidden states that predict a target, (N).
fn predictors(batch: &Batch, decoder: &Decoder) -> Result<Tensor, TrainError> {
    rows_of(&batch.targets().map(|(predictor, ..)| predictor).collect::<Vec<_>>(), batch, decoder)
}

/// Rows of the hidden states of `tokens`, (N).
fn rows_of(tokens: &[usize], batch: &Batch, decoder: &Decoder) -> Result<Tensor, TrainError> {
    let n = batch.n_tokens();
    if tokens.is_empty() {
        return Err(TrainError::NothingToTrain(format!("a batch of {n} tokens has no token to train on")));
    }
    if let Some(token) = tokens.iter().find(|&&token| token >= n) {
        return Err(TrainError::Config(format!("a loss on token {token} of a batch of {n}, counted from 0")));
    }
    let rows: Vec<i64> = tokens.iter().map(|&token| token as i64).collect();
    Ok(Tensor::from_slice(&rows).to_device(decoder.device))
}

/// A scalar whose gradient with respect to `x` is `gradient`.
fn surrogate(x: &Tensor, gradient: &Tensor) -> Tensor {
    (x * gradient.detach()).sum(Kind::Float)
}
