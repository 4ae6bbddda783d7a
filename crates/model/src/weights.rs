use std::collections::{BTreeMap, BTreeSet};

use tch::{Device, Kind, Tensor};

use crate::families::gemma3;
use crate::{Linear, ModelError, Norm, NormKind};

/// Where a model's tensors come from, by their name in the checkpoint. Implemented by the safetensors and
/// GGUF readers and by a map in memory.
pub trait Tensors {
    /// Every name that the checkpoint holds.
    fn names(&self) -> Vec<String>;
    /// The tensor on the CPU in its stored (or dequantised) dtype, or `None` where there is none.
    ///
    /// # Errors
    /// [`ModelError`] where it is there but broken.
    fn read(&self, name: &str) -> Result<Option<Tensor>, ModelError>;
}

impl Tensors for BTreeMap<String, Tensor> {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn read(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        Ok(self.get(name).map(Tensor::shallow_clone))
    }
}

/// Hands out a checkpoint's tensors by name, checks every shape, and remembers which were asked for, so that
/// what is left over can be named at the end.
pub struct WeightMap<'a> {
    source: &'a dyn Tensors,
    /// By the name that a layer asks for: the one in the checkpoint.
    names: BTreeMap<String, String>,
    taken: BTreeSet<String>,
    kind: Kind,
    device: Device,
}

impl<'a> WeightMap<'a> {
    /// Tensors of `source`, cast to `kind` on `device`.
    pub fn new(source: &'a dyn Tensors, kind: Kind, device: Device) -> Self {
        let names = source.names().into_iter().map(|stored| (todays_name(&stored), stored)).collect();
        WeightMap { source, names, taken: BTreeSet::new(), kind, device }
    }

    /// Whether the checkpoint has the tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// A bare model is saved without the prefix that it has under its head: from now on every tensor stands under it, but for
    /// a head that came along.
    pub(crate) fn put_under(&mut self, prefix: &str) {
        let put = |name: String| if name.starts_with("lm_head.") { name } else { format!("{prefix}.{name}") };
        let names = std::mem::take(&mut self.names).into_iter();
        self.names = names.map(|(name, stored)| (put(name), stored)).collect();
    }

    /// The tensor `name`, which must have exactly this size.
    ///
    /// # Errors
    /// [`ModelError::Tensors`] where it is missing or misshapen.
    pub fn take(&mut self, name: &str, size: &[i64]) -> Result<Tensor, ModelError> {
        self.take_as(name, size, self.kind)
    }

    fn take_as(&mut self, name: &str, size: &[i64], kind: Kind) -> Result<Tensor, ModelError> {
        self.take_optional_as(name, size, kind)?
            .ok_or_else(|| ModelError::Tensors(format!("{name} {size:?} is missing")))
    }

    /// As [`Self::take`], or `None` where the checkpoint has no such tensor.
    ///
    /// # Errors
    /// [`ModelError::Tensors`] where it is misshapen.
    pub fn take_optional(&mut self, name: &str, size: &[i64]) -> Result<Option<Tensor>, ModelError> {
        self.take_optional_as(name, size, self.kind)
    }

    fn take_optional_as(
        &mut self,
        name: &str,
        size: &[i64],
        kind: Kind,
    ) -> Result<Option<Tensor>, ModelError> {
        let stored = self.names.get(name).map_or(name, String::as_str);
        let Some(tensor) = self.source.read(stored)? else { return Ok(None) };
        if tensor.size() != size {
            let found = tensor.size();
            return Err(ModelError::Tensors(format!("{name} is {found:?}, the config asks for {size:?}")));
        }
        self.taken.insert(name.to_owned());
        Ok(Some(tensor.to_device(self.device).to_kind(kind)))
    }

    /// The linear layer `name` with weight (out, in), and a bias where `bias` says so.
    ///
    /// # Errors
    /// [`ModelError::Tensors`].
    pub fn linear(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let weight = self.take(&format!("{name}.weight"), &[outputs as i64, inputs as i64])?;
        let bias = if bias { Some(self.take(&format!("{name}.bias"), &[outputs as i64])?) } else { None };
        Ok(Linear::new(name, weight, bias))
    }

    /// As [`Self::linear`], from a weight stored (in, out), as GPT-2's Conv1D does.
    ///
    /// # Errors
    /// [`ModelError::Tensors`].
    pub fn linear_transposed(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let weight = self.take(&format!("{name}.weight"), &[inputs as i64, outputs as i64])?;
        let bias = if bias { Some(self.take(&format!("{name}.bias"), &[outputs as i64])?) } else { None };
        Ok(Linear::new(name, weight.transpose(0, 1).contiguous(), bias))
    }

    /// The norm `name` over `width` features.
    ///
    /// # Errors
    /// [`ModelError::Tensors`].
    pub fn norm(&mut self, name: &str, width: usize, kind: NormKind) -> Result<Norm, ModelError> {
        let (weight_name, size) = (format!("{name}.weight"), [width as i64]);
        Ok(match kind {
            NormKind::Rms { eps, weight_plus_one, full_precision } => {
                let kind = if full_precision { Kind::Float } else { self.kind };
                Norm::Rms { weight: self.take_as(&weight_name, &size, kind)?, eps, weight_plus_one }
            }
            NormKind::Layer { eps } => {
                let bias = self.take_optional(&format!("{name}.bias"), &size)?;
                Norm::Layer { weight: self.take(&weight_name, &size)?, bias, eps }
            }
        })
    }

    /// Refuses a checkpoint that holds tensors which no layer asked for, but for names that `ignore` accepts.
    ///
    /// # Errors
    /// [`ModelError::Tensors`] naming the first few.
    pub fn finish(self, ignore: impl Fn(&str) -> bool) -> Result<(), ModelError> {
        let left = self.names.iter().filter(|(name, _)| !self.taken.contains(*name) && !ignore(name));
        let extra: Vec<&String> = left.map(|(_, stored)| stored).collect();
        if extra.is_empty() {
            return Ok(());
        }
        let shown = extra.iter().take(5).map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
        Err(ModelError::Tensors(format!("{} tensors belong to no layer: {shown}", extra.len())))
    }
}

/// BERT's first checkpoints, which came from TensorFlow, call a norm's weight and bias gamma and beta; Gemma 3's part that
/// reads and writes stands elsewhere in its file.
pub(crate) fn todays_name(stored: &str) -> String {
    let renamed =
        [("LayerNorm.gamma", "weight"), ("LayerNorm.beta", "bias")].into_iter().find_map(|(old, new)| {
            let before = stored.strip_suffix(old)?;
            Some(format!("{before}LayerNorm.{new}"))
        });
    renamed.or_else(|| gemma3::todays_name(stored)).unwrap_or_else(|| stored.to_owned())
}
