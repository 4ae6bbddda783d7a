//! Abuse: insults, slurs, profanity, threats. A lexicon that knows who is meant, and a classifier for a team's own
//! labels.
//!
//! The lexicon is English and finds what is said in abusive *words*; it does not understand irony, and a dataset
//! about abuse (moderation, lyrics, novels) is full of them. [`Classifier`] learns from a file of labelled texts
//! what a team calls toxic; [`cross_validate`] tells how well, before anybody relies on it.

mod classifier;
mod lexicon;

use std::fs;
use std::path::PathBuf;

use ferrotune_types::Role;
use serde::{Deserialize, Serialize};

use super::shown;
use crate::{DataError, Drop, Edit, Record, RecordStep};
pub use classifier::{Classifier, CrossValidation, TrainConfig, cross_validate};
pub use lexicon::Lexicon;

/// How to recognise toxic texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToxicConfig {
    /// Lexicon score from which a text is refused: a slur or strong insult weighs 1, a mild one less, more if it is
    /// aimed at somebody.
    pub threshold: f64,
    /// More word lists, one word or phrase a line, each weighing 1 (the LDNOOBW lists have this form).
    pub word_lists: Vec<PathBuf>,
    /// A classifier written by [`Classifier::save`].
    pub classifier: Option<PathBuf>,
    /// Probability from which the classifier refuses.
    pub classifier_threshold: f64,
    /// Look at the answers only, not at what people ask.
    pub answers_only: bool,
}

impl Default for ToxicConfig {
    fn default() -> Self {
        ToxicConfig {
            threshold: 1.0,
            word_lists: Vec::new(),
            classifier: None,
            classifier_threshold: 0.8,
            answers_only: false,
        }
    }
}

/// Refuses rows in which somebody is abusive.
#[derive(Debug)]
pub struct Toxic {
    config: ToxicConfig,
    lexicon: Lexicon,
    classifier: Option<Classifier>,
}

impl Toxic {
    /// Loads the lists and the classifier that the settings name.
    ///
    /// # Errors
    /// [`DataError::Io`] or [`DataError::Format`] where one of them cannot be read.
    pub fn new(config: &ToxicConfig) -> Result<Self, DataError> {
        let mut lexicon = Lexicon::english();
        for path in &config.word_lists {
            let text = fs::read_to_string(path).map_err(DataError::io("read", path))?;
            lexicon.add(text.lines());
        }
        let classifier = config.classifier.as_deref().map(Classifier::load).transpose()?;
        Ok(Toxic { config: config.clone(), lexicon, classifier })
    }

    fn judge(&self, text: &str) -> Option<String> {
        let found = self.lexicon.score(text);
        if found.score >= self.config.threshold {
            return Some(format!("lexicon {:.1} ({})", found.score, found.words.join(", ")));
        }
        let probability = self.classifier.as_ref()?.probability(text);
        (probability >= self.config.classifier_threshold).then(|| format!("classifier {probability:.2}"))
    }
}

impl RecordStep for Toxic {
    fn name(&self) -> &'static str {
        "toxic"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        // What a pair rejects may be abusive: that can be why it is rejected.
        let is_skipped = |role: Option<Role>, field: &str| match role {
            Some(Role::Tool | Role::System | Role::Developer) => true,
            Some(Role::User) => self.config.answers_only,
            Some(Role::Assistant) | None => field.starts_with("rejected"),
        };
        for spoken in record.spoken() {
            if !is_skipped(spoken.role, &spoken.field)
                && let Some(why) = self.judge(spoken.text)
            {
                return Err(Drop::new("toxic", format!("{}: {why}: {}", spoken.field, shown(spoken.text))));
            }
        }
        Ok(())
    }
}
