use std::collections::BTreeMap;
use std::path::PathBuf;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::Kind;
use super::numbering;
use crate::DataError;

/// What to look for and what to do with it: the `pii` step of a recipe.
///
/// ```
/// use ferrotune_data::pii::{Kind, Operator, PiiConfig};
/// let config: PiiConfig = toml::from_str(r#"
///     kinds = ["email", "phone", "card"]
///     operator = "placeholder"
///     scope = "record"
///     min_score = 0.5
///     allow = ["support@bluesky.example"]
///     operators = { card = { mask = { with = "*", keep_last = 4 } } }
///     custom = [{ name = "CUSTOMER_NUMBER", pattern = 'KD-\d{6}' }]
/// "#).unwrap();
/// assert_eq!(config.kinds, [Kind::Email, Kind::Phone, Kind::Card]);
/// assert_eq!(config.operator_of(Kind::Card), &Operator::Mask { with: '*', keep_last: 4 });
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PiiConfig {
    /// Kinds to report. The default is every one but [`Kind::Date`].
    pub kinds: Vec<Kind>,
    /// Spans below it are not reported. 0.5 by default.
    pub min_score: f32,
    /// Countries (ISO 3166 alpha-2) whose national phone formats count without context; numbers that begin
    /// with `+` are known whatever the country.
    pub regions: Vec<String>,
    /// Values that are never personal, such as the company's own support address; letter case is ignored.
    pub allow: Vec<String>,
    /// Patterns of one's own; they win over every other kind.
    pub custom: Vec<CustomPattern>,
    /// What to put in the place of a span.
    pub operator: Operator,
    /// Exceptions to `operator`, by kind.
    pub operators: BTreeMap<Kind, Operator>,
    /// How far the same value gets the same number: within a record, or across the corpus.
    pub scope: Scope,
    /// The environment variable that holds the key for pseudonyms, fakes and the vault: 64 hexadecimal digits.
    pub key_env: String,
    /// Where to keep the originals, encrypted; none by default.
    pub vault: Option<PathBuf>,
    /// Whether the audit of edits repeats the originals, for a review on a safe machine. Off by default.
    pub audit_originals: bool,
}

impl Default for PiiConfig {
    fn default() -> Self {
        PiiConfig {
            kinds: Kind::ALL.into_iter().filter(|&k| k != Kind::Date).collect(),
            min_score: 0.5,
            regions: ["US", "GB", "DE", "FR", "ES", "IT", "IN"].map(str::to_owned).to_vec(),
            allow: Vec::new(),
            custom: Vec::new(),
            operator: Operator::Placeholder,
            operators: BTreeMap::new(),
            scope: Scope::Record,
            key_env: "FERROTUNE_PII_KEY".to_owned(),
            vault: None,
            audit_originals: false,
        }
    }
}

/// What to put in the place of a span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// `[EMAIL_1]`: the same value gets the same number within the [`Scope`]; another spelling of it (letter
    /// case, blanks in a number) gets `[EMAIL_1.2]`. The one operator that a [`super::Vault`] can undo.
    Placeholder,
    /// `[EMAIL:9f2c41d07ab3]`: the same value gets the same code wherever the same key is used (HMAC-SHA-256).
    Pseudonym,
    /// A made-up value of the same form, the same for the same value and key: reserved domains and address
    /// blocks, card numbers that pass Luhn, dates moved by up to a year. It is meant to be found again.
    Fake,
    /// Every letter and digit overwritten, but the last few if wanted.
    Mask {
        /// What to write; not a letter or digit.
        with: char,
        /// How many letters and digits to leave at the end, at most 4. Names, secrets and addresses keep none.
        keep_last: usize,
    },
    /// `[REDACTED]`: not even the kind is told.
    Redact,
}

/// How far placeholders keep their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Numbers start at 1 in every record.
    Record,
    /// One numbering for all records, in their order: [`super::PiiStep::survey`] must see them first.
    Corpus,
}

/// A pattern of one's own, with the name that its placeholders carry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "PatternFile", into = "PatternFile")]
pub struct CustomPattern {
    name: String,
    regex: Regex,
    score: f32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternFile {
    name: String,
    pattern: String,
    #[serde(default = "sure")]
    score: f32,
}

fn sure() -> f32 {
    1.0
}

impl TryFrom<PatternFile> for CustomPattern {
    type Error = DataError;

    fn try_from(file: PatternFile) -> Result<Self, DataError> {
        CustomPattern::new(&file.name, &file.pattern, file.score)
    }
}

impl From<CustomPattern> for PatternFile {
    fn from(p: CustomPattern) -> Self {
        PatternFile { name: p.name, pattern: p.regex.as_str().to_owned(), score: p.score }
    }
}

impl CustomPattern {
    /// `name` is upper-case letters, digits and `_`; `pattern` is a regular expression (the `regex` crate's
    /// syntax), and its whole match is the span.
    ///
    /// # Errors
    /// [`DataError::Config`] where the name or the pattern is unusable.
    pub fn new(name: &str, pattern: &str, score: f32) -> Result<Self, DataError> {
        let bad = |why: String| DataError::Config(format!("pii: custom pattern {name:?}: {why}"));
        let mut letters = name.bytes();
        if !letters.next().is_some_and(|b| b.is_ascii_uppercase())
            || !letters.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            || name.len() > 40
        {
            return Err(bad("a name is up to 40 upper-case letters, digits and _, a letter first".into()));
        }
        if !(0.0..=1.0).contains(&score) {
            return Err(bad(format!("score {score} is not between 0 and 1")));
        }
        let regex = Regex::new(pattern).map_err(|e| bad(e.to_string()))?;
        Ok(CustomPattern { name: name.to_owned(), regex, score })
    }

    /// What its placeholders are called.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn regex(&self) -> &Regex {
        &self.regex
    }

    pub(crate) fn score(&self) -> f32 {
        self.score
    }
}

impl PiiConfig {
    /// Every kind, plain dates included.
    pub fn everything() -> Self {
        PiiConfig { kinds: Kind::ALL.to_vec(), ..PiiConfig::default() }
    }

    /// What happens to a span of this kind.
    pub fn operator_of(&self, kind: Kind) -> &Operator {
        self.operators.get(&kind).unwrap_or(&self.operator)
    }

    /// The word that a placeholder of this kind carries.
    pub fn label(&self, kind: Kind) -> &str {
        match kind {
            Kind::Custom(n) => self.custom.get(n).map_or("CUSTOM", |p| &p.name),
            kind => kind.label(),
        }
    }

    pub(crate) fn asks_for(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Custom(_)) || self.kinds.contains(&kind)
    }

    pub(crate) fn allows(&self, value: &str) -> bool {
        self.allow.iter().any(|a| a.to_lowercase() == value.to_lowercase())
    }

    /// Whether any span would need the key.
    pub(crate) fn needs_key(&self) -> bool {
        let keyed = |o: &Operator| matches!(o, Operator::Pseudonym | Operator::Fake);
        keyed(&self.operator) || self.operators.values().any(keyed) || self.vault.is_some()
    }

    /// # Errors
    /// [`DataError::Config`] where a setting is out of range.
    pub(crate) fn validate(&self) -> Result<(), DataError> {
        let bad = |why: String| Err(DataError::Config(format!("pii: {why}")));
        if !(0.0..=1.0).contains(&self.min_score) {
            return bad(format!("min_score {} is not between 0 and 1", self.min_score));
        }
        for region in &self.regions {
            if !numbering::is_region(region) {
                return bad(format!("{region:?} is no country code (two letters, ISO 3166)"));
            }
        }
        for operator in std::iter::once(&self.operator).chain(self.operators.values()) {
            if let Operator::Mask { with, keep_last } = operator
                && (with.is_alphanumeric() || with.is_whitespace() || *keep_last > 4)
            {
                return bad(
                    "mask: `with` is a sign, not a letter, digit or blank; `keep_last` is at most 4".into()
                );
            }
        }
        if self.vault.is_some()
            && !std::iter::once(&self.operator)
                .chain(self.operators.values())
                .any(|o| *o == Operator::Placeholder)
        {
            return bad(
                "a vault keeps what placeholders hide, but no kind uses the placeholder operator".into()
            );
        }
        Ok(())
    }
}
