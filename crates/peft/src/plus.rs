use tch::Tensor;

use crate::adapter::Adapter;

/// LoRA+ (arXiv 2402.12354): B learns faster than A.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraPlus {
    /// Learning rate of B over that of A; the paper advises 16 (and a lower rate for A). 1 is plain LoRA.
    pub lr_ratio: f64,
    /// Weight decay of A, B and whole modules; biases and magnitudes have none.
    pub weight_decay: f64,
}

impl Default for LoraPlus {
    fn default() -> Self {
        LoraPlus { lr_ratio: 16.0, weight_decay: 0.0 }
    }
}

/// What LoRA+ tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// A, and modules that are trained whole.
    A,
    /// B.
    B,
    /// What has one dimension: biases and magnitudes.
    Vector,
}

impl ParameterKind {
    /// Of what [`Adapter::parameters`] gives under `key`.
    pub fn of(key: &str, tensor: &Tensor) -> Self {
        match (tensor.dim(), key.ends_with(".lora_B.weight")) {
            (1, _) => ParameterKind::Vector,
            (_, true) => ParameterKind::B,
            (_, false) => ParameterKind::A,
        }
    }
}

/// Parameters that share their settings.
#[derive(Debug)]
pub struct ParameterGroup {
    /// `A`, `B`, or `vectors` (biases and magnitudes).
    pub name: &'static str,
    /// Keys and handles, as [`Adapter::parameters`] gives them.
    pub parameters: Vec<(String, Tensor)>,
    /// What the learning rate is multiplied by.
    pub lr_factor: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Adapter {
    /// The trained tensors in groups as peft's `create_loraplus_optimizer` makes them: A and whole modules at
    /// the learning rate; B, and everything of one dimension, at `lr_ratio` times it, the latter without weight
    /// decay. Empty groups are left out.
    pub fn parameter_groups(&self, plus: &LoraPlus) -> Vec<ParameterGroup> {
        let group = |name, lr_factor, weight_decay| ParameterGroup {
            name,
            parameters: Vec::new(),
            lr_factor,
            weight_decay,
        };
        let mut groups = vec![
            group("A", 1.0, plus.weight_decay),
            group("B", plus.lr_ratio, plus.weight_decay),
            group("vectors", plus.lr_ratio, 0.0),
        ];
        for (key, tensor) in self.parameters() {
            groups[ParameterKind::of(&key, &tensor) as usize].parameters.push((key, tensor));
        }
        groups.retain(|g| !g.parameters.is_empty());
        groups
    }
}
