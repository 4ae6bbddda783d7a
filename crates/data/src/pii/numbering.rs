//! Numbering plans: whether a row of digits is a telephone number that exists, by libphonenumber's metadata.
//!
//! `gazetteer/phones.txt` holds each region's patterns. They know digits, classes, groups, alternatives, counts
//! and `$`, so a matcher of their own size reads them: compiling them as regular expressions took 20 ms for the
//! countries of two thousand sentences, and this takes about a microsecond a number.

use std::sync::{LazyLock, OnceLock};

/// Whether `digits`, calling code first, as after a `+`, are a valid number of some region. A national prefix that
/// is written although it is not dialled from abroad (`+44 020 …`) is overlooked, as libphonenumber does.
pub(crate) fn is_valid_abroad(digits: &[u8]) -> bool {
    (1..=3).filter_map(|length| digits.split_at_checked(length)).any(|(code, national)| {
        let plans = plans_of(code);
        // The first region of a code is the main one; its prefix counts for all.
        plans.first().is_some_and(|main| is_valid(plans, &main.stripped(national)))
    })
}

/// Whether `digits` are a valid number as it is dialled inside `region` (two letters, ISO 3166): with or without its
/// national prefix, or with its calling code.
pub(crate) fn is_valid_within(region: &str, digits: &[u8]) -> bool {
    let Some(home) = PLANS.iter().find(|plan| plan.region == region) else { return false };
    let plans = plans_of(home.code.as_bytes());
    let has_code = digits.strip_prefix(home.code.as_bytes());
    is_valid(plans, &home.stripped(digits))
        || has_code.is_some_and(|national| is_valid(plans, &home.stripped(national)))
}

/// Whether `digits` are a valid number as it is dialled inside some region of the world. Nearly every row of digits of a
/// usual length is one somewhere, so ask only about rows that a word announces.
pub(crate) fn is_valid_somewhere(digits: &[u8]) -> bool {
    PLANS.iter().any(|plan| plan.knows(&plan.stripped(digits)))
}

/// Whether libphonenumber knows a region of that name.
pub(crate) fn is_region(region: &str) -> bool {
    PLANS.iter().any(|plan| plan.region == region)
}

/// Whether the first region that claims the number knows it.
fn is_valid(plans: &[Plan], national: &[u8]) -> bool {
    if !(2..=17).contains(&national.len()) {
        return false;
    }
    let claims = |plan: &&Plan| match &plan.leading {
        _ if plans.len() == 1 => true,
        Some(leading) => leading.end(national).is_some(),
        None => plan.knows(national),
    };
    plans.iter().find(claims).is_some_and(|plan| plan.knows(national))
}

/// A region's numbers.
struct Plan {
    code: &'static str,
    region: &'static str,
    leading: Option<Lazy>,
    prefix: Option<Lazy>,
    transform: &'static str,
    general: Lazy,
    kinds: Lazy,
}

static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(|| {
    let rows = include_str!("gazetteer/phones.txt").lines().filter(|line| !line.starts_with('#'));
    let pattern = |field: &'static str| (!field.is_empty()).then(|| Lazy::new(field));
    rows.filter_map(|row| {
        let mut fields = row.split('\t');
        let mut next = || fields.next();
        let (code, region, leading, prefix) = (next()?, next()?, next()?, next()?);
        let (transform, general, kinds) = (next()?, next()?, next()?);
        let (leading, prefix) = (pattern(leading), pattern(prefix));
        Some(Plan {
            code,
            region,
            leading,
            prefix,
            transform,
            general: Lazy::new(general),
            kinds: Lazy::new(kinds),
        })
    })
    .collect()
});

/// The regions of a calling code, the main one first.
fn plans_of(code: &[u8]) -> &'static [Plan] {
    let first = PLANS.iter().position(|plan| plan.code.as_bytes() == code).unwrap_or(PLANS.len());
    let count = PLANS[first..].iter().take_while(|plan| plan.code.as_bytes() == code).count();
    &PLANS[first..first + count]
}

impl Plan {
    fn knows(&self, national: &[u8]) -> bool {
        self.general.matches_whole(national) && self.kinds.matches_whole(national)
    }

    /// The national number without its prefix; as it is where only then it could be a number.
    fn stripped(&self, national: &[u8]) -> Vec<u8> {
        let Some((end, groups)) = self.prefix.as_ref().and_then(|p| p.found(national)) else {
            return national.to_vec();
        };
        let last_group = groups.iter().rev().find_map(|g| *g);
        let mut rest = Vec::with_capacity(national.len() + 4);
        if !self.transform.is_empty() && last_group.is_some() {
            let mut rule = self.transform.bytes();
            while let Some(byte) = rule.next() {
                if byte != b'$' {
                    rest.push(byte);
                    continue;
                }
                let group = rule.next().map_or(0, |n| usize::from(n.wrapping_sub(b'1')));
                if let Some((from, to)) = groups.get(group).copied().flatten() {
                    rest.extend_from_slice(&national[from..to]);
                }
            }
        }
        rest.extend_from_slice(&national[end..]);
        if self.general.matches_whole(national) && !self.general.matches_whole(&rest) {
            return national.to_vec();
        }
        rest
    }
}

/// A pattern, read when it is first needed.
struct Lazy {
    source: &'static str,
    parts: OnceLock<Vec<Part>>,
}

/// Where the capturing groups of a match lie.
type Groups = [Option<(usize, usize)>; 2];

impl Lazy {
    fn new(source: &'static str) -> Self {
        Lazy { source, parts: OnceLock::new() }
    }

    fn parts(&self) -> &[Part] {
        self.parts.get_or_init(|| Reader { source: self.source.as_bytes(), at: 0, groups: 0 }.alternatives())
    }

    fn matches_whole(&self, digits: &[u8]) -> bool {
        run(self.parts(), digits, 0, &mut Groups::default(), &mut |end, _| end == digits.len())
    }

    /// Where the match at the beginning ends.
    fn end(&self, digits: &[u8]) -> Option<usize> {
        self.found(digits).map(|(end, _)| end)
    }

    fn found(&self, digits: &[u8]) -> Option<(usize, Groups)> {
        let mut found = None;
        run(self.parts(), digits, 0, &mut Groups::default(), &mut |end, groups| {
            found = Some((end, *groups));
            true
        });
        found
    }
}

/// A piece of a pattern.
enum Part {
    /// One digit of a set: bit d stands for digit d.
    Digit(u16),
    /// One of several sequences; captured as a group where it has a number.
    Either(Vec<Vec<Part>>, Option<usize>),
    /// The part, from so many to so many times, as often as it goes.
    Times(Box<[Part; 1]>, usize, usize),
    /// The end of the digits.
    End,
}

/// Tries `parts` at byte `at`, and hands every end they can have to `then`, the preferred one first, until it is
/// content.
fn run(
    parts: &[Part],
    digits: &[u8],
    at: usize,
    groups: &mut Groups,
    then: &mut dyn FnMut(usize, &mut Groups) -> bool,
) -> bool {
    let Some((first, rest)) = parts.split_first() else { return then(at, groups) };
    match first {
        Part::Digit(set) => {
            digits.get(at).is_some_and(|d| set >> (d - b'0') & 1 == 1)
                && run(rest, digits, at + 1, groups, then)
        }
        Part::End => at == digits.len() && run(rest, digits, at, groups, then),
        Part::Either(options, group) => options.iter().any(|option| {
            run(option, digits, at, groups, &mut |end, groups| {
                let before = *groups;
                if let Some(slot) = group.and_then(|g| groups.get_mut(g)) {
                    *slot = Some((at, end));
                }
                let is_done = run(rest, digits, end, groups, then);
                if !is_done {
                    *groups = before;
                }
                is_done
            })
        }),
        Part::Times(part, least, most) => repeat(part, (*least, *most), rest, digits, at, groups, then),
    }
}

/// `part` from `least` to `most` times, then `rest`.
fn repeat(
    part: &[Part; 1],
    (least, most): (usize, usize),
    rest: &[Part],
    digits: &[u8],
    at: usize,
    groups: &mut Groups,
    then: &mut dyn FnMut(usize, &mut Groups) -> bool,
) -> bool {
    let again = most > 0
        && run(part, digits, at, groups, &mut |end, groups| {
            end > at && repeat(part, (least.saturating_sub(1), most - 1), rest, digits, end, groups, then)
        });
    again || least == 0 && run(rest, digits, at, groups, then)
}

/// Reads a pattern of the list, which a test reads whole.
struct Reader {
    source: &'static [u8],
    at: usize,
    groups: usize,
}

impl Reader {
    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn alternatives(&mut self) -> Vec<Part> {
        let mut options = vec![self.sequence()];
        while self.take(b'|') {
            options.push(self.sequence());
        }
        match <[_; 1]>::try_from(options) {
            Ok([only]) => only,
            Err(options) => vec![Part::Either(options, None)],
        }
    }

    fn sequence(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        while let Some(byte) = self.peek() {
            if matches!(byte, b'|' | b')') {
                break;
            }
            self.at += 1;
            let part = match byte {
                b'0'..=b'9' => Part::Digit(1 << (byte - b'0')),
                b'[' => self.class(),
                b'(' => self.group(),
                b'$' => Part::End,
                // `\d`, the only letter there is.
                _ => {
                    self.at += 1;
                    Part::Digit(0x3ff)
                }
            };
            parts.push(self.counted(part));
        }
        parts
    }

    fn class(&mut self) -> Part {
        let (mut set, mut last) = (0, 0);
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b']' => break,
                b'-' => {
                    let to = self.peek().unwrap_or(b'0') - b'0';
                    (last..=to).for_each(|d| set |= 1 << d);
                }
                _ => {
                    last = byte - b'0';
                    set |= 1 << last;
                }
            }
        }
        Part::Digit(set)
    }

    fn group(&mut self) -> Part {
        let is_plain = self.take(b'?') && self.take(b':');
        let number = (!is_plain).then(|| {
            self.groups += 1;
            self.groups - 1
        });
        let inside = self.alternatives();
        self.take(b')');
        Part::Either(vec![inside], number)
    }

    fn counted(&mut self, part: Part) -> Part {
        if self.take(b'?') {
            return Part::Times(Box::new([part]), 0, 1);
        }
        if !self.take(b'{') {
            return part;
        }
        let least = self.number();
        let most = if self.take(b',') { self.number() } else { least };
        self.take(b'}');
        Part::Times(Box::new([part]), least, most)
    }

    fn number(&mut self) -> usize {
        let mut n = 0;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            n = n * 10 + usize::from(digit - b'0');
            self.at += 1;
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_read_to_its_end() {
        for plan in PLANS.iter() {
            for lazy in [plan.leading.as_ref(), plan.prefix.as_ref(), Some(&plan.general), Some(&plan.kinds)]
            {
                let Some(lazy) = lazy else { continue };
                let mut reader = Reader { source: lazy.source.as_bytes(), at: 0, groups: 0 };
                reader.alternatives();
                assert_eq!(reader.at, lazy.source.len(), "{}", lazy.source);
                let known = b"0123456789[](){}|\\d,?:$-";
                assert!(lazy.source.bytes().all(|b| known.contains(&b)), "{}", lazy.source);
                assert!(reader.groups <= Groups::default().len(), "{}", lazy.source);
            }
        }
        assert!(PLANS.len() > 240);
    }

    #[test]
    fn verdicts_agree_with_libphonenumber() {
        let golden = include_str!("../../tests/golden/phones/verdicts.tsv");
        let mut wrong = Vec::new();
        let mut counts = [0, 0];
        for row in golden.lines().filter(|row| !row.starts_with('#')) {
            let [region, digits, expect] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("{row}") };
            let got = match region {
                "+" => is_valid_abroad(digits.as_bytes()),
                region => is_valid_within(region, digits.as_bytes()),
            };
            counts[usize::from(expect == "1")] += 1;
            if got != (expect == "1") {
                wrong.push(row);
            }
        }
        assert!(counts.iter().all(|&n| n > 1000), "{counts:?}");
        assert!(
            wrong.is_empty(),
            "{} of {counts:?} differ: {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(20)]
        );
    }

    #[test]
    fn odd_rows_are_no_numbers() {
        for digits in ["", "1", "0", "999", "00000000000000000000", "4", "44"] {
            assert!(
                !is_valid_abroad(digits.as_bytes()) && !is_valid_within("US", digits.as_bytes()),
                "{digits}"
            );
        }
        assert!(!is_valid_within("XX", b"4155552671") && is_region("DE") && !is_region("de"));
    }
}
