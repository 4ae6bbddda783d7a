use super::with_context;
use crate::pii::lexicon::{PHONE_AFTER, SAYS_ADDRESS, SAYS_CARD, SAYS_ID, SAYS_ORDER, SAYS_PHONE};
use crate::pii::numbering;
use crate::pii::scan::Scan;
use crate::pii::span::resolve;
use crate::pii::{Kind, PiiConfig, Span};

/// Telephone numbers. What begins with `+` is checked against libphonenumber's metadata for its country; a
/// national form (`(978) 645-9740`, `089 72 63 41`, `02.27.96.63.08`) against the configured regions; any
/// other plausible shape (`785 8949`, `50-98-28-96`) needs a word that announces it, or "office" and its like
/// after it. A row of digits that is already something else is not looked at.
pub(super) fn find(scan: &Scan, config: &PiiConfig, out: &mut Vec<Span>) {
    let taken: Vec<Span> = resolve(scan.text, out.iter().filter(|s| s.score >= 0.5).copied().collect());
    let mut resume = 0;
    for &i in &scan.numeric {
        if scan.tokens[i].start < resume || !may_start(scan, i) {
            continue;
        }
        if let Some(span) = at(scan, i, &config.regions, &taken) {
            resume = span.end;
            out.push(span);
        }
    }
}

/// Whether one of the sorted, disjoint spans overlaps `start..end`.
fn is_taken(taken: &[Span], start: usize, end: usize) -> bool {
    let i = taken.partition_point(|s| s.end <= start);
    taken.get(i).is_some_and(|s| s.start < end)
}

/// A row of digit groups as it is written.
struct Row<'t> {
    /// Where the first and every further group ends.
    ends: Vec<usize>,
    lengths: Vec<usize>,
    digits: Vec<u8>,
    /// What stands between a group and the next.
    gaps: Vec<&'t str>,
    /// Index of each group's token.
    tokens: Vec<usize>,
    /// Where an extension that follows the last group ends ("x1887", " ext. 12").
    extension_end: Option<usize>,
    starts_with_plus: bool,
    /// Whether the first group stands in parentheses.
    is_area_in_parentheses: bool,
    start: usize,
}

/// A digit first, and enough digits or a neighbour to make a number with: most numbers in prose go no further.
fn may_start(scan: &Scan, i: usize) -> bool {
    let token = scan.tokens[i];
    scan.byte(token.start).is_some_and(|b| b.is_ascii_digit())
        && (token.len() >= 7
            || scan.tokens.get(i + 1).is_some_and(|next| {
                next.start - token.end <= 3 && scan.byte(next.start).is_some_and(|b| b.is_ascii_digit())
            }))
}

fn at(scan: &Scan, i: usize, regions: &[String], taken: &[Span]) -> Option<Span> {
    let mut row = row(scan, i)?;
    if scan.in_url(row.start) || is_glued(scan, row.start) {
        return None;
    }
    // The longest head of the row that is a number; most rows are no number at all.
    while !row.lengths.is_empty() {
        let (last, end) = (*row.tokens.last()?, row.extension_end.or(row.ends.last().copied())?);
        if !is_taken(taken, row.start, end) && !goes_on(scan, end) {
            let announced = is_announced(scan, i, last);
            if let Some(base) = shape(&row, regions, announced) {
                // What a document, card or order number's word announces is not a phone number.
                let score = with_context(base, announced);
                let score = if !announced && is_something_else(scan, i) { score - 0.4 } else { score };
                if score > 0.1 {
                    // "(5035550164)": the bracket is not the number's.
                    let is_whole = row.is_area_in_parentheses && row.lengths.len() == 1;
                    return Some(Span::new(row.start + usize::from(is_whole), end, Kind::Phone, score));
                }
            }
        }
        row.pop();
    }
    None
}

impl Row<'_> {
    fn pop(&mut self) {
        self.ends.pop();
        self.tokens.pop();
        self.gaps.pop();
        self.extension_end = None;
        let length = self.lengths.pop().unwrap_or(0);
        self.digits.truncate(self.digits.len() - length);
    }
}

/// The groups of digits from token `i` on that one blank, sign or bracket joins.
fn row<'t>(scan: &Scan<'t>, i: usize) -> Option<Row<'t>> {
    let first = scan.tokens[i];
    let mut start = first.start;
    let is_area_in_parentheses = scan.byte_before(start) == Some(b'(') && scan.byte(first.end) == Some(b')');
    if is_area_in_parentheses {
        start -= 1;
    }
    let starts_with_plus = scan.byte_before(start) == Some(b'+');
    if starts_with_plus {
        start -= 1;
        // "(+358) 731 322 817"
        start -= usize::from(scan.byte_before(start) == Some(b'(') && scan.byte(first.end) == Some(b')'));
    }
    let mut row = Row {
        ends: Vec::new(),
        lengths: Vec::new(),
        digits: Vec::new(),
        gaps: Vec::new(),
        tokens: Vec::new(),
        extension_end: None,
        starts_with_plus,
        is_area_in_parentheses,
        start,
    };
    let mut j = i;
    while j < scan.tokens.len() && row.lengths.len() < 8 {
        let token = scan.tokens[j];
        let word = scan.str(j);
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 15 || !(token.is_digits() || is_extension(&word[digits..])) {
            break;
        }
        row.digits.extend_from_slice(&word.as_bytes()[..digits]);
        row.lengths.push(digits);
        row.ends.push(token.start + digits);
        row.tokens.push(j);
        if digits < word.len() {
            row.extension_end = Some(token.end);
            break;
        }
        let gap = scan.gap(j);
        if let Some(end) = spelled_extension(scan, j) {
            row.extension_end = Some(end);
            break;
        }
        let next_opens_bracket = gap == " (" || gap == "(" || gap == "-(";
        if next_opens_bracket
            && !(row.lengths.len() == 1 && row.starts_with_plus)
            && row.lengths != [2]
            && row.lengths != [1]
        {
            break;
        }
        let is_joined = matches!(gap, " " | "-" | "." | "/" | ")" | ") " | ")-" | ")." | ")/")
            || gap == "\u{a0}"
            || gap == "\u{2011}"
            || gap == "\u{2013}"
            || next_opens_bracket
            || gap == " - "
            || gap == " / ";
        if !is_joined
            || gap.starts_with(')')
                && !(j == i && (is_area_in_parentheses || starts_with_plus)
                    || row.lengths.len() <= 3 && scan.text[row.start..token.start].contains('('))
        {
            break;
        }
        row.gaps.push(gap.trim_matches(['(', ')']).trim());
        j += 1;
    }
    row.gaps.truncate(row.lengths.len().saturating_sub(1));
    (!row.lengths.is_empty()).then_some(row)
}

/// `x1887` as it hangs on the last group.
fn is_extension(rest: &str) -> bool {
    rest.strip_prefix(['x', 'X'])
        .is_some_and(|n| (1..=6).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Where " ext. 12", " x12" or " #12" after token `j` ends.
fn spelled_extension(scan: &Scan, j: usize) -> Option<usize> {
    let next = scan.tokens.get(j + 1)?;
    let word = scan.str(j + 1);
    let gap = scan.gap(j);
    if matches!(gap, " " | ", ") && is_extension(word) {
        return Some(next.end);
    }
    let is_word = ["ext", "extension", "extn"].iter().any(|e| word.eq_ignore_ascii_case(e));
    let number = scan.tokens.get(j + 2)?;
    (is_word
        && matches!(gap, " " | ", " | " (")
        && matches!(scan.gap(j + 1), " " | ". " | "." | ": ")
        && number.is_digits()
        && number.len() <= 6)
        .then_some(number.end)
}

fn is_glued(scan: &Scan, start: usize) -> bool {
    let before = scan.byte_before(start);
    // "fax/555-…" and "tel:555-…" are fine; "#48213", "$75", "BS-10482" and "1.5" are not.
    match before {
        Some(b'/' | b':' | b',') => start >= 2 && scan.byte(start - 2).is_some_and(|b| b.is_ascii_digit()),
        Some(b) if b.is_ascii_alphanumeric() => true,
        Some(b'=') => !["phone=", "tel=", "mobile="].iter().any(|p| scan.text[..start].ends_with(p)),
        _ => scan.glued_before(start),
    }
}

/// Whether the row goes on in a way that makes it something else: `%`, `_`, a unit, more digits.
fn goes_on(scan: &Scan, end: usize) -> bool {
    let next = |at: usize| scan.byte(at);
    match next(end) {
        Some(b'%' | b'_' | b'@' | b'=' | b'+' | b'*') => true,
        Some(b) if b.is_ascii_alphanumeric() => true,
        Some(b'-' | b'.' | b',' | b':' | b'/') => next(end + 1).is_some_and(|b| b.is_ascii_digit()),
        Some(0xe2) => scan.text[end..].starts_with('€'),
        _ => false,
    }
}

/// How much the shape alone proves, before context; none where it is no phone number at all. With `announced`
/// looser shapes are let in.
fn shape(row: &Row, regions: &[String], announced: bool) -> Option<f32> {
    let lengths = &row.lengths[..];
    let n = row.digits.len();
    let is_single = lengths.len() == 1;
    let is_valid_at_home = || regions.iter().any(|r| numbering::is_valid_within(r, &row.digits));
    if row.starts_with_plus {
        // "+44 (0)20 …": the zero in brackets is not dialled.
        let is_valid = numbering::is_valid_abroad(&row.digits)
            || zero_in_brackets(row).is_some_and(|digits| numbering::is_valid_abroad(&digits));
        return match is_single {
            _ if is_valid => Some(0.95),
            _ if !(8..=15).contains(&n) => None,
            true => Some(0.3),
            false => Some(0.65),
        };
    }
    if row.digits.starts_with(b"00") && (10..=17).contains(&n) && row.digits[2] != b'0' {
        return Some(if !is_single || numbering::is_valid_abroad(&row.digits[2..]) { 0.6 } else { 0.2 });
    }
    // North America: 3-3-4, a leading 1 or not.
    let is_nanp =
        matches!(lengths, [3, 3, 4] | [1, 3, 3, 4]) && (lengths.len() == 3 || row.digits[0] == b'1');
    if is_nanp {
        let has_signs = row.is_area_in_parentheses || row.gaps.iter().any(|g| *g == "-" || *g == ".");
        let is_isbn = row.digits.starts_with(b"978")
            && !row.is_area_in_parentheses
            && row.gaps.iter().all(|g| g.is_empty());
        return Some(match () {
            () if is_isbn => 0.2,
            () if has_signs => 0.65,
            () if is_valid_at_home() => 0.55,
            () => 0.35,
        });
    }
    // "8 (495) 123-45-67": how Russia and its neighbours dial.
    if row.digits[0] == b'8' && matches!(lengths, [1, 3, 3, 4] | [1, 3, 3, 2, 2]) {
        return Some(if row.gaps.contains(&"-") { 0.6 } else { 0.35 });
    }
    if lengths.contains(&1) || n > 13 {
        // "2 2123456" is written so in La Paz; nothing but the plans tells such a row from a list of numbers.
        let is_known = announced
            && !is_single
            && lengths.len() <= 5
            && (7..=13).contains(&n)
            && !is_round_number(row)
            && numbering::is_valid_somewhere(&row.digits);
        return is_known.then_some(0.2);
    }
    // "(351) 931 895 559": the calling code in brackets, or a long number of Austria.
    let fits = || (8..=11).contains(&n) || n <= 13 && (row.digits[0] == b'0' || announced);
    let is_known = || n > 9 && numbering::is_valid_abroad(&row.digits);
    if row.is_area_in_parentheses
        && (2..=5).contains(&lengths[0])
        && lengths.len() <= 5
        && (fits() || is_known())
    {
        let is_year = lengths[0] == 4 && matches!(&row.digits[..2], b"19" | b"20");
        let has_sign = row.gaps.contains(&"-");
        return Some(if is_year {
            0.1
        } else if has_sign || row.digits[0] == b'0' {
            0.55
        } else {
            0.4
        });
    }
    if row.digits[0] == b'0' && (2..=5).contains(&lengths[0]) && (9..=13).contains(&n) && !is_single {
        return Some(if is_valid_at_home() { 0.55 } else { 0.42 });
    }
    if !announced {
        return None;
    }
    if is_single {
        return (7..=12).contains(&n).then_some(0.15);
    }
    if !(6..=11).contains(&n)
        || is_year_range(row)
        || is_round_number(row)
        || row.digits.starts_with(b"978") && n > 10
    {
        return None;
    }
    let same_gaps = row
        .gaps
        .iter()
        .skip(usize::from(row.is_area_in_parentheses))
        .all(|g| g == row.gaps.last().unwrap_or(g));
    Some(if same_gaps { 0.2 } else { 0.15 })
}

/// The digits without a `(0)` after the country code.
fn zero_in_brackets(row: &Row) -> Option<Vec<u8>> {
    let at = row.lengths.iter().position(|&l| l == 1).filter(|&at| at == 1)?;
    let before: usize = row.lengths[..at].iter().sum();
    let mut digits = row.digits.clone();
    (digits.get(before) == Some(&b'0')).then(|| {
        digits.remove(before);
        digits
    })
}

/// "1990-1995", "2005 2010".
fn is_year_range(row: &Row) -> bool {
    row.lengths == [4, 4] && row.digits.chunks(4).all(|y| matches!(&y[..2], b"18" | b"19" | b"20"))
}

/// "250 000" and "1.250.000": a number with its thousands marked.
fn is_round_number(row: &Row) -> bool {
    let thousands =
        row.lengths[0] <= 3 && row.lengths[1..].iter().all(|&l| l == 3) && !row.is_area_in_parentheses;
    thousands && (row.digits.ends_with(b"000") || row.gaps.iter().all(|g| *g == "."))
}

/// Whether a word near the tokens `first..=last` says that they are a phone number.
fn is_announced(scan: &Scan, first: usize, last: usize) -> bool {
    let near = scan.nearest_before(first, 6, SAYS_PHONE | SAYS_ORDER | SAYS_CARD | SAYS_ID | SAYS_ADDRESS);
    let label_after =
        scan.gap(last).trim_matches([' ', '-', '(', ',']).is_empty() && scan.near_after(last, 1, PHONE_AFTER);
    // "call a taxi to 03 2657 Koontz Lane": the taxi is nearer than the call.
    near & SAYS_PHONE != 0
        || label_after
        || is_my_number(scan, first)
        || is_called_mine(scan, last)
        || says_where_to_ring(scan, first)
}

/// "My number is 4155552671", "her new number: …", "our number's …"; not "my order number is …".
fn is_my_number(scan: &Scan, first: usize) -> bool {
    let is = |word: Option<&str>, known: &[&str]| {
        word.is_some_and(|w| known.iter().any(|k| w.eq_ignore_ascii_case(k)))
    };
    let mut words = scan.before(first, 5).map(|j| scan.str(j)).peekable();
    while is(words.peek().copied(), &["is", "s", "was"]) {
        words.next();
    }
    if !is(words.next(), &["number", "no", "nr", "numero", "número", "numéro", "nummer"]) {
        return false;
    }
    while is(words.peek().copied(), &["new", "old", "own", "private", "personal", "direct", "other"]) {
        words.next();
    }
    is(
        words.next(),
        &["my", "our", "his", "her", "their", "your", "mein", "meine", "mi", "mon", "mijn", "meu"],
    )
}

/// "5276544 is my mobile", "… was our office number".
fn is_called_mine(scan: &Scan, last: usize) -> bool {
    let is = |j: usize, known: &[&str]| {
        j < scan.tokens.len()
            && scan.gap(j - 1) == " "
            && known.iter().any(|k| scan.str(j).eq_ignore_ascii_case(k))
    };
    is(last + 1, &["is", "was"])
        && is(last + 2, &["my", "our", "his", "her", "their", "the"])
        && (scan.near_after(last + 2, 2, PHONE_AFTER) || scan.near_after(last + 2, 2, SAYS_PHONE))
}

/// "I'm on 5035550164", "you can get me at …": someone, then "on" or "at", then the number.
fn says_where_to_ring(scan: &Scan, first: usize) -> bool {
    let mut before = scan.before(first, 2).map(|j| scan.str(j));
    let is = |word: Option<&str>, known: &[&str]| {
        word.is_some_and(|w| known.iter().any(|k| w.eq_ignore_ascii_case(k)))
    };
    is(before.next(), &["on", "at"])
        && is(before.next(), &["m", "am", "are", "re", "me", "us", "him", "her", "them"])
}

fn is_something_else(scan: &Scan, first: usize) -> bool {
    scan.near_before(first, 3, SAYS_ORDER | SAYS_CARD | SAYS_ID)
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::Phone;
    use crate::pii::PiiConfig;

    #[test]
    fn numbers_that_need_no_context() {
        for number in [
            "+49 30 901820",
            "+1-743-438-6774x62406",
            "+44 (0)151 496 0322",
            "+34825345117",
            "001-748-088-2851x818",
            "(978) 645-9740",
            "833.719.3994x1887",
            "678-777-1600",
            "1-800-555-0199",
            "(021) 0025-967",
            "030 901820 11",
            "02.27.96.63.08",
            "555-867-5309 ext. 12",
            "+683 7012",
        ] {
            check(&format!("ok, {number}."), Phone, &[number]);
        }
    }

    #[test]
    fn local_numbers_that_are_announced() {
        for text in
            ["785 8949", "73 448 266", "50-98-28-96", "33 93 31", "(88) 684-334", "9493 7477", "2813882583"]
        {
            check(&format!("You can call {text}"), Phone, &[text]);
            check(&format!("Lyon\n{text} office"), Phone, &[text]);
            check(&format!("I'm on {text} after six"), Phone, &[text]);
            check(&format!("order {text}"), Phone, &[]);
        }
        check("My number is 4155552671. my new number's 5035550164", Phone, &["4155552671", "5035550164"]);
        check("my order number is 4155552671, the number is 4155552671", Phone, &[]);
        check("give me a call (5035550164)", Phone, &["5035550164"]);
        check("5276544 is my mobile", Phone, &["5276544"]);
        check("5276545 is my order", Phone, &[]);
        check(
            "Call (05299) 52890 786 or (351) 931 895 559",
            Phone,
            &["(05299) 52890 786", "(351) 931 895 559"],
        );
        check("ring (+358) 731322817, (39)/336-3387", Phone, &["(+358) 731322817", "(39)/336-3387"]);
        check("8 (495) 123-45-67, call 03807/22470455", Phone, &["8 (495) 123-45-67", "03807/22470455"]);
        check("please call 2 2123456 or 6 71 23 45 67", Phone, &["2 2123456", "6 71 23 45 67"]);
        check("we reach 2 345 000 people and call 2 3 4 times", Phone, &[]);
        check(
            "電話番号は03-1234-5678です。我的手机号是13812345678。",
            Phone,
            &["03-1234-5678", "13812345678"],
        );
        check("전화번호는 010-1234-5678입니다", Phone, &["010-1234-5678"]);
        check("订单号13812345678", Phone, &[]);
        check(
            "06-10446904-Office\\,001-748-088-2851x818-Fax",
            Phone,
            &["06-10446904", "001-748-088-2851x818"],
        );
    }

    /// `tests/golden/phones/formats.py` wrote them.
    #[test]
    fn numbers_of_every_region_as_libphonenumber_writes_them() {
        let config = PiiConfig::everything();
        let (mut missed, mut local, mut all) = (Vec::new(), 0, 0);
        for row in include_str!("../../../tests/golden/phones/formats.tsv").lines().skip(1) {
            let (form, number) = row.split_once('\t').unwrap();
            let text =
                if form == "national" { format!("Please call {number}.") } else { format!("({number})") };
            let is_found = crate::pii::find(&text, &config)
                .iter()
                .any(|s| s.kind == Phone && &text[s.range()] == number);
            if form == "national" {
                all += 1;
                local += usize::from(is_found);
            } else if !is_found {
                missed.push(number);
            }
        }
        assert!(missed.is_empty(), "{missed:?}");
        assert!(local * 100 >= all * 95 && all > 480, "{local} of {all}");
    }

    #[test]
    fn not_phone_numbers() {
        for text in [
            "order #48213",
            "order 48213",
            "#BS-10482",
            "returns within 30 days",
            "+",
            "$75",
            "version 10.0.19041.1234",
            "ISBN 978-3-16-148410-0",
            "ISBN 0-306-40615-2",
            "10:30-11:45",
            "call 3 times",
            "1990-1995",
            "pages 1234-1245",
            "reach 250 000 people",
            "tracking 1Z999AA10123456784",
            "3.14159265",
            "SKU 4006381333931",
            "UUID 550e8400-e29b-41d4-a716-446655440000",
            "https://x.org/questions/5551234567",
            "call 911",
            "Phone support is open 9-5, 24/7/365.",
            "2020-01-05",
            "40.7128, -74.0060",
        ] {
            check(text, Phone, &[]);
        }
    }
}
