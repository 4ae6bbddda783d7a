//! The dataset card: Markdown with the front matter that Hugging Face reads.

use std::fmt::Write;

use super::{InspectConfig, Inspection, Verdict};

/// The dataset card of an inspection.
pub fn card(seen: &Inspection, config: &InspectConfig) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_card(&mut out, seen, config);
    out
}

fn write_card(out: &mut String, seen: &Inspection, config: &InspectConfig) -> std::fmt::Result {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    writeln!(out, "---\npretty_name: {}", quoted(&seen.name))?;
    if !config.license.is_empty() {
        writeln!(out, "license: {}", quoted(&config.license))?;
    }
    let languages = seen.counts.get("language").into_iter().flatten();
    let mut languages: Vec<_> = languages.filter(|(language, _)| *language != "unknown").collect();
    languages.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    if let Some((main, _)) = languages.first() {
        writeln!(out, "language: {}", quoted(config.language.as_ref().unwrap_or(main)))?;
    }
    writeln!(out, "size_categories: {}\n---\n", quoted(size_category(seen.rows)))?;
    writeln!(out, "# {}\n", seen.name)?;
    if !config.description.is_empty() {
        writeln!(out, "{}\n", config.description)?;
    }
    if let Some(lost) = seen.told_lost() {
        writeln!(out, "{lost}\n")?;
    }
    let failed: Vec<&str> = named(seen, Verdict::Fail);
    let unknown: Vec<&str> = named(seen, Verdict::Unknown);
    let n = seen.checklist.len();
    if seen.is_ready() {
        writeln!(out, "{} rows. All {n} checks pass.\n", seen.rows)?;
    } else {
        let passed = n - failed.len() - unknown.len();
        writeln!(out, "{} rows. {passed} of {n} checks pass.\n", seen.rows)?;
        for (what, keys) in [("Failed", failed), ("Not checked", unknown)] {
            if !keys.is_empty() {
                writeln!(out, "{what}: {}.\n", keys.join(", "))?;
            }
        }
    }

    writeln!(out, "## Checklist\n\n| | what | figures |\n|---|---|---|")?;
    for check in &seen.checklist {
        let mark = match check.verdict {
            Verdict::Pass => "pass",
            Verdict::Fail => "**fail**",
            Verdict::Unknown => "not checked",
        };
        writeln!(out, "| {mark} | {} | {} |", cell(&check.title), cell(&check.figures))?;
    }
    writeln!(out, "\n## What is in it\n")?;
    for (what, values) in &seen.counts {
        let mut values: Vec<_> = values.iter().collect();
        values.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let shown: Vec<String> = values.iter().take(12).map(|(v, n)| format!("{v} {n}")).collect();
        let more = if values.len() > 12 { format!(" and {} more", values.len() - 12) } else { String::new() };
        writeln!(out, "- {what}: {}{more}", shown.join(", "))?;
    }
    writeln!(out, "\n| | n | mean | least | 10% | middle | 90% | most |\n|---|---|---|---|---|---|---|---|")?;
    for spread in &seen.distributions {
        let [least, p10, middle, p90, most] = spread.quantiles;
        let (name, n, mean) = (&spread.name, spread.n, spread.mean);
        writeln!(out, "| {name} | {n} | {mean:.1} | {least} | {p10} | {middle} | {p90} | {most} |")?;
    }
    writeln!(out, "\n## Topics\n\n| rows | words |\n|---|---|")?;
    for topic in &seen.topics {
        writeln!(out, "| {} | {} |", topic.rows, cell(&topic.words.join(", ")))?;
    }
    writeln!(out, "\n## Read by\n\n| name | rows | date | note |\n|---|---|---|---|")?;
    for review in &config.reviews {
        let (name, date, note) = (cell(&review.name), cell(&review.date), cell(&review.note));
        writeln!(out, "| {name} | {} | {date} | {note} |", review.rows)?;
    }
    if config.reviews.is_empty() {
        writeln!(out, "| | | | |")?;
        let (n, seed) = (seen.sample.len(), config.seed);
        writeln!(out, "\nNobody has signed yet. The {n} rows to read are those drawn by seed {seed}.")?;
    }
    writeln!(
        out,
        "\n## Limits\n\nLanguage, personal data, gaps and topics are found by rules and word statistics: what \
         they miss is not counted here. Personal names and postal addresses in particular are found only in part."
    )
}

fn named(seen: &Inspection, verdict: Verdict) -> Vec<&str> {
    seen.checklist.iter().filter(|c| c.verdict == verdict).map(|c| c.key.as_str()).collect()
}

/// A text that does not break its table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

fn size_category(rows: usize) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        _ => "n>10M",
    }
}
