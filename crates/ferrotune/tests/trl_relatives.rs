//! The first steps of TRL's ORPO, CPO, KTO and reward trainers, from token ids to the logged metrics:
//! `golden/trl_relatives.py` made the values.
#![cfg(feature = "torch")]

mod trl;

use std::path::{Path, PathBuf};

use ferrotune::model_store::{self, LoadedModel, Place};
use ferrotune::recipes::{FreeLoss, RunConfig, ThumbData, ThumbExample, kto, orpo, reward};
use ferrotune_peft::{Adapter, LoadOptions, load};
use ferrotune_preference::{Cpo, CpoLoss, Kto, KtoLoss};
use ferrotune_types::PairExample;
use serde_json::Value;
use tch::Tensor;

/// What TRL logs and these recipes do not: ORPO's and CPO's mean logits, over prompts and padding too; KTO's are of answers.
const NOT_LOGGED: [&str; 2] = ["logits/chosen", "logits/rejected"];

/// One trainer's run.
struct Golden {
    name: &'static str,
    run: Value,
    config: RunConfig,
    model: LoadedModel,
    adapter: Adapter,
    dir: tempfile::TempDir,
}

impl Golden {
    fn read(name: &'static str) -> Self {
        tch::set_num_threads(1); // the model is too small to share
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let text = std::fs::read_to_string(here.join("trl_relatives.json")).unwrap();
        let mut golden: Value = serde_json::from_str(&text).unwrap();
        let run = golden[name].take();
        let config = RunConfig {
            steps: run["log"].as_array().unwrap().len(),
            batch: golden["batch"].as_u64().unwrap() as usize,
            lr: golden["learning_rate"].as_f64().unwrap(),
            max_grad_norm: golden["max_grad_norm"].as_f64().unwrap(),
            schedule: "constant".to_owned(),
            shuffle: false,
            ..RunConfig::default()
        };
        assert!(config.steps > 4 && config.weight_decay == 0.0);
        let base: PathBuf = here.join("../../../../fixtures/tiny/llama");
        let place = Place::parse("cpu", "fp32").unwrap();
        let mut model = model_store::load(&base.display().to_string(), place, "").unwrap();
        let adapter = load(&mut model.decoder, &here.join("trl_dpo"), &LoadOptions::default()).unwrap();
        for (_, tensor) in adapter.parameters() {
            let _ = tensor.set_requires_grad(true);
        }
        Golden { name, run, config, model, adapter, dir: tempfile::tempdir().unwrap() }
    }

    fn rows(&self) -> &[Value] {
        self.run["rows"].as_array().unwrap()
    }

    fn setting(&self, name: &str) -> f64 {
        self.run["settings"][name].as_f64().unwrap()
    }

    fn pairs(&self) -> Vec<PairExample> {
        let pair = |row: &Value| {
            PairExample::new("p", ids(&row["prompt"]), ids(&row["chosen"]), ids(&row["rejected"])).unwrap()
        };
        self.rows().iter().map(pair).collect()
    }

    /// Every step logged what TRL logs.
    fn check(&self) {
        let text = std::fs::read_to_string(self.dir.path().join("metrics.jsonl")).unwrap();
        let ours: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let steps: Vec<&Value> = ours.iter().filter(|entry| entry["loss"].is_number()).collect();
        let log = self.run["log"].as_array().unwrap();
        assert_eq!(steps.len(), log.len());
        for (ours, trl) in steps.into_iter().zip(log) {
            for (name, trl) in trl.as_object().unwrap() {
                if self.run["rows"][0]["desirable"].is_null() && NOT_LOGGED.contains(&name.as_str()) {
                    assert!(ours[name].is_null(), "{} logs {name} now: compare it", self.name);
                    continue;
                }
                if name == "nll_loss" && self.run["settings"]["cpo_alpha"] == 0.0 {
                    continue; // TRL logs 0 where the loss does not hold it; here it is told all the same
                }
                trl::check(self.name, ours, name, trl);
            }
        }
    }

    fn check_free(&self, loss: &FreeLoss) {
        let (pairs, dir) = (self.pairs(), self.dir.path());
        orpo(&self.model.decoder, &self.adapter, [&pairs, &[]], loss, &self.config, dir, "h").unwrap();
        self.check();
    }

    fn check_thumbs(&self, loss: &Kto) {
        let thumb = |row: &Value| {
            let desirable = row["desirable"].as_bool().unwrap();
            ThumbExample::new("t", ids(&row["prompt"]), ids(&row["answer"]), desirable).unwrap()
        };
        let data = ThumbData { train: self.rows().iter().map(thumb).collect(), ..ThumbData::default() };
        kto(&self.model.decoder, &self.adapter, &data, loss, &self.config, self.dir.path(), "h").unwrap();
        self.check();
    }
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn orpos_steps_are_trls() {
    let golden = Golden::read("orpo");
    golden.check_free(&FreeLoss::Orpo { beta: golden.setting("beta") });
}

#[test]
fn cpos_steps_are_trls() {
    let golden = Golden::read("cpo");
    golden.check_free(&FreeLoss::Cpo(Cpo {
        beta: golden.setting("beta"),
        label_smoothing: golden.setting("label_smoothing"),
        cpo_alpha: golden.setting("cpo_alpha"),
        ..Cpo::default()
    }));
}

#[test]
fn simpos_steps_are_trls() {
    let golden = Golden::read("simpo");
    golden.check_free(&FreeLoss::Cpo(Cpo {
        loss_type: CpoLoss::Simpo,
        beta: golden.setting("beta"),
        simpo_gamma: golden.setting("simpo_gamma"),
        cpo_alpha: golden.setting("cpo_alpha"),
        ..Cpo::default()
    }));
}

#[test]
fn ktos_steps_are_trls() {
    let golden = Golden::read("kto");
    golden.check_thumbs(&Kto {
        beta: golden.setting("beta"),
        desirable_weight: golden.setting("desirable_weight"),
        undesirable_weight: golden.setting("undesirable_weight"),
        ..Kto::default()
    });
    // The drift is not zero throughout, so it was compared.
    assert!(golden.run["log"].as_array().unwrap().iter().any(|step| step["kl"].as_f64().unwrap() > 1.0));
}

#[test]
fn unpaired_apos_steps_are_trls() {
    let golden = Golden::read("apo");
    golden.check_thumbs(&Kto {
        beta: golden.setting("beta"),
        loss_type: KtoLoss::ApoZeroUnpaired,
        ..Kto::default()
    });
}

#[test]
fn reward_models_steps_are_trls() {
    let golden = Golden::read("reward");
    // TRL's rows are whole texts: what both begin with is the prompt.
    let pair = |row: &Value| {
        let (chosen, rejected) = (ids(&row["chosen"]), ids(&row["rejected"]));
        let shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
        let pair = PairExample::new(
            "p",
            chosen[..shared].to_vec(),
            chosen[shared..].to_vec(),
            rejected[shared..].to_vec(),
        );
        pair.unwrap().with_margin(row["margin"].as_f64())
    };
    let pairs: Vec<PairExample> = golden.rows().iter().map(pair).collect();
    let head: Vec<f32> = serde_json::from_value(golden.run["head"].clone()).unwrap();
    let head = Tensor::from_slice(&head).view([1, -1]).set_requires_grad(true);
    let Golden { model, adapter, config, .. } = &golden;
    let centering = Some(golden.setting("center_rewards_coefficient"));
    reward(&model.decoder, adapter, &head, [&pairs, &[]], centering, config, golden.dir.path(), "h").unwrap();
    golden.check();
}
