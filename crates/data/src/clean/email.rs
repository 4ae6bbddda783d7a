//! E-mail: signatures, disclaimers and quoted replies around what a person really wrote.

use std::borrow::Cow;
use std::sync::LazyLock;

use ferrotune_types::Role;
use regex::Regex;

use super::TextStep;

/// Cuts signatures, "sent from" lines, confidentiality notices and quoted replies off the end of a turn.
///
/// Only the end of a text is cut, and something must be left; a text that is all quotation stays. Documents and
/// system turns are not looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Email;

impl TextStep for Email {
    fn name(&self) -> &'static str {
        "email"
    }

    fn fix<'a>(&self, text: &'a str) -> Cow<'a, str> {
        // One cut can lay the next one open: a quoted reply below a signature.
        let mut kept = text;
        while let Some(shorter) = cut(kept) {
            kept = shorter;
        }
        if kept.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(kept.to_owned()) }
    }

    fn looks_at(&self, role: Option<Role>) -> bool {
        matches!(role, Some(Role::User | Role::Assistant))
    }
}

fn regex(pattern: &str) -> Regex {
    // The patterns are constants of this file, covered by its tests.
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("{pattern}: {e}"))
}

/// A line that introduces a quoted message. All that follows is quotation.
static REPLY_HEAD: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) ^\s*>*\s*(?:
          on\s.{6,120}\swrote:
        | am\s.{6,120}\s(?:schrieb\b.{0,80}:)
        | le\s.{6,120}\sa\s[ée]crit\s?:
        | el\s.{6,120}\sescribi[óo]:
        | il\s.{6,120}\sha\sscritto:
        | -{2,}\s*(?:original\smessage|forwarded\smessage|urspr[üu]ngliche\snachricht|message\sd'origine|mensaje\soriginal)\s*-{2,}
        | begin\sforwarded\smessage:
        )\s*$",
    )
});

/// The first line of Outlook's block of `From: … Sent: … To: … Subject: …`.
static FROM_LINE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i)^\s*\*?(?:from|von|de|da)\s?:\*?\s*\S"));
static HEADER_LINE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?i)^\s*\*?(?:sent|date|to|cc|subject|gesendet|datum|an|betreff|envoy[ée]|objet|[àa]|enviado|para|asunto)\s?:\*?\s*\S",
    )
});

/// What mail programs add by themselves.
static SENT_FROM: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) ^\s*(?:
          sent\s(?:from|via|with|using)\s(?:my\s|a\s|the\s)?[\p{L}\d].{0,60}
        | get\soutlook\sfor\s(?:ios|android)\b.{0,60}
        | (?:von\smeinem|envoy[ée]\sde(?:puis)?\smon|enviado\sdesde\smi)\s.{2,60}
        | .{0,20}virus-?free\.?\s.{0,40}(?:avast|avg).{0,40}
        )\s*$",
    )
});

/// Legal notices and requests not to print.
static NOTICE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) (?:
          (?:this|the)\s(?:e-?mail|message|communication)(?:\s\(.{0,60}\))?(?:\s?,?\s?(?:and|including)\s.{0,60})?\s(?:is|are|may\sbe|may\scontain|contains?)\s.{0,60}(?:confidential|privileged|intended)
        | confidentiality\s(?:notice|note)\b
        | if\syou\s(?:are\snot|have\sreceived)\s.{0,40}(?:intended\srecipient|in\serror)
        | (?:please\s)?(?:consider|think\sof)\s(?:the|our)\senvironment\sbefore\sprinting
        )",
    )
});

/// The words that close a letter, alone on their line.
static VALEDICTION: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) ^\s*(?:
          (?:(?:kind(?:est)?|best|warm(?:est)?|with\skind|with\sbest)\s)?regards
        | (?:all\sthe\s|very\s)?best(?:\swishes)?
        | (?:yours\s)?(?:sincerely|faithfully|truly|cordially)(?:\syours)?
        | (?:many\s|with\s)?(?:thanks|thank\syou|thx)(?:\s(?:again|in\sadvance|so\smuch|and\sregards|a\slot))?
        | cheers | respectfully | warmly | take\scare | br | rgds
        | (?:mit\s(?:freundlichen|besten|lieben|herzlichen)|viele|liebe|beste|sch[öo]ne)\sgr[üu](?:ß|ss)en?
        | (?:bien\s)?cordialement | (?:un\scordial\s|un\s|atentamente\s?)saludos? | atentamente | saludos
        )\s*[,.!]?\s*$",
    )
});

/// A line of a signature: a name, a title, a company, a phone number, an address on the net.
fn is_signature_line(line: &str) -> bool {
    let line = line.trim();
    let words = line.split_whitespace().count();
    if line.is_empty() || line.chars().count() > 90 || words > 10 {
        return line.is_empty();
    }
    let ends_like_a_sentence = line.ends_with(['?', '!']) || line.ends_with('.') && words > 4;
    let capitals =
        line.split_whitespace().filter(|w| w.chars().next().is_some_and(|c| !c.is_lowercase())).count();
    !ends_like_a_sentence && (words <= 2 || 2 * capitals >= words || line.contains(['@', '|']))
}

/// The text without its last foreign block; `None` where it has none.
fn cut(text: &str) -> Option<&str> {
    let mut starts = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        starts.push((at, line.trim_end_matches(['\n', '\r'])));
        at += line.len();
    }
    let cut_at = (1..starts.len()).find(|&i| begins_foreign_block(starts[i - 1].1, &starts[i..]));
    // Quotation and notices on the first line leave nothing; the text stays.
    let kept = text[..starts[cut_at?].0].trim_end();
    (!kept.trim().is_empty()).then_some(kept)
}

/// Whether everything from the first of `lines` to the end is signature, notice or quotation; `before` is the line
/// above them.
fn begins_foreign_block(before: &str, lines: &[(usize, &str)]) -> bool {
    let line = lines[0].1;
    let rest = &lines[1..];
    let line_after = |n: usize| rest.iter().map(|l| l.1).filter(|l| !l.trim().is_empty()).nth(n);
    // Lines that cut whatever follows.
    if matches!(line.trim_end(), "--" | "-- " | "—") && !line.starts_with(' ') && rest.len() <= 12 {
        return true;
    }
    let is_rule = line.trim().len() >= 5 && line.trim().chars().all(|c| c == '_' || c == '=');
    if REPLY_HEAD.is_match(line) || NOTICE.is_match(line) {
        return true;
    }
    if FROM_LINE.is_match(line)
        && line_after(0).is_some_and(|l| HEADER_LINE.is_match(l))
        && line_after(1).is_some_and(|l| HEADER_LINE.is_match(l))
    {
        return true;
    }
    // `On …` broken over two lines by the mail program.
    if let Some(next) = line_after(0)
        && next.trim_end().ends_with(':')
        && REPLY_HEAD.is_match(&format!("{} {}", line.trim(), next.trim()))
    {
        return true;
    }
    // Lines that cut only where all that follows is of their kind.
    let all_rest =
        |is_kind: &dyn Fn(&str) -> bool| rest.iter().all(|l| l.1.trim().is_empty() || is_kind(l.1));
    let is_quote = |l: &str| l.trim_start().starts_with('>');
    if is_quote(line) {
        // A quotation that fills the text from its first line is the text.
        return !is_quote(before) && all_rest(&is_quote);
    }
    if SENT_FROM.is_match(line) {
        return all_rest(&|l| is_quote(l) || is_signature_line(l));
    }
    let n_rest = rest.iter().filter(|l| !l.1.trim().is_empty()).count();
    if is_rule {
        return n_rest <= 8 && n_rest > 0 && all_rest(&|l| is_signature_line(l) || NOTICE.is_match(l));
    }
    VALEDICTION.is_match(line)
        && n_rest <= 6
        && all_rest(&|l| is_signature_line(l) || SENT_FROM.is_match(l) || NOTICE.is_match(l))
}
