//! E-mail: signatures, disclaimers and quoted replies around what a person really wrote.

use std::borrow::Cow;
use std::sync::LazyLock;

use ferrotune_types::Role;
use regex::Regex;

use super::TextStep;

/// Cuts signatures, "sent from" lines, confidentiality notices and quoted replies off the end of a turn.
///
/// Only the end of a text is cut, and something must be left; a text that is all quotation stays. What could be an
/// answer's own words, such as a notice or a journey's "From: … To: …", is cut only where all that follows is foreign too,
/// or where its other lines show that it is a mail's. Documents and system turns are not looked at.
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

/// The lines of that block by which it is a mail's and no journey's or parcel's: its subject, or an address in it.
static SUBJECT_OR_ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) ^\s*\*?(?:
          (?:subject|betreff|objet|asunto)\s?:
        | (?:from|von|de|da|to|cc|an|[àa]|para)\s?:.*\S@\S
        )",
    )
});

/// Where legal notices and requests not to print begin.
static NOTICE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) (?:
          this\s(?:e-?mail|message|communication|transmission)(?:\s\(.{0,60}\))?(?:\s?,?\s?(?:and|including)\s.{0,60})?\s(?:is|are|may\sbe|may\scontain|contains?)\s.{0,60}(?:confidential|privileged|intended\s(?:only|solely|for))
        | the\s(?:e-?mail|message|communication|transmission)(?:\s\(.{0,60}\))?\s?,?\s?(?:and|including)\s.{0,60}\s(?:is|are|may\sbe|may\scontain|contains?)\s.{0,60}(?:confidential|privileged|intended)
        | the\s(?:e-?mail|message|communication|transmission)(?:\s\(.{0,60}\))?\s(?:is|are|may\sbe|may\scontain|contains?)\s.{0,60}(?:privileged|intended\s(?:only|solely))
        | confidentiality\s(?:notice|note)\b
        | if\syou\sare\snot\s.{0,40}intended\s(?:recipient|addressee)
        | if\syou\s(?:have\s)?received\s(?:this|the)\s(?:[\p{L}-]+\s){0,2}(?:e-?mail|message|communication|transmission)\b.{0,20}\sin\serror
        | if\syou\s(?:have\s)?received\sthis\sin\serror\b.{0,60}(?:sender|delete)
        | (?:please\s)?(?:consider|think\sof)\s(?:the|our)\senvironment\sbefore\sprinting
        )",
    )
});

/// Words that hardly any sentence but a notice's has.
static LEGAL: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) \b(?:
          confidential | privileged | intended\s(?:only|solely|recipient|for) | recipients?\b | addressees?\b
        | unauthori[sz]ed | disclos(?:e|ure) | disseminat | distribut(?:e|ion) | copying | prohibited | forbidden
        | liab(?:le|ility) | virus | malware | in\serror | the\ssender | attach(?:ments?|ed\sfiles?) | unsubscribe
        | this\s(?:e-?mail|message|communication|transmission) | (?:delete|destroy)\s(?:it|this|all\scopies)
        | registered\s(?:office|in|number|company) | company\s(?:number|registration)
        | (?:views|opinions)\s.{0,20}(?:expressed|author) | environment\sbefore | printing
        | vertraulich | empf[äa]nger | adressat | absender | unbefugt | unerlaubt | irrt[üu]mlich | diese[rs]?\s(?:e-?)?mail
        | confidentiel | destinatair | exp[ée]diteur | ce\s(?:message|courriel|mail) | par\serreur
        | confidencial | destinatari | remitente | este\s(?:mensaje|correo) | riservat | mittente | questo\smessaggio
        )",
    )
});

static SENTENCE_END: LazyLock<Regex> = LazyLock::new(|| regex(r"[.!?]\s+"));

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

/// A line with the byte at which it begins.
type Line<'t> = (usize, &'t str);

/// The text without its last foreign block; `None` where it has none.
fn cut(text: &str) -> Option<&str> {
    let mut lines = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        lines.push((at, line.trim_end_matches(['\n', '\r'])));
        at += line.len();
    }
    let cut_at = (1..lines.len()).find(|&i| begins_foreign_block(&lines[..i], &lines[i..]));
    // Quotation and notices on the first line leave nothing; the text stays.
    let kept = text[..lines[cut_at?].0].trim_end();
    (!kept.trim().is_empty()).then_some(kept)
}

fn is_quote(line: &str) -> bool {
    line.trim_start().starts_with('>')
}

/// The lines that hold something.
fn filled<'a>(lines: &'a [Line<'a>]) -> impl DoubleEndedIterator<Item = &'a str> {
    lines.iter().map(|line| line.1).filter(|line| !line.trim().is_empty())
}

/// Whether everything from the first of `lines` to the end is signature, notice or quotation; `above` are the lines
/// before it.
fn begins_foreign_block(above: &[Line<'_>], lines: &[Line<'_>]) -> bool {
    let (line, rest) = (lines[0].1, &lines[1..]);
    let next = filled(rest).next();
    // Lines that cut whatever follows.
    let is_mark = matches!(line.trim_end(), "--" | "—");
    if is_mark && rest.len() <= 12 || REPLY_HEAD.is_match(line) || is_mail_header(lines) {
        return true;
    }
    let is_row_of = |signs: &str| line.trim().len() >= 5 && line.trim().chars().all(|c| signs.contains(c));
    if (is_mark || is_row_of("_=-*")) && next.is_some_and(|next| NOTICE.is_match(next)) {
        return true;
    }
    // `On …` broken over two lines by the mail program.
    if let Some(next) = next
        && next.trim_end().ends_with(':')
        && REPLY_HEAD.is_match(&format!("{} {}", line.trim(), next.trim()))
    {
        return true;
    }
    // Lines that cut only where all that follows is of their kind.
    if NOTICE.is_match(line) {
        return is_signed(above) || is_notice_to_the_end(lines);
    }
    let n_rest = filled(rest).count();
    let all_rest = |is_kind: &dyn Fn(&str) -> bool| filled(rest).all(is_kind);
    if is_quote(line) {
        // A quotation that fills the text from its first line is the text.
        return !above.last().is_some_and(|above| is_quote(above.1)) && all_rest(&is_quote);
    }
    if SENT_FROM.is_match(line) {
        return all_rest(&|l| is_quote(l) || is_signature_line(l));
    }
    if is_row_of("_=") {
        return n_rest <= 8 && n_rest > 0 && all_rest(&|l| is_signature_line(l) || NOTICE.is_match(l));
    }
    VALEDICTION.is_match(line)
        && n_rest <= 6
        && all_rest(&|l| is_signature_line(l) || SENT_FROM.is_match(l) || NOTICE.is_match(l))
}

/// Outlook's block of `From: … Sent: … To: … Subject: …`.
fn is_mail_header(lines: &[Line<'_>]) -> bool {
    if !FROM_LINE.is_match(lines[0].1) {
        return false;
    }
    let header: Vec<&str> = filled(&lines[1..]).take_while(|line| HEADER_LINE.is_match(line)).collect();
    header.len() >= 2 && header.iter().chain([&lines[0].1]).any(|line| SUBJECT_OR_ADDRESS.is_match(line))
}

/// Whether a letter ends just here: with the words that close it, and the name of who wrote it.
fn is_signed(lines: &[Line<'_>]) -> bool {
    let mut signature =
        filled(lines).rev().take(7).take_while(|line| is_signature_line(line) || VALEDICTION.is_match(line));
    signature.position(|line| VALEDICTION.is_match(line)).is_some_and(|n_names| n_names > 0)
}

/// Whether every sentence to the end is a notice's, a signature or quotation.
fn is_notice_to_the_end(lines: &[Line<'_>]) -> bool {
    let mut texts: Vec<String> = Vec::new();
    for line in filled(lines) {
        match texts.last_mut() {
            // A sentence that is broken over lines goes on with a small letter.
            Some(text) if line.trim_start().starts_with(char::is_lowercase) => {
                text.push(' ');
                text.push_str(line.trim());
            }
            _ => texts.push(line.trim().to_owned()),
        }
    }
    let is_foreign = |part: &str| LEGAL.is_match(part) || is_signature_line(part) || is_thanks(part);
    texts.iter().all(|text| {
        is_quote(text)
            || SENT_FROM.is_match(text)
            || VALEDICTION.is_match(text)
            || SENTENCE_END.split(text).all(is_foreign)
    })
}

/// "Thank you for your cooperation."
fn is_thanks(sentence: &str) -> bool {
    let sentence = sentence.trim().to_lowercase();
    sentence.starts_with("thank") && sentence.split_whitespace().count() <= 6
}
