use std::fmt::Write as _;

use serde::Serialize;

use crate::{Tokenizer, TokenizerError};

/// A text as its tokens, for a person to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The tokens, in order, with those that the tokenizer puts around a text.
    pub pieces: Vec<Piece>,
    /// Characters of the text.
    pub n_chars: usize,
    /// Bytes of the text.
    pub n_bytes: usize,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// Its id.
    pub id: u32,
    /// How it stands in the vocabulary.
    pub token: String,
    /// The part of the text that it covers. A character that takes several tokens shows at the first of them; what
    /// the tokenizer puts around the text covers nothing.
    pub text: String,
    /// Whether it is a control token.
    pub is_control: bool,
}

/// How much of a context a text takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Tokens of the text, with those that the tokenizer puts around it.
    pub used: usize,
    /// Tokens kept free for the answer.
    pub reserved: usize,
    /// Tokens of the context.
    pub context: usize,
}

impl Budget {
    /// Tokens that are left; negative where the text is too long.
    pub fn left(&self) -> i64 {
        self.context as i64 - self.reserved as i64 - self.used as i64
    }
}

impl Tokenizer {
    /// Shows how a text is cut, as a model would be given it: with BOS, EOS, `[CLS]` and `[SEP]` where the tokenizer
    /// puts them. Special tokens in the text are control tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Coding`] where the text cannot be encoded.
    pub fn explain(&self, text: &str) -> Result<Explanation, TokenizerError> {
        let encoded = self.encode_with_offsets(text, true)?;
        let mut shown = 0;
        let pieces = encoded.ids.iter().zip(&encoded.offsets).map(|(&id, &(start, end))| {
            // Whole characters only: up to the end of the character in which the token ends.
            let boundary = (end..=text.len()).find(|&end| text.is_char_boundary(end)).unwrap_or(text.len());
            let end = if start == end { shown } else { boundary.max(shown) };
            let piece = Piece {
                id,
                token: self.id_to_token(id).unwrap_or_default(),
                text: text[shown..end].to_owned(),
                is_control: self.is_control(id),
            };
            shown = end;
            piece
        });
        Ok(Explanation { pieces: pieces.collect(), n_chars: text.chars().count(), n_bytes: text.len() })
    }
}

impl Piece {
    /// What stands for it on a page; never empty.
    fn shown(&self) -> &str {
        match (self.text.is_empty(), self.is_control && !self.token.is_empty()) {
            (false, _) => &self.text,
            (true, true) => &self.token,
            (true, false) => "∅",
        }
    }
}

impl Explanation {
    /// Number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.pieces.len()
    }

    /// How much of a context the text takes, with tokens kept free for the answer.
    pub fn budget(&self, context: usize, reserved: usize) -> Budget {
        Budget { used: self.n_tokens(), reserved, context }
    }

    /// The text for a file or a pipe: a bar after each token, line ends shown. A control token that covers no text
    /// shows by its name.
    pub fn plain(&self) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            let text: String = piece.shown().chars().map(|c| if c == '\n' { '↵' } else { c }).collect();
            out.push_str(&text);
            out.push('│');
        }
        out
    }

    /// The text for a terminal, its tokens on changing backgrounds and control tokens in reverse; line ends shown.
    pub fn ansi(&self) -> String {
        /// Backgrounds of the 256-colour palette that dark text reads on.
        const BACKGROUNDS: [u8; 5] = [153, 157, 223, 218, 189];
        let mut out = String::new();
        for (i, piece) in self.pieces.iter().enumerate() {
            let style = if piece.is_control {
                "7".to_owned()
            } else {
                format!("38;5;16;48;5;{}", BACKGROUNDS[i % BACKGROUNDS.len()])
            };
            for (k, line) in piece.shown().split('\n').enumerate() {
                if k > 0 {
                    let _ = writeln!(out, "\x1b[{style}m↵\x1b[0m");
                }
                let line: String = line.chars().map(|c| if c.is_control() { '·' } else { c }).collect();
                if !line.is_empty() {
                    let _ = write!(out, "\x1b[{style}m{line}\x1b[0m");
                }
            }
        }
        out
    }
}

/// Several tokenizers' cuts of one text, as a table: tokens, and characters a token.
///
/// # Errors
/// [`TokenizerError::Coding`] where a tokenizer cannot encode the text.
pub fn compare(tokenizers: &[(&str, &Tokenizer)], text: &str) -> Result<String, TokenizerError> {
    let width = tokenizers.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, tokenizer) in tokenizers {
        let shown = tokenizer.explain(text)?;
        let per_token = shown.n_chars as f64 / shown.n_tokens().max(1) as f64;
        let _ = writeln!(
            out,
            "{name:<width$}  {:>7} tokens  {per_token:>5.2} characters a token",
            shown.n_tokens()
        );
        let _ = writeln!(out, "{}", shown.ansi());
    }
    Ok(out)
}
