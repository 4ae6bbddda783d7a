//! `pipeline.toml`: every setting of the main job, with its default.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::recipes::{DpoConfig, SftConfig};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    /// Format of this file: 1.
    pub version: u32,
    /// A name for the report's title.
    pub title: String,
    /// From which every random choice comes.
    #[serde(default)]
    pub seed: u64,
    /// Where the data lies.
    pub data: DataPaths,
    /// Which model.
    #[serde(default)]
    pub model: ModelChoice,
    /// Cleaning.
    #[serde(default)]
    pub curate: CurateConfig,
    /// What is held out.
    #[serde(default)]
    pub split: SplitConfig,
    /// Text to tokens.
    #[serde(default)]
    pub tokenize: TokenizeConfig,
    /// The adapter.
    #[serde(default)]
    pub lora: LoraChoice,
    /// Supervised fine-tuning.
    #[serde(default)]
    pub sft: SftConfig,
    /// Preference tuning.
    #[serde(default)]
    pub dpo: DpoConfig,
    /// Base against tuned.
    #[serde(default)]
    pub judge: JudgeConfig,
    /// Retrieval.
    #[serde(default)]
    pub rag: RagConfig,
    /// The file that all this was read from, where there is one.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// Files, relative to the folder of the configuration (so are models that are folders or files).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPaths {
    /// Tickets, conversations or instructions.
    pub sft: PathBuf,
    /// Preference pairs; without them the `dpo` stage is skipped.
    pub preference: Option<PathBuf>,
    /// A folder of documents to ground answers in; without it the `rag` stage is skipped.
    pub documents: Option<PathBuf>,
    /// Held-out questions with reference answers; without them held-out conversations serve.
    pub questions: Option<PathBuf>,
    /// What defects were planted, to count what curation caught.
    pub planted: Option<PathBuf>,
}

/// Which model, where and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelChoice {
    /// A folder, a GGUF file, a hub id or a name that `setup` knows.
    pub id: String,
    /// The encoder for retrieval, likewise; `none` searches by words alone.
    pub encoder: String,
    /// `auto`, `fp32`, `bf16`, `fp16`.
    pub dtype: String,
    /// `auto`, `cpu`, `cuda:0`, `mps`.
    pub device: String,
}

impl Default for ModelChoice {
    fn default() -> Self {
        ModelChoice {
            id: "smollm2-135m-instruct".to_owned(),
            encoder: "all-minilm-l6-v2".to_owned(),
            dtype: "auto".to_owned(),
            device: "auto".to_owned(),
        }
    }
}

/// The curate stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurateConfig {
    /// The name of a recipe that `ferrotune-data` ships, or a TOML file.
    pub recipe: String,
    /// Put before every conversation that has no system turn; empty leaves them as they are.
    pub system: String,
}

impl Default for CurateConfig {
    fn default() -> Self {
        CurateConfig { recipe: "tickets".to_owned(), system: String::new() }
    }
}

/// The split stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// Share of conversations held out for validation and perplexity.
    pub validation: f64,
    /// At most this many of them, 0 for no limit.
    pub max_validation: usize,
    /// Share of preference pairs held out.
    pub preference_validation: f64,
    /// At most this many conversations to train on, 0 for no limit.
    pub max_train: usize,
}

impl Default for SplitConfig {
    fn default() -> Self {
        SplitConfig { validation: 0.1, max_validation: 100, preference_validation: 0.2, max_train: 0 }
    }
}

/// The tokenize stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizeConfig {
    /// Tokens of an example at most; 0 takes so many that 99% of the rows fit, within the model's context.
    pub max_length: usize,
    /// `drop`, `left`, `right` or `error`.
    pub truncation: String,
    /// Lay examples into rows of `max_length`; attention stays inside each example.
    pub packing: bool,
    /// `chatml`, `llama3`, …: a built-in template instead of the model's own; empty takes the model's.
    pub template: String,
}

impl Default for TokenizeConfig {
    fn default() -> Self {
        TokenizeConfig {
            max_length: 0,
            truncation: "drop".to_owned(),
            packing: true,
            template: String::new(),
        }
    }
}

/// The adapter that SFT makes and DPO goes on with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraChoice {
    /// Rank.
    pub r: i64,
    /// α; the update is scaled by α / r.
    pub alpha: f64,
    /// Of A's input features.
    pub dropout: f64,
    /// `all-linear`, a comma-separated list of suffixes, or a regex.
    pub targets: String,
}

impl Default for LoraChoice {
    fn default() -> Self {
        LoraChoice { r: 16, alpha: 32.0, dropout: 0.0, targets: "all-linear".to_owned() }
    }
}

/// The judge stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeConfig {
    /// Questions asked at most.
    pub max_questions: usize,
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
    /// An OpenAI-compatible server that judges; empty takes the offline reference judge.
    pub url: String,
    /// Its model.
    pub model: String,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        JudgeConfig { max_questions: 100, max_new_tokens: 96, url: String::new(), model: String::new() }
    }
}

/// The rag stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RagConfig {
    /// Characters of a chunk at most.
    pub chunk_chars: usize,
    /// Characters that neighbours share.
    pub overlap_chars: usize,
    /// Chunks put before the model.
    pub k: usize,
    /// Questions answered at most.
    pub max_questions: usize,
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
}

impl Default for RagConfig {
    fn default() -> Self {
        RagConfig { chunk_chars: 700, overlap_chars: 80, k: 3, max_questions: 100, max_new_tokens: 96 }
    }
}

impl PipelineConfig {
    /// For data of any kind, of which nothing is known but the file: one pass, validated often, so that what is kept is
    /// the best state and not the last.
    pub fn for_data(sft: &Path) -> Self {
        let config = PipelineConfig {
            version: 1,
            title: String::new(),
            seed: 0,
            data: DataPaths {
                sft: PathBuf::new(),
                preference: None,
                documents: None,
                questions: None,
                planted: None,
            },
            model: ModelChoice::default(),
            curate: CurateConfig::default(),
            split: SplitConfig { max_validation: 60, preference_validation: 0.2, ..SplitConfig::default() },
            tokenize: TokenizeConfig::default(),
            lora: LoraChoice::default(),
            sft: SftConfig {
                batch: 2,
                lr: 4e-4,
                warmup_steps: 6,
                eval_every: 12,
                checkpoint_every: 20,
                ..SftConfig::default()
            },
            dpo: DpoConfig { warmup_steps: 2, checkpoint_every: 10, ..DpoConfig::default() },
            judge: JudgeConfig::default(),
            rag: RagConfig::default(),
            file: None,
        };
        config.with_data(sft)
    }

    /// The same settings for other data: what belongs to the configured dataset is put aside.
    #[must_use]
    pub fn with_data(mut self, sft: &Path) -> Self {
        self.data = DataPaths {
            sft: sft.to_owned(),
            preference: None,
            documents: None,
            questions: None,
            planted: None,
        };
        self.title = format!("Tuning on {}", sft.file_name().unwrap_or_default().to_string_lossy());
        self.curate.system = String::new();
        self.tokenize.max_length = 0;
        self
    }

    /// Reads the file; its paths become relative to its folder.
    ///
    /// # Errors
    /// A missing file, an unknown key (the nearest known one is named), a version that this program does not know.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut config: PipelineConfig = crate::settings::from_toml(&text, path)?;
        if config.version != 1 {
            bail!("{}: version {} is unknown; this program reads version 1", path.display(), config.version);
        }
        config.file = Some(path.to_owned());
        let folder = path.parent().unwrap_or(Path::new("."));
        let data = &mut config.data;
        data.sft = folder.join(&data.sft);
        for file in [&mut data.preference, &mut data.documents, &mut data.questions, &mut data.planted] {
            *file = file.take().map(|f| folder.join(f));
        }
        if let Some(adapter) = &mut config.dpo.reference_adapter {
            *adapter = folder.join(&adapter);
        }
        // A name of something known, or a path: of a file, or of a model.
        for name in [&mut config.curate.recipe, &mut config.tokenize.template] {
            beside(folder, name, Path::is_file);
        }
        let reference = Some(&mut config.dpo.reference).filter(|r| !["start", "base"].contains(&r.as_str()));
        for name in [&mut config.model.id, &mut config.model.encoder].into_iter().chain(reference) {
            beside(folder, name, Path::exists);
        }
        Ok(config)
    }

    /// The files and folders that a run reads, as far as they are there.
    pub(super) fn inputs(&self) -> Vec<PathBuf> {
        let DataPaths { sft, preference, documents, questions, planted } = &self.data;
        let files =
            [Some(sft), preference.as_ref(), documents.as_ref(), questions.as_ref(), planted.as_ref()];
        let more = [self.file.as_ref(), self.dpo.reference_adapter.as_ref()];
        let names = [
            &self.model.id,
            &self.model.encoder,
            &self.curate.recipe,
            &self.tokenize.template,
            &self.dpo.reference,
        ];
        let given = files.into_iter().chain(more).flatten().cloned();
        given.chain(names.map(PathBuf::from)).filter(|path| path.exists()).collect()
    }
}

/// Takes a name as a path relative to `folder`, where that is one.
fn beside(folder: &Path, name: &mut String, is_one: impl Fn(&Path) -> bool) {
    let path = folder.join(name.as_str());
    if !name.is_empty() && is_one(&path) {
        *name = path.to_string_lossy().into_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_relative_to_the_file_and_a_known_name_is_no_path() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["tickets", "base", "mine"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("r.toml"), "").unwrap();
        let read = |more: &str| {
            let file = dir.path().join("p.toml");
            std::fs::write(&file, format!("version = 1\ntitle = 't'\n[data]\nsft = 'a'\n{more}")).unwrap();
            PipelineConfig::read(&file).unwrap()
        };
        let config =
            read("[curate]\nrecipe = 'tickets'\n[dpo]\nreference = 'base'\n[model]\nencoder = 'none'\n");
        assert_eq!((config.curate.recipe.as_str(), config.dpo.reference.as_str()), ("tickets", "base"));
        assert_eq!((config.tokenize.template.as_str(), config.model.encoder.as_str()), ("", "none"));
        let config =
            read("[curate]\nrecipe = 'r.toml'\n[dpo]\nreference = 'mine'\nreference_adapter = 'mine'\n");
        assert_eq!(Path::new(&config.curate.recipe), dir.path().join("r.toml"));
        assert_eq!(Path::new(&config.dpo.reference), dir.path().join("mine"));
        assert_eq!(config.dpo.reference_adapter, Some(dir.path().join("mine")));
    }
}
