use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::PeftError;

/// What a LoRA adapter is, field for field as PEFT's `adapter_config.json` (peft 0.21), with its defaults.
///
/// Keys that this version does not know are kept in [`Self::extra`] and written back. Where such a key is set
/// to something (not null, false or empty) it may change what the adapter computes, and [`Self::check`]
/// refuses it by name rather than compute something else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// Always `"LORA"`.
    pub peft_type: String,
    /// `"CAUSAL_LM"` for a decoder.
    pub task_type: Option<String>,
    /// The base model's name or path; checked on load where the caller names one too.
    pub base_model_name_or_path: Option<String>,
    /// Rank.
    pub r: i64,
    /// α: the update is scaled by α / r (or α / √r).
    pub lora_alpha: f64,
    /// Probability with which an input feature is dropped before A, in training.
    pub lora_dropout: f64,
    /// Which layers; `None` is `q_proj` and `v_proj`.
    pub target_modules: Option<Targets>,
    /// Layers to leave out, by suffix or full-match regex.
    pub exclude_modules: Option<Targets>,
    /// Only these blocks.
    pub layers_to_transform: Option<OneOrMany<u64>>,
    /// The name before the block's index (`layers`), where `layers_to_transform` needs one.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Ranks that differ, by layer name or regex; the first match wins.
    pub rank_pattern: Pattern<i64>,
    /// Alphas that differ, likewise.
    pub alpha_pattern: Pattern<f64>,
    /// Which biases are trained.
    pub bias: BiasMode,
    /// α / √r instead of α / r (arXiv 2312.03732).
    pub use_rslora: bool,
    /// Weight-decomposed LoRA (arXiv 2402.09353).
    pub use_dora: bool,
    /// How A and B begin.
    pub init_lora_weights: Init,
    /// Modules trained whole and saved with the adapter: `embed_tokens`, `lm_head` or linear layers by suffix.
    pub modules_to_save: Option<Vec<String>>,
    /// Whether embedding and tied head stay one tensor where `modules_to_save` names either.
    pub ensure_weight_tying: bool,
    /// GPT-2's transposed weights; our layers are never transposed, so it is only passed on.
    pub fan_in_fan_out: bool,
    /// Whether the file was written for inference only.
    pub inference_mode: bool,
    /// Every other key of the file.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            base_model_name_or_path: None,
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: Pattern(Vec::new()),
            alpha_pattern: Pattern(Vec::new()),
            bias: BiasMode::None,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: Init::Default,
            modules_to_save: None,
            ensure_weight_tying: false,
            fan_in_fan_out: false,
            inference_mode: false,
            extra: Map::new(),
        }
    }
}

/// Keys of other peft versions that say nothing about the numbers of a LoRA forward pass.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "eva_config",
    "loftq_config",
    "corda_config",
    "lora_ga_config",
];

impl LoraConfig {
    /// Rank `r`, scale α / r, on every linear layer but the head.
    pub fn all_linear(r: i64, lora_alpha: f64) -> Self {
        LoraConfig {
            r,
            lora_alpha,
            target_modules: Some(Targets::Pattern("all-linear".to_owned())),
            ..Self::default()
        }
    }

    /// Refuses values out of range and settings that would change the numbers in a way not built here.
    ///
    /// # Errors
    /// [`PeftError::Config`], [`PeftError::Unsupported`].
    pub fn check(&self) -> Result<(), PeftError> {
        let bad = |reason: String| Err(PeftError::Config(reason));
        if self.peft_type != "LORA" {
            return Err(PeftError::Unsupported(format!("peft_type {:?} (only LORA)", self.peft_type)));
        }
        if self.r < 1 {
            return bad(format!("r is {}, not at least 1", self.r));
        }
        if let Some((name, r)) = self.rank_pattern.0.iter().find(|(_, r)| *r < 1) {
            return bad(format!("rank_pattern gives {name:?} the rank {r}, not at least 1"));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return bad(format!("lora_dropout is {}, not in 0 <= p < 1", self.lora_dropout));
        }
        let alphas = self.alpha_pattern.0.iter().map(|(_, a)| *a).chain([self.lora_alpha]);
        if let Some(alpha) = alphas.into_iter().find(|a| !a.is_finite() || *a == 0.0) {
            return bad(format!("lora_alpha is {alpha}: the update would vanish or blow up"));
        }
        if self.layers_to_transform.is_some() && matches!(self.target_modules, Some(Targets::Pattern(_))) {
            return bad(
                "layers_to_transform goes with a list of target_modules; PEFT refuses a pattern".into()
            );
        }
        if let Init::Other(name) = &self.init_lora_weights {
            return Err(PeftError::Unsupported(format!("init_lora_weights {name:?}")));
        }
        let is_off = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        match self.extra.iter().find(|(k, v)| !HARMLESS.contains(&k.as_str()) && !is_off(v)) {
            Some((key, value)) => Err(PeftError::Unsupported(format!("{key} = {value}"))),
            None => Ok(()),
        }
    }

    /// What the update of a layer of rank `r` and `alpha` is multiplied by.
    pub fn scale(&self, r: i64, alpha: f64) -> f64 {
        if self.use_rslora { alpha / (r as f64).sqrt() } else { alpha / r as f64 }
    }
}

/// Layers, as PEFT reads them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// Names or suffixes: `q_proj` matches `model.layers.0.self_attn.q_proj`.
    Suffixes(Vec<String>),
    /// A regular expression that must match the whole name, or `all-linear`.
    Pattern(String),
}

impl Targets {
    /// Suffixes from string slices.
    pub fn suffixes(names: &[&str]) -> Self {
        Targets::Suffixes(names.iter().map(|&n| n.to_owned()).collect())
    }
}

/// One value or a list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// As a slice.
    pub fn as_slice(&self) -> &[T] {
        match self {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(values) => values,
        }
    }
}

/// Which biases are trained and saved with the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasMode {
    /// None.
    None,
    /// Every linear layer's and every norm's.
    All,
    /// Those of the layers that carry an adapter.
    LoraOnly,
}

/// How A and B begin. Always such that the model begins as its base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init {
    /// A ~ U(±1/√in), B = 0 (`true`).
    Default,
    /// A ~ N(0, 1/r), B = 0.
    Gaussian,
    /// The weight's largest singular directions (arXiv 2404.02948).
    Pissa,
    /// The first rows and columns of its QR factors (arXiv 2406.01775).
    Olora,
    /// A and B both random (`false`): for tests only, the model does not begin as its base.
    Random,
    /// Something else; only refused where it matters.
    Other(String),
}

impl Serialize for Init {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Init::Default => s.serialize_bool(true),
            Init::Random => s.serialize_bool(false),
            Init::Gaussian => s.serialize_str("gaussian"),
            Init::Pissa => s.serialize_str("pissa"),
            Init::Olora => s.serialize_str("olora"),
            Init::Other(name) => s.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for Init {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(d)? {
            Value::Bool(true) | Value::Null => Init::Default,
            Value::Bool(false) => Init::Random,
            Value::String(name) => match name.to_lowercase().as_str() {
                "gaussian" => Init::Gaussian,
                "pissa" => Init::Pissa,
                "olora" => Init::Olora,
                _ => Init::Other(name),
            },
            other => return Err(serde::de::Error::custom(format!("init_lora_weights is {other}"))),
        })
    }
}

/// Name patterns in the order of the file (the first match wins) with a value each.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern<T>(pub Vec<(String, T)>);

impl<T> Default for Pattern<T> {
    fn default() -> Self {
        Pattern(Vec::new())
    }
}

impl<T: Serialize> Serialize for Pattern<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pattern<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct InOrder<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Pattern<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from layer patterns to values")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Pattern(Vec::new()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Pattern(entries))
            }
        }
        d.deserialize_any(InOrder(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> LoraConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_minimal_file_gets_pefts_defaults() {
        let config = parse(r#"{"peft_type": "LORA", "target_modules": ["q_proj"]}"#);
        assert_eq!((config.r, config.lora_alpha, config.lora_dropout), (8, 8.0, 0.0));
        assert_eq!(config.target_modules, Some(Targets::suffixes(&["q_proj"])));
        config.check().unwrap();
    }

    #[test]
    fn unknown_keys_survive_and_only_live_ones_are_refused() {
        let check = |extra: &str, refused: Option<&str>| {
            let config = parse(&format!(r#"{{"target_modules": "all-linear", {extra}}}"#));
            let again = parse(&serde_json::to_string(&config).unwrap());
            assert_eq!(again, config);
            match (config.check(), refused) {
                (Ok(()), None) => {}
                (Err(error), Some(name)) => assert!(error.to_string().contains(name), "{error}"),
                (result, expected) => panic!("{extra}: {result:?}, expected {expected:?}"),
            }
        };
        check(
            r#""peft_version": "0.99", "kasa_config": null, "use_qalora": false, "loftq_config": {}"#,
            None,
        );
        check(r#""use_qalora": true"#, Some("use_qalora"));
        check(r#""alora_invocation_tokens": [1, 2]"#, Some("alora_invocation_tokens"));
        check(r#""init_lora_weights": "corda""#, Some("corda"));
        check(r#""peft_type": "IA3""#, Some("IA3"));
        check(r#""lora_dropout": 1.0"#, Some("lora_dropout"));
        check(r#""lora_alpha": 0"#, Some("lora_alpha"));
        check(r#""r": 0"#, Some("r is 0"));
        check(r#""rank_pattern": {"q_proj": 0}"#, Some("\"q_proj\" the rank 0"));
        check(r#""layers_to_transform": [1]"#, Some("a list of target_modules"));
    }

    #[test]
    fn patterns_keep_their_order() {
        let config = parse(r#"{"rank_pattern": {"z": 4, "a": 2}}"#);
        assert_eq!(config.rank_pattern.0, [("z".to_owned(), 4), ("a".to_owned(), 2)]);
    }
}
