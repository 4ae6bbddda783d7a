//! Rows with classes, read and checked, and the names of the classes as a classifier keeps them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ferrotune_tokenizer::{Encoded, Limits, Tokenizer, Truncation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{json_lines, write_atomic};
use crate::recipes::{Labelled, Labels};

/// A file of rows.
pub(super) struct ClassRows {
    file: PathBuf,
    /// In the file's order.
    pub(super) rows: Vec<ClassRow>,
}

/// A row as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct ClassRow {
    pub(super) text: String,
    #[serde(default)]
    label: Option<Value>,
    #[serde(default)]
    spans: Option<Vec<ClassSpan>>,
    /// In its file, counted from 1.
    #[serde(skip)]
    line: usize,
}

#[derive(Debug, Deserialize)]
struct ClassSpan {
    /// In characters.
    start: usize,
    end: usize,
    label: String,
}

/// The class of tokens outside every span.
const OUTSIDE: &str = "O";

impl ClassRows {
    /// Rows whose labels nobody has looked at yet.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let wanted = ": wanted {\"text\", \"label\"} or {\"text\", \"spans\"}";
        let rows = json_lines(file, wanted, |line, row: ClassRow| Ok(ClassRow { line, ..row }))?;
        Ok(ClassRows { file: file.to_owned(), rows })
    }

    /// `file:line` of a row.
    pub(super) fn at(&self, row: &ClassRow) -> String {
        format!("{}:{}", self.file.display(), row.line)
    }

    /// The classes of the file, in the order of their names; for tokens, [`OUTSIDE`] first.
    ///
    /// # Errors
    /// A row that does not say its class; fewer than two classes.
    pub(super) fn classes(&self) -> Result<Classes> {
        let tokens = self.rows.iter().any(|row| row.spans.is_some());
        self.check(tokens)?;
        let mut names = BTreeSet::new();
        for row in &self.rows {
            names.extend(row.spans.iter().flatten().map(|span| span.label.clone()));
            names.extend(row.label.as_ref().map(label_name));
        }
        let mut names: Vec<String> = names.into_iter().filter(|name| !tokens || name != OUTSIDE).collect();
        if tokens {
            names.insert(0, OUTSIDE.to_owned());
        }
        if names.len() < 2 {
            bail!("{} names {} classes; a classifier needs at least 2", self.file.display(), names.len());
        }
        Ok(Classes { version: VERSION, trained: None, tokens, names })
    }

    /// Whether every row says its class: by spans where `tokens` have classes, else by a label.
    ///
    /// # Errors
    /// The first row that does not.
    pub(super) fn check(&self, tokens: bool) -> Result<()> {
        self.rows.iter().try_for_each(|row| row.check(tokens).with_context(|| self.at(row)))
    }

    /// The rows' tokens as far as there is room for them, none of a row that is left out for its length; says how many were
    /// too long.
    pub(super) fn encoded(&self, tokenizer: &Tokenizer, limits: &Limits) -> Result<Vec<Option<Encoded>>> {
        let (before, after) = tokenizer.around();
        let around = (before.len(), after.len());
        let mut n_long = 0;
        let mut encode = |row: &ClassRow| {
            let encoded = tokenizer.encode_with_offsets(&row.text, true).with_context(|| self.at(row))?;
            n_long += usize::from(encoded.ids.len() > limits.max_length);
            Ok(fit(encoded, around, limits))
        };
        let encoded = self.rows.iter().map(&mut encode).collect::<Result<_>>()?;
        if n_long > 0 {
            let fate = match limits.truncation {
                Truncation::Right => "their ends are cut off",
                Truncation::Left => "their beginnings are cut off",
                _ => "they are left out",
            };
            eprintln!(
                "{:>12}: {}: {n_long} of {} texts are longer than {} tokens: {fate} (--max-length, --truncation)",
                "classify",
                self.file.display(),
                self.rows.len(),
                limits.max_length
            );
        }
        Ok(encoded)
    }

    /// What a classifier trains on.
    ///
    /// # Errors
    /// A row of an unknown class, or without a token that could carry one.
    pub(super) fn labelled(
        &self,
        classes: &Classes,
        tokenizer: &Tokenizer,
        limits: &Limits,
    ) -> Result<Vec<Labelled>> {
        self.check(classes.tokens)?;
        let encoded = self.encoded(tokenizer, limits)?;
        let rows = self.rows.iter().zip(encoded).filter_map(|(row, encoded)| Some((row, encoded?)));
        rows.map(|(row, encoded)| row.labelled(encoded, classes).with_context(|| self.at(row))).collect()
    }
}

impl ClassRow {
    fn check(&self, tokens: bool) -> Result<()> {
        if !tokens {
            self.label.as_ref().context("no label: give the row one, or leave it out")?;
            return Ok(());
        }
        let Some(spans) = &self.spans else {
            bail!("no spans, though other rows have some: write \"spans\": [] where no token has a class");
        };
        if self.label.is_some() {
            bail!("a label beside spans: a text or its tokens have classes, not both");
        }
        let n = self.text.chars().count();
        for ClassSpan { start, end, .. } in spans {
            if start >= end {
                bail!("the span {start}..{end} is empty or reversed: `end` is one past its last character");
            }
            if *end > n {
                bail!("the span {start}..{end} lies outside its text of {n} characters");
            }
        }
        Ok(())
    }

    fn labelled(&self, encoded: Encoded, classes: &Classes) -> Result<Labelled> {
        let labels = match &self.label {
            Some(label) if !classes.tokens => Labels::Text(classes.index(&label_name(label))?),
            _ => Labels::Tokens(self.token_classes(&encoded, classes)?),
        };
        let nothing =
            encoded.ids.is_empty() || matches!(&labels, Labels::Tokens(of) if of.iter().all(Option::is_none));
        if nothing {
            bail!("the text has no token that could carry a class: leave the row out");
        }
        Ok(Labelled { ids: encoded.ids, labels })
    }

    fn token_classes(&self, encoded: &Encoded, classes: &Classes) -> Result<Vec<Option<usize>>> {
        // Spans count characters, tokens bytes.
        let bytes: Vec<usize> =
            self.text.char_indices().map(|(byte, _)| byte).chain([self.text.len()]).collect();
        let spans = self.spans.iter().flatten();
        let spans: Vec<(usize, usize, usize)> = spans
            .map(|span| Ok((bytes[span.start], bytes[span.end], classes.index(&span.label)?)))
            .collect::<Result<_>>()?;
        let of_token = |&(start, end): &(usize, usize)| {
            let inside = spans.iter().find(|(from, to, _)| start < *to && *from < end);
            (start < end).then(|| inside.map_or(0, |span| span.2))
        };
        Ok(encoded.offsets.iter().map(of_token).collect())
    }
}

fn label_name(label: &Value) -> String {
    label.as_str().map_or_else(|| label.to_string(), str::to_owned)
}

/// A text's tokens, the words among them cut so that all fit; none where longer texts are left out. `before` and
/// `after` are how many tokens stand around the words.
fn fit(mut encoded: Encoded, (before, after): (usize, usize), limits: &Limits) -> Option<Encoded> {
    let over = encoded.ids.len().saturating_sub(limits.max_length);
    if over == 0 {
        return Some(encoded);
    }
    let words = before..encoded.ids.len() - after;
    let cut = match limits.truncation {
        Truncation::Left => words.start..(words.start + over).min(words.end),
        Truncation::Right => words.end.saturating_sub(over).max(words.start)..words.end,
        Truncation::Drop | Truncation::Error => return None,
    };
    encoded.ids.drain(cut.clone());
    encoded.offsets.drain(cut);
    Some(encoded)
}

/// Version 1 did not say what was trained.
const VERSION: u32 = 2;

/// What stands beside a classifier's adapter or model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Classes {
    version: u32,
    /// What the head was trained with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trained: Option<Beside>,
    /// Whether every token has a class, or every text.
    pub(super) tokens: bool,
    /// Names of the classes, in the order of the head's rows.
    pub(super) names: Vec<String>,
}

/// What lies beside a head: the folder's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Beside {
    Adapter,
    Model,
}

impl Beside {
    /// Its folder in `out`.
    pub(super) fn folder(self, out: &Path) -> PathBuf {
        out.join(match self {
            Beside::Adapter => "adapter",
            Beside::Model => "model",
        })
    }
}

impl Classes {
    pub(super) fn path(folder: &Path) -> PathBuf {
        folder.join("classes.json")
    }

    /// What an earlier run left in `folder`.
    ///
    /// # Errors
    /// No classifier, or one of a version that this program does not know.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = Classes::path(folder);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} holds no classifier", folder.display()))?;
        let classes: Classes = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        if !(1..=VERSION).contains(&classes.version) {
            bail!("{}: version {}, this program reads 1 to {VERSION}", path.display(), classes.version);
        }
        Ok(classes)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        write_atomic(&Classes::path(folder), serde_json::to_string_pretty(self)?.as_bytes())
    }

    /// What the head goes with. A file of version 1 does not say, so that only one may be there.
    ///
    /// # Errors
    /// Both or none are there and the file does not say which.
    pub(super) fn beside(&self, folder: &Path) -> Result<Beside> {
        let found = [Beside::Adapter, Beside::Model].map(|kind| kind.folder(folder).is_dir());
        match (self.trained, found) {
            (Some(kind), _) => Ok(kind),
            (None, [true, false]) => Ok(Beside::Adapter),
            (None, [false, true]) => Ok(Beside::Model),
            (None, [true, true]) => bail!(
                "{} holds adapter/ and model/, and its classes.json does not say which of them the classifier is: move \
                 the older one away",
                folder.display()
            ),
            (None, [false, false]) => bail!("{} holds neither adapter/ nor model/", folder.display()),
        }
    }

    /// The key under which a row's answer stands.
    pub(super) fn key(&self) -> &'static str {
        if self.tokens { "tokens" } else { "label" }
    }

    fn index(&self, name: &str) -> Result<usize> {
        let found = self.names.iter().position(|known| known == name);
        found.with_context(|| format!("no class {name:?}; known: {}", self.names.join(", ")))
    }

    /// A class's name by its row of the head.
    pub(super) fn name(&self, class: i64) -> &str {
        usize::try_from(class).ok().and_then(|class| self.names.get(class)).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_where_it_was_asked_and_what_stands_around_them_stays() {
        let check = |truncation: Truncation, max_length: usize, expect: Option<&[u32]>| {
            let encoded = Encoded { ids: vec![1, 10, 11, 12, 13, 2], offsets: vec![(0, 0); 6] };
            let limits = Limits { max_length, truncation, ..Limits::default() };
            let found = fit(encoded, (1, 1), &limits);
            assert_eq!(found.as_ref().map(|e| e.ids.as_slice()), expect, "{truncation:?} {max_length}");
            assert!(found.is_none_or(|e| e.offsets.len() == e.ids.len()));
        };
        check(Truncation::Right, 6, Some(&[1, 10, 11, 12, 13, 2]));
        check(Truncation::Right, 4, Some(&[1, 10, 11, 2]));
        check(Truncation::Left, 4, Some(&[1, 12, 13, 2]));
        check(Truncation::Drop, 5, None);
        check(Truncation::Drop, 6, Some(&[1, 10, 11, 12, 13, 2]));
        check(Truncation::Right, 1, Some(&[1, 2]));
        check(Truncation::Left, 1, Some(&[1, 2]));
    }

    #[test]
    fn an_old_file_does_not_say_what_was_trained() {
        let dir = tempfile::tempdir().unwrap();
        let old = r#"{"version": 1, "tokens": false, "names": ["a", "b"]}"#;
        std::fs::write(Classes::path(dir.path()), old).unwrap();
        let classes = Classes::read(dir.path()).unwrap();
        assert_eq!(classes.trained, None);
        let error = classes.beside(dir.path()).unwrap_err().to_string();
        assert!(error.contains("neither"), "{error}");
        for (kind, other) in [(Beside::Adapter, Beside::Model), (Beside::Model, Beside::Adapter)] {
            std::fs::create_dir(kind.folder(dir.path())).unwrap();
            assert_eq!(classes.beside(dir.path()).unwrap(), kind);
            std::fs::create_dir(other.folder(dir.path())).unwrap();
            let error = classes.beside(dir.path()).unwrap_err().to_string();
            assert!(error.contains("move the older one away"), "{error}");
            let new = Classes { version: VERSION, trained: Some(other), ..classes.clone() };
            assert_eq!(new.beside(dir.path()).unwrap(), other);
            for kind in [kind, other] {
                std::fs::remove_dir(kind.folder(dir.path())).unwrap();
            }
        }
        std::fs::write(Classes::path(dir.path()), old.replace('1', "3")).unwrap();
        let error = Classes::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("version 3, this program reads 1 to 2"), "{error}");
    }
}
