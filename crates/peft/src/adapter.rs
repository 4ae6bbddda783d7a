use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrotune_model::{Decoder, Linear, ModelError, Norm, Weight, free_memory};
use tch::{Device, Tensor};

use crate::PeftError;
use crate::config::{LoraConfig, Targets};
use crate::init::{InitRng, new_layer};
use crate::layer::{Hook, LoraLayer, Switch};
use crate::target::{Target, resolve};
use crate::whole::{self, WholeTensor};

/// The prefix that PEFT puts before a module's path in the base checkpoint.
pub(crate) const PREFIX: &str = "base_model.model.";

/// A LoRA adapter: its config, and the trained tensors that it shares with the layers they hang on.
///
/// The base's weights are never changed, not even by PiSSA or OLoRA, so that switching the adapter off gives
/// the base again.
#[derive(Debug)]
pub struct Adapter {
    /// What it is.
    pub config: LoraConfig,
    pub(crate) layers: Vec<LoraLayer>,
    pub(crate) whole: Vec<WholeTensor>,
    switch: Arc<Switch>,
}

/// Makes a new adapter on `decoder`, freezes the base and hangs the adapter on it.
///
/// A's numbers come from one ChaCha8 stream seeded with `seed`, layer after layer in the order of
/// [`Decoder::linears`]: the same seed and targets give the same bytes on every machine. B is zero, so the
/// model computes what it computed before.
///
/// # Errors
/// [`PeftError::Config`], [`PeftError::Unsupported`], [`PeftError::Target`], [`PeftError::Rank`], [`PeftError::Model`]
/// where the rank asks for more memory than there is, and [`PeftError::Occupied`] where a layer carries another adapter.
/// The model is untouched by an error.
pub fn inject(decoder: &mut Decoder, config: &LoraConfig, seed: u64) -> Result<Adapter, PeftError> {
    let adapter = Adapter::new(decoder, config, seed)?;
    adapter.attach(decoder)?;
    Ok(adapter)
}

/// Of a model that sees too only the text part is read here. PEFT would hang adapters on the rest as well, by the same names.
const BESIDE_TEXT: &str = r".*\.(vision_tower|multi_modal_projector)\..*";

impl Adapter {
    /// As [`inject`], without hanging it on the model.
    ///
    /// # Errors
    /// As [`inject`].
    pub fn new(decoder: &Decoder, config: &LoraConfig, seed: u64) -> Result<Self, PeftError> {
        config.check()?;
        let mut config = config.clone();
        if decoder.config.model_type == "gemma3" && config.exclude_modules.is_none() {
            config.exclude_modules = Some(Targets::Pattern(BESIDE_TEXT.to_owned()));
        }
        let targets = targets(decoder, &config)?;
        let layers = new_layers(decoder, &config, &targets, seed)?;
        Adapter::from_parts(decoder, config, layers, &targets)
    }

    pub(crate) fn from_parts(
        decoder: &Decoder,
        config: LoraConfig,
        layers: Vec<LoraLayer>,
        targets: &[Target],
    ) -> Result<Self, PeftError> {
        let whole = whole::collect(decoder, &config, targets)?;
        let switch = Arc::new(Switch {
            enabled: AtomicBool::new(true),
            training: AtomicBool::new(!config.inference_mode),
        });
        Ok(Adapter { config, layers, whole, switch })
    }

    /// Hangs the adapter on `decoder`, whose other tensors are frozen. Cheap: nothing is copied, so several
    /// adapters on one base are switched by detaching one and attaching the next.
    ///
    /// # Errors
    /// [`PeftError::Occupied`] where a layer carries an adapter, [`PeftError::Target`] where one is not there.
    pub fn attach(&self, decoder: &mut Decoder) -> Result<(), PeftError> {
        let names: Vec<String> = decoder.linears().iter().map(|l| l.name.clone()).collect();
        if let Some(lost) = self.layers.iter().find(|l| !names.contains(&l.path)) {
            let (asked, existing) = (lost.path.clone(), crate::target::kinds(&names));
            return Err(PeftError::Target { field: "layer", asked, existing });
        }
        let taken = decoder.linears().into_iter().find(|l| l.has_adapter());
        if let Some(taken) = taken {
            return Err(PeftError::Occupied { path: taken.name.clone() });
        }
        freeze(decoder);
        let mut linears = decoder.linears_mut();
        for layer in &self.layers {
            if let Some(linear) = linears.iter_mut().find(|l| l.name == layer.path) {
                let switch = Arc::clone(&self.switch);
                let hook = Hook { layer: layer.share(), dropout: self.config.lora_dropout, switch };
                linear.set_adapter(Some(Box::new(hook)));
            }
        }
        whole::place(decoder, &self.whole, self.config.ensure_weight_tying, false);
        Ok(())
    }

    /// Takes the adapter off; the model is its base again. The adapter keeps its tensors.
    pub fn detach(&self, decoder: &mut Decoder) {
        for linear in decoder.linears_mut() {
            if self.layers.iter().any(|l| l.path == linear.name) {
                linear.set_adapter(None);
            }
        }
        whole::place(decoder, &self.whole, self.config.ensure_weight_tying, true);
    }

    /// Switches the adapter off (the model computes what its base does, for instance as DPO's reference) or on
    /// again, in place: one flag, no walk over the model.
    ///
    /// Do not switch between a forward pass and its backward pass.
    pub fn set_enabled(&self, on: bool) {
        self.switch.enabled.store(on, Ordering::Relaxed);
        self.whole.iter().for_each(|w| w.set_enabled(on));
    }

    /// Whether it is on.
    pub fn is_enabled(&self) -> bool {
        self.switch.enabled.load(Ordering::Relaxed)
    }

    /// Runs `f` with the adapter off, then puts it as it was.
    pub fn without<T>(&self, f: impl FnOnce() -> T) -> T {
        let before = self.is_enabled();
        self.set_enabled(false);
        let out = f();
        self.set_enabled(before);
        out
    }

    /// Turns dropout on or off. A new adapter trains; a loaded one does not.
    ///
    /// Masks come from libtorch's generator: call `tch::manual_seed` with a number made from the run's seed
    /// and the step before each step, and a resumed run draws the same. Who computes a block again in the backward pass
    /// seeds it before both computations, as `ferrotune_train::Forward` does.
    pub fn set_training(&self, on: bool) {
        self.switch.training.store(on, Ordering::Relaxed);
    }

    /// The layers, in the order of the forward pass.
    pub fn layers(&self) -> &[LoraLayer] {
        &self.layers
    }

    /// Every trained tensor under its key in PEFT's `adapter_model.safetensors`, in a fixed order. They are
    /// handles: an optimiser that changes them in place changes the model.
    ///
    /// A, B and magnitudes are fp32; biases and whole modules are in the model's dtype.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for layer in &self.layers {
            let key = |suffix: &str| format!("{PREFIX}{}.{suffix}", layer.path);
            out.push((key("lora_A.weight"), layer.a.shallow_clone()));
            out.push((key("lora_B.weight"), layer.b.shallow_clone()));
            if let Some(magnitude) = &layer.magnitude {
                out.push((key("lora_magnitude_vector"), magnitude.shallow_clone()));
            }
        }
        out.extend(self.whole.iter().map(|w| (format!("{PREFIX}{}", w.key), w.live.shallow_clone())));
        out
    }

    /// Whether the adapter changes the model at all: some update is not zero, some magnitude is not its
    /// weight's norm, or some whole tensor differs from the base's.
    pub fn has_effect(&self, decoder: &Decoder) -> bool {
        let linears = decoder.linears();
        let moved = |layer: &LoraLayer| {
            layer.delta_norm() > 0.0
                || layer.magnitude.as_ref().is_some_and(|m| {
                    let norms = linears.iter().find(|l| l.name == layer.path).map(|l| layer.row_norms(l));
                    norms.is_some_and(|n| !m.allclose(&n, 1e-5, 1e-8, false))
                })
        };
        self.layers.iter().any(moved) || self.whole.iter().any(WholeTensor::differs)
    }

    /// How many numbers are trained, how many lie still, and their bytes.
    pub fn parameter_table(&self, decoder: &Decoder) -> ParameterTable {
        let mut rows: Vec<ParameterRow> = Vec::new();
        let mut add = |kind: &str, tensor: &Tensor| {
            let (n, bytes) = (tensor.numel(), tensor.numel() * tensor.kind().elt_size_in_bytes());
            let at = rows.iter().position(|r| r.kind == kind).unwrap_or_else(|| {
                rows.push(ParameterRow { kind: kind.to_owned(), n_tensors: 0, n_parameters: 0, n_bytes: 0 });
                rows.len() - 1
            });
            rows[at].n_tensors += 1;
            rows[at].n_parameters += n;
            rows[at].n_bytes += bytes;
        };
        for layer in &self.layers {
            let kind = layer.path.rsplit('.').next().unwrap_or(&layer.path);
            add(kind, &layer.a);
            add(kind, &layer.b);
            layer.magnitude.iter().for_each(|m| add(kind, m));
        }
        for tensor in &self.whole {
            add(&tensor.name, &tensor.live);
        }
        let (base_parameters, base_bytes) = base_size(decoder, &self.whole);
        let trainable = rows.iter().map(|r| r.n_parameters).sum();
        let trainable_bytes = rows.iter().map(|r| r.n_bytes).sum();
        ParameterTable { rows, trainable, trainable_bytes, base_parameters, base_bytes }
    }
}

/// The layers that a config chooses on this model.
pub(crate) fn targets(decoder: &Decoder, config: &LoraConfig) -> Result<Vec<Target>, PeftError> {
    if let Some(crate::config::Targets::Suffixes(list)) = &config.target_modules
        && let Some(name) = list.iter().find(|n| ["lm_head", "embed_tokens"].contains(&n.as_str()))
    {
        return Err(PeftError::Unsupported(format!(
            "a low-rank update of {name} (the loss reads that weight in chunks; name it in modules_to_save)"
        )));
    }
    let names: Vec<String> = decoder.linears().iter().map(|l| l.name.clone()).collect();
    resolve(config, &names)
}

/// A new layer for every target, in their order.
pub(crate) fn new_layers(
    decoder: &Decoder,
    config: &LoraConfig,
    targets: &[Target],
    seed: u64,
) -> Result<Vec<LoraLayer>, PeftError> {
    check_memory(decoder, targets)?;
    let mut rng = InitRng::new(seed);
    let linears = decoder.linears();
    let mut layers = Vec::with_capacity(targets.len());
    for target in targets {
        if let Some(linear) = linears.iter().find(|l| l.name == target.path) {
            layers.push(new_layer(config, target, linear, decoder.device, &mut rng)?);
        }
    }
    Ok(layers)
}

/// Refuses ranks whose factors do not fit into memory, before any is taken: a rank has no other limit.
fn check_memory(decoder: &Decoder, targets: &[Target]) -> Result<(), PeftError> {
    let linears = decoder.linears();
    let bytes = |target: &Target| {
        let size = linears.iter().find(|l| l.name == target.path).map_or((0, 0), |l| l.weight.size());
        target.r.saturating_mul(4 * (size.0 + size.1)) as u64
    };
    let needed = targets.iter().map(bytes).fold(0, u64::saturating_add);
    let free = free_memory(Device::Cpu).unwrap_or(1 << 40);
    if needed <= free {
        return Ok(());
    }
    let highest = targets.iter().map(|t| t.r).max().unwrap_or(0);
    let reason =
        format!("an adapter of rank {highest} takes {needed} bytes, {free} are free: lower the rank");
    Err(ModelError::Memory(reason).into())
}

/// Turns gradients off for every plain tensor of the model.
pub fn freeze(decoder: &mut Decoder) {
    let still = |t: &Tensor| {
        if t.requires_grad() {
            let _ = t.set_requires_grad(false);
        }
    };
    let still_norm = |n: &Norm| match n {
        Norm::Rms { weight, .. } => still(weight),
        Norm::Layer { weight, bias, .. } => {
            still(weight);
            bias.iter().for_each(still);
        }
    };
    still(&decoder.embedding);
    decoder.position_embedding.iter().for_each(still);
    still_norm(&decoder.norm);
    for block in &decoder.blocks {
        for norm in [&block.attention_norms, &block.mlp_norms] {
            norm.0.iter().chain(&norm.1).for_each(still_norm);
        }
        if let Some((q, k)) = &block.attention.qk_norm {
            still_norm(q);
            still_norm(k);
        }
    }
    for linear in decoder.linears().into_iter().chain(&decoder.lm_head) {
        if let Weight::Dense(weight) = &linear.weight {
            still(weight);
        }
        linear.bias.iter().for_each(still);
    }
}

/// Numbers and bytes of the model, its norms left out (they are far below a thousandth). A whole tensor that
/// an adapter put beside a tied embedding is the adapter's.
fn base_size(decoder: &Decoder, whole: &[WholeTensor]) -> (usize, usize) {
    let tensor = |t: &Tensor| (t.numel(), t.numel() * t.kind().elt_size_in_bytes());
    let linear = |l: &Linear| {
        let (outputs, inputs) = l.weight.size();
        let bias = l.bias.as_ref().map_or((0, 0), tensor);
        ((outputs * inputs) as usize + bias.0, l.weight.n_bytes() + bias.1)
    };
    let tied_head_is_adapters = decoder.config.tie_word_embeddings && !whole.is_empty();
    let head = decoder.lm_head.iter().filter(|_| !tied_head_is_adapters).map(linear);
    std::iter::once(tensor(&decoder.embedding))
        .chain(decoder.position_embedding.iter().map(tensor))
        .chain(decoder.linears().into_iter().map(linear))
        .chain(head)
        .fold((0, 0), |sum, item| (sum.0 + item.0, sum.1 + item.1))
}

/// What an adapter trains and what it leaves: printed before training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterTable {
    /// The trained tensors by kind of layer, in order of the forward pass.
    pub rows: Vec<ParameterRow>,
    /// Numbers trained.
    pub trainable: usize,
    /// Their bytes.
    pub trainable_bytes: usize,
    /// Numbers of the base model (norms not counted).
    pub base_parameters: usize,
    /// Their bytes as stored.
    pub base_bytes: usize,
}

/// One kind of layer in a [`ParameterTable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterRow {
    /// Last part of the layers' names.
    pub kind: String,
    /// Tensors.
    pub n_tensors: usize,
    /// Numbers in them.
    pub n_parameters: usize,
    /// Bytes.
    pub n_bytes: usize,
}

impl ParameterTable {
    /// Trained numbers as a share of all, in 0..=1.
    pub fn share(&self) -> f64 {
        self.trainable as f64 / (self.trainable + self.base_parameters).max(1) as f64
    }
}

impl std::fmt::Display for ParameterTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: usize| bytes as f64 / 1_048_576.0;
        writeln!(f, "{:<24}{:>10}{:>16}{:>12}", "trained", "tensors", "parameters", "MiB")?;
        for row in &self.rows {
            let ParameterRow { kind, n_tensors, n_parameters, n_bytes } = row;
            writeln!(f, "{kind:<24}{n_tensors:>10}{n_parameters:>16}{:>12.2}", mib(*n_bytes))?;
        }
        let (trained, all) = (self.trainable, self.trainable + self.base_parameters);
        writeln!(f, "{:<24}{:>10}{trained:>16}{:>12.2}", "all trained", "", mib(self.trainable_bytes))?;
        writeln!(
            f,
            "{:<24}{:>10}{:>16}{:>12.2}",
            "base, frozen",
            "",
            self.base_parameters,
            mib(self.base_bytes)
        )?;
        write!(f, "{:.3}% of {all} parameters are trained", 100.0 * self.share())
    }
}
