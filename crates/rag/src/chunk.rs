use std::ops::Range;

use ferrotune_types::Document;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use text_splitter::{ChunkSizer, MarkdownSplitter, TextSplitter};

use crate::RagError;

/// A piece of a document, small enough to stand in a prompt.
///
/// `text` is exactly `document.text[start..end]`, in bytes, so that a quote can be shown in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// The document's id, `#` and the chunk's number: unique in a store.
    pub id: String,
    /// The document it was cut from.
    pub doc_id: String,
    /// First byte in the document.
    pub start: usize,
    /// One past the last byte in the document.
    pub end: usize,
    /// The document's title and the headings above the chunk, joined by ` > `. Searched along with the text.
    #[serde(default)]
    pub heading: String,
    /// The text.
    pub text: String,
    /// A fingerprint of the whole document and of how it was cut: equal means that nothing needs doing.
    #[serde(default)]
    pub fingerprint: String,
    /// The document's other columns: what a [`crate::Filter`] sees.
    #[serde(default)]
    pub meta: Map<String, Value>,
}

impl Chunk {
    /// What is searched: the heading and the text.
    pub fn search_text(&self) -> String {
        if self.heading.is_empty() { self.text.clone() } else { format!("{}\n{}", self.heading, self.text) }
    }
}

/// Where a text may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Splitter {
    /// At the highest Markdown element that fits: heading, paragraph, list item, sentence, word.
    Markdown,
    /// At paragraphs, else sentences, else words, else characters.
    Text,
    /// Nowhere: a document is one chunk.
    Whole,
}

/// How to cut documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChunkConfig {
    /// Where a text may be cut.
    pub splitter: Splitter,
    /// No chunk is larger than this. In characters, or in what [`chunk_by`]'s function counts.
    pub size: usize,
    /// How much of a chunk's end opens the next one, in the same unit. Less than `size`.
    pub overlap: usize,
}

impl Default for ChunkConfig {
    /// Markdown, 1,000 characters (about 220 English tokens), no overlap.
    fn default() -> Self {
        ChunkConfig { splitter: Splitter::Markdown, size: 1000, overlap: 0 }
    }
}

/// Cuts a document, sizes counted in characters.
///
/// # Errors
/// [`RagError::Config`] where `size` is 0 or `overlap` is not less.
pub fn chunk(document: &Document, config: &ChunkConfig) -> Result<Vec<Chunk>, RagError> {
    chunk_by(document, config, &|text| text.chars().count())
}

/// Cuts a document, sizes counted by `size_of`: pass a tokenizer's count to cut by tokens.
///
/// # Errors
/// [`RagError::Config`] where `size` is 0 or `overlap` is not less.
pub fn chunk_by(
    document: &Document,
    config: &ChunkConfig,
    size_of: &dyn Fn(&str) -> usize,
) -> Result<Vec<Chunk>, RagError> {
    if config.size == 0 {
        return Err(RagError::Config { setting: "size", reason: "must be at least 1".to_owned() });
    }
    let sizes = text_splitter::ChunkConfig::new(config.size)
        .with_sizer(SizeBy(size_of))
        .with_overlap(config.overlap)
        .map_err(|e| RagError::Config { setting: "overlap", reason: e.to_string() })?;
    let text = document.text.trim_start_matches(BYTE_ORDER_MARK);
    let skipped = document.text.len() - text.len();
    let pieces: Vec<(usize, &str)> = match config.splitter {
        Splitter::Markdown => {
            let splitter = MarkdownSplitter::new(sizes);
            in_stretches(text, config.size, |stretch| splitter.chunk_indices(stretch).collect())
        }
        Splitter::Text => {
            let splitter = TextSplitter::new(sizes);
            in_stretches(text, config.size, |stretch| splitter.chunk_indices(stretch).collect())
        }
        Splitter::Whole if text.trim().is_empty() => Vec::new(),
        Splitter::Whole => vec![(0, text)],
    };
    let headings = match config.splitter {
        Splitter::Markdown => headings(text),
        Splitter::Text | Splitter::Whole => Vec::new(),
    };
    let title = document.meta.get("title").and_then(Value::as_str).unwrap_or_default();
    let fingerprint = fingerprint(document, config);
    Ok(pieces
        .into_iter()
        .enumerate()
        .map(|(i, (start, piece))| Chunk {
            id: format!("{}#{i}", document.id),
            doc_id: document.id.clone(),
            start: skipped + start,
            end: skipped + start + piece.len(),
            heading: heading_path(title, &headings, start),
            text: piece.to_owned(),
            fingerprint: fingerprint.clone(),
            meta: document.meta.clone(),
        })
        .collect())
}

/// Cuts a text stretch by stretch. The splitter looks for the end of a sentence up to the end of the line, for each
/// chunk anew: a line of megabytes would take minutes, so it is handed over in pieces of some chunks.
fn in_stretches<'a>(
    text: &'a str,
    size: usize,
    split: impl Fn(&'a str) -> Vec<(usize, &'a str)>,
) -> Vec<(usize, &'a str)> {
    let longest = size.saturating_mul(16).max(1 << 14);
    let of_stretch = |range: Range<usize>| {
        split(&text[range.clone()]).into_iter().map(move |(at, piece)| (range.start + at, piece))
    };
    stretches(text, longest).into_iter().flat_map(of_stretch).collect()
}

/// The whole text, with every line of more bytes than `longest` cut, at a word where there is one.
fn stretches(text: &str, longest: usize) -> Vec<Range<usize>> {
    let (mut found, mut start, mut line_start) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        let line_end = line_start + line.len();
        while line_end - line_start.max(start) > longest {
            let from = line_start.max(start);
            let head = &text[from..text.floor_char_boundary(from + longest)];
            let at = from + head.rfind(char::is_whitespace).filter(|&space| space > 0).unwrap_or(head.len());
            found.push(start..at);
            start = at;
        }
        line_start = line_end;
    }
    found.push(start..text.len());
    found
}

const BYTE_ORDER_MARK: char = '\u{feff}';

struct SizeBy<'a>(&'a dyn Fn(&str) -> usize);

impl ChunkSizer for SizeBy<'_> {
    fn size(&self, chunk: &str) -> usize {
        (self.0)(chunk)
    }
}

/// Raised whenever the same settings cut a text differently, or give its chunks other headings.
const CUT: u32 = 2;

/// 64 bits over the text, the columns and the cut, in hex.
pub(crate) fn fingerprint(document: &Document, config: &ChunkConfig) -> String {
    let key = serde_json::json!([document.text, document.meta, config, CUT]).to_string();
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(key.as_bytes()))
}

struct Heading {
    at: usize,
    level: usize,
    text: String,
}

/// The headings of a Markdown text, as the splitter's parser sees them; those inside quotes and lists head nothing.
fn headings(text: &str) -> Vec<Heading> {
    // Smart punctuation would change the heading's own signs.
    let options = Options::all() - Options::ENABLE_SMART_PUNCTUATION;
    let mut found: Vec<Heading> = Vec::new();
    let (mut is_open, mut depth) = (false, 0usize);
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        match event {
            Event::Start(Tag::BlockQuote(_) | Tag::Item) => depth += 1,
            Event::End(TagEnd::BlockQuote(_) | TagEnd::Item) => depth -= 1,
            Event::Start(Tag::Heading { level, .. }) if depth == 0 => {
                let at = text[..range.start].rfind('\n').map_or(0, |end| end + 1);
                found.push(Heading { at, level: level as usize, text: String::new() });
                is_open = true;
            }
            Event::End(TagEnd::Heading(_)) => is_open = false,
            Event::Text(words) | Event::Code(words) if is_open => say(&mut found, &words),
            Event::SoftBreak | Event::HardBreak if is_open => say(&mut found, " "),
            _ => {}
        }
    }
    found
}

fn say(headings: &mut [Heading], words: &str) {
    if let Some(last) = headings.last_mut() {
        last.text.push_str(words);
    }
}

/// The headings that `start` lies under, opened before it; a heading inside the chunk is its text already.
fn heading_path(title: &str, headings: &[Heading], start: usize) -> String {
    let mut open: Vec<&Heading> = Vec::new();
    for heading in headings.iter().take_while(|h| h.at <= start) {
        open.retain(|h| h.level < heading.level);
        open.push(heading);
    }
    let above = open.iter().filter(|h| h.at < start).map(|h| h.text.as_str()).filter(|text| *text != title);
    let parts: Vec<&str> = std::iter::once(title).filter(|t| !t.is_empty()).chain(above).collect();
    parts.join(" > ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document(text: &str) -> Document {
        Document { id: "d".into(), text: text.into(), meta: Map::new() }
    }

    const SHOP: &str = "# Returns\n\nWithin 30 days.\n\n## Gift cards\n\nNever returned.\n\n```sh\n# not a heading\n```\n\n# Shipping\n\nFree over $75.\n";

    #[test]
    fn a_chunk_knows_the_headings_above_it() {
        let config = ChunkConfig { size: 20, ..ChunkConfig::default() };
        let chunks = chunk(&document(SHOP), &config).unwrap();
        let heading_of = |text: &str| {
            chunks.iter().find(|c| c.text.contains(text)).map_or("absent", |c| c.heading.as_str())
        };
        assert_eq!(heading_of("Never returned"), "Returns > Gift cards");
        assert_eq!(heading_of("Free over"), "Shipping");
    }

    #[test]
    fn headings_are_those_of_markdown() {
        let check = |text: &str, expect: &[(usize, &str)]| {
            let found = headings(text);
            let found: Vec<(usize, &str)> = found.iter().map(|h| (h.level, h.text.as_str())).collect();
            assert_eq!(found, expect, "{text}");
        };
        check("```pip install x```\n\n# Use\n\nRun it.", &[(1, "Use")]);
        check("# Code\n\n    # a comment\n\n## More", &[(1, "Code"), (2, "More")]);
        check("Returns\n=======\n\nGift `cards`\n---\n", &[(1, "Returns"), (2, "Gift cards")]);
        check("~~~\n# no\n~~~\n  ## It's *so* ##\n", &[(2, "It's so")]);
        check("> # quoted\n\n- # listed\n\n#hashtag\n\n####### seven", &[]);
    }

    #[test]
    fn a_byte_order_mark_hides_no_heading() {
        let doc = document("\u{feff}# Returns\n\nWithin 30 days.\n\n## Gift cards\n\nNever returned.");
        let chunks = chunk(&doc, &ChunkConfig { size: 20, ..ChunkConfig::default() }).unwrap();
        assert!(chunks.iter().all(|c| doc.text[c.start..c.end] == c.text));
        assert_eq!(chunks.last().unwrap().heading, "Returns > Gift cards");
    }

    #[test]
    fn the_title_opens_the_path() {
        let mut doc = document("Within 30 days.");
        doc.meta.insert("title".into(), "Returns".into());
        assert_eq!(
            chunk(&doc, &ChunkConfig::default()).unwrap()[0].search_text(),
            "Returns\nWithin 30 days."
        );
    }

    #[test]
    fn sizes_are_counted_by_the_given_function() {
        let config = ChunkConfig { splitter: Splitter::Text, size: 3, overlap: 0 };
        let words = |text: &str| text.split_whitespace().count();
        let chunks = chunk_by(&document("one two three four five six seven"), &config, &words).unwrap();
        assert_eq!(
            chunks.iter().map(|c| c.text.as_str()).collect::<Vec<_>>(),
            ["one two three", "four five six", "seven"]
        );
    }

    #[test]
    fn a_line_without_end_is_cut_piece_by_piece() {
        let (words, unbroken) = ("shop takes items ".repeat(3_000), "é".repeat(20_000));
        for text in [format!("# Head\n\n{words}\n\nTail."), unbroken] {
            let doc = document(&text);
            let chunks = chunk(&doc, &ChunkConfig::default()).unwrap();
            let kept: String = chunks.iter().map(|c| c.text.as_str()).collect();
            let bare = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(bare(&kept), bare(&text));
            assert!(chunks.iter().all(|c| doc.text[c.start..c.end] == c.text));
        }
        assert_eq!(stretches("ab cd\nefgh i\nxy", 4), [0..2, 2..10, 10..15]);
        assert_eq!(stretches("a\nb", 4).len(), 1);
    }

    #[test]
    fn bad_settings_are_refused() {
        let check = |size, overlap, expect: &str| {
            let config = ChunkConfig { size, overlap, ..ChunkConfig::default() };
            let error = chunk(&document("a"), &config).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(0, 0, "size");
        check(10, 10, "overlap");
    }

    proptest! {
        #[test]
        fn every_chunk_is_a_slice_that_fits_and_no_word_is_lost(
            text in "([a-zé#*]{1,8}[ \n]{1,2}){0,60}", size in 1..80usize, overlap in 0..20usize,
            splitter in prop::sample::select(vec![Splitter::Markdown, Splitter::Text]),
        ) {
            let doc = document(&text);
            let config = ChunkConfig { splitter, size, overlap: overlap.min(size - 1) };
            let chunks = chunk(&doc, &config).unwrap();
            let mut covered = vec![false; text.len()];
            for chunk in &chunks {
                prop_assert_eq!(&text[chunk.start..chunk.end], &chunk.text);
                prop_assert!(chunk.text.chars().count() <= size);
                covered[chunk.start..chunk.end].fill(true);
            }
            for (at, c) in text.char_indices() {
                prop_assert!(covered[at] || c.is_whitespace(), "{c:?} at {at} is in no chunk");
            }
        }
    }
}
