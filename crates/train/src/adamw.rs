use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::TrainError;
use crate::blockwise::Blockwise;
use crate::kernels::{Adam8Row, AdamRow, AdamShared, adamw_rows, adamw_takes, adamw8_row};

/// A tensor that training changes.
#[derive(Debug)]
pub struct Param {
    /// Its name in the checkpoint.
    pub name: String,
    /// The leaf that the model computes with; its `.grad` is read and cleared.
    pub tensor: Tensor,
    /// Its learning rate relative to the schedule's (LoRA+: B trains faster than A).
    pub lr_scale: f64,
    /// Whether weight decay applies (not to norms and biases).
    pub decay: bool,
}

impl Param {
    /// A parameter with the common learning rate and decay.
    pub fn new(name: impl Into<String>, tensor: Tensor) -> Self {
        Param { name: name.into(), tensor, lr_scale: 1.0, decay: true }
    }
}

/// Settings of [`AdamW`]; the defaults are PyTorch's, with transformers' weight decay of 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Keep the moments in 8 bits: 2 bytes a number instead of 8.
    pub eight_bit: bool,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, eight_bit: false }
    }
}

/// Tensors of fewer numbers keep fp32 moments even so, as bitsandbytes' `min_8bit_size` has it.
const MIN_EIGHT_BIT: usize = 4096;

/// AdamW (arXiv 1711.05101) with fp32 states, and an fp32 master of every parameter that is not fp32 itself:
/// in bf16 an update of 1e-4 to a weight of 0.1 would round to nothing.
///
/// With [`AdamWConfig::eight_bit`] the moments of larger tensors are kept in 8 bits, block by block (arXiv
/// 2110.02861): a step takes them to fp32, computes as always, and rounds what it keeps.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    params: Vec<Param>,
    slots: Vec<Slot>,
    step: i64,
}

#[derive(Debug)]
struct Slot {
    /// fp32 copy of the parameter; `None` where the parameter is fp32.
    master: Option<Tensor>,
    moments: Moments,
    /// Sum of the micro-batches' gradients in fp32; `None` where the parameter's own `.grad` is fp32.
    gradient: Option<Tensor>,
}

/// A parameter's two moments.
#[derive(Debug)]
enum Moments {
    Full { exp_avg: Tensor, exp_avg_sq: Tensor },
    EightBit { exp_avg: Blockwise, exp_avg_sq: Blockwise },
}

impl AdamW {
    /// Starts with zero moments.
    ///
    /// # Errors
    /// [`TrainError::Config`] where there is nothing to train.
    pub fn new(params: Vec<Param>, config: AdamWConfig) -> Result<Self, TrainError> {
        if params.is_empty() {
            return Err(TrainError::Config("no parameter is to be trained".to_owned()));
        }
        let slots = params
            .iter()
            .map(|p| {
                let half = p.tensor.kind() != Kind::Float;
                let zeros = || p.tensor.zeros_like().detach().to_kind(Kind::Float);
                let (n, device) = (p.tensor.numel(), p.tensor.device());
                let moments = if config.eight_bit && n >= MIN_EIGHT_BIT {
                    Moments::EightBit {
                        exp_avg: Blockwise::zeros(n, true, device),
                        exp_avg_sq: Blockwise::zeros(n, false, device),
                    }
                } else {
                    Moments::Full { exp_avg: zeros(), exp_avg_sq: zeros() }
                };
                Slot {
                    master: half.then(|| p.tensor.detach().to_kind(Kind::Float)),
                    moments,
                    gradient: half.then(zeros),
                }
            })
            .collect();
        Ok(AdamW { config, params, slots, step: 0 })
    }

    /// What is trained.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Moves each `.grad` of less than fp32 into an fp32 sum. Call it after every micro-batch.
    pub fn gather(&mut self) {
        let _guard = tch::no_grad_guard();
        for (param, slot) in self.params.iter_mut().zip(&mut self.slots) {
            if let Some(sum) = &mut slot.gradient {
                let grad = param.tensor.grad();
                if grad.defined() {
                    *sum += grad;
                    param.tensor.zero_grad();
                }
            }
        }
    }

    /// The gradients as the next step will use them, fp32; clipping scales them in place.
    pub fn gradients(&self) -> Vec<Tensor> {
        self.params
            .iter()
            .zip(&self.slots)
            .filter_map(|(param, slot)| match &slot.gradient {
                Some(sum) => Some(sum.shallow_clone()),
                None => Some(param.tensor.grad()).filter(Tensor::defined),
            })
            .collect()
    }

    /// One update with learning rate `lr`; clears the gradients.
    pub fn step(&mut self, lr: f64) {
        let _guard = tch::no_grad_guard();
        self.step += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let correction1 = 1.0 - beta1.powi(self.step as i32);
        let correction2 = (1.0 - beta2.powi(self.step as i32)).sqrt();
        let shared = AdamShared {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            eps: eps as f32,
            correction: (1.0 / correction2) as f32,
        };
        let mut rows = Vec::new();
        for (param, slot) in self.params.iter().zip(&mut self.slots) {
            let grad = slot.gradient.as_ref().map_or_else(|| param.tensor.grad(), Tensor::shallow_clone);
            if !grad.defined() {
                continue;
            }
            let lr = lr * param.lr_scale;
            let keep = if param.decay { 1.0 - lr * weight_decay } else { 1.0 };
            let mut weight = slot.master.as_ref().unwrap_or(&param.tensor).detach();
            let (keep_f32, rate) = (keep as f32, (lr / correction1) as f32);
            // By libtorch's operations, where the kernels do not run: the same on any device.
            let plainly =
                |weight: &mut Tensor, exp_avg: &mut Tensor, exp_avg_sq: &mut Tensor, grad: &Tensor| {
                    let _ = weight.g_mul_scalar_(keep);
                    let _ = exp_avg.lerp_(grad, 1.0 - beta1);
                    let _ = exp_avg_sq.g_mul_scalar_(beta2).addcmul_(grad, &(grad * (1.0 - beta2)));
                    let denominator = exp_avg_sq.sqrt() / correction2 + eps;
                    let _ = weight.addcdiv_(&(&*exp_avg * (-lr / correction1)), &denominator);
                };
            match &mut slot.moments {
                Moments::Full { exp_avg, exp_avg_sq } => {
                    if adamw_takes(&[&weight, &grad, exp_avg, exp_avg_sq]) {
                        rows.push(AdamRow {
                            weight,
                            gradient: grad,
                            exp_avg,
                            exp_avg_sq,
                            keep: keep_f32,
                            rate,
                        });
                    } else {
                        plainly(&mut weight, exp_avg, exp_avg_sq, &grad);
                    }
                }
                Moments::EightBit { exp_avg, exp_avg_sq } => {
                    if adamw_takes(&[&weight, &grad]) {
                        let row = Adam8Row {
                            weight: &weight,
                            gradient: &grad,
                            exp_avg,
                            exp_avg_sq,
                            keep: keep_f32,
                            rate,
                        };
                        adamw8_row(&row, shared);
                    } else {
                        let whole = |moment: &Blockwise| moment.dequantize().view_as(&grad);
                        let (mut m, mut v) = (whole(exp_avg), whole(exp_avg_sq));
                        plainly(&mut weight, &mut m, &mut v, &grad);
                        exp_avg.quantize_from(&m.contiguous().view([-1]));
                        exp_avg_sq.quantize_from(&v.contiguous().view([-1]));
                    }
                }
            }
        }
        adamw_rows(&rows, shared);
        for (param, slot) in self.params.iter_mut().zip(&mut self.slots) {
            if let Some(master) = &slot.master {
                param.tensor.detach().copy_(master);
            }
            match &mut slot.gradient {
                Some(sum) => drop(sum.zero_()),
                None => param.tensor.zero_grad(),
            }
        }
    }

    /// Everything that a resumed run needs, by name: masters, moments.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for (param, slot) in self.params.iter().zip(&self.slots) {
            let weight = slot.master.as_ref().unwrap_or(&param.tensor).detach();
            out.push((format!("weight.{}", param.name), weight));
            match &slot.moments {
                Moments::Full { exp_avg, exp_avg_sq } => {
                    out.push((format!("exp_avg.{}", param.name), exp_avg.shallow_clone()));
                    out.push((format!("exp_avg_sq.{}", param.name), exp_avg_sq.shallow_clone()));
                }
                Moments::EightBit { exp_avg, exp_avg_sq } => {
                    out.extend(exp_avg.state("exp_avg", &param.name));
                    out.extend(exp_avg_sq.state("exp_avg_sq", &param.name));
                }
            }
        }
        out
    }

    /// Bytes of masters, moments and sums of gradients.
    pub fn n_bytes(&self) -> usize {
        let bytes = |t: &Tensor| t.numel() * t.kind().elt_size_in_bytes();
        let of = |slot: &Slot| {
            let moments = match &slot.moments {
                Moments::Full { exp_avg, exp_avg_sq } => bytes(exp_avg) + bytes(exp_avg_sq),
                Moments::EightBit { exp_avg, exp_avg_sq } => {
                    [exp_avg, exp_avg_sq].iter().map(|m| bytes(&m.codes) + bytes(&m.absmax)).sum()
                }
            };
            moments + slot.master.as_ref().map_or(0, bytes) + slot.gradient.as_ref().map_or(0, bytes)
        };
        self.slots.iter().map(of).sum()
    }

    /// Optimiser steps taken.
    pub fn steps_taken(&self) -> i64 {
        self.step
    }

    /// Puts back what [`Self::state`] gave after `step` steps.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming what is missing or misshapen; nothing is changed then.
    pub fn restore(&mut self, step: i64, find: impl Fn(&str) -> Option<Tensor>) -> Result<(), TrainError> {
        let _guard = tch::no_grad_guard();
        let mut found = Vec::with_capacity(self.params.len());
        for (param, slot) in self.params.iter().zip(&self.slots) {
            let get = |part: &str| {
                let name = format!("{part}.{}", param.name);
                match find(&name) {
                    Some(t) if t.size() == param.tensor.size() => Ok(t),
                    Some(t) => Err(TrainError::Config(format!(
                        "{name} is {:?} in the checkpoint but {:?} here",
                        t.size(),
                        param.tensor.size()
                    ))),
                    None => Err(TrainError::Config(format!("{name} is not in the checkpoint"))),
                }
            };
            // Where each tensor goes, and what.
            let mut copies = match &slot.moments {
                Moments::Full { exp_avg, exp_avg_sq } => vec![
                    (exp_avg.shallow_clone(), get("exp_avg")?),
                    (exp_avg_sq.shallow_clone(), get("exp_avg_sq")?),
                ],
                Moments::EightBit { exp_avg, exp_avg_sq } => {
                    let mut copies = Vec::new();
                    for (part, moment) in [("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)] {
                        let [codes, absmax] = moment.find(part, &param.name, &find)?;
                        copies.push((moment.codes.shallow_clone(), codes));
                        copies.push((moment.absmax.shallow_clone(), absmax));
                    }
                    copies
                }
            };
            let weight = get("weight")?;
            copies.extend(slot.master.as_ref().map(|m| (m.shallow_clone(), weight.shallow_clone())));
            copies.push((param.tensor.detach(), weight));
            found.extend(copies);
        }
        self.step = step;
        for (mut place, value) in found {
            place.copy_(&value);
        }
        Ok(())
    }
}
