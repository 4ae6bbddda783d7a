//! A recipe: what to read, and the steps in their order.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::step::{Step, beside};
use super::suggest::{nearest, with_suggestion};
use crate::DataError;
use crate::filter::CountTokens;
use crate::read::ReadOptions;

/// A recipe, checked: every step's settings are known and within their ranges.
///
/// ```toml
/// version = 1
/// name = "my tickets"
/// [read.columns]              # only where detection needs help
/// question = "Customer said"
/// [[step]]                    # run from top to bottom
/// kind = "html"
/// [[step]]
/// kind = "length"
/// min_words = 3
/// ```
#[derive(Clone)]
pub struct Recipe {
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// How inputs are read.
    pub read: ReadOptions,
    /// Each step's kind and settings.
    steps: Vec<(String, Table)>,
    /// Paths in settings are relative to the recipe's file.
    folder: Option<PathBuf>,
    count_tokens: Option<CountTokens>,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipe").field("name", &self.name).field("steps", &self.steps).finish_non_exhaustive()
    }
}

/// The recipes that come with the crate.
const BUILTIN: [(&str, &str); 4] = [
    ("tickets", include_str!("../../recipes/tickets.toml")),
    ("instructions", include_str!("../../recipes/instructions.toml")),
    ("web", include_str!("../../recipes/web.toml")),
    ("preferences", include_str!("../../recipes/preferences.toml")),
];

impl Recipe {
    /// Reads a recipe from its text.
    ///
    /// # Errors
    /// [`DataError::Config`] with the place of the fault and, for an unknown key or kind, the nearest known one.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        Recipe::parse_in(text, None)
    }

    fn parse_in(text: &str, folder: Option<PathBuf>) -> Result<Self, DataError> {
        let error = |what: String| DataError::Config(format!("recipe: {what}"));
        let mut table: Table = text.parse().map_err(|e: toml::de::Error| error(e.to_string()))?;
        match table.remove("version") {
            Some(Value::Integer(1)) => {}
            Some(other) => return Err(error(format!("version {other} is not known, this program reads 1"))),
            None => return Err(error("`version = 1` is missing".into())),
        }
        let mut take_text = |key: &str| match table.remove(key) {
            Some(Value::String(text)) => Ok(text),
            None => Ok(String::new()),
            Some(_) => Err(error(format!("`{key}` must be a text"))),
        };
        let (name, description) = (take_text("name")?, take_text("description")?);
        let read = match table.remove("read") {
            Some(read) => {
                read.try_into().map_err(|e| error(format!("[read]: {}", with_suggestion(&e.to_string()))))?
            }
            None => ReadOptions::default(),
        };
        let listed = match table.remove("step") {
            Some(Value::Array(steps)) => steps,
            None => Vec::new(),
            Some(_) => return Err(error("steps must be written as [[step]]".into())),
        };
        if let Some(key) = table.keys().next() {
            let known = ["version", "name", "description", "read", "step"];
            let hint = nearest(key, known).map_or(String::new(), |k| format!("; did you mean `{k}`?"));
            return Err(error(format!("unknown key `{key}`{hint}")));
        }
        let mut steps = Vec::new();
        for (i, step) in listed.into_iter().enumerate() {
            let Value::Table(mut settings) = step else { return Err(error("a step must be a table".into())) };
            let Some(Value::String(kind)) = settings.remove("kind") else {
                return Err(error(format!("step {} has no `kind`", i + 1)));
            };
            steps.push((kind, settings));
        }
        let recipe = Recipe { name, description, read, steps, folder, count_tokens: None };
        recipe.steps()?;
        Ok(recipe)
    }

    /// Reads a recipe's file. Paths in its settings are relative to the file.
    ///
    /// # Errors
    /// [`DataError::Io`], or as [`Self::parse`].
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let text = fs::read_to_string(path).map_err(DataError::io("read", path))?;
        Recipe::parse_in(&text, path.parent().map(Path::to_owned))
    }

    /// One of the recipes that come with the crate: `tickets`, `instructions`, `web` or `preferences`.
    ///
    /// # Errors
    /// [`DataError::Config`] for another name.
    pub fn builtin(name: &str) -> Result<Self, DataError> {
        let text = BUILTIN.iter().find(|(n, _)| *n == name).map(|(_, text)| *text);
        let text = text.ok_or_else(|| {
            let names: Vec<&str> = BUILTIN.iter().map(|(n, _)| *n).collect();
            DataError::Config(format!(
                "no built-in recipe is called `{name}`: there are {}",
                names.join(", ")
            ))
        })?;
        Recipe::parse(text)
    }

    /// The text of a built-in recipe, to start one's own from.
    pub fn builtin_text(name: &str) -> Option<&'static str> {
        BUILTIN.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
    }

    /// Counts tokens by a tokenizer instead of by the rule of thumb.
    #[must_use]
    pub fn with_token_counter(mut self, count: CountTokens) -> Self {
        self.count_tokens = Some(count);
        self
    }

    /// The `pii` steps of another recipe, put before the first step that looks at all rows, where this one has none: what is
    /// taken out of a product's conversations is taken out of its preference pairs too. A vault gets a file of its own
    /// beside the other's, `NAME-RECIPE.EXTENSION`.
    ///
    /// ```
    /// use ferrotune_data::curate::Recipe;
    /// let tickets = Recipe::builtin("tickets").unwrap();
    /// let pairs = Recipe::builtin("preferences").unwrap().with_pii_of(&tickets).unwrap();
    /// assert!(pairs.kinds().any(|kind| kind == "pii"));
    /// ```
    ///
    /// # Errors
    /// [`DataError::Config`] where this recipe's steps cannot be made ready.
    pub fn with_pii_of(mut self, other: &Recipe) -> Result<Self, DataError> {
        if self.kinds().any(|kind| kind == "pii") {
            return Ok(self);
        }
        let mut taken: Vec<(String, Table)> =
            other.steps.iter().filter(|(kind, _)| kind == "pii").cloned().collect();
        for (_, settings) in &mut taken {
            if let Some(Value::String(vault)) = settings.get_mut("vault") {
                let path = own_vault(&beside(other.folder.as_deref(), Path::new(vault.as_str())), &self.name);
                *vault = std::path::absolute(&path).unwrap_or(path).to_string_lossy().into_owned();
            }
        }
        let first = self.steps()?.iter().position(|step| matches!(step, Step::Set(_)));
        let first = first.unwrap_or(self.steps.len());
        self.steps.splice(first..first, taken);
        Ok(self)
    }

    /// The kinds of its steps, in order.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|(kind, _)| kind.as_str())
    }

    /// Rows that a `split` holds out are seen by no later step, so personal data must be gone by then.
    fn check_order(&self) -> Result<(), DataError> {
        let Some(split) = self.kinds().position(|kind| kind == "split") else { return Ok(()) };
        match self.kinds().skip(split).position(|kind| kind == "pii") {
            None => Ok(()),
            Some(after) => Err(DataError::Config(format!(
                "recipe: step {} (split) stands before step {} (pii), so the rows that it holds out would keep their \
                 personal data: move `split` below `pii`",
                split + 1,
                split + after + 1
            ))),
        }
    }

    /// The steps, ready to run.
    pub(super) fn steps(&self) -> Result<Vec<Step>, DataError> {
        self.check_order()?;
        let build = |(i, (kind, settings)): (usize, &(String, Table))| {
            Step::build(kind, settings.clone(), self.folder.as_deref(), self.count_tokens.as_ref()).map_err(
                |e| match e {
                    DataError::Config(what) => {
                        DataError::Config(format!("recipe: step {} ({kind}): {what}", i + 1))
                    }
                    other => other,
                },
            )
        };
        self.steps.iter().enumerate().map(build).collect()
    }
}

/// `NAME-RECIPE.EXTENSION` beside `NAME.EXTENSION`.
fn own_vault(vault: &Path, recipe: &str) -> PathBuf {
    let mut name = vault.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{recipe}"));
    if let Some(extension) = vault.extension() {
        name.push(".");
        name.push(extension);
    }
    vault.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_recipes_have_two_vaults() {
        for (vault, own) in
            [("a/safe.bin", "a/safe-pairs.bin"), ("safe", "safe-pairs"), ("a.b/c.d.e", "a.b/c.d-pairs.e")]
        {
            assert_eq!(own_vault(Path::new(vault), "pairs"), Path::new(own));
        }
    }
}
