use super::with_context;
use crate::pii::lexicon::SAYS_NETWORK;
use crate::pii::scan::Scan;
use crate::pii::{Kind, Span};

/// EUI-48: six pairs joined by `:` or `-`, or three groups of four joined by `.`.
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    for &i in &scan.hex {
        let first = scan.tokens[i];
        let (groups, width) = if first.len() == 2 { (6, 2) } else { (3, 4) };
        let Some(group) = scan.tokens.get(i..i + groups) else { continue };
        let gap = scan.gap(i);
        let allowed = if width == 2 { [":", "-"].contains(&gap) } else { gap == "." };
        let is_hex = |j: usize| scan.str(j).bytes().all(|b| b.is_ascii_hexdigit());
        if !allowed
            || group.iter().any(|t| t.len() != width)
            || !(i..i + groups).all(is_hex)
            || !(i..i + groups - 1).all(|j| scan.gap(j) == gap)
        {
            continue;
        }
        let (start, end) = (first.start, group[groups - 1].end);
        let separator = gap.as_bytes()[0];
        let goes_on = |at: Option<u8>| at == Some(separator) || at == Some(b'_');
        let digits: Vec<u8> = scan.text[start..end].bytes().filter(u8::is_ascii_alphanumeric).collect();
        let is_nobody = digits.iter().all(|b| *b == digits[0]);
        if goes_on(scan.byte_before(start)) || goes_on(scan.byte(end)) || is_nobody {
            continue;
        }
        let has_letter = digits.iter().any(u8::is_ascii_alphabetic);
        let base = if has_letter || separator == b':' { 0.9 } else { 0.2 };
        out.push(Span::new(start, end, Kind::Mac, with_context(base, scan.near_before(i, 5, SAYS_NETWORK))));
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::Mac;

    #[test]
    fn hardware_addresses() {
        check("eth0 00:1A:2b:3c:4D:5e up, dead.beef.0001", Mac, &["00:1A:2b:3c:4D:5e", "dead.beef.0001"]);
        check("MAC 00-1A-2B-3C-4D-5E.", Mac, &["00-1A-2B-3C-4D-5E"]);
        for text in [
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "12:30:45",
            "00:1a:2b:3c:4d:5e:6f",
            "20-32-85-26-11-12",
        ] {
            check(text, Mac, &[]);
        }
    }
}
