use super::us_zip;
use crate::pii::lexicon::{
    COMMON, COUNTRY, FIRST, LAST, MONTH, PARTICLE, SAYS_ADDRESS, SAYS_PHONE, SAYS_ZIP, STATE, STREET,
    STREET_BEFORE, UNIT, WEEKDAY,
};
use crate::pii::scan::Scan;
use crate::pii::{Kind, Span};

/// Postal addresses by rules. A *core* proves one: a number with a street's name (in the order of either side
/// of the Atlantic), a box, a military post office, a unit, a state with its postcode, an announced postcode.
/// Cores that only commas, lines and place names part are one address, and it runs on to the right over
/// place names, states, countries and postcodes.
///
/// Missed: streets without number and street word, place names alone. Found by mistake: "12 Angry Men Street".
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    let mut cores: Vec<(usize, usize, f32)> = Vec::new();
    for &i in &scan.numeric {
        cores.extend(around_number(scan, i));
    }
    for i in 0..scan.tokens.len() {
        if scan.tokens[i].has(STREET_BEFORE | STREET) && scan.tokens[i].is_word() {
            cores.extend(named_street(scan, i));
        }
        if scan.tokens[i].shape & 1 == 0 && scan.tokens[i].len() >= 6 {
            cores.extend(street_in_one_word(scan, i));
        }
    }
    cores.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let mut merged: Vec<(usize, usize, f32)> = Vec::new();
    for (first, last, score) in cores {
        let first = with_number_before(scan, with_street_before_unit(scan, first));
        match merged.last_mut() {
            Some((_, end, best)) if first <= *end || bridges(scan, *end, first) => {
                // Two parts that belong together prove each other, if one of them proves anything.
                let proof = best.max(score);
                *best =
                    if first <= *end || proof <= us_zip::UNPROVEN { proof } else { (proof + 0.15).min(0.95) };
                *end = last.max(*end);
            }
            _ => merged.push((first, last, score)),
        }
    }
    for (first, last, score) in merged {
        let last = extend(scan, last);
        let score = if scan.near_before(first, 6, SAYS_ADDRESS | SAYS_ZIP) { score + 0.25 } else { score };
        out.push(Span::new(scan.tokens[first].start, scan.tokens[last].end, Kind::Address, score));
    }
}

/// A core that token `i`, which holds a digit, begins or is in.
fn around_number(scan: &Scan, i: usize) -> Option<(usize, usize, f32)> {
    let token = scan.tokens[i];
    if scan.glued_before(token.start) || scan.in_url(token.start) {
        return None;
    }
    let before = i.checked_sub(1).map(|j| (j, scan.tokens[j], scan.gap(j)));
    if let Some((j, word, gap)) = before {
        let name = scan.str(j);
        let is_short_gap = matches!(gap, " " | ". " | " # " | ": " | ", ");
        // "P.O. Box 255", "Box 7979", "Apt. 853", "Suite 12B", "Unit 2451 Box 9006"
        if word.has(UNIT) && is_short_gap && token.len() <= 6 {
            let is_box = name.eq_ignore_ascii_case("box");
            let first = if is_box { box_start(scan, j) } else { Some(j) };
            let is_strong = ["apt", "apartment", "suite", "ste", "box", "appt"]
                .iter()
                .any(|u| name.eq_ignore_ascii_case(u));
            return first.map(|first| (first, i, if is_strong { 0.55 } else { 0.35 }));
        }
        if let Some(found) = us_zip::state_and_zip(scan, j, i) {
            let is_proven = found.2 > us_zip::UNPROVEN;
            return if is_proven { Some(found) } else { number_then_street(scan, i).or(Some(found)) };
        }
        let is_zip = token.is_digits() && token.len() == 5;
        // "Norway 47620"
        if is_zip
            && word.has(COUNTRY)
            && gap == " "
            && !scan.glued_before(token.start)
            && !is_counted(scan, i)
        {
            return Some((j, i, 0.5));
        }
        // "zip code is 29687", "PLZ: 10115"
        let is_code = (4..=6).contains(&token.len()) && scan.near_before(i, 3, SAYS_ZIP);
        if is_code && scan.before(i, 3).all(|j| !scan.tokens[j].has_digit()) {
            return Some((i, i, 0.55));
        }
    }
    if is_uk_postcode(scan, i) {
        return Some((i, i + 1, 0.65));
    }
    number_then_street(scan, i).or_else(|| number_then_name(scan, i)).or_else(|| over_a_postcode(scan, i))
}

/// "Sennbaan 13\n6578 GF Arnemuiden", "Zorbachstr. 5-3\n63054 Hildburghausen": a postcode at the beginning of a
/// line, and a name with its number on the line above. `i` is the postcode.
fn over_a_postcode(scan: &Scan, i: usize) -> Option<(usize, usize, f32)> {
    let token = scan.tokens[i];
    let digits = scan.str(i).bytes().take_while(u8::is_ascii_digit).count();
    let is_code = (4..=5).contains(&digits) && (token.is_digits() || token.len() == digits + 2);
    let above = i.checked_sub(1)?;
    if !is_code || !scan.gap(above).trim_matches([' ', ',', '\r']).eq("\n") {
        return None;
    }
    let leads_to_place = matches!(scan.gap(i), " " | "\n" | ", ")
        && scan.tokens.get(i + 1).is_some_and(super::super::scan::Token::is_capitalised);
    let mut j = above;
    // "5-3" is a house number of two tokens.
    if scan.tokens[j].has_digit() && j > 0 && scan.gap(j - 1) == "-" && scan.tokens[j - 1].is_digits() {
        j -= 1;
    }
    let has_number = scan.tokens[j].has_digit() && scan.tokens[j].len() <= 5;
    if !leads_to_place || !has_number {
        return None;
    }
    let mut names = 0;
    while j > 0
        && names < 5
        && (joins_name(scan, j - 1) || scan.gap(j - 1) == ", ")
        && is_street_name(scan, j - 1)
    {
        j -= 1;
        names += 1;
    }
    (names > 0).then_some((j, i + 1, 0.6))
}

/// "Norway 47620 fans": what follows shows that the number counts something.
fn is_counted(scan: &Scan, i: usize) -> bool {
    scan.gap(i) == " " && scan.tokens.get(i + 1).is_some_and(|t| t.is_word() && !t.is_capitalised())
}

/// "lives at 11 Paso Rivero 7301", "address is 56 Canelones": announced, a number and a name will do.
fn number_then_name(scan: &Scan, i: usize) -> Option<(usize, usize, f32)> {
    let starts_with_digit = scan.str(i).starts_with(|c: char| c.is_ascii_digit());
    if !starts_with_digit || scan.tokens[i].len() > 5 || !scan.near_before(i, 3, SAYS_ADDRESS) {
        return None;
    }
    let mut j = i;
    while j < i + 5 && joins_name(scan, j) && is_street_name(scan, j + 1) {
        j += 1;
    }
    if j == i {
        return None;
    }
    let has_number =
        scan.gap(j) == " " && scan.tokens.get(j + 1).is_some_and(|t| t.is_digits() && t.len() <= 5);
    // The announcement adds its part to the score later.
    Some((i, if has_number { j + 1 } else { j }, if has_number { 0.5 } else { 0.3 }))
}

/// Whether token `j` and the next can stand in one name: a full stop between them ends an abbreviation ("St.",
/// "J."), not a sentence or the number of an item ("2. Please").
fn joins_name(scan: &Scan, j: usize) -> bool {
    let (gap, token) = (scan.gap(j), scan.tokens[j]);
    matches!(gap, " " | "-" | "'" | "’") || gap == ". " && token.len() <= 3 && !token.is_digits()
}

/// A word that can be part of a street's name: a capital, a joining word, or any rare word where all is lower case.
fn is_street_name(scan: &Scan, j: usize) -> bool {
    scan.tokens.get(j).is_some_and(|t| {
        t.is_word()
            && !t.has(MONTH | WEEKDAY)
            && (t.is_capitalised() || t.has(PARTICLE) || !t.has(COMMON) && is_lower_block(scan, j))
            || is_joining_word(scan, j)
    })
}

/// "Rue des Lilas", "Via degli Ulivi", "Queen's Court": small words inside a street's name that are in no
/// person's.
fn is_joining_word(scan: &Scan, j: usize) -> bool {
    let word = scan.str(j);
    let is_possessive = word == "s" && j > 0 && matches!(scan.gap(j - 1), "'" | "’");
    is_possessive || ["des", "les", "los", "las", "dei", "degli", "della", "delle"].contains(&word)
}

/// "P.O. Box 255" starts at the P; "PSC 4926, Box 7979" and "Unit 2451 Box 9006" at their first word.
fn box_start(scan: &Scan, word: usize) -> Option<usize> {
    let mut before = scan.before(word, 2);
    let (Some(o), p) = (before.next(), before.next()) else { return None };
    if scan.str(o).eq_ignore_ascii_case("po") || scan.str(o).eq_ignore_ascii_case("pob") {
        return Some(o);
    }
    let p = p?;
    let is_po = scan.str(o).eq_ignore_ascii_case("o") && scan.str(p).eq_ignore_ascii_case("p");
    let is_military = scan.tokens[o].is_digits()
        && ["psc", "unit", "cmr"].iter().any(|m| scan.str(p).eq_ignore_ascii_case(m));
    (is_po || is_military).then_some(p)
}

/// `SW1A 1AA`: outward and inward code.
fn is_uk_postcode(scan: &Scan, i: usize) -> bool {
    let Some(next) = scan.tokens.get(i + 1) else { return false };
    if next.len() != 3 || scan.gap(i) != " " || !(2..=4).contains(&scan.tokens[i].len()) {
        return false;
    }
    let (out, inward) = (scan.str(i).as_bytes(), scan.str(i + 1).as_bytes());
    let letters = out.iter().take_while(|b| b.is_ascii_uppercase()).count();
    let is_out = (1..=2).contains(&letters)
        && out[letters..].first().is_some_and(u8::is_ascii_digit)
        && out[letters..].len() <= 2
        && out.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    is_out && inward[0].is_ascii_digit() && inward[1..].iter().all(u8::is_ascii_uppercase)
}

/// "92 Main Street", "221b Baker St", "40 rue Victor Hugo", "12 via Roma": a number, then a street.
fn number_then_street(scan: &Scan, i: usize) -> Option<(usize, usize, f32)> {
    if scan.tokens[i].len() > 6 || !scan.str(i).starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut j = i;
    let mut names = 0;
    while names < 5 && (joins_name(scan, j) || scan.gap(j) == ", ") {
        j += 1;
        let word = scan.tokens.get(j)?;
        let is_name_gap = scan.gap(j - 1) != ", " || names == 0;
        if word.has(STREET)
            && names > 0
            && is_name_gap
            && (word.is_capitalised() || !word.has(COMMON) || names <= 2 && is_lower_block(scan, i))
        {
            return Some((i, j, 0.75));
        }
        if word.has(STREET_BEFORE) && names == 0 && word.is_word() {
            return None; // `named_street` takes it from there.
        }
        let is_ordinal = word.has_digit() && word.len() <= 6;
        let is_name =
            word.has(PARTICLE) || word.has(FIRST | LAST) && !word.has(COMMON) || is_joining_word(scan, j);
        if !(word.is_capitalised() || is_name || is_ordinal) {
            return None;
        }
        names += 1;
    }
    None
}

/// Whether the text around is all lower case, as in chat, so that capitals prove nothing.
fn is_lower_block(scan: &Scan, i: usize) -> bool {
    let around = scan.tokens[i.saturating_sub(6)..].iter().take(12).filter(|t| t.is_word());
    around.clone().count() > 2 && around.clone().all(|t| !t.is_capitalised())
}

/// "Rua das Pedras 930", "Via Giberti 75", "Dózsa György út 78.", "Almeida Street", "Baker St": a street word
/// with its name; a number makes it sure.
fn named_street(scan: &Scan, i: usize) -> Option<(usize, usize, f32)> {
    let token = scan.tokens[i];
    if scan.in_url(token.start) {
        return None;
    }
    let is_name = |j: usize| is_street_name(scan, j);
    if token.has(STREET_BEFORE) && (token.is_capitalised() || !token.has(COMMON)) {
        let mut j = i;
        while j < i + 5 && joins_name(scan, j) && is_name(j + 1) {
            j += 1;
        }
        let has_number = matches!(scan.gap(j), " " | ", ")
            && scan.tokens.get(j + 1).is_some_and(|t| t.has_digit() && t.len() <= 5);
        let number_before = i > 0 && scan.tokens[i - 1].has_digit() && matches!(scan.gap(i - 1), " " | ", ");
        if j > i && (has_number || number_before) {
            return Some((i, if has_number { j + 1 } else { j }, 0.7));
        }
    }
    // The street word last: names before it on the same line.
    if token.has(STREET) && (token.is_capitalised() || !token.has(COMMON)) {
        let mut j = i;
        while j > 0 && i - j < 4 && joins_name(scan, j - 1) && is_name(j - 1) {
            j -= 1;
        }
        let has_number = matches!(scan.gap(i), " " | ". ")
            && scan.tokens.get(i + 1).is_some_and(|t| t.has_digit() && t.len() <= 5);
        let is_full_word = ["street", "road", "avenue", "lane", "boulevard", "utca", "drive", "st"]
            .iter()
            .any(|s| scan.str(i).eq_ignore_ascii_case(s));
        let is_road_number = ["highway", "hwy", "route", "expressway", "freeway"]
            .iter()
            .any(|s| scan.str(i).eq_ignore_ascii_case(s));
        let is_hyphenated = i > 0 && scan.gap(i - 1) == "-" && token.is_capitalised();
        if j < i && has_number && (!token.has(COMMON) || is_hyphenated) && !is_road_number {
            return Some((j, i + 1, 0.7));
        }
        if j < i && is_full_word && !(scan.str(i).eq_ignore_ascii_case("st") && is_name(i + 1)) {
            // A road without a number is no one's address.
            return Some((j, i, 0.4));
        }
    }
    None
}

/// Endings of street names that are written as one word.
const ENDINGS: [&str; 35] = [
    "strasse", "str", "straße", "gasse", "allee", "platz", "brücke", "damm", "ufer", "weg", "laan", "straat",
    "plein", "gracht", "steeg", "singel", "kade", "gatan", "gata", "vägen", "gränd", "vej", "gade", "allé",
    "vegen", "veien", "gaten", "katu", "tie", "kuja", "polku", "gatu", "stræti", "vegur", "dreef",
];

/// "Hauptstraße 5", "Hauptstr. 5", "Itätuulenkuja 89": one word and its number.
fn street_in_one_word(scan: &Scan, i: usize) -> Option<(usize, usize, f32)> {
    let number = scan.tokens.get(i + 1)?;
    let is_short = matches!(scan.gap(i), ". " | ".");
    if !is_short && scan.gap(i) != " "
        || !number.has_digit()
        || number.len() > 5
        || !scan.str(i + 1).starts_with(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    let word = scan.str(i).to_lowercase();
    let is_street = if is_short { word.ends_with("str") } else { ENDINGS.iter().any(|e| word.ends_with(e)) };
    is_street.then_some((i, i + 1, 0.65))
}

/// A unit proves that what stands before it is a street: "57 Askelund 1\n Suite 322", "Rincon 9082, Apt. 5".
fn with_street_before_unit(scan: &Scan, first: usize) -> usize {
    let token = scan.tokens[first];
    if !token.has(UNIT) || !token.is_word() || scan.str(first).eq_ignore_ascii_case("box") {
        return first;
    }
    let is_number = |j: usize| {
        scan.tokens[j].has_digit() && scan.tokens[j].len() <= 5 && !scan.glued_before(scan.tokens[j].start)
    };
    let mut j = first;
    let mut names = 0;
    let mut best = first;
    while j > 0
        && first - j < 8
        && is_join(scan.gap(j - 1))
        && scan.gap(j - 1).matches('\n').count() <= usize::from(j == first)
    {
        j -= 1;
        if is_number(j) {
            if names > 0 || j + 1 == first && j > 0 && is_street_name(scan, j - 1) {
                best = j;
            }
            if names > 0 {
                break;
            }
        } else if is_street_name(scan, j) {
            names += 1;
            // "Costanera 9293": the name belongs to the number that follows it.
            if is_number(j + 1) && j + 1 < first {
                best = j;
            }
        } else {
            break;
        }
    }
    best
}

/// The building's number just before a core, as in "40 Avenue des Tuileries" and "91 Vila Miguel".
fn with_number_before(scan: &Scan, first: usize) -> usize {
    let Some(j) = first.checked_sub(1) else { return first };
    let token = scan.tokens[j];
    let is_number =
        token.has_digit() && token.len() <= 5 && scan.str(j).starts_with(|c: char| c.is_ascii_digit());
    if is_number && matches!(scan.gap(j), " " | ", ") && !scan.glued_before(token.start) { j } else { first }
}

/// Whether what stands between tokens `last` and `first` only joins two parts of one address.
fn bridges(scan: &Scan, last: usize, first: usize) -> bool {
    let between = &scan.text[scan.tokens[last].end..scan.tokens[first].start];
    first - last <= 6
        && between.len() <= 60
        && between.matches('\n').count() <= 3
        && (last..first).all(|j| is_join(scan.gap(j)))
        && (last + 1..first).all(|j| is_place(scan, j))
}

/// Blanks, commas, line ends and quote marks at the line's beginning.
fn is_join(gap: &str) -> bool {
    gap.len() <= 12 && gap.chars().all(|c| c.is_whitespace() || ",.>-?|".contains(c))
}

fn is_place(scan: &Scan, j: usize) -> bool {
    let token = scan.tokens[j];
    let is_code = token.has_digit() && (3..=6).contains(&token.len());
    !token.is_opaque()
        && (is_code
            || token.is_word()
                && (token.is_capitalised() && !token.has(SAYS_PHONE | MONTH | WEEKDAY)
                    || token.has(PARTICLE | COUNTRY)
                    || !token.has(COMMON)))
}

/// The last token of the address whose last core token is `last`: place names, states, countries and
/// postcodes that follow on the same or the next lines. Plain words end it.
fn extend(scan: &Scan, last: usize) -> usize {
    let mut end = last;
    let mut j = last;
    let mut names = 0;
    let mut postcode_leads = false;
    while j + 1 < scan.tokens.len() && j - last < 10 {
        let gap = scan.gap(j);
        if !is_join(gap) || gap.contains(". ") || gap.contains('?') && !gap.contains('\n') {
            break;
        }
        // "IL 62704." ends the sentence, too.
        if gap.contains('.') && scan.tokens[j].has_digit() {
            break;
        }
        let token = scan.tokens[j + 1];
        let is_postcode = token.has_digit() && token.len() == 5 && token.is_digits();
        let is_region = token.has(COUNTRY) || token.has(STATE) && token.is_all_caps();
        // A line of digits with blanks is a phone number, not a postcode.
        let goes_on = is_postcode
            && scan.tokens.get(j + 2).is_some_and(|t| t.has_digit() && matches!(scan.gap(j + 1), " " | "-"));
        let is_name = token.is_capitalised() && token.len() > 1 && !token.has(COMMON)
            || token.has(PARTICLE) && names > 0;
        if goes_on || !(is_postcode || is_region || is_name) {
            break;
        }
        names += 1;
        j += 1;
        // Names alone do not lengthen it; what they lead to does.
        // "…, 50674 Köln": the postcode leads to its town.
        if is_postcode || is_region || postcode_leads && gap == " " || gap.contains(',') || gap.contains('\n')
        {
            end = j;
        }
        postcode_leads = is_postcode && gap != " ";
        if is_postcode && !scan.gap(j).contains([',', ' ']) {
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::Address;

    #[test]
    fn addresses() {
        for address in [
            "12 Main Street",
            "1600 Pennsylvania Ave, Washington, DC 20500",
            "40 rue Victor Hugo",
            "Hauptstraße 5",
            "P.O. Box 255",
            "PSC 4926, Box 7979\nAPO AA 63682",
            "Unit 2451 Box 9006\nDPO AA 78045",
            "92 Harbour Road\nApt. 853\nPerth\nAustralia 63015",
            "Via Giberti 75",
            "48 Rue des Lilas",
            "81 Queen's Court",
            "SW1A 1AA",
        ] {
            check(&format!("Send it to {address}."), Address, &[address]);
        }
        check("My zip code is 29687", Address, &["29687"]);
        check("I grew up near Portland OR 97201.", Address, &["OR 97201"]);
        for (text, address) in [
            ("Boise, ID 83702", "ID 83702"),
            ("from Long Beach, CA 90802 to here", "CA 90802"),
            ("Virginia Beach VA 23450", "VA 23450"),
            ("I live in OR 97201", "OR 97201"),
            ("the ZIP is ID 83702-1234", "ID 83702-1234"),
            ("12 Main Street\nOR 97201", "12 Main Street\nOR 97201"),
            ("12 Main Street\nBoise, ID 83702", "12 Main Street\nBoise, ID 83702"),
            ("Springfield, 12 Oak Ave, IL 62704", "12 Oak Ave, IL 62704"),
        ] {
            check(text, Address, &[address]);
        }
        check("sent to Lindenstraße 12, 50674 Köln. My husband", Address, &["Lindenstraße 12, 50674 Köln"]);
        check("Ich wohne in der Hauptstr. 5, 80331 München", Address, &["Hauptstr. 5, 80331 München"]);
        check("Meine Adresse: Bahnhofstr.12, 10115 Berlin", Address, &["Bahnhofstr.12, 10115 Berlin"]);
    }

    #[test]
    fn not_addresses() {
        for text in [
            "5 stars",
            "in 30 Days",
            "the 12 Monkeys film",
            "Chapter 5 Way",
            "order 48213",
            "room 5",
            "a 10 percent drive",
            "We met 2 Friends",
            "My address is wrong. 2. Please change it",
            "I live here. 5. Great",
            "the corners meet. 4. Cut",
            "topic addresses? 2. Who",
            "Your order ID 48213 has shipped, ticket ID 10482 is closed",
            "Please check my account ID 90210 again",
            "Customer ID 83702, Employee ID 83703, TRANSACTION ID 83704",
            "PR 48213 was merged",
            "I sent PR 00921 for review",
            "GitHub PR 48213",
            "See order 1 OR 12345",
            "Model OR 12345 and CO 54321",
            "OR 12345, CO 54321, ID 48213, PR 10482, shipped",
            "Product code HI 55555 is out",
            "See ME 12345",
            "We paid IN 50000 rupees",
            "My address is right, but the user ID 83702 is wrong",
            "Max str. Length",
        ] {
            check(text, Address, &[]);
        }
    }
}
