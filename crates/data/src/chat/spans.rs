//! The assistant spans of a template that does not mark them.
//!
//! For the assistant turn `i`, three renderings of the same template are compared:
//!
//! ```text
//! open    messages[..i],  with the generation prompt     what the model sees when it is asked
//! closed  messages[..=i], without it                     the same, answered
//! whole   all messages                                   what it is trained on
//! ```
//!
//! Where `whole` begins with both, the span is what `closed` has and `open` has not: exactly what the model is to
//! say. Templates that rewrite history (Qwen3 drops the reasoning of earlier turns) need a second witness: the words
//! of the turn are marked and looked up, the header is what `open` and `whole` share before them, the end-of-turn
//! token what follows them in `closed`. Every span is then verified.

use std::collections::BTreeMap;
use std::ops::Range;

use ferrotune_types::{Conversation, Role};

use super::marks::Marked;
use super::template::{ChatTemplate, RenderOptions};
use super::value::{Focus, core};
use crate::DataError;

pub(super) fn derive(
    template: &ChatTemplate,
    chat: &Conversation,
    options: &RenderOptions,
    whole: &Marked,
) -> Result<Vec<Range<usize>>, DataError> {
    let search = Search { template, chat, options, whole: &whole.text };
    let shape = search.shape();
    let mut spans: Vec<Range<usize>> = Vec::new();
    for (i, message) in chat.messages.iter().enumerate() {
        if message.role != Role::Assistant {
            continue;
        }
        let inexact = |reason: String| {
            DataError::Template(format!(
                "no exact span for the assistant's turn {i}: {reason}; use a template with {{% generation %}} blocks"
            ))
        };
        let span = match shape.as_ref().and_then(|shape| shape.turn(i, &message.content, &whole.text)) {
            Some(span) => span,
            None => search.turn(i).map_err(inexact)?,
        };
        if spans.last().is_some_and(|last| span.start < last.end) {
            return Err(inexact("it overlaps the turn before".into()));
        }
        spans.push(span);
    }
    Ok(spans)
}

/// How the first turn is framed. Rendering each turn alone costs the square of their number; a later turn whose words
/// stand in the very same frame needs none of that.
struct Shape {
    /// The header that opens the turn; holds more than space, and the words or the space before them follow.
    header: String,
    /// The end-of-turn token, after the words and the space after them; does not begin with space.
    end_of_turn: String,
    /// Where the words of each turn stand, by message.
    words: BTreeMap<usize, Range<usize>>,
}

impl Shape {
    /// The span of a turn in the same frame. A template may keep the space around the words or trim it; since
    /// neither the header nor the end-of-turn token is all space, only one of the two can be read from the text.
    fn turn(&self, i: usize, content: &str, whole: &str) -> Option<Range<usize>> {
        let words = self.words.get(&i)?;
        let (before, after) = (&whole[..words.start], &whole[words.end..]);
        let core = core(content);
        let begins = [before.strip_suffix(&content[..core.start]), Some(before)];
        let start = begins.into_iter().flatten().find(|text| text.ends_with(&self.header))?.len();
        let ends = [after.strip_prefix(&content[core.end..]), Some(after)];
        let rest = ends.into_iter().flatten().find(|text| text.starts_with(&self.end_of_turn))?;
        Some(start..whole.len() - rest.len() + self.end_of_turn.len())
    }
}

struct Search<'a> {
    template: &'a ChatTemplate,
    chat: &'a Conversation,
    options: &'a RenderOptions,
    whole: &'a str,
}

impl Search<'_> {
    /// The first turn's frame, where there are enough turns to be worth it and the frame is plain.
    fn shape(&self) -> Option<Shape> {
        let messages = &self.chat.messages;
        let turns: Vec<usize> =
            (0..messages.len()).filter(|&i| messages[i].role == Role::Assistant).collect();
        // The last turn may end in a way of its own, and reasoning may be shown or not.
        let is_plain = |&i: &usize| i + 1 < messages.len() && !messages[i].content.contains("</think>");
        let first = *turns.first().filter(|i| turns.len() > 2 && is_plain(i))?;
        let marked = self.render(messages.len(), self.options.add_generation_prompt, Focus::AllWords).ok()?;
        let with_words = turns.iter().filter(|&&i| !core(&messages[i].content).is_empty());
        let (places, _) = marked.focus.as_chunks::<2>();
        if marked.text != self.whole || marked.focus.len() != 2 * with_words.clone().count() {
            return None;
        }
        let all = with_words.zip(places).map(|(&i, &[start, end])| (i, start..end));
        let words: BTreeMap<usize, Range<usize>> = all.filter(|(i, _)| is_plain(i)).collect();
        let span = self.turn(first).ok()?;
        let before = self.render(first, false, Focus::Nowhere).ok()?.text;
        let header = self.whole[..span.start].strip_prefix(&before)?.to_owned();
        let after = &self.whole[words.get(&first)?.end..span.end];
        let end_of_turn = after.trim_start().to_owned();
        let shape = Shape { header, end_of_turn, words };
        let is_usable = !shape.header.trim().is_empty() && !shape.end_of_turn.is_empty();
        // The first turn must itself be in its frame: nothing else between header, words and end.
        (is_usable && shape.turn(first, &messages[first].content, self.whole)? == span).then_some(shape)
    }

    fn turn(&self, i: usize) -> Result<Range<usize>, String> {
        let span = self.start(i)?..self.end(i)?;
        let Some(said) = self.whole.get(span.clone()) else {
            return Err("its end comes before its start".into());
        };
        let content = &self.chat.messages[i].content;
        let words = &content[core(content)];
        let Some(at) = said.find(words) else {
            return Err("the template changes its words".into());
        };
        let end = said.trim_end();
        let ends_with_words = if words.is_empty() {
            end.is_empty()
        } else {
            // "<|im_end|>" ends with ">", which may be all that is said: only the place tells.
            end.ends_with(words) && self.words(self.chat.messages.len(), i)?.end == span.start + end.len()
        };
        if ends_with_words {
            return Err("the template writes no end-of-turn token after it".into());
        }
        // A turn of tool calls has no words to stand before.
        let before = if words.is_empty() { said } else { &said[..at] };
        if !before.trim().is_empty() && self.holds_a_header(before)? {
            return Err("a header that opens the assistant's turn would lie inside".into());
        }
        Ok(span)
    }

    /// Whether a text holds the generation prompt of any turn. A template may leave it out where the turn follows a
    /// tool's answer, and write it all the same once the turn is there.
    fn holds_a_header(&self, text: &str) -> Result<bool, String> {
        for (i, message) in self.chat.messages.iter().enumerate() {
            if message.role == Role::Assistant {
                let open = self.render(i, true, Focus::Nowhere)?.text;
                let before = self.render(i, false, Focus::Nowhere)?.text;
                let header = open.strip_prefix(&before).unwrap_or_default().trim();
                if !header.is_empty() && text.contains(header) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Where the header that opens the turn ends.
    fn start(&self, i: usize) -> Result<usize, String> {
        let open = self.render(i, true, Focus::Nowhere)?;
        if self.whole.starts_with(&open.text) {
            return Ok(open.text.len());
        }
        // The generation prompt is not how the turn begins (it prefills `<think>`). What both share after the turns
        // before is the header, if the words follow at once.
        let before = self.render(i, false, Focus::Nowhere)?;
        let shared = common_prefix(&open.text, self.whole);
        let words = self.words(self.chat.messages.len(), i)?;
        let is_header = shared > before.text.len()
            && self.whole.starts_with(&before.text)
            && open.text.starts_with(&before.text);
        if is_header && shared >= words.start {
            return Ok(words.start);
        }
        Err("the generation prompt is not how the template opens the turn".into())
    }

    /// Where the end-of-turn token ends.
    fn end(&self, i: usize) -> Result<usize, String> {
        let n = self.chat.messages.len();
        if i + 1 == n && !self.options.add_generation_prompt {
            return Ok(self.whole.len());
        }
        let closed = self.render(i + 1, false, Focus::Nowhere)?;
        if self.whole.starts_with(&closed.text) {
            return Ok(closed.text.len());
        }
        let words_alone = self.words(i + 1, i)?;
        let end_of_turn = &closed.text[words_alone.end..];
        let words = self.words(n, i)?;
        if end_of_turn.trim().is_empty() || !self.whole[words.end..].starts_with(end_of_turn) {
            return Err("it ends in one way as the last turn and in another when turns follow".into());
        }
        Ok(words.end + end_of_turn.len())
    }

    /// Where the words of turn `i` stand when `n` messages are rendered.
    fn words(&self, n: usize, i: usize) -> Result<Range<usize>, String> {
        let content = &self.chat.messages[i].content;
        if core(content).is_empty() {
            return Err("it has no words to look up".into());
        }
        let with_prompt = n == self.chat.messages.len() && self.options.add_generation_prompt;
        let marked = self.render(n, with_prompt, Focus::Words(i))?;
        let plain = if n == self.chat.messages.len() {
            self.whole == marked.text
        } else {
            self.render(n, with_prompt, Focus::Nowhere)?.text == marked.text
        };
        match marked.focus[..] {
            [start, end] if plain => Ok(start..end),
            _ => Err("the template changes or repeats its words".into()),
        }
    }

    fn render(&self, n: usize, add_generation_prompt: bool, focus: Focus) -> Result<Marked, String> {
        self.template
            .render_part(self.chat, n, add_generation_prompt, focus, self.options)
            .map_err(|e| format!("the first {n} messages alone cannot be rendered ({e})"))
    }
}

/// Bytes that two texts share at their start, whole characters only.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(c, _)| c.len_utf8()).sum()
}
