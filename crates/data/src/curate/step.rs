//! From a step's settings to what runs: the one list of kinds.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::sets::{
    Boilerplate, Decontaminate, Dedup, DedupAgainst, Mix, SetStep, Split, Substring, existing,
};
use super::suggest::{nearest, with_suggestion};
use crate::clean::{Email, Html, Markdown, MarkdownMode, Mojibake, Unicode, Whitespace};
use crate::filter::toxicity::ToxicConfig;
use crate::filter::{
    C4Quality, Column, CountTokens, FineWebQuality, GopherQuality, GopherRepetition, Language, Length,
    MixedLanguage, Placeholder, Refusal, Repetition, Tickets, Toxic, Truncated, Turns,
};
use crate::pii::{PiiConfig, PiiStep};
use crate::read::ReadOptions;
use crate::{DataError, RecordStep};

/// A step that is ready to run.
pub(super) enum Step {
    /// Looks at one row at a time.
    Row(Box<dyn RecordStep>),
    /// Personal data; a corpus-wide numbering must see all rows first.
    Pii(Box<PiiStep>),
    /// Looks at all rows.
    Set(Box<dyn SetStep>),
}

/// Every kind of step, in the order of the documentation.
pub(super) const KINDS: [&str; 29] = [
    "mojibake",
    "unicode",
    "html",
    "markdown",
    "email",
    "whitespace",
    "boilerplate",
    "turns",
    "placeholder",
    "length",
    "truncated",
    "repetition",
    "language",
    "mixed_language",
    "toxic",
    "refusal",
    "tickets",
    "column",
    "gopher_quality",
    "gopher_repetition",
    "c4_quality",
    "fineweb_quality",
    "pii",
    "dedup",
    "dedup_against",
    "substring",
    "decontaminate",
    "split",
    "mix",
];

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct NoSettings {}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct MarkdownSettings {
    mode: MarkdownMode,
}

impl Step {
    pub(super) fn build(
        kind: &str,
        settings: Table,
        folder: Option<&Path>,
        count_tokens: Option<&CountTokens>,
    ) -> Result<Self, DataError> {
        let plain = |settings| parse::<NoSettings>(settings).map(|NoSettings {}| ());
        let step: Box<dyn RecordStep> = match kind {
            "mojibake" => plain(settings).map(|()| Box::new(Mojibake))?,
            "unicode" => Box::new(Unicode(parse(settings)?)),
            "html" => plain(settings).map(|()| Box::new(Html))?,
            "markdown" => Box::new(Markdown(parse::<MarkdownSettings>(settings)?.mode)),
            "email" => plain(settings).map(|()| Box::new(Email))?,
            "whitespace" => plain(settings).map(|()| Box::new(Whitespace))?,
            "turns" => Box::new(parse::<Turns>(settings)?),
            "placeholder" => Box::new(parse::<Placeholder>(settings)?),
            "length" => {
                let length = parse::<Length>(settings)?;
                Box::new(Length { count_tokens: count_tokens.cloned(), ..length })
            }
            "truncated" => Box::new(parse::<Truncated>(settings)?),
            "repetition" => Box::new(parse::<Repetition>(settings)?),
            "language" => Box::new(language(parse(settings)?)?),
            "mixed_language" => Box::new(parse::<MixedLanguage>(settings)?),
            "toxic" => {
                let mut config = parse::<ToxicConfig>(settings)?;
                config
                    .word_lists
                    .iter_mut()
                    .chain(&mut config.classifier)
                    .for_each(|p| *p = beside(folder, p));
                Box::new(Toxic::new(&config)?)
            }
            "refusal" => Box::new(parse::<Refusal>(settings)?),
            "tickets" => Box::new(parse::<Tickets>(settings)?),
            "column" => {
                let column = parse::<Column>(settings)?;
                if column.column.is_empty() {
                    return Err(DataError::Config("`column` is missing".into()));
                }
                Box::new(column)
            }
            "gopher_quality" => Box::new(parse::<GopherQuality>(settings)?),
            "gopher_repetition" => Box::new(parse::<GopherRepetition>(settings)?),
            "c4_quality" => Box::new(parse::<C4Quality>(settings)?),
            "fineweb_quality" => Box::new(parse::<FineWebQuality>(settings)?),
            "pii" => {
                let mut config = parse::<PiiConfig>(settings)?;
                config.vault = config.vault.map(|p| beside(folder, &p));
                return Ok(Step::Pii(Box::new(PiiStep::new(config)?)));
            }
            "boilerplate" => return Ok(set(Boilerplate(parse(settings)?))),
            "dedup" => return Ok(set(Dedup(parse(settings)?))),
            "dedup_against" => return Ok(set(dedup_against(settings, folder)?)),
            "substring" => return Ok(set(Substring(parse(settings)?))),
            "decontaminate" => return Ok(set(Decontaminate::new(parse(settings)?, folder)?)),
            "split" => return Ok(set(Split(parse(settings)?))),
            "mix" => return Ok(set(Mix::new(parse(settings)?))),
            other => {
                let hint = nearest(other, KINDS).map_or(String::new(), |k| format!("; did you mean `{k}`?"));
                let kinds = KINDS.join(", ");
                return Err(DataError::Config(format!("unknown kind `{other}`{hint} Known: {kinds}")));
            }
        };
        Ok(Step::Row(step))
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Step::Row(step) => step.name(),
            Step::Pii(step) => step.name(),
            Step::Set(step) => step.name(),
        }
    }

    /// The step as one that can run on any row now.
    pub(super) fn row_step(&self) -> Option<&dyn RecordStep> {
        match self {
            Step::Row(step) => Some(&**step),
            Step::Pii(step) if !step.needs_survey() => Some(&**step),
            _ => None,
        }
    }

    /// The files that it reads beside the inputs.
    pub(super) fn reads(&self) -> Vec<&Path> {
        match self {
            Step::Set(step) => step.reads(),
            _ => Vec::new(),
        }
    }

    /// Called once after the last row.
    pub(super) fn end(&self) -> Result<(), DataError> {
        match self {
            Step::Pii(step) => step.save_vault(),
            _ => Ok(()),
        }
    }
}

fn parse<T: DeserializeOwned>(settings: Table) -> Result<T, DataError> {
    Value::Table(settings).try_into().map_err(|e| DataError::Config(with_suggestion(&e.to_string())))
}

pub(super) fn beside(folder: Option<&Path>, path: &Path) -> PathBuf {
    folder.map_or_else(|| path.to_owned(), |folder| folder.join(path))
}

fn set(step: impl SetStep + 'static) -> Step {
    Step::Set(Box::new(step))
}

/// Its own two keys stand among those of [`crate::dedup::DedupConfig`].
fn dedup_against(mut settings: Table, folder: Option<&Path>) -> Result<DedupAgainst, DataError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Own {
        against: Vec<PathBuf>,
        #[serde(default)]
        read: ReadOptions,
    }
    let mut take = |key: &str| settings.remove(key).map(|value| (key.to_owned(), value));
    let own = ["against", "read"].into_iter().filter_map(&mut take).collect();
    let Own { against, read } = parse(own)?;
    let against = against.iter().map(|path| existing(folder, path)).collect::<Result<_, _>>()?;
    Ok(DedupAgainst { config: parse(settings)?, against, read })
}

fn language(config: Language) -> Result<Language, DataError> {
    if config.languages.is_empty() {
        return Err(DataError::Config("`languages` is empty".into()));
    }
    #[cfg(not(feature = "accurate-language"))]
    if config.engine == crate::filter::Engine::Accurate {
        return Err(DataError::Config("the accurate engine needs the feature `accurate-language`".into()));
    }
    Ok(config)
}
