use crate::pii::lexicon::{
    AMBIGUOUS, CLOSING, COMMON, COUNTRY, FIRST, GREETING, LAST, MONTH, ORG, PARTICLE, PLACE, SAYS_NAME,
    SPEAKS, STREET, STREET_BEFORE, SUFFIX, TITLE, WEEKDAY, places,
};
use crate::pii::scan::Scan;
use crate::pii::{Kind, Span};

/// Names of persons by rules, a gazetteer of some 28,000 first names and surnames of 40 countries, and the
/// words around ("my name is", "Hi", "Regards,", "Dr.").
///
/// The evidence adds up: a first name that is no ordinary word, a surname after it, an announcement. Limits:
/// a surname alone, a name in no list that nothing announces, and a name in lower case without an
/// announcement are missed; a company called like a person is taken for one.
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    let mut resume = 0;
    for i in 0..scan.tokens.len() {
        let token = scan.tokens[i];
        if i < resume || !token.is_word() || token.is_opaque() {
            continue;
        }
        // Most words are neither capitalised nor names: leave early.
        if !token.is_capitalised() && !token.has(FIRST) || token.has(TITLE) && token.is_capitalised() {
            continue;
        }
        if leads_on(scan, i) {
            continue;
        }
        if let Some(last) = place_at(scan, i) {
            resume = last + 1;
        } else if let Some((last, score)) = name_at(scan, i) {
            resume = last + 1;
            let start = scan.tokens[with_particles_before(scan, i)].start;
            out.push(Span::new(start, scan.tokens[last].end, Kind::Person, score));
        }
    }
}

/// The last token of a place's name that begins at token `i`: "New York", "Rio de Janeiro".
fn place_at(scan: &Scan, i: usize) -> Option<usize> {
    if !scan.tokens[i].has(PLACE) || announcement(scan, i) >= 0.5 {
        return None;
    }
    let end = |rest: &&str| {
        rest.split(' ').enumerate().try_fold(i, |last, (n, word)| {
            let is_next = matches!(scan.gap(last), " " | "-" | ". " | "'" | "’")
                && scan.tokens.get(i + 1 + n).is_some()
                && scan.str(i + 1 + n).to_lowercase() == word;
            is_next.then_some(last + 1)
        })
    };
    places(scan.str(i)).iter().filter_map(end).max()
}

/// Whether token `i` is a small particle before a capital or another particle: the name begins after it.
fn leads_on(scan: &Scan, i: usize) -> bool {
    let token = scan.tokens[i];
    token.has(PARTICLE)
        && !token.is_capitalised()
        && scan.gap(i) == " "
        && scan.tokens.get(i + 1).is_some_and(|next| next.is_capitalised() || next.has(PARTICLE))
}

/// The first of the particles that lead from a title or the like to the name at token `i`: "Ms. van der Berg".
fn with_particles_before(scan: &Scan, i: usize) -> usize {
    let is_led = |&j: &usize| scan.tokens[j].has(PARTICLE) && matches!(scan.gap(j), " " | "'" | "’");
    let particles = (0..i).rev().take(3).take_while(is_led);
    particles.filter(|&j| announcement(scan, j) >= 0.5).last().unwrap_or(i)
}

/// What a word can be in a name.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// In the gazetteer and no ordinary word.
    Clear,
    /// In the gazetteer, and an ordinary word or place too.
    Ambiguous,
    /// Capitalised, no ordinary word, in no list.
    Unknown,
    /// A capital letter alone.
    Initial,
}

/// The name that starts at token `i`: its last token and score.
fn name_at(scan: &Scan, i: usize) -> Option<(usize, f32)> {
    let token = scan.tokens[i];
    if scan.in_url(token.start)
        || matches!(scan.byte_before(token.start), Some(b'@' | b'#' | b'_' | b'/' | b'\\' | b'$'))
        || is_inside_word(scan, i)
    {
        return None;
    }
    let announced = announcement(scan, i).max(announcement(scan, with_particles_before(scan, i)));
    let is_lower = !token.is_capitalised();
    let first = part(scan, i, announced >= 0.4)?;
    if first == Part::Initial && !starts_initials(scan, i) {
        return None;
    }
    let mut parts = vec![first];
    let mut last = i;
    while parts.len() < 5 {
        let Some((next, part)) = next_part(scan, last, is_lower) else { break };
        parts.push(part);
        last = next;
    }
    if parts.iter().all(|p| *p == Part::Initial) {
        return None;
    }
    let given = if scan.tokens[i].has(FIRST) { 0.05 } else { 0.0 };
    let base = match parts[..] {
        [Part::Clear] if scan.tokens[i].has(FIRST) => 0.5,
        [Part::Clear] => 0.4,
        [Part::Ambiguous] => 0.2,
        [] | [_] => 0.15,
        [first, .., last] => {
            let opening = match first {
                Part::Clear => 0.5,
                Part::Ambiguous => 0.25,
                Part::Unknown => 0.2,
                Part::Initial if parts[1] == Part::Initial => 0.3,
                Part::Initial => 0.15,
            };
            let closing = match last {
                Part::Clear => 0.3,
                Part::Unknown => 0.2,
                Part::Ambiguous => 0.15,
                Part::Initial => 0.05,
            };
            opening + closing + given
        }
    };
    let mut score: f32 = base + announced;
    if is_lower && announced < 0.4 {
        // Lower-case names count only whole, and only where neither part is a word.
        let whole = parts.len() >= 2 && parts.iter().all(|p| *p == Part::Clear) && scan.tokens[i].has(FIRST);
        score = if whole { 0.5 } else { 0.2 };
    }
    if scan.tokens[i].is_all_caps() && parts.len() == 1 {
        score -= 0.2;
    }
    score -= doubt(scan, i, last, parts.len());
    let last = suffix_after(scan, last);
    (score > 0.1).then_some((last, score))
}

/// What token `i` can be in a name, if anything. Where a name is announced, an ordinary word with a capital
/// that is also a name will do.
fn part(scan: &Scan, i: usize, is_announced: bool) -> Option<Part> {
    let token = scan.tokens[i];
    if !token.is_word()
        || token.is_opaque()
        || token.has(ORG | WEEKDAY | TITLE | GREETING) && !token.has(FIRST | LAST)
    {
        return None;
    }
    if token.len() == 1 {
        return (token.is_capitalised() && scan.byte(token.start) != Some(b'I')).then_some(Part::Initial);
    }
    let is_listed = token.has(FIRST) || token.has(LAST) && !token.has(COUNTRY);
    if is_listed && !token.has(AMBIGUOUS | COMMON | COUNTRY | MONTH) {
        return Some(Part::Clear);
    }
    if !token.is_capitalised() {
        return (is_announced && is_listed && !token.has(COMMON)).then_some(Part::Ambiguous);
    }
    if is_listed {
        return Some(Part::Ambiguous);
    }
    if token.has(COMMON | COUNTRY | MONTH | WEEKDAY | ORG | STREET | SUFFIX)
        || token.is_all_caps()
        || token.len() < 3
    {
        return None;
    }
    // "BlueSky" is a brand; "McDonald" and "DeShawn" are names.
    let opens_name = ["Mc", "Mac", "De", "Di", "La", "Le", "Van", "Fitz", "Da", "O"];
    if token.is_mixed_case() && !opens_name.iter().any(|o| scan.str(i).starts_with(o)) {
        return None;
    }
    Some(Part::Unknown)
}

/// The next part of a name after token `last`, particles skipped: "van den Oord", "Jean-Luc", "O'Brien".
fn next_part(scan: &Scan, last: usize, is_lower: bool) -> Option<(usize, Part)> {
    let gap = scan.gap(last);
    let is_initial = scan.tokens[last].len() == 1;
    let is_joined =
        matches!(gap, " " | "-" | "'" | "’" | " \u{feff}") || is_initial && matches!(gap, ". " | ".");
    let mut next = last + 1;
    if !is_joined || next >= scan.tokens.len() {
        return None;
    }
    let mut particles = 0;
    while scan.tokens[next].has(PARTICLE)
        && !scan.tokens[next].has(COMMON) | (scan.tokens[next].len() <= 3)
        && particles < 3
        && !scan.tokens[next].is_all_caps()
    {
        // A particle leads on to a capital ("van Gogh"); "Sarah and" does not.
        if !matches!(scan.gap(next), " " | "'" | "’") || next + 1 >= scan.tokens.len() {
            break;
        }
        next += 1;
        particles += 1;
    }
    let token = scan.tokens[next];
    if is_lower {
        let clear = part(scan, next, false).filter(|p| *p == Part::Clear)?;
        return (particles == 0).then_some((next, clear));
    }
    if !token.is_capitalised() || gap == "'" && !is_initial || gap == "’" && !is_initial {
        return None;
    }
    // A surname may be an ordinary word with a capital ("Sarah Green") if it is in the list.
    part(scan, next, false).map(|p| (next, p))
}

/// "J. R. R. Tolkien", "J Smith": letters that lead to a name.
fn starts_initials(scan: &Scan, i: usize) -> bool {
    let mut j = i;
    while j < i + 3
        && scan.tokens.get(j).is_some_and(|t| t.len() == 1 && t.is_capitalised())
        && matches!(scan.gap(j), ". " | ".")
    {
        j += 1;
    }
    j > i
        && scan
            .tokens
            .get(j)
            .is_some_and(|t| t.is_capitalised() && t.len() >= 3 && !t.has(COMMON | MONTH | WEEKDAY))
        || scan.byte(scan.tokens[i].end) == Some(b'\'')
            && scan.tokens.get(i + 1).is_some_and(super::super::scan::Token::is_capitalised)
}

fn is_inside_word(scan: &Scan, i: usize) -> bool {
    // "I'm", "don't", "x-ray": the second half starts no name.
    i > 0
        && matches!(scan.gap(i - 1), "'" | "’" | "-" | "_" | ".")
        && !matches!(scan.tokens[i - 1].len(), 1 if scan.gap(i - 1) != ".")
}

/// How strongly the words before token `i` announce a name.
fn announcement(scan: &Scan, i: usize) -> f32 {
    let Some(j) = i.checked_sub(1) else { return 0.0 };
    let (token, gap) = (scan.tokens[j], scan.gap(j));
    let is = |k: usize, words: &[&str]| words.iter().any(|w| scan.str(k).eq_ignore_ascii_case(w));
    let is_same_line = !gap.contains('\n');
    if token.has(TITLE) && matches!(gap, " " | ". " | ".") && (token.is_capitalised() || !token.has(COMMON)) {
        return 0.5;
    }
    if token.has(GREETING) && matches!(gap, " " | ", ") {
        return if gap == " " { 0.45 } else { 0.2 };
    }
    // "Regards,\nJohn": a closing on the line before.
    if !is_same_line {
        let closes = token.has(CLOSING)
            && gap.trim_matches([' ', ',', '!', '.', '-', '\r']).chars().all(|c| c == '\n')
            && gap.matches('\n').count() <= 2;
        return if closes { 0.45 } else { 0.0 };
    }
    // "Thanks, Bob": to Bob or by Bob.
    if token.has(CLOSING) && gap == ", " && j.checked_sub(1).is_none_or(|k| scan.gap(k) != " ") {
        return 0.35;
    }
    if token.has(SAYS_NAME) && is_label_gap(gap) {
        return if names_a_thing(scan, j) { 0.0 } else { 0.5 };
    }
    // "name is", "name was", "name on the account? User:"
    if is(j, &["is", "was"]) && gap == " " && j > 0 && scan.tokens[j - 1].has(SAYS_NAME) {
        return 0.5;
    }
    if is(j, &["s", "m"]) && gap == " " && j > 0 && matches!(scan.gap(j - 1), "'" | "’") {
        // "name's Bob", "I'm Bob"
        return if scan.tokens[j - 1].has(SAYS_NAME) {
            0.5
        } else if is(j - 1, &["i"]) {
            0.35
        } else {
            0.0
        };
    }
    if is(j, &["me", "him", "her"]) && gap == " " && j > 0 && is(j - 1, &["call", "calls", "called", "named"])
    {
        return 0.45;
    }
    if is(j, &["is", "am"]) && gap == " " && j > 0 && is(j - 1, &["this", "i"]) {
        return 0.35;
    }
    if token.has(SPEAKS) && matches!(gap, " " | ": ") {
        return if gap == ": " { 0.25 } else { 0.1 };
    }
    // "…? Sarah Connor", ">Sarah Connor": a line or answer of its own.
    0.0
}

/// "product name", "file_name", "Host name": what follows is no person.
fn names_a_thing(scan: &Scan, name: usize) -> bool {
    const THINGS: [&str; 40] = [
        "product", "file", "host", "domain", "brand", "company", "model", "class", "function", "method",
        "variable", "table", "column", "field", "path", "package", "project", "event", "item", "group",
        "category", "plan", "tag", "template", "store", "shop", "team", "app", "code", "display", "event",
        "country", "city", "street", "module", "queue", "topic", "bucket", "service", "server",
    ];
    let joined = |j: usize| matches!(scan.gap(j), " " | "_" | "-" | ".");
    name.checked_sub(1)
        .is_some_and(|j| joined(j) && THINGS.iter().any(|t| scan.str(j).eq_ignore_ascii_case(t)))
}

fn is_label_gap(gap: &str) -> bool {
    gap == " "
        || gap.trim_start_matches(['"', '\'', '*']).trim_start().starts_with([':', '=', '?'])
            && gap.len() <= 12
}

/// What speaks against the name `first..=last`.
fn doubt(scan: &Scan, first: usize, last: usize, parts: usize) -> f32 {
    let mut doubt = 0.0;
    if let Some(next) = scan.tokens.get(last + 1).filter(|_| matches!(scan.gap(last), " " | " & " | ", ")) {
        let is_close = scan.gap(last) == " ";
        // "Smith Ltd.", "Park Avenue", "Newton's"
        if next.has(ORG) && (next.is_capitalised() || next.has(ORG) && is_close) && scan.gap(last) != ", " {
            doubt += 0.5;
        }
        if next.has(STREET) && is_close && next.is_capitalised() {
            doubt += 0.5;
        }
        // "Name: Bluesky Wireless Speaker"
        if is_close
            && parts == 1
            && next.is_capitalised()
            && next.has(COMMON)
            && !scan.tokens[first].has(FIRST)
        {
            doubt += 0.3;
        }
        let is_number = next.has_digit() && is_close && parts == 1;
        if is_number {
            doubt += 0.2;
        }
    }
    if let Some(j) = first.checked_sub(1).filter(|&j| matches!(scan.gap(j), " " | "-" | ". ")) {
        let before = scan.tokens[j];
        if before.has(STREET_BEFORE) && before.is_capitalised() && !before.has(FIRST) {
            doubt += 0.4;
        } else if scan.str(j).eq_ignore_ascii_case("the") {
            doubt += if parts == 1 { 0.25 } else { 0.1 };
        } else if before.has(ORG) && before.is_capitalised() && scan.gap(j) == " " && parts == 1 {
            doubt += 0.2;
        }
    }
    doubt
}

/// "Deanna Capon MD", "Terry Cardoso, PhD".
fn suffix_after(scan: &Scan, last: usize) -> usize {
    let follows = matches!(scan.gap(last), " " | ", ")
        && scan.tokens.get(last + 1).is_some_and(|t| t.has(SUFFIX) && t.is_capitalised());
    if follows { last + 1 } else { last }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::Person;

    #[test]
    fn names() {
        for (text, name) in [
            ("Hi Sarah, thanks", "Sarah"),
            ("My name is Jessica van den Oord but", "Jessica van den Oord"),
            ("Regards,\nJohn Smith", "John Smith"),
            ("Dr. Zzyzxov will see you", "Zzyzxov"),
            ("my name is michael", "michael"),
            ("Name: Emily Božić\nPhone", "Emily Božić"),
            ("said Terry O'Brien today", "Terry O'Brien"),
            ("by J. R. R. Tolkien in", "J. R. R. Tolkien"),
            ("I'm Will Smith", "Will Smith"),
            ("Jean-Luc Picard left", "Jean-Luc Picard"),
            ("as Deanna Capon MD says", "Deanna Capon MD"),
            ("Mrs. Johansen", "Johansen"),
            ("Dear Ms. van der Berg,", "van der Berg"),
            ("Herr von Zzyzxov ruft an", "von Zzyzxov"),
            ("Mr. San Juan called", "San Juan"),
        ] {
            check(text, Person, &[name]);
        }
    }

    #[test]
    fn not_names() {
        for text in [
            "Will you mark this?",
            "Order May be late",
            "in Paris on Monday",
            "The Princess Royal arrived",
            "Bluesky Wireless Speaker",
            "Smith Ltd. wrote",
            "Hi BlueSky, from Puerto Rico",
            "hope and grace",
            "CAN I SPEAK TO A REAL PERSON",
            "Thanks for Your Order",
            "Hi there",
            "Dear Customer",
            "http://www.JohnSmith.com/",
            "@john",
            "I fly to New York on Friday.",
            "we ship to New York and to Hong Kong",
            "Is Bora Bora nearer than Costa Rica, South Africa or St. Louis?",
            "We met in Rio de Janeiro and in Stratford-upon-Avon",
            "the whole of Africa",
            "Bonjour le Café",
        ] {
            check(text, Person, &[]);
        }
    }
}
