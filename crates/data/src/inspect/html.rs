//! The inspection as one page: the verdict first, no script, nothing fetched, readable on a phone.

use std::fmt::{Result, Write};

use super::{Distribution, InspectConfig, Inspection, SampleRow, Verdict};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--paper:#fff;--line:#dfe4ea;--bar:#3b74c4;--good:#1d7a46;\
--bad:#b3261e;--open:#8a6100}\
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--paper:#14181f;--line:#2d3541;--bar:#6f9fe0;\
--good:#5cc58b;--bad:#f2857d;--open:#d9ab45}}\
*{box-sizing:border-box}body{margin:0 auto;max-width:52rem;padding:1.25rem;background:var(--paper);color:var(--ink);\
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}\
h1{font-size:1.6rem;line-height:1.2;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .6rem}\
p{margin:.4rem 0}.soft{color:var(--soft);font-size:.9rem}\
.verdict{border-left:.35rem solid;padding:.6rem .9rem;margin:1rem 0;font-size:1.1rem}\
.pass{color:var(--good)}.fail{color:var(--bad)}.unknown{color:var(--open)}\
ul.checks{list-style:none;margin:0;padding:0}.checks li{padding:.55rem 0;border-top:1px solid var(--line);\
display:grid;grid-template-columns:5.6rem 1fr;gap:.2rem .6rem}.checks b{font-weight:600}.checks .soft{grid-column:2}.checks i{font-style:normal;white-space:nowrap}\
figure{margin:1rem 0}figcaption{font-size:.95rem}svg{width:100%;max-width:34rem;height:auto;display:block}\
svg rect{fill:var(--bar)}svg text{fill:var(--soft);font:11px system-ui,sans-serif}svg line{stroke:var(--line)}\
.row{display:grid;grid-template-columns:minmax(0,42%) 1fr 2.6rem;gap:.6rem;align-items:center;font-size:.92rem;\
padding:.12rem 0}.row i{display:block;height:.75rem;background:var(--bar);border-radius:2px;min-width:1px}\
.row span:last-child{text-align:right}\
details{border-top:1px solid var(--line);padding:.5rem 0}summary{cursor:pointer}\
.said{margin:.5rem 0;white-space:pre-wrap}.said b{display:block;color:var(--soft);font-size:.8rem;font-weight:600}";

/// The page of an inspection.
pub fn html(seen: &Inspection, config: &InspectConfig) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_page(&mut out, seen, config);
    out
}

fn write_page(out: &mut String, seen: &Inspection, config: &InspectConfig) -> Result {
    let name = escape(&seen.name);
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{name}</title>\
         <style>{STYLE}</style></head><body>\n<p class=\"soft\">Dataset inspection</p><h1>{name}</h1>\n"
    )?;
    if !config.description.is_empty() {
        writeln!(out, "<p>{}</p>", escape(&config.description))?;
    }
    let count = |verdict| seen.checklist.iter().filter(|c| c.verdict == verdict).count();
    let (failed, unknown, n) = (count(Verdict::Fail), count(Verdict::Unknown), seen.checklist.len());
    let (class, word) = match (failed, unknown) {
        (0, 0) => ("pass", "Ready to train on"),
        (0, _) => ("unknown", "Nothing failed, not everything was checked"),
        _ => ("fail", "Not ready to train on"),
    };
    writeln!(
        out,
        "<p class=\"verdict {class}\"><b>{word}.</b> {} rows; of {n} checks {} pass, {failed} fail and {unknown} \
         were not made.</p>",
        seen.rows,
        n - failed - unknown
    )?;
    if let Some(lost) = seen.told_lost() {
        writeln!(out, "<p>{}</p>", escape(&lost))?;
    }
    writeln!(out, "<h2>Checklist</h2><ul class=\"checks\">")?;
    for check in &seen.checklist {
        let (class, word) = match check.verdict {
            Verdict::Pass => ("pass", "✓ pass"),
            Verdict::Fail => ("fail", "✗ fail"),
            Verdict::Unknown => ("unknown", "– open"),
        };
        let (title, figures) = (escape(&check.title), escape(&check.figures));
        write!(out, "<li><span class=\"{class}\">{word}</span><b>{title}</b><span class=\"soft\">{figures}")?;
        if !check.rows.is_empty() {
            let ids: Vec<String> = check.rows.iter().map(|id| format!("<i>{}</i>", escape(id))).collect();
            write!(out, "<br>Rows: {}", ids.join(", "))?;
        }
        writeln!(out, "</span></li>")?;
    }
    writeln!(out, "</ul><h2>Lengths and turns</h2>")?;
    for spread in &seen.distributions {
        histogram(out, spread)?;
    }
    writeln!(out, "<h2>Topics</h2>")?;
    let topics = seen.topics.iter().map(|t| {
        let words = if t.words.is_empty() { "no telling word".to_owned() } else { t.words.join(", ") };
        (words, t.rows)
    });
    bars(out, topics.collect())?;
    for (what, values) in &seen.counts {
        if values.len() > 1 {
            writeln!(out, "<h2>By {}</h2>", escape(what))?;
            let mut values: Vec<(String, usize)> = values.iter().map(|(v, &n)| (v.clone(), n)).collect();
            values.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            let more = values.len().saturating_sub(16);
            values.truncate(16);
            bars(out, values)?;
            if more > 0 {
                writeln!(out, "<p class=\"soft\">and {more} more</p>")?;
            }
        }
    }
    let seed = config.seed;
    writeln!(out, "<h2>Rows to read</h2><p class=\"soft\">{} drawn by seed {seed}.</p>", seen.sample.len())?;
    for row in &seen.sample {
        sample_row(out, row)?;
    }
    writeln!(out, "</body></html>")
}

/// A histogram as inline SVG, with its figures in words below.
fn histogram(out: &mut String, spread: &Distribution) -> Result {
    const WIDTH: f64 = 400.0;
    const HEIGHT: f64 = 150.0;
    const FOOT: f64 = 18.0;
    let [least, p10, middle, p90, most] = spread.quantiles;
    let name = escape(&spread.name);
    let highest = spread.bins.iter().map(|b| b.n).max().unwrap_or(1).max(1);
    let step = WIDTH / spread.bins.len().max(1) as f64;
    writeln!(out, "<figure><figcaption><b>{name}</b></figcaption>")?;
    let label = format!("histogram of {name}");
    writeln!(out, "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{label}\">", HEIGHT + FOOT)?;
    writeln!(out, "<line x1=\"0\" y1=\"{HEIGHT}\" x2=\"{WIDTH}\" y2=\"{HEIGHT}\"/>")?;
    let every = spread.bins.len().div_ceil(7).max(1);
    for (i, bin) in spread.bins.iter().enumerate() {
        let (x, height) = (i as f64 * step, bin.n as f64 / highest as f64 * (HEIGHT - 14.0));
        let range = if bin.to == bin.from + 1 {
            bin.from.to_string()
        } else {
            format!("{} to {}", bin.from, bin.to - 1)
        };
        writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{range}: {}</title></rect>",
            x + step * 0.05,
            HEIGHT - height,
            step * 0.9,
            bin.n
        )?;
        if i % every == 0 {
            let y = HEIGHT + FOOT - 4.0;
            writeln!(out, "<text x=\"{:.1}\" y=\"{y:.0}\">{}</text>", x + step * 0.05, bin.from)?;
        }
    }
    writeln!(
        out,
        "</svg><p class=\"soft\">{} values, mean {:.1}; least {least}, 10% at most {p10}, middle {middle}, 90% at \
         most {p90}, most {most}. The last bar holds all that is longer.</p></figure>",
        spread.n, spread.mean
    )
}

fn bars(out: &mut String, values: Vec<(String, usize)>) -> Result {
    let most = values.iter().map(|v| v.1).max().unwrap_or(1).max(1);
    for (name, n) in values {
        let width = n as f64 / most as f64 * 100.0;
        let name = escape(&name);
        writeln!(
            out,
            "<div class=\"row\"><span>{name}</span><span><i style=\"width:{width:.1}%\"></i></span><span>{n}</span></div>"
        )?;
    }
    Ok(())
}

fn sample_row(out: &mut String, row: &SampleRow) -> Result {
    let first: String =
        row.texts.first().map(|(_, text)| text.chars().take(70).collect()).unwrap_or_default();
    writeln!(out, "<details><summary><b>{}</b> {}</summary>", escape(&row.id), escape(&first))?;
    for (who, text) in &row.texts {
        writeln!(out, "<div class=\"said\"><b>{}</b>{}</div>", escape(who), escape(text))?;
    }
    writeln!(out, "</details>")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}
