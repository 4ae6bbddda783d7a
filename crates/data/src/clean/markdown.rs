//! Markdown: what editors leave behind, or all of it.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

use super::{TextStep, fix_prose};

/// How much Markdown goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkdownMode {
    /// What renders as nothing or as rubbish: escaped punctuation, empty links and pictures, emphasis that was
    /// never closed, rules and heading marks with nothing after them.
    #[default]
    Leftovers,
    /// All marks: the text as a reader would see it. Lists keep their bullets; code keeps everything.
    Plain,
}

/// Removes Markdown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Markdown(pub MarkdownMode);

impl TextStep for Markdown {
    fn name(&self) -> &'static str {
        "markdown"
    }

    fn fix<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !text.contains(['*', '_', '#', '[', '\\', '~', '-', '`', '=']) {
            return Cow::Borrowed(text);
        }
        match self.0 {
            MarkdownMode::Leftovers => fix_prose(text, leftovers),
            MarkdownMode::Plain => fix_prose(text, |part| plain(&leftovers(part))),
        }
    }
}

fn regex(pattern: &str) -> Regex {
    // The patterns are constants of this file, covered by its tests.
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("{pattern}: {e}"))
}

static ESCAPED: LazyLock<Regex> = LazyLock::new(|| regex(r"\\([\\`*_{}\[\]()#+.!>~|-])"));
static EMPTY_LINK: LazyLock<Regex> = LazyLock::new(|| regex(r"!?\[\s*\]\([^()\s]*\)|!\[[^\[\]]*\]\(\s*\)"));
static EMPTY_MARK: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^[ \t]*(?:#{1,6}|[*+-])[ \t]*$\n?"));
static EDGE_RULE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\A\s*(?:\*{3,}|-{3,}|_{3,})[ \t]*\n|\n[ \t]*(?:\*{3,}|-{3,}|_{3,})\s*\z"));

fn leftovers(text: &str) -> String {
    let mut out = Cow::Borrowed(text);
    // A path such as `C:\_old` or TeX such as `\{` is not an escape: ask for several, or none of the other kind.
    if ESCAPED.is_match(&out) && !looks_like_tex_or_path(&out) {
        out = Cow::Owned(ESCAPED.replace_all(&out, "$1").into_owned());
    }
    for pattern in [&EMPTY_LINK, &EMPTY_MARK, &EDGE_RULE] {
        if pattern.is_match(&out) {
            out = Cow::Owned(pattern.replace_all(&out, "").into_owned());
        }
    }
    out.split_inclusive('\n').map(close_emphasis).collect()
}

fn looks_like_tex_or_path(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.contains(":\\")
        || text.contains('$')
        || bytes.windows(2).any(|w| w[0] == b'\\' && w[1].is_ascii_alphanumeric())
}

/// A line with an odd number of `**` has one that stands for nothing: the one at the line's end or start goes.
fn close_emphasis(line: &str) -> Cow<'_, str> {
    for mark in ["**", "__"] {
        if line.matches(mark).count() != 1 || line.matches(&mark[..1]).count() > 2 {
            continue;
        }
        let body = line.trim();
        let cut = body.strip_prefix(mark).or_else(|| body.strip_suffix(mark));
        if let Some(cut) = cut.filter(|c| c.chars().any(char::is_alphabetic)) {
            return Cow::Owned(line.replacen(body, cut.trim(), 1));
        }
    }
    Cow::Borrowed(line)
}

static HEADING: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^[ \t]*#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$"));
static RULE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^[ \t]*(?:\*{3,}|-{3,}|_{3,})[ \t]*$\n?"));
static IMAGE: LazyLock<Regex> = LazyLock::new(|| regex(r"!\[([^\[\]]*)\]\([^()]*\)"));
static LINK: LazyLock<Regex> = LazyLock::new(|| regex(r#"\[([^\[\]]+)\]\((\S+?)(?:\s+"[^"]*")?\)"#));
static STRONG: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"\*\*\*(\S(?:[^*\n]*\S)?)\*\*\*|\*\*(\S(?:[^*\n]*\S)?)\*\*|~~(\S(?:[^~\n]*\S)?)~~")
});
static UNDERLINED: LazyLock<Regex> = LazyLock::new(|| regex(r"\b__(\S(?:[^_\n]*\S)?)__\b"));
static EMPHASIS: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"(^|[\s(“\x22'])(?:\*(\S(?:[^*\n]*[^\s*])?)\*|_(\S(?:[^_\n]*[^\s_])?)_)($|[\s.,;:!?)”\x22'])")
});
static QUOTE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^[ \t]*>[ \t]?"));

fn plain(text: &str) -> String {
    let mut out = HEADING.replace_all(text, "$1").into_owned();
    out = RULE.replace_all(&out, "").into_owned();
    out = IMAGE.replace_all(&out, "$1").into_owned();
    out = LINK
        .replace_all(&out, |link: &Captures<'_>| {
            let (words, to) = (&link[1], link[2].trim_start_matches("mailto:"));
            if words == to || !link[2].contains(['/', '.']) {
                words.to_owned()
            } else {
                format!("{words} ({to})")
            }
        })
        .into_owned();
    out = STRONG.replace_all(&out, "$1$2$3").into_owned();
    out = UNDERLINED.replace_all(&out, "$1").into_owned();
    // Neighbours share a blank, which one pass takes for the first only.
    for _ in 0..2 {
        out = EMPHASIS.replace_all(&out, "$1$2$3$4").into_owned();
    }
    QUOTE.replace_all(&out, "").into_owned()
}
