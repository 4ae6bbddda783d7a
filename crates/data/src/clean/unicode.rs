//! Unicode in one form: NFC, no control characters, one kind of line end.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::TextStep;

/// What [`Unicode`] does beyond NFC, control characters and line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnicodeConfig {
    /// Break typographic ligatures (`ﬁ` becomes `fi`), which come from PDFs.
    pub ligatures: bool,
    /// Turn curly quotes into straight ones.
    pub straight_quotes: bool,
    /// Turn full-width Latin letters and digits into plain ones. Wrong for Chinese and Japanese text.
    pub plain_width: bool,
}

impl Default for UnicodeConfig {
    fn default() -> Self {
        UnicodeConfig { ligatures: true, straight_quotes: false, plain_width: false }
    }
}

/// Brings text into NFC, removes characters that show nothing, and ends every line with `\n`.
///
/// Removed: ASCII and C1 control characters (but tab, line feed), deprecated format characters, byte order marks,
/// the object replacement character, zero-width spaces, soft hyphens, terminal escapes and the Unicode
/// non-characters. Joiners and direction marks stay: scripts and emoji need them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unicode(pub UnicodeConfig);

impl TextStep for Unicode {
    fn name(&self) -> &'static str {
        "unicode"
    }

    fn fix<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let is_plain = |b: u8| (b' '..0x7f).contains(&b) || matches!(b, b'\n' | b'\t');
        if text.bytes().all(is_plain) {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        let mut chars = without_escapes(text).chars().peekable().collect::<Vec<_>>().into_iter().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\r' if chars.peek() == Some(&'\n') => {}
                '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{b}' | '\u{c}' => out.push('\n'),
                c if shows_nothing(c) => {}
                c => self.push(c, &mut out),
            }
        }
        if !is_nfc(&out) {
            out = out.nfc().collect();
        }
        if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
    }

    fn looks_at(&self, _: Option<ferrotune_types::Role>) -> bool {
        true
    }
}

impl Unicode {
    fn push(self, c: char, out: &mut String) {
        match c {
            'ﬀ'..='ﬆ' | 'Ĳ' | 'ĳ' | 'Ǆ'..='ǌ' | 'Ǳ'..='ǳ' if self.0.ligatures => {
                out.extend([c].into_iter().nfkc());
            }
            '\u{2018}'..='\u{201b}' | '\u{2bc}' if self.0.straight_quotes => out.push('\''),
            '\u{201c}'..='\u{201f}' if self.0.straight_quotes => out.push('"'),
            '\u{ff01}'..='\u{ff5e}' if self.0.plain_width => out.extend([c].into_iter().nfkc()),
            c => out.push(c),
        }
    }
}

fn shows_nothing(c: char) -> bool {
    match c {
        '\t' | '\n' => false,
        '\u{ad}'
        | '\u{200b}'
        | '\u{2060}'
        | '\u{206a}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffc}' => true,
        c => c.is_control() || u32::from(c) & 0xfffe == 0xfffe || ('\u{fdd0}'..='\u{fdef}').contains(&c),
    }
}

/// Without `ESC [ … letter`, the colours of a terminal.
fn without_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains("\u{1b}[") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split("\u{1b}[");
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let codes = part.bytes().take_while(|b| b.is_ascii_digit() || *b == b';').count();
        let is_escape = part.as_bytes().get(codes).is_some_and(u8::is_ascii_alphabetic);
        out.push_str(if is_escape { &part[codes + 1..] } else { part });
    }
    Cow::Owned(out)
}
