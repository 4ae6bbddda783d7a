use std::sync::Mutex;

use super::conceal::Conceal;
use super::redact::{Numbers, Redacted, replace, spans_in};
use super::visit::visit;
use super::{Kind, Operator, PiiConfig, PiiKey, Scope, Vault, char_offsets};
use crate::{DataError, Drop, Edit, Record, RecordStep};

/// The `pii` step of a curation: replaces personal data in every text of a row, in its tool calls and in its
/// other columns, their names included. A column's name counts as context: a `phone` column may hold `785 8949`. The
/// row's id stays; a curation replaces ids that show personal data before its first step.
///
/// The edits it tells do not repeat the original (the audit file would leak it) but its kind, length and
/// score, unless [`PiiConfig::audit_originals`] is set.
///
/// ```
/// use ferrotune_data::pii::{PiiConfig, PiiStep};
/// use ferrotune_data::{Item, Origin, Record, RecordStep};
/// let item: Item = serde_json::from_str(
///     r#"{"id": "t1", "messages": [{"role": "user", "content": "I am at sam@example.org"}], "meta": {"phone": "785 8949"}}"#,
/// ).unwrap();
/// let mut record = Record { item, origin: Origin::default() };
/// let step = PiiStep::new(PiiConfig::default()).unwrap();
/// let mut edits = Vec::new();
/// step.apply(&mut record, &mut edits).unwrap();
/// assert_eq!(record.texts()[0].1, "I am at [EMAIL_1]");
/// assert_eq!(record.meta()["phone"], "[PHONE_1]");
/// assert_eq!((edits[0].start, edits[0].end), (8, 23));
/// ```
#[derive(Debug)]
pub struct PiiStep {
    config: PiiConfig,
    key: Option<PiiKey>,
    /// The corpus's numbering, once [`Self::survey`] has seen it.
    corpus: Option<Numbers>,
    vault: Mutex<Vault>,
}

impl PiiStep {
    /// Reads the key from the environment if an operator or the vault needs it.
    ///
    /// # Errors
    /// [`DataError::Config`] for a setting out of range, [`DataError::Vault`] where the key is missing.
    pub fn new(config: PiiConfig) -> Result<Self, DataError> {
        let key = if config.needs_key() { Some(PiiKey::from_env(&config.key_env)?) } else { None };
        PiiStep::with_key(config, key)
    }

    /// With a key from elsewhere than the environment.
    ///
    /// # Errors
    /// [`DataError::Config`] for a setting out of range, [`DataError::Vault`] where a key is needed and none given.
    pub fn with_key(config: PiiConfig, key: Option<PiiKey>) -> Result<Self, DataError> {
        config.validate()?;
        if config.needs_key() && key.is_none() {
            return Err(DataError::Vault("pseudonyms, fakes and the vault need a key".to_owned()));
        }
        Ok(PiiStep { config, key, corpus: None, vault: Mutex::default() })
    }

    /// Whether [`Self::survey`] must see every record before [`RecordStep::apply`] may be called.
    pub fn needs_survey(&self) -> bool {
        let places = |o: &Operator| *o == Operator::Placeholder;
        self.config.scope == Scope::Corpus
            && (places(&self.config.operator) || self.config.operators.values().any(places))
    }

    /// Numbers the values of a whole corpus in the order of its records. May be called for one part after
    /// another. Without it a corpus-wide numbering would depend on which thread came first.
    pub fn survey(&mut self, records: &[Record]) {
        let mut numbers = self.corpus.take().unwrap_or_default();
        // First what stands there already, then what is to be numbered around it.
        for record in records {
            visit(&mut record.clone(), &mut |_, _, text| {
                numbers.reserve(text, &self.config);
                None
            });
        }
        for record in records {
            visit(&mut record.clone(), &mut |_, context, text| {
                for span in spans_in(context, text, &self.config) {
                    if *self.config.operator_of(span.kind) == Operator::Placeholder {
                        numbers.placeholder(span.kind, self.config.label(span.kind), &text[span.range()]);
                    }
                }
                None
            });
        }
        self.corpus = Some(numbers);
    }

    /// The originals behind the placeholders given so far.
    pub fn vault(&self) -> Vault {
        self.vault.lock().map_or_else(|poisoned| poisoned.into_inner().clone(), |vault| vault.clone())
    }

    /// Writes the vault to [`PiiConfig::vault`], if that is set.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn save_vault(&self) -> Result<(), DataError> {
        match (&self.config.vault, &self.key) {
            (Some(path), Some(key)) => self.vault().save(path, key),
            _ => Ok(()),
        }
    }

    /// What the audit shows of an id in which the step finds something.
    pub(crate) fn told_of_id(&self, id: &str) -> Option<String> {
        spans_in("", id, &self.config).first().map(|span| self.told(span.kind, id, span.score))
    }

    /// What hides the same in the files that tell what was dropped and changed; `None` where they may show it.
    pub(crate) fn concealment(&self) -> Option<Conceal> {
        (!self.config.audit_originals).then(|| Conceal::new(&self.config))
    }
}

impl RecordStep for PiiStep {
    fn name(&self) -> &'static str {
        "pii"
    }

    fn apply(&self, record: &mut Record, edits: &mut Vec<Edit>) -> Result<(), Drop> {
        let mut local = Numbers::default();
        let mut corpus = None;
        if self.needs_survey() {
            let Some(known) = &self.corpus else {
                return Err(Drop::new(
                    "pii_not_surveyed",
                    "a corpus-wide numbering needs the survey of all rows first",
                ));
            };
            corpus = Some(known);
        } else {
            visit(&mut record.clone(), &mut |_, _, text| {
                local.reserve(text, &self.config);
                None
            });
        }
        let id = record.id().to_owned();
        let mut originals = Vec::new();
        let mut unknown = None;
        visit(record, &mut |field, context, text| {
            let spans = spans_in(context, text, &self.config);
            if spans.is_empty() {
                return None;
            }
            let mut number = |kind: Kind, label: &str, value: &str| match corpus {
                None => local.placeholder(kind, label, value),
                Some(known) => known.given(kind, label, value).unwrap_or_else(|| {
                    unknown = Some(kind);
                    "[REDACTED]".to_owned()
                }),
            };
            let Redacted { text: fresh, replacements } =
                replace(text, &spans, &self.config, self.key.as_ref(), &mut number);
            let places = char_offsets(text, &spans);
            for (r, place) in replacements.into_iter().zip(places) {
                if *self.config.operator_of(r.span.kind) == Operator::Placeholder {
                    originals.push((r.after.clone(), r.before.clone()));
                }
                edits.push(Edit {
                    id: id.clone(),
                    step: "pii".to_owned(),
                    field: field.to_owned(),
                    start: place.start,
                    end: place.end,
                    before: self.told(r.span.kind, &r.before, r.span.score),
                    after: r.after,
                });
            }
            Some(fresh)
        });
        if let Some(kind) = unknown {
            return Err(Drop::new("pii_not_surveyed", format!("a {kind} that the survey did not see")));
        }
        if self.config.vault.is_some() {
            let scope = if corpus.is_some() { "" } else { &id };
            let mut vault =
                self.vault.lock().map_err(|_| Drop::new("pii_vault", "the vault is in an unknown state"))?;
            for (placeholder, original) in originals {
                vault
                    .insert(scope, &placeholder, &original)
                    .map_err(|e| Drop::new("pii_vault", e.to_string()))?;
            }
        }
        Ok(())
    }
}

impl PiiStep {
    /// What the audit shows of an original.
    fn told(&self, kind: Kind, before: &str, score: f32) -> String {
        if self.config.audit_originals {
            return before.to_owned();
        }
        format!("<{}, {} characters, score {score:.2}>", self.config.label(kind), before.chars().count())
    }
}
