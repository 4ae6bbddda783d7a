//! HTML to text: only where there really is HTML.

use std::borrow::Cow;
use std::sync::LazyLock;

use html2text::config;
use html2text::render::{TaggedLine, TextDecorator};
use regex::{Captures, Regex};

use super::{TextStep, fix_prose, whitespace};

/// Turns HTML into readable text and resolves entities. `<3`, `a < b`, `List<String>` and code stay.
#[derive(Debug, Clone, Copy, Default)]
pub struct Html;

impl TextStep for Html {
    fn name(&self) -> &'static str {
        "html"
    }

    fn fix<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !text.contains(['<', '&']) {
            return Cow::Borrowed(text);
        }
        fix_prose(text, html_to_text)
    }
}

fn regex(pattern: &str) -> Regex {
    // The patterns are constants of this file, covered by its tests.
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("{pattern}: {e}"))
}

/// Tags of HTML that a text can hold. What is not in the list (`<String>`, `<name>`) is not HTML.
static TAG: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?xi) <(?P<close>/?)(?P<name>a|abbr|address|article|aside|b|big|blockquote|body|br|button|caption|center|cite|code
        |col|colgroup|dd|del|details|div|dl|dt|em|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe
        |img|input|ins|kbd|label|li|link|main|mark|meta|nav|noscript|o:p|ol|option|p|pre|q|s|samp|script|section|select|small
        |span|strike|strong|style|sub|summary|sup|svg|table|tbody|td|tfoot|th|thead|time|title|tr|tt|u|ul|video|wbr)
        (?P<rest>(?:\s+(?:[a-zA-Z_:@][\w:.-]*(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>=]+))?|\s))*\s*)/?>"#,
    )
});

static COMMENT: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?s)<!--.*?-->|<!(?i:doctype)[^<>]*>|<\?xml[^<>]*\?>|<!\[CDATA\[|\]\]>"));
static ENTITY: LazyLock<Regex> =
    LazyLock::new(|| regex(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,23});"));
static INLINE_CODE: LazyLock<Regex> = LazyLock::new(|| regex(r"`[^`\n]+`"));

/// Tags that stand alone.
const VOID: [&str; 8] = ["br", "hr", "img", "input", "meta", "link", "wbr", "col"];
/// Tags that break lines: where a text has none of them, its own line breaks mean something.
const BLOCK: [&str; 24] = [
    "article",
    "blockquote",
    "body",
    "br",
    "div",
    "dl",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "html",
    "li",
    "ol",
    "p",
    "section",
    "table",
    "tr",
    "ul",
];

/// The text of a piece of HTML: blocks on lines of their own, lists with bullets or numbers, table rows as
/// `a | b`, scripts and styles gone, links as their words followed by their target in parentheses. A text without
/// HTML only has its entities resolved.
///
/// ```
/// use ferrotune_data::clean::html_to_text;
/// assert_eq!(html_to_text("<p>Size <b>M</b> &amp; L</p><ul><li>red</li><li>blue</li></ul>"),
///            "Size M & L\n- red\n- blue");
/// assert_eq!(html_to_text("I <3 it if a < b and Vec<T> works"), "I <3 it if a < b and Vec<T> works");
/// ```
pub fn html_to_text(text: &str) -> String {
    // Inline code is put aside: a text about HTML shows tags in it.
    let mut code = Vec::new();
    let held = INLINE_CODE.replace_all(text, |found: &Captures<'_>| {
        code.push(found[0].to_owned());
        // A private-use character cannot occur in HTML's own syntax.
        format!("\u{f8f0}{}\u{f8f1}", code.len() - 1)
    });
    let fixed = if text.contains(['\u{f8f0}', '\u{f8f1}']) {
        return text.to_owned();
    } else if is_html(&held) {
        render(&held)
    } else {
        unescape(&held)
    };
    let mut out = fixed;
    for (i, code) in code.iter().enumerate() {
        out = out.replacen(&format!("\u{f8f0}{i}\u{f8f1}"), code, 1);
    }
    out
}

/// Whether a text holds tags that mean something: one that stands alone, or one that is closed again.
fn is_html(text: &str) -> bool {
    let mut open: Vec<String> = Vec::new();
    for tag in TAG.captures_iter(text) {
        let name = tag["name"].to_lowercase();
        if &tag["close"] == "/" {
            if open.contains(&name) {
                return true;
            }
        } else if VOID.contains(&&*name) || matches!(&*name, "p" | "li" | "td" | "tr" | "div") {
            // Old mail programs never close paragraphs, items and cells.
            return true;
        } else {
            open.push(name);
        }
    }
    false
}

fn render(text: &str) -> String {
    let text = COMMENT.replace_all(text, "");
    let mut has_block = false;
    for tag in TAG.captures_iter(&text) {
        has_block |= BLOCK.contains(&&*tag["name"].to_lowercase());
    }
    // Angle brackets that belong to no tag are text.
    let mut html = String::with_capacity(text.len());
    let mut done = 0;
    let push_text = |from: usize, to: usize, html: &mut String| {
        let part = text[from..to].replace('<', "&lt;").replace('>', "&gt;");
        html.push_str(&line_breaks(&part, has_block, from == 0, to == text.len()));
    };
    let mut is_first_cell = true;
    for tag in TAG.captures_iter(&text) {
        let whole = tag.get_match();
        push_text(done, whole.start(), &mut html);
        done = whole.end();
        let (name, closes) = (tag["name"].to_lowercase(), &tag["close"] == "/");
        // Tables become a line a row, and a rule an empty line: html2text would draw both over the whole width.
        match (&*name, closes) {
            ("table" | "tr" | "caption", _) => {
                is_first_cell = true;
                html.push_str(if closes { "</div>" } else { "<div>" });
            }
            ("td" | "th", false) => {
                html.push_str(if is_first_cell { "" } else { " | " });
                is_first_cell = false;
            }
            ("td" | "th" | "tbody" | "thead" | "tfoot" | "col" | "colgroup", _) => {}
            ("hr", _) => html.push_str("<br>"),
            _ => html.push_str(whole.as_str()),
        }
    }
    push_text(done, text.len(), &mut html);
    let lines = config::with_decorator(Plain::default())
        .allow_width_overflow()
        .no_link_wrapping()
        .string_from_read(html.as_bytes(), 100_000);
    match lines {
        Ok(text) => whitespace::tidy(&text),
        // Only a width too narrow can fail, and it may overflow.
        Err(_) => text.into_owned(),
    }
}

/// Line breaks of the text itself as `<br>`, where they are not just how the HTML was laid out.
fn line_breaks(part: &str, has_block: bool, is_first: bool, is_last: bool) -> String {
    if !has_block {
        return part.replace('\n', "<br>");
    }
    // Between tags they are layout; inside running text an empty line is one that somebody typed.
    let body = part.trim_matches(|c: char| c.is_whitespace());
    if body.is_empty() {
        return part.to_owned();
    }
    let head = &part[..part.len() - part.trim_start().len()];
    let tail = &part[part.trim_end().len()..];
    let head_break = if !is_first && head.matches('\n').count() > 1 { "<br>" } else { "" };
    let tail_break = if !is_last && tail.matches('\n').count() > 1 { "<br>" } else { "" };
    format!("{head}{head_break}{}{tail_break}{tail}", body.replace("\n\n", "<br><br>"))
}

/// Entities resolved, by the HTML parser's own table. Only one layer: `&amp;lt;` becomes `&lt;`.
fn unescape(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let resolve = |found: &Captures<'_>| -> String {
        let entity = &found[0];
        match entity {
            "&amp;" => return "&".to_owned(),
            "&lt;" => return "<".to_owned(),
            "&gt;" => return ">".to_owned(),
            "&nbsp;" | "&#160;" => return " ".to_owned(),
            _ => {}
        }
        let parsed =
            config::plain_no_decorate().string_from_read(format!("<p>.{entity}.</p>").as_bytes(), 1000);
        let parsed = parsed.unwrap_or_default();
        let inner = parsed.trim().strip_prefix('.').and_then(|p| p.strip_suffix('.'));
        inner
            .filter(|i| !i.is_empty() && i.chars().count() <= 2)
            .map_or_else(|| entity.to_owned(), str::to_owned)
    };
    ENTITY.replace_all(text, resolve).into_owned()
}

/// How html2text marks things: bullets as dashes, links by their target, nothing else.
#[derive(Debug, Clone, Default)]
struct Plain {
    links: Vec<String>,
}

impl TextDecorator for Plain {
    type Annotation = ();

    fn decorate_link_start(&mut self, url: &str) -> (String, ()) {
        self.links.push(url.to_owned());
        (String::new(), ())
    }

    fn decorate_link_end(&mut self) -> String {
        match self.links.pop() {
            // Targets inside the page or of a script say nothing to a reader.
            Some(url) if url.starts_with("http") => format!(" ({url})"),
            _ => String::new(),
        }
    }

    fn decorate_em_start(&self) -> (String, ()) {
        (String::new(), ())
    }
    fn decorate_em_end(&self) -> String {
        String::new()
    }
    fn decorate_strong_start(&self) -> (String, ()) {
        (String::new(), ())
    }
    fn decorate_strong_end(&self) -> String {
        String::new()
    }
    fn decorate_strikeout_start(&self) -> (String, ()) {
        (String::new(), ())
    }
    fn decorate_strikeout_end(&self) -> String {
        String::new()
    }
    fn decorate_code_start(&self) -> (String, ()) {
        (String::new(), ())
    }
    fn decorate_code_end(&self) -> String {
        String::new()
    }
    fn decorate_preformat_first(&self) {}
    fn decorate_preformat_cont(&self) {}
    fn decorate_image(&mut self, _: &str, title: &str) -> (String, ()) {
        (title.to_owned(), ())
    }
    fn header_prefix(&self, _: usize) -> String {
        String::new()
    }
    fn quote_prefix(&self) -> String {
        String::new()
    }
    fn unordered_item_prefix(&self) -> String {
        "- ".to_owned()
    }
    fn ordered_item_prefix(&self, i: i64) -> String {
        format!("{i}. ")
    }
    fn make_subblock_decorator(&self) -> Self {
        self.clone()
    }
    fn finalise(&mut self, _: Vec<String>) -> Vec<TaggedLine<()>> {
        Vec::new()
    }
}
