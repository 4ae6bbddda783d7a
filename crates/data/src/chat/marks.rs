use std::ops::Range;

use ferrotune_types::Rendered;

use crate::DataError;

// Unicode noncharacters, which never stand in text meant for interchange: rows that hold one are refused, so a mark
// in a rendered text is ours.
/// Opens and closes what the assistant says.
pub(super) const GENERATION: [char; 2] = ['\u{FDD0}', '\u{FDD1}'];
/// Opens and closes a control token in a person's words.
pub(super) const LITERAL: [char; 2] = ['\u{FDD2}', '\u{FDD3}'];
/// Stands where the span search looks for a message's words.
pub(super) const FOCUS: char = '\u{FDD4}';

/// All marks begin with these two bytes in UTF-8, and no other character does but the noncharacters' neighbours.
const LEAD: [u8; 2] = [0xEF, 0xB7];

/// A rendered text without its marks, and where they stood, in bytes.
#[derive(Debug, Default)]
pub(super) struct Marked {
    pub(super) text: String,
    pub(super) generated: Vec<Range<usize>>,
    pub(super) literal: Vec<Range<usize>>,
    pub(super) focus: Vec<usize>,
}

impl Marked {
    /// The text up to `end`, with the spans that lie in it.
    pub(super) fn cut(mut self, end: usize) -> Self {
        self.text.truncate(end);
        for spans in [&mut self.generated, &mut self.literal] {
            for span in spans.iter_mut() {
                span.end = span.end.min(end);
            }
            spans.retain(|span| span.start < span.end);
        }
        self
    }

    pub(super) fn into_rendered(self, assistant: Vec<Range<usize>>) -> Result<Rendered, DataError> {
        Rendered::new(self.text, assistant)
            .and_then(|rendered| rendered.with_literal(self.literal))
            .map_err(|e| DataError::Template(e.to_string()))
    }
}

/// Whether a text holds a character that could be taken for a mark.
pub(super) fn has_mark(text: &str) -> bool {
    text.as_bytes().windows(2).any(|pair| pair == LEAD)
        && text.chars().any(|c| ('\u{FDD0}'..='\u{FDD4}').contains(&c))
}

/// Takes the marks out of a rendered text and tells where they stood.
///
/// # Errors
/// [`DataError::Template`] where marks do not pair up: the template copied, cut or dropped what they enclose.
pub(super) fn take_out(marked: &str) -> Result<Marked, DataError> {
    let mut out = Marked { text: String::with_capacity(marked.len()), ..Marked::default() };
    let (mut open_generation, mut open_literal) = (None, None);
    let mut rest = marked;
    while let Some(at) = rest.find(|c| ('\u{FDD0}'..='\u{FDD4}').contains(&c)) {
        out.text.push_str(&rest[..at]);
        let here = out.text.len();
        let mut after = rest[at..].chars();
        let close = |open: &mut Option<usize>, spans: &mut Vec<Range<usize>>| match open.take() {
            Some(start) => {
                if start < here {
                    spans.push(start..here);
                }
                Ok(())
            }
            None => Err(unpaired()),
        };
        let open = |open: &mut Option<usize>| match open.replace(here) {
            Some(_) => Err(unpaired()),
            None => Ok(()),
        };
        match after.next() {
            Some(c) if c == GENERATION[0] => open(&mut open_generation)?,
            Some(c) if c == GENERATION[1] => close(&mut open_generation, &mut out.generated)?,
            Some(c) if c == LITERAL[0] => open(&mut open_literal)?,
            Some(c) if c == LITERAL[1] => close(&mut open_literal, &mut out.literal)?,
            _ => out.focus.push(here),
        }
        rest = after.as_str();
    }
    out.text.push_str(rest);
    if open_generation.is_some() || open_literal.is_some() {
        return Err(unpaired());
    }
    Ok(out)
}

fn unpaired() -> DataError {
    DataError::Template("it copies or cuts a part of its text that must stay whole".into())
}
