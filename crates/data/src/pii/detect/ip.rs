use std::net::Ipv6Addr;

use super::with_context;
use crate::pii::lexicon::{SAYS_NETWORK, SAYS_VERSION};
use crate::pii::scan::Scan;
use crate::pii::{Kind, Span};

/// IPv4 in dotted decimal and IPv6 in any form of RFC 4291. Loopback, unspecified and mask addresses point at
/// nobody and are left; `1.2.3.4` after "version" is a version.
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    for &i in &scan.numeric {
        out.extend(v4(scan, i));
    }
    let mut resume = 0;
    for &i in &scan.hex {
        if scan.tokens[i].start < resume {
            continue;
        }
        if let Some(span) = v6(scan, i) {
            resume = span.end;
            out.push(span);
        }
    }
}

fn v4(scan: &Scan, i: usize) -> Option<Span> {
    let group = scan.tokens.get(i..i + 4)?;
    let (start, end) = (group[0].start, group[3].end);
    // Cheap first: four short runs of digits with one dot between.
    if end - start > 15
        || !group.iter().all(|t| t.is_digits() && t.len() <= 3)
        || (i..i + 3).any(|j| scan.gap(j) != ".")
    {
        return None;
    }
    let mut octets = [0u32; 4];
    for (octet, j) in octets.iter_mut().zip(i..) {
        let digits = scan.str(j);
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        *octet = digits.parse().ok().filter(|&n| n <= 255)?;
    }
    let before = scan.byte_before(start);
    let follows_dot = before == Some(b'.')
        || before == Some(b'-')
            && start >= 2
            && scan.byte(start - 2).is_some_and(|b| b.is_ascii_alphanumeric());
    let goes_on =
        scan.byte(end) == Some(b'.') && scan.byte(end + 1).is_some_and(|b| b.is_ascii_alphanumeric());
    if follows_dot || goes_on {
        return None;
    }
    let is_nobody = octets[0] == 0 || octets[0] == 127 || octets[..2] == [255, 255];
    if is_nobody {
        return None;
    }
    let shape = if end - start == 7 { 0.4 } else { 0.9 };
    let base = if scan.near_before(i, 3, SAYS_VERSION) { 0.2 } else { shape };
    Some(Span::new(
        start,
        end,
        Kind::Ip,
        with_context(base, base > 0.2 && scan.near_before(i, 6, SAYS_NETWORK)),
    ))
}

fn v6(scan: &Scan, i: usize) -> Option<Span> {
    let bytes = scan.text.as_bytes();
    let mut start = scan.tokens[i].start;
    if start >= 2 && &bytes[start - 2..start] == b"::" {
        start -= 2;
    } else if scan.byte(scan.tokens[i].end) != Some(b':') {
        return None;
    }
    // A group that continues something to the left (`std::a1::b2`, `12:30:45`) is no beginning.
    if scan
        .byte_before(start)
        .is_some_and(|b| b.is_ascii_alphanumeric() || b":._-/@".contains(&b) && b != b'/' && b != b'@')
    {
        return None;
    }
    let run = bytes[start..]
        .iter()
        .take(45)
        .take_while(|b| b.is_ascii_hexdigit() || **b == b':' || **b == b'.')
        .count();
    let run = scan.text[start..start + run].trim_end_matches('.');
    let run = if run.ends_with("::") { run } else { run.trim_end_matches(':') };
    if scan.byte(start + run.len()).is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    let address: Ipv6Addr = run.parse().ok()?;
    let groups = run.split(':').filter(|g| !g.is_empty()).count();
    // `a::b` is also how code names things: a compressed address needs three groups, or a known prefix.
    let is_address = (groups >= 3 || run.contains('.')) && run.bytes().any(|b| b.is_ascii_digit())
        || ["fe80:", "2001:", "2a0", "2600:", "2606:", "fd"]
            .iter()
            .any(|p| run.to_ascii_lowercase().starts_with(p))
            && run.len() >= 7;
    (is_address && !address.is_loopback() && !address.is_unspecified())
        .then(|| Span::new(start, start + run.len(), Kind::Ip, 0.95))
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::Ip;

    #[test]
    fn addresses() {
        check("from 86.231.85.193:443 and 10.0.0.0/8.", Ip, &["86.231.85.193", "10.0.0.0"]);
        check(
            "at d80:e4b5:79da:6cf6:71f3:51f7:9161:c319 blocked",
            Ip,
            &["d80:e4b5:79da:6cf6:71f3:51f7:9161:c319"],
        );
        check("http://[2001:db8::7]/ fe80::1", Ip, &["2001:db8::7", "fe80::1"]);
        check("client_ip = %20|69.196.0.85|%20", Ip, &["69.196.0.85"]);
        check("::ffff:192.0.2.128", Ip, &["::ffff:192.0.2.128"]);
        check("your IP is 8.8.8.8", Ip, &["8.8.8.8"]);
    }

    #[test]
    fn not_addresses() {
        for text in [
            "version 10.2.33.41",
            "1.2.3.4.5",
            "section 1.2.3.4",
            "256.1.1.1",
            "127.0.0.1",
            "::1",
            "std::a1::b2",
            "a::b",
            "12:30:45",
            "255.255.255.0",
            "01.02.03.04",
            "Chrome/91.0.4472.124",
        ] {
            check(text, Ip, &[]);
        }
    }
}
