use crate::pii::scan::Scan;
use crate::pii::{Kind, Span};

/// The `user:password` of `scheme://user:password@host` (RFC 3986, 3.2.1). The URL around it stays whole.
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    for url in &scan.urls {
        let text = &scan.text[url.clone()];
        let Some(colon) = text.find("://") else { continue };
        let authority = &text[colon + 3..];
        let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
        let Some((userinfo, host)) = authority.rsplit_once('@') else { continue };
        let Some((_, password)) = userinfo.split_once(':') else { continue };
        let is_value = password.chars().any(char::is_alphanumeric) && !is_stand_in(userinfo);
        if is_value && !host.is_empty() {
            let start = url.start + colon + 3;
            out.push(Span::new(start, start + userinfo.len(), Kind::UrlCredentials, 1.0));
        }
    }
}

/// `${USER}:${PASSWORD}`, `[URL_CREDENTIALS_1]`, `<user>:<password>`, `user:password`: a form, not a value.
fn is_stand_in(userinfo: &str) -> bool {
    userinfo.contains(['[', '{', '<'])
        || ["user:pass", "user:password", "username:password"]
            .iter()
            .any(|s| userinfo.eq_ignore_ascii_case(s))
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::{Email, UrlCredentials};

    #[test]
    fn credentials_of_urls() {
        let text = "clone https://sam:hunter2@git.example.org/x.git now";
        check(text, UrlCredentials, &["sam:hunter2"]);
        check(text, Email, &[]);
        check("postgres://app:p@ss@db:5432/x", UrlCredentials, &["app:p@ss"]);
        check("redis://:s3cret@cache", UrlCredentials, &[":s3cret"]);
        for text in
            ["https://example.org:8080/a@b", "http://user:password@host", "ftp://${U}:${P}@h", "ssh://git@h"]
        {
            check(text, UrlCredentials, &[]);
        }
    }
}
