//! Settings of preference tuning by DPO's relatives: KTO, ORPO, SimPO and CPO.

use anyhow::{Context, Result, bail};
use ferrotune_preference::{Cpo, CpoLoss, Kto, KtoLoss, check_beta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::orpo::FreeLoss;
use super::run::{Best, RunConfig};

/// Settings, TRL's names. Those of the loss are each read by some losses only, and have their loss's own default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelativeConfig {
    /// `kto`, `orpo`, `simpo` or `cpo`.
    pub loss: String,
    /// The loss's form: KTO's `kto` or `apo_zero_unpaired`; CPO's `sigmoid`, `hinge`, `ipo` or `simpo`.
    pub loss_type: Option<String>,
    /// β.
    pub beta: Option<f64>,
    /// KTO: λ of answers with a thumb up.
    pub desirable_weight: Option<f64>,
    /// KTO: λ of answers with a thumb down.
    pub undesirable_weight: Option<f64>,
    /// SimPO and CPO's form `sigmoid`: the share of pairs labelled the wrong way round.
    pub label_smoothing: Option<f64>,
    /// SimPO: the target margin γ; half of β where it is not set.
    pub simpo_gamma: Option<f64>,
    /// SimPO and CPO: weight of the chosen answers' NLL.
    pub cpo_alpha: Option<f64>,
    /// SimPO and CPO: AlphaPO's shape of the reward; 0 is the log-probability.
    pub alpha: Option<f64>,
    /// Optimiser steps; 0 follows `epochs`.
    pub steps: usize,
    /// Passes over the data, where `steps` is 0.
    pub epochs: f64,
    /// Rows or pairs a step.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// `constant`, `linear`, `cosine` or `wsd`.
    pub schedule: String,
    /// Steps of warm-up.
    pub warmup_steps: usize,
    /// Gradients are scaled down to this joint norm.
    pub max_grad_norm: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// `adamw`, or `adamw8bit`.
    pub optimizer: String,
    /// Batches in a fresh random order every epoch.
    pub shuffle: bool,
    /// Steps between validations; 0 validates at the start and the end only.
    pub eval_every: usize,
    /// What makes a validation the best: the lowest `loss`, which is ORPO's, SimPO's and CPO's choice, or the highest held-out
    /// `accuracy`, KTO's.
    pub best: Option<Best>,
    /// Stop after this many validations without a new best; 0 never.
    pub patience: usize,
    /// Steps between checkpoints; 0 writes none.
    pub checkpoint_every: usize,
    /// Recompute each block in the backward pass instead of keeping its activations.
    pub activation_checkpointing: bool,
    /// Of the batches and their order.
    pub seed: u64,
}

impl Default for RelativeConfig {
    fn default() -> Self {
        let run = RunConfig::default();
        RelativeConfig {
            loss: String::new(),
            loss_type: None,
            beta: None,
            desirable_weight: None,
            undesirable_weight: None,
            label_smoothing: None,
            simpo_gamma: None,
            cpo_alpha: None,
            alpha: None,
            steps: run.steps,
            epochs: run.epochs,
            batch: run.batch,
            lr: run.lr,
            schedule: run.schedule,
            warmup_steps: run.warmup_steps,
            max_grad_norm: run.max_grad_norm,
            weight_decay: run.weight_decay,
            optimizer: run.optimizer,
            shuffle: run.shuffle,
            eval_every: run.eval_every,
            best: run.best,
            patience: run.patience,
            checkpoint_every: run.checkpoint_every,
            activation_checkpointing: run.activation_checkpointing,
            seed: run.seed,
        }
    }
}

/// What is minimised.
#[derive(Debug, Clone, PartialEq)]
pub enum RelativeLoss {
    /// On single answers.
    Kto(Kto),
    /// On pairs, without a reference.
    Free(FreeLoss),
}

impl RelativeConfig {
    /// The losses that this is for.
    pub const LOSSES: [&str; 4] = ["kto", "orpo", "simpo", "cpo"];

    /// What is minimised.
    ///
    /// # Errors
    /// An unknown loss or form; a setting that is out of range or that the loss does not read.
    pub fn loss(&self) -> Result<RelativeLoss> {
        if self.loss == "kto" {
            self.reads("kto", &["loss_type", "desirable_weight", "undesirable_weight"])?;
            let default = Kto::default();
            let kto = Kto {
                loss_type: form::<KtoLoss>(self.loss_type.as_deref())?.unwrap_or(default.loss_type),
                beta: self.beta.unwrap_or(default.beta),
                desirable_weight: self.desirable_weight.unwrap_or(default.desirable_weight),
                undesirable_weight: self.undesirable_weight.unwrap_or(default.undesirable_weight),
            };
            kto.check()?;
            return Ok(RelativeLoss::Kto(kto));
        }
        let mut loss = FreeLoss::from_name(&self.loss, self.beta)?;
        match &mut loss {
            FreeLoss::Orpo { beta } => {
                self.reads("orpo", &[])?;
                check_beta(*beta)?;
            }
            FreeLoss::Cpo(cpo) => self.settle(cpo)?,
        }
        Ok(RelativeLoss::Free(loss))
    }

    /// Puts what is set over a loss's own defaults.
    fn settle(&self, cpo: &mut Cpo) -> Result<()> {
        let mut read = vec!["cpo_alpha", "alpha"];
        if self.loss == "cpo" {
            read.push("loss_type");
            cpo.loss_type = form(self.loss_type.as_deref())?.unwrap_or(cpo.loss_type);
        }
        let name = match cpo.loss_type {
            CpoLoss::Sigmoid => "cpo",
            CpoLoss::Hinge => "cpo with hinge",
            CpoLoss::Ipo => "cpo with ipo",
            CpoLoss::Simpo => "simpo",
        };
        if cpo.loss_type == CpoLoss::Simpo {
            read.push("simpo_gamma");
        }
        if matches!(cpo.loss_type, CpoLoss::Simpo | CpoLoss::Sigmoid) {
            read.push("label_smoothing");
        }
        self.reads(name, &read)?;
        for (set, place) in [
            (self.label_smoothing, &mut cpo.label_smoothing),
            (self.simpo_gamma, &mut cpo.simpo_gamma),
            (self.cpo_alpha, &mut cpo.cpo_alpha),
            (self.alpha, &mut cpo.alpha),
        ] {
            *place = set.unwrap_or(*place);
        }
        Ok(cpo.check()?)
    }

    /// Refuses settings that are set and not among those that `loss` reads; all read `beta`.
    fn reads(&self, loss: &str, read: &[&str]) -> Result<()> {
        let set = [
            ("loss_type", self.loss_type.is_some()),
            ("desirable_weight", self.desirable_weight.is_some()),
            ("undesirable_weight", self.undesirable_weight.is_some()),
            ("label_smoothing", self.label_smoothing.is_some()),
            ("simpo_gamma", self.simpo_gamma.is_some()),
            ("cpo_alpha", self.cpo_alpha.is_some()),
            ("alpha", self.alpha.is_some()),
        ];
        match set.iter().find(|(name, is_set)| *is_set && !read.contains(name)) {
            Some((name, _)) => {
                bail!("{loss} does not read {name}; it reads {}", [&["beta"], read].concat().join(", "))
            }
            None => Ok(()),
        }
    }

    /// What it shares with the other recipes.
    pub fn run(&self) -> RunConfig {
        RunConfig {
            steps: self.steps,
            epochs: self.epochs,
            batch: self.batch,
            lr: self.lr,
            schedule: self.schedule.clone(),
            warmup_steps: self.warmup_steps,
            max_grad_norm: self.max_grad_norm,
            weight_decay: self.weight_decay,
            optimizer: self.optimizer.clone(),
            shuffle: self.shuffle,
            eval_every: self.eval_every,
            best: self.best,
            patience: self.patience,
            checkpoint_every: self.checkpoint_every,
            activation_checkpointing: self.activation_checkpointing,
            seed: self.seed,
        }
    }
}

/// A loss's form by its name.
fn form<T: DeserializeOwned>(name: Option<&str>) -> Result<Option<T>> {
    let form = |name: &str| serde_json::from_value(Value::from(name)).context("unknown loss_type");
    name.map(form).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the settings of a file make.
    fn loss(text: &str) -> Result<RelativeLoss> {
        toml::from_str::<RelativeConfig>(text)?.loss()
    }

    fn cpo(text: &str) -> Cpo {
        match loss(text).unwrap() {
            RelativeLoss::Free(FreeLoss::Cpo(cpo)) => cpo,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn settings_reach_their_loss() {
        let kto = "loss = 'kto'\nloss_type = 'apo_zero_unpaired'\nbeta = 0.2\ndesirable_weight = 3.0\n\
                   undesirable_weight = 0.5";
        let expect = Kto {
            loss_type: KtoLoss::ApoZeroUnpaired,
            beta: 0.2,
            desirable_weight: 3.0,
            undesirable_weight: 0.5,
        };
        assert_eq!(loss(kto).unwrap(), RelativeLoss::Kto(expect));
        assert_eq!(loss("loss = 'kto'").unwrap(), RelativeLoss::Kto(Kto::default()));

        assert_eq!(cpo("loss = 'simpo'"), Cpo::simpo(2.0, 1.0));
        let simpo = "loss = 'simpo'\nbeta = 3.0\nsimpo_gamma = 0.25\ncpo_alpha = 0.5\nlabel_smoothing = 0.1\nalpha = -0.2";
        let expect = Cpo { cpo_alpha: 0.5, label_smoothing: 0.1, alpha: -0.2, ..Cpo::simpo(3.0, 0.25) };
        assert_eq!(cpo(simpo), expect);
        for (name, loss_type) in [("hinge", CpoLoss::Hinge), ("ipo", CpoLoss::Ipo), ("simpo", CpoLoss::Simpo)]
        {
            assert_eq!(
                cpo(&format!("loss = 'cpo'\nloss_type = '{name}'\ncpo_alpha = 0.0")),
                Cpo { loss_type, cpo_alpha: 0.0, ..Cpo::default() }
            );
        }
        let orpo = RelativeLoss::Free(FreeLoss::Orpo { beta: 0.3 });
        assert_eq!(loss("loss = 'orpo'\nbeta = 0.3").unwrap(), orpo);
    }

    #[test]
    fn a_setting_that_the_loss_does_not_read_is_refused() {
        let check = |text: &str, expect: &str| {
            let error = format!("{:#}", loss(text).unwrap_err());
            assert!(error.contains(expect), "{text}: {error}");
        };
        check("loss = 'kto'\nsimpo_gamma = 1.0", "kto does not read simpo_gamma; it reads beta, loss_type");
        check("loss = 'kto'\nlabel_smoothing = 0.0", "kto does not read label_smoothing");
        check("loss = 'orpo'\nalpha = 1.0", "orpo does not read alpha");
        check("loss = 'cpo'\nsimpo_gamma = 0.5", "cpo does not read simpo_gamma");
        check(
            "loss = 'cpo'\nloss_type = 'hinge'\nlabel_smoothing = 0.1",
            "cpo with hinge does not read label_smoothing",
        );
        check("loss = 'simpo'\nloss_type = 'hinge'", "simpo does not read loss_type");
        check("loss = 'simpo'\ndesirable_weight = 1.0", "simpo does not read desirable_weight");
        check("loss = 'kto'\nloss_type = 'hinge'", "apo_zero_unpaired");
        check("loss = 'kto'\nundesirable_weight = -1.0", "undesirable_weight is -1");
        check("loss = 'kto'\nbeta = 0.0", "beta is 0");
        check("loss = 'orpo'\nbeta = -1.0", "beta is -1");
        check("loss = 'simpo'\nlabel_smoothing = 1.0", "label_smoothing is 1");
        check("loss = 'dpo'", "unknown loss");
        check("loss = 'kto'\nf_divergence_type = 'js_divergence'", "unknown field `f_divergence_type`");
    }
}
