use std::cell::Cell;
use std::ops::Range;

use ferrotune_types::{Batch, Segment};
use tch::{Device, Kind, Tensor};

use crate::block::{linear_tensors, norm_tensors};
use crate::lean;
use crate::linear::product;
use crate::rope::Rope;
use crate::{Block, DecoderConfig, Linear, ModelError, Norm, RopeScaling, Weight, WeightMap};

/// A causal language model: embedding, blocks, final norm, LM head.
///
/// It runs over a [`Batch`], a flat stream of tokens in segments that do not see each other, so there is no
/// padding and an example's numbers do not depend on its neighbours. Every step of the pass is public, so that
/// a training recipe can stop at the hidden states (and send only the graded ones to the head) or run the
/// blocks one by one (activation checkpointing).
#[derive(Debug)]
pub struct Decoder {
    /// What it is made of.
    pub config: DecoderConfig,
    /// (V, C).
    pub embedding: Tensor,
    /// (positions, C), GPT-2 only.
    pub position_embedding: Option<Tensor>,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// Norm after the last block.
    pub norm: Norm,
    /// The LM head where it is not the embedding.
    pub lm_head: Option<Linear>,
    /// Dtype of the weights and activations.
    pub kind: Kind,
    /// Where they lie.
    pub device: Device,
}

/// What all blocks of one pass share: the rotary tables and the segments.
#[derive(Debug)]
pub struct Pass<'a> {
    rope: Option<Rope>,
    rope_local: Option<Rope>,
    pub(crate) segments: &'a [Segment],
}

impl Pass<'_> {
    /// The rotary table that `block` uses.
    pub fn rope_of(&self, block: &Block) -> Option<&Rope> {
        if block.local_rope { self.rope_local.as_ref() } else { self.rope.as_ref() }
    }

    /// The rotary tables of these tokens alone, without segments.
    pub(crate) fn of_tokens(&self, tokens: &[i64]) -> Pass<'static> {
        let rows = |rope: &Option<Rope>| rope.as_ref().map(|rope| rope.rows(tokens));
        Pass { rope: rows(&self.rope), rope_local: rows(&self.rope_local), segments: &[] }
    }
}

impl Decoder {
    /// Reads every tensor under the names that the config's family gives it.
    ///
    /// Where the config ties the LM head to the embedding but the checkpoint holds a head of other values, that head is
    /// read and the two are not tied, as transformers does it.
    ///
    /// # Errors
    /// [`ModelError::Tensors`] where the checkpoint does not fit the config.
    pub fn load(
        mut config: DecoderConfig,
        weights: &mut WeightMap<'_>,
        kind: Kind,
        device: Device,
    ) -> Result<Self, ModelError> {
        let (c, v, names) = (config.hidden_size, config.vocab_size, config.names);
        if let Some((root, bare)) = names.embedding.split_once('.')
            && !weights.has(&format!("{}.weight", names.embedding))
            && weights.has(&format!("{bare}.weight"))
        {
            weights.put_under(root);
        }
        let embedding = weights.take(&format!("{}.weight", names.embedding), &[v as i64, c as i64])?;
        let position_embedding = match names.position_embedding {
            "" => None,
            name => {
                let size = [config.max_position_embeddings as i64, c as i64];
                Some(weights.take(&format!("{name}.weight"), &size)?)
            }
        };
        let mut blocks = Vec::new();
        for layer_idx in 0..config.num_hidden_layers {
            blocks.push(Block::load(&config, layer_idx, weights)?);
        }
        let norm = weights.norm(names.norm, c, config.norm)?;
        let lm_head = if config.tie_word_embeddings {
            own_head(weights, &embedding)?
        } else {
            Some(weights.linear("lm_head", c, v, false)?)
        };
        config.tie_word_embeddings = lm_head.is_none();
        Ok(Decoder { config, embedding, position_embedding, blocks, norm, lm_head, kind, device })
    }

    /// Final hidden states of every token, after the last norm: (T, C).
    ///
    /// # Errors
    /// [`ModelError::Input`] where an id lies beyond the vocabulary or a sequence beyond the context.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        let pass = self.pass(batch)?;
        let mut x = self.embed(batch);
        if !records_gradients() && lean::reads(self, batch) {
            x = lean::read(self, batch, &pass, x, None, |_, _, _, _| {});
        } else {
            for block in &self.blocks {
                x = block.forward(&x, &pass);
            }
        }
        Ok(self.norm.forward(&x))
    }

    /// Logits of chosen hidden states, (N, C) → (N, V), in the model's dtype.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        self.capped(match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => product(hidden, &self.embedding, None),
        })
    }

    /// As [`Self::logits`], of some of the vocabulary only, (N, tokens). It saves nothing where the head is not plain.
    pub(crate) fn logits_of(&self, hidden: &Tensor, tokens: Range<i64>) -> Tensor {
        let part = |t: &Tensor, dim| t.narrow(dim, tokens.start, tokens.end - tokens.start);
        match self.plain_head() {
            Some((weight, bias)) => {
                self.capped(product(hidden, &part(weight, 0), bias.map(|bias| part(bias, 0)).as_ref()))
            }
            None => part(&self.logits(hidden), 1).contiguous(),
        }
    }

    /// Weight and bias of the LM head, where nothing else belongs to it.
    pub fn plain_head(&self) -> Option<(&Tensor, Option<&Tensor>)> {
        match &self.lm_head {
            None => Some((&self.embedding, None)),
            Some(head) if head.has_adapter() => None,
            Some(head) => match &head.weight {
                Weight::Dense(weight) => Some((weight, head.bias.as_ref())),
                Weight::Packed(_) => None,
            },
        }
    }

    /// As [`Self::logits`], with `weight` (V, C) in the place of the LM head's: one that was kept from before training,
    /// or its own in another dtype, which is then `hidden`'s as well.
    pub fn logits_by(&self, hidden: &Tensor, weight: &Tensor) -> Tensor {
        let bias = self.lm_head.as_ref().and_then(|head| head.bias.as_ref());
        self.capped(product(hidden, weight, bias.map(|b| b.to_kind(weight.kind())).as_ref()))
    }

    fn capped(&self, logits: Tensor) -> Tensor {
        match self.config.logits_softcap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// The weight of the LM head, (V, C).
    pub fn head_weight(&self) -> Tensor {
        match &self.lm_head {
            Some(head) => head.weight.dense(self.kind),
            None => self.embedding.shallow_clone(),
        }
    }

    /// Checks a batch and prepares what all blocks share.
    ///
    /// # Errors
    /// [`ModelError::Input`].
    pub fn pass<'a>(&self, batch: &'a Batch) -> Result<Pass<'a>, ModelError> {
        let vocabulary = self.config.vocab_size as i64;
        if let Some(id) = batch.ids().iter().find(|&&id| id < 0 || id >= vocabulary) {
            return Err(ModelError::Input(format!(
                "token id {id} is outside the model's vocabulary of {vocabulary}: is this the model's own tokenizer?"
            )));
        }
        let longest = batch.positions().iter().max().map_or(0, |p| p + 1);
        let context = self.config.max_position_embeddings as i64;
        if longest > context {
            return Err(ModelError::Input(format!(
                "a sequence of {longest} tokens is longer than the model's context of {context}: shorten it, or lower max_length"
            )));
        }
        let (rope, rope_local) = self.ropes(batch.positions(), &sequence_lengths(batch));
        Ok(Pass { rope, rope_local, segments: batch.segments() })
    }

    /// The rotary tables for tokens at these positions of sequences of these lengths: of most layers, and of
    /// sliding-window ones where theirs differ.
    pub(crate) fn ropes(&self, positions: &[i64], lengths: &[i64]) -> (Option<Rope>, Option<Rope>) {
        let positions = Tensor::from_slice(positions).to_device(self.device);
        let rope = |config: &Option<_>| {
            config.as_ref().map(|c| Rope::new(c, &positions, lengths, self.kind, self.device))
        };
        (rope(&self.config.rope), rope(&self.config.rope_local))
    }

    /// The length from which on LongRoPE turns a sequence's tokens otherwise.
    pub(crate) fn long_rope_from(&self) -> Option<i64> {
        match self.config.rope.as_ref()?.scaling {
            RopeScaling::Factors { original_max, .. } => Some(original_max + 1),
            _ => None,
        }
    }

    /// How much each token looks at each: per block (H, n, n), rows summing to 1, for one sequence.
    ///
    /// # Errors
    /// [`ModelError::Input`] where the batch is not one plain segment, or as [`Self::pass`].
    pub fn attention_maps(&self, batch: &Batch) -> Result<Vec<Tensor>, ModelError> {
        if batch.segments().len() != 1 {
            return Err(ModelError::Input("attention maps are drawn of one sequence at a time".to_owned()));
        }
        let pass = self.pass(batch)?;
        let mut x = self.embed(batch);
        let mut maps = Vec::new();
        for block in &self.blocks {
            let rope = pass.rope_of(block);
            let normed = block.attention_norms.0.as_ref().map(|norm| norm.forward(&x));
            maps.push(block.attention.map(normed.as_ref().unwrap_or(&x), rope));
            x = block.forward(&x, &pass);
        }
        Ok(maps)
    }

    /// Token embeddings, (T, C).
    pub fn embed(&self, batch: &Batch) -> Tensor {
        self.embed_ids(batch.ids(), batch.positions())
    }

    pub(crate) fn embed_ids(&self, ids: &[i64], positions: &[i64]) -> Tensor {
        let ids = Tensor::from_slice(ids).to_device(self.device);
        let mut x = Tensor::embedding(&self.embedding, &ids, -1, false, false);
        if self.config.embedding_scale != 1.0 {
            // Cast first: transformers rounds the scale to the model's dtype.
            let scale = Tensor::from(self.config.embedding_scale as f32);
            x *= scale.to_device(self.device).to_kind(self.kind);
        }
        if let Some(table) = &self.position_embedding {
            let positions = Tensor::from_slice(positions).to_device(self.device);
            x += Tensor::embedding(table, &positions, -1, false, false);
        }
        x
    }

    /// Every linear layer of the blocks, in order of the forward pass; the LM head is not among them.
    pub fn linears(&self) -> Vec<&Linear> {
        self.blocks.iter().flat_map(Block::linears).collect()
    }

    /// As [`Self::linears`], to hang adapters on.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.blocks.iter_mut().flat_map(Block::linears_mut).collect()
    }

    /// The biases of its norms under their names in a checkpoint; GPT-2's alone have any.
    pub fn norm_biases(&self) -> Vec<(String, &Tensor)> {
        let norms = self.blocks.iter().flat_map(Block::norms).chain([Some(&self.norm)]);
        let named = self.norm_bias_names().into_iter().zip(norms);
        named.filter_map(|(name, norm)| Some((name, norm?.bias()?))).collect()
    }

    /// As [`Self::norm_biases`], to put others in their places.
    pub fn norm_biases_mut(&mut self) -> Vec<(String, &mut Tensor)> {
        let names = self.norm_bias_names();
        let norms = self.blocks.iter_mut().flat_map(Block::norms_mut).chain([Some(&mut self.norm)]);
        let named = names.into_iter().zip(norms);
        named.filter_map(|(name, norm)| Some((name, norm?.bias_mut()?))).collect()
    }

    /// What they are called, where they are there.
    fn norm_bias_names(&self) -> Vec<String> {
        let names = self.config.names;
        let of_block =
            |layer_idx| names.norms.map(|name| format!("{}.{layer_idx}.{name}.bias", names.layers));
        let of_blocks = (0..self.blocks.len()).flat_map(of_block);
        of_blocks.chain([format!("{}.bias", names.norm)]).collect()
    }

    /// Every plain tensor of the model under its name in a Hugging Face checkpoint.
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        self.tensors(self.config.names.transposed)
    }

    /// As [`Self::named_tensors`], but each as the model keeps it, GPT-2's linear weights (out, in) too: what gradients
    /// are asked of, and what an optimiser changes in place.
    pub fn leaves(&self) -> Vec<(String, Tensor)> {
        self.tensors(false)
    }

    fn tensors(&self, transposed: bool) -> Vec<(String, Tensor)> {
        let names = self.config.names;
        let mut out = vec![(format!("{}.weight", names.embedding), self.embedding.shallow_clone())];
        if let Some(table) = &self.position_embedding {
            out.push((format!("{}.weight", names.position_embedding), table.shallow_clone()));
        }
        for (layer_idx, block) in self.blocks.iter().enumerate() {
            block.named_tensors(&format!("{}.{layer_idx}", names.layers), names, transposed, &mut out);
        }
        norm_tensors(names.norm, &self.norm, &mut out);
        if let Some(head) = &self.lm_head {
            linear_tensors(head, false, &mut out);
        }
        out
    }
}

/// The checkpoint's LM head where it is not the embedding, (V, C), once more.
fn own_head(weights: &mut WeightMap<'_>, embedding: &Tensor) -> Result<Option<Linear>, ModelError> {
    let head = weights.take_optional("lm_head.weight", &embedding.size())?;
    Ok(head.filter(|head| !head.equal(embedding)).map(|head| Linear::new("lm_head", head, None)))
}

/// Whether autograd would record now, which tch does not tell.
pub fn records_gradients() -> bool {
    let leaf = Tensor::zeros([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    (&leaf + 1.0).requires_grad()
}

thread_local! {
    static AS_RECORDED: Cell<bool> = const { Cell::new(false) };
}

/// As long as the guard lives, products are taken as those of a pass that records gradients are, whether it records them or
/// not: what a reference, a validation or a block before its recomputation says is then what a step of training says, bit
/// for bit.
pub fn as_recorded() -> AsRecorded {
    AsRecorded { before: AS_RECORDED.replace(true) }
}

/// See [`as_recorded`].
#[must_use]
#[derive(Debug)]
pub struct AsRecorded {
    before: bool,
}

impl Drop for AsRecorded {
    fn drop(&mut self) {
        AS_RECORDED.set(self.before);
    }
}

/// Whether products are those of a pass that records gradients: one that does, or one under [`as_recorded`].
pub(crate) fn multiplies_as_recorded() -> bool {
    AS_RECORDED.get() || records_gradients()
}

/// For every token, the length of the sequence that it belongs to; for a shared prefix, of the longest one.
pub(crate) fn sequence_lengths(batch: &Batch) -> Vec<i64> {
    let segments = batch.segments();
    let mut lengths: Vec<usize> = segments.iter().map(|s| s.range.len()).collect();
    for (i, segment) in segments.iter().enumerate() {
        if let Some(prefix) = &segment.prefix
            && let Some(p) = segments.iter().position(|s| s.range == *prefix)
        {
            lengths[i] += prefix.len();
            lengths[p] = lengths[p].max(lengths[i]);
        }
    }
    segments.iter().zip(lengths).flat_map(|(s, n)| std::iter::repeat_n(n as i64, s.range.len())).collect()
}
