//! Lines that many rows share: menus, cookie notices, footers. The only fix that looks at all rows.

use std::collections::HashMap;

use ferrotune_types::Role;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::diff;
use crate::{Edit, Record};

/// Which repeated lines are boilerplate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BoilerplateConfig {
    /// A line must stand in at least this many rows …
    pub min_rows: usize,
    /// … and in at least this share of them.
    pub min_share: f64,
    /// Shorter lines (in characters) are left alone.
    pub min_chars: usize,
}

impl Default for BoilerplateConfig {
    fn default() -> Self {
        BoilerplateConfig { min_rows: 10, min_share: 0.01, min_chars: 20 }
    }
}

/// A line that was removed and how many rows had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoilerplateLine {
    /// The line as its first row has it.
    pub line: String,
    /// Rows that had it.
    pub rows: usize,
}

/// Removes from every text the lines that too many rows share. A text of one line is never touched, and one that
/// is nothing but such lines keeps them: whether it is worth keeping is a filter's question. Code keeps its lines.
///
/// Returns the removed lines, the commonest first.
pub fn remove(
    records: &mut [Record],
    config: &BoilerplateConfig,
    edits: &mut Vec<Edit>,
) -> Vec<BoilerplateLine> {
    let n_rows = records.len();
    let mut counts: HashMap<u64, usize> = HashMap::new();
    let mut in_row = Vec::new();
    for record in &*records {
        in_row.clear();
        for text in record.spoken().iter().filter(|s| looks_at(s.role)).filter(|s| s.text.contains('\n')) {
            in_row.extend(text.text.lines().filter_map(|line| key(line, config)));
        }
        in_row.sort_unstable();
        in_row.dedup();
        for &key in &in_row {
            *counts.entry(key).or_default() += 1;
        }
    }
    let needed = config.min_rows.max((config.min_share * n_rows as f64).ceil() as usize).max(2);
    counts.retain(|_, n| *n >= needed);
    let mut removed: Vec<(u64, BoilerplateLine)> = Vec::new();
    for record in records {
        let id = record.id().to_owned();
        for (field, role, text) in record.spoken_mut() {
            if !looks_at(role) || !text.contains('\n') {
                continue;
            }
            let is_boilerplate = |line: &str| key(line, config).filter(|k| counts.contains_key(k));
            let left: String = text.split_inclusive('\n').filter(|l| is_boilerplate(l).is_none()).collect();
            if left.len() == text.len() || left.trim().is_empty() {
                continue;
            }
            for line in text.lines() {
                if let Some(key) = is_boilerplate(line)
                    && !removed.iter().any(|(k, _)| *k == key)
                {
                    removed.push((key, BoilerplateLine { line: line.trim().to_owned(), rows: counts[&key] }));
                }
            }
            let left = left.trim_end().to_owned();
            diff::push(&id, "boilerplate", &field, text, &left, edits);
            *text = left;
        }
    }
    let mut lines: Vec<BoilerplateLine> = removed.into_iter().map(|(_, line)| line).collect();
    lines.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.line.cmp(&b.line)));
    lines
}

fn looks_at(role: Option<Role>) -> bool {
    matches!(role, None | Some(Role::User | Role::Assistant))
}

/// What lines are compared by: their words, without case; `None` for lines too short to tell.
fn key(line: &str, config: &BoilerplateConfig) -> Option<u64> {
    let line = line.trim();
    let long_enough = line.chars().count() >= config.min_chars && line.chars().any(char::is_alphabetic);
    long_enough.then(|| xxh3_64(line.to_lowercase().as_bytes()))
}
