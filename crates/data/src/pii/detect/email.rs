use crate::pii::scan::{Scan, is_unspaced};
use crate::pii::{Kind, Span};

/// `local@domain.tld` (RFC 5321's dot-string with the signs that are in use, and letters of any script), also as a URL
/// writes it: `local%40domain.tld`.
///
/// Not one: the `user@` of a URL, `icon@2x.png`, `lodash@4.17.21`, the `git@` of a clone address.
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    for &at in &scan.ats {
        if let Some(span) = around(scan, at) {
            out.push(span);
        }
    }
}

fn around(scan: &Scan, at: usize) -> Option<Span> {
    let after = at + if scan.byte(at) == Some(b'%') { "%40".len() } else { 1 };
    let (left, right) = (&scan.text[..at], &scan.text[after..]);
    // "邮箱是sam@example.org吗": of two scripts that no space parts, the one next to the @ counts.
    let is_unspaced_local = left.chars().next_back().is_some_and(is_unspaced);
    let is_local =
        |c: char| c.is_alphanumeric() && is_unspaced(c) == is_unspaced_local || "._%+-'’".contains(c);
    let local = left.char_indices().rev().take_while(|&(_, c)| is_local(c)).take(64).last()?.0;
    let local = local + left[local..].find(|c: char| c.is_alphanumeric() || c == '_')?;
    if in_userinfo(scan, at) {
        return None;
    }
    let is_domain = |c: char| c.is_alphanumeric() || c == '-' || c == '.';
    let length = right.find(|c: char| !is_domain(c)).unwrap_or(right.len()).min(255);
    let domain = script_end(right.get(..length)?).trim_end_matches(['.', '-']);
    // "Mail sam@example.org.Then": the last label must look like a top-level domain.
    let (name, tld) = domain.rsplit_once('.')?;
    let is_punycode = tld.starts_with("xn--") && tld.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let tld_is_good = (2..=24).contains(&tld.len()) && (is_punycode || tld.chars().all(char::is_alphabetic));
    let labels_are_good =
        name.split('.').all(|l| !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-'));
    let is_file = ["png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "html", "pdf"]
        .iter()
        .any(|e| tld.eq_ignore_ascii_case(e));
    let end = after + domain.len();
    let is_clone_address = &scan.text[local..at] == "git" && scan.byte(end) == Some(b':');
    if !tld_is_good || !labels_are_good || is_file || is_clone_address {
        return None;
    }
    Some(Span::new(local, end, Kind::Email, 0.95))
}

/// A domain up to where, within a label, a script without spaces follows another one.
fn script_end(domain: &str) -> &str {
    let mut before = None;
    for (at, c) in domain.char_indices() {
        if before.is_some_and(|b: char| b.is_alphanumeric() && !is_unspaced(b)) && is_unspaced(c) {
            return &domain[..at];
        }
        before = Some(c);
    }
    domain
}

/// Whether the `@` ends the user part of a URL.
fn in_userinfo(scan: &Scan, at: usize) -> bool {
    let i = scan.urls.partition_point(|u| u.end <= at);
    let Some(url) = scan.urls.get(i).filter(|u| u.contains(&at)) else { return false };
    if at - url.start > 2048 {
        return false; // No user part is that long, and texts of nothing but @ are read in no time.
    }
    let before = &scan.text[url.start..at];
    before.find("://").is_some_and(|colon| !before[colon + 3..].contains(['/', '?', '#']))
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::Email;

    #[test]
    fn addresses() {
        check("Mail <sam.o'neil+x@mail.example.co.uk>, please.", Email, &["sam.o'neil+x@mail.example.co.uk"]);
        check("to:müller@bücher.example.", Email, &["müller@bücher.example"]);
        check("邮箱是sam@example.org吗?", Email, &["sam@example.org"]);
        check("이메일은 jo@例え.com입니다", Email, &["jo@例え.com"]);
        check("用户@例子.广告", Email, &["用户@例子.广告"]);
        check("mailto:a@b.io?subject=c", Email, &["a@b.io"]);
        check("http://x.org/?mail=joe@x.org", Email, &["joe@x.org"]);
        check("http://x.org/?mail=joe%40example.com&x=1", Email, &["joe%40example.com"]);
        check("to joe@xn--e1afmkfd.xn--p1ai.", Email, &["joe@xn--e1afmkfd.xn--p1ai"]);
    }

    #[test]
    fn not_addresses() {
        for text in [
            "@sam",
            "sam@",
            "a@b",
            "icon@2x.png",
            "lodash@4.17.21",
            "git@github.com:a/b.git",
            "x @ y.com",
            "ssh://git@host.org/a",
            "a@-b.com",
            "@@@",
            "a@b..com",
            "50%40 off",
            "a@b.x1",
        ] {
            check(text, Email, &[]);
        }
    }
}
