//! A state's code and a ZIP, which look like many a number: is it an address?

use crate::pii::lexicon::{COMMON, SAYS_ADDRESS, SAYS_ORDER, SAYS_ZIP, STATE};
use crate::pii::scan::Scan;

/// "Portland OR 97201", "AE 94560", "DC 20001-1234": a state's code, token `state`, and the ZIP after it. Where nothing
/// says that it is one, "order ID 48213" is no address, but the part of one where other parts are joined to it.
pub(super) fn state_and_zip(scan: &Scan, state: usize, zip: usize) -> Option<(usize, usize, f32)> {
    let (word, token) = (scan.tokens[state], scan.tokens[zip]);
    let is_military =
        state > 0 && ["apo", "fpo", "dpo"].iter().any(|m| scan.str(state - 1).eq_ignore_ascii_case(m));
    let is_code = word.has(STATE) && (word.is_all_caps() || is_military);
    let is_zip = token.is_digits() && token.len() == 5;
    if !is_code || !is_zip || !matches!(scan.gap(state), " " | ", " | "\n " | " \n") {
        return None;
    }
    let is_long =
        scan.gap(zip) == "-" && scan.tokens.get(zip + 1).is_some_and(|t| t.is_digits() && t.len() == 4);
    let last = if is_long { zip + 1 } else { zip };
    if is_military {
        return Some((state - 1, last, 0.8));
    }
    if is_after_place(scan, state, zip) || is_said_to_be_an_address(scan, state) {
        return Some((state, last, 0.6));
    }
    Some((state, last, UNPROVEN))
}

/// What proves nothing, and not another thing that proves nothing either.
pub(super) const UNPROVEN: f32 = 0.2;

/// States' codes that are words, too, with the first digit of their ZIPs.
const CODES_OF_WORDS: [(&str, char); 7] =
    [("ID", '8'), ("PR", '0'), ("OR", '9'), ("IN", '4'), ("ME", '0'), ("HI", '9'), ("OK", '7')];

/// Whether the name of a place leads to a state and its ZIP: "Portland OR 97201", "Boise, ID 83702", "Long Beach, CA
/// 90802". A comma makes more sure of it, and a word that is no place's alone needs another one before it.
fn is_after_place(scan: &Scan, state: usize, zip: usize) -> bool {
    let Some(name) = state.checked_sub(1) else { return false };
    let (token, gap) = (scan.tokens[name], scan.gap(name));
    let has_comma = gap.trim() == ",";
    if !token.is_capitalised() || !(has_comma || gap == " ") || says_number(scan, name) {
        return false;
    }
    if token.has(COMMON) {
        let Some(first) = name.checked_sub(1) else { return false };
        let is_name =
            scan.tokens[first].is_capitalised() && scan.gap(first) == " " && !says_number(scan, first);
        return is_name && (has_comma || !scan.tokens[first].has(COMMON));
    }
    let code = CODES_OF_WORDS.iter().find(|(code, _)| *code == scan.str(state));
    has_comma || code.is_none_or(|(_, digit)| scan.str(zip).starts_with(*digit))
}

/// Whether words before token `i` say that an address or a ZIP follows; that something is sent says less.
fn is_said_to_be_an_address(scan: &Scan, i: usize) -> bool {
    const SENDING: [&str; 10] =
        ["deliver", "delivered", "shipped", "sent", "send", "moved", "mailing", "return", "taxi", "meet"];
    let says_so = |j: usize| {
        scan.tokens[j].has(SAYS_ADDRESS | SAYS_ZIP)
            && !SENDING.iter().any(|word| scan.str(j).eq_ignore_ascii_case(word))
    };
    !i.checked_sub(1).is_some_and(|before| says_number(scan, before)) && scan.before(i, 6).any(says_so)
}

/// Whether a word says that a number follows which is no ZIP: "order ID", "employee ID", "see PR".
fn says_number(scan: &Scan, i: usize) -> bool {
    const NUMBERED: &str = "account acct app application asset badge class client confirmation course customer device \
         employee event file form group job member merchant no number patient payment policy post \
         project receipt record registration report request reservation session staff student \
         subscription task user vendor visitor";
    scan.tokens[i].has(SAYS_ORDER) || NUMBERED.split(' ').any(|word| scan.str(i).eq_ignore_ascii_case(word))
}
