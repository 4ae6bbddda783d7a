use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use crate::pii::scan::Scan;
use crate::pii::{Kind, Span};

/// How issuers begin their keys, and how many characters follow at least. `(prefix, rest, score)`.
const PREFIXES: &[(&str, usize, f32)] = &[
    ("AKIA", 16, 0.95), // Amazon
    ("ASIA", 16, 0.95),
    ("AIza", 35, 0.95), // Google
    ("ya29.", 20, 0.95),
    ("GOCSPX-", 20, 0.95),
    ("ghp_", 30, 1.0), // GitHub
    ("gho_", 30, 1.0),
    ("ghu_", 30, 1.0),
    ("ghs_", 30, 1.0),
    ("ghr_", 30, 1.0),
    ("github_pat_", 22, 1.0),
    ("glpat-", 20, 1.0),   // GitLab
    ("sk-", 20, 0.9),      // OpenAI, Anthropic and others
    ("sk_live_", 16, 1.0), // Stripe
    ("sk_test_", 16, 1.0),
    ("rk_live_", 16, 1.0),
    ("whsec_", 20, 1.0),
    ("xoxb-", 10, 1.0), // Slack
    ("xoxp-", 10, 1.0),
    ("xoxa-", 10, 1.0),
    ("xoxr-", 10, 1.0),
    ("xoxs-", 10, 1.0),
    ("hooks.slack.com/services/", 20, 0.95),
    ("npm_", 30, 1.0),
    ("pypi-AgE", 30, 1.0),
    ("hf_", 30, 1.0),     // Hugging Face
    ("SG.", 40, 0.95),    // SendGrid
    ("dop_v1_", 40, 1.0), // DigitalOcean
    ("shpat_", 30, 1.0),  // Shopify
    ("AGE-SECRET-KEY-1", 40, 1.0),
    ("eyJ", 30, 0.9),        // JSON web token: checked further
    ("-----BEGIN ", 0, 1.0), // PEM: checked further
];

static FINDER: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .match_kind(aho_corasick::MatchKind::LeftmostLongest)
        .build(PREFIXES.iter().map(|p| p.0))
        .expect("the prefixes are a fixed list")
});

/// Keys known by their issuer's prefix, JSON web tokens, PEM private keys, and the value after "password" and
/// its like. A row of random characters alone is not one: hashes and ids look the same.
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    // Where the row of key characters ends that was looked at last: prefixes in one row share it, so that a
    // text of nothing but prefixes is still read in linear time.
    let mut row_end = 0;
    let mut resume = 0;
    for found in FINDER.find_iter(scan.text) {
        let (prefix, at_least, score) = PREFIXES[found.pattern().as_usize()];
        let start = found.start();
        if start < resume || scan.byte_before(start).is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        if row_end <= found.end() {
            let row = scan.text[found.end()..].bytes().take_while(|b| is_key_character(*b)).count();
            row_end = found.end() + row;
        }
        let end = match prefix {
            "-----BEGIN " => pem_end(scan.text, start),
            "eyJ" => jwt_end(&scan.text[start..row_end]).map(|length| start + length),
            _ => key_end(&scan.text[found.end()..row_end], at_least).map(|length| found.end() + length),
        };
        if let Some(end) = end {
            resume = end;
            out.push(Span::new(start, end, Kind::Secret, score));
        }
    }
    for &i in &scan.secret {
        out.extend(assigned(scan, i));
    }
}

/// The length of a key in the row of key characters after its prefix, if it is long and mixed enough for one.
fn key_end(row: &str, at_least: usize) -> Option<usize> {
    let key = row.trim_end_matches(['.', '-', '/', '=']);
    let head = || key.bytes().take(256);
    let is_random = head().any(|b| b.is_ascii_digit()) && head().any(|b| b.is_ascii_alphabetic());
    (key.len() >= at_least && is_random).then_some(key.len())
}

/// The longest `-----BEGIN ENCRYPTED PRIVATE KEY`, with room to spare.
const PEM_HEAD: usize = 48;

/// `-----BEGIN … PRIVATE KEY-----` to its END line, or to the end of a text that was cut.
fn pem_end(text: &str, start: usize) -> Option<usize> {
    let rest = &text[start..];
    // Only the head is looked at, so that a row of nothing but heads is read in linear time.
    let head = &rest[..rest.floor_char_boundary(PEM_HEAD.min(rest.len()))];
    if !head.split('\n').next()?.contains("PRIVATE KEY") {
        return None;
    }
    let Some(end) = rest.find("-----END ") else { return Some(start + rest.trim_end().len()) };
    let tail = &rest[end + 9..];
    Some(start + end + 9 + tail.find("-----").map_or(tail.len(), |dashes| dashes + 5))
}

/// Three parts of URL-safe Base64 joined by dots; the first two are JSON objects, so both begin with `eyJ`.
/// `row` is the key characters from the first `eyJ` on; returned is the token's length.
fn jwt_end(row: &str) -> Option<usize> {
    let dot = row.bytes().take(4096).position(|b| b == b'.')?;
    let is_one = dot >= 10 && row[dot + 1..].starts_with("eyJ") && row.len() >= dot + 9;
    is_one
        .then(|| row.find(['/', '+', '=']).unwrap_or(row.len()))
        .map(|end| row[..end].trim_end_matches('.').len())
}

/// Base64 of either alphabet, and the dots and dashes between a key's parts.
fn is_key_character(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"_-./+=".contains(&b)
}

/// The value after `password:`, `api_key = "…"`, "my password is …", where token `i` announces it.
fn assigned(scan: &Scan, i: usize) -> Option<Span> {
    // A key is a secret if it is an API key or the like; most keys are names.
    let is_key = scan.str(i).eq_ignore_ascii_case("key");
    let opens = [
        "api",
        "access",
        "secret",
        "private",
        "auth",
        "encryption",
        "signing",
        "license",
        "account",
        "master",
    ];
    if is_key && !scan.before(i, 1).any(|j| opens.iter().any(|o| scan.str(j).eq_ignore_ascii_case(o))) {
        return None;
    }
    // "mot de passe"
    let is_passe = scan.str(i).eq_ignore_ascii_case("passe");
    if is_passe && !scan.before(i, 2).map(|j| scan.str(j).to_lowercase()).eq(["de", "mot"]) {
        return None;
    }
    // A value that does not end within this window is none; the window keeps odd texts cheap.
    let mut at = scan.tokens[i].end;
    let text = &scan.text[..scan.text.floor_char_boundary((at + 1024).min(scan.text.len()))];
    let after_quotes =
        |at: usize| text[at..].find(|c: char| !"\"' `*".contains(c)).map_or(text.len(), |n| at + n);
    if after_quotes(at) - at > 8 {
        return None;
    }
    at = after_quotes(at);
    let verb =
        [":=", "=>", "=", ":", "is:", "was:", "is ", "was "].into_iter().find(|v| text[at..].starts_with(v));
    let Some(verb) = verb else { return bare(scan, i) };
    let is_prose = verb.ends_with(' ');
    at = after_quotes(at + verb.len());
    // "password is: …", "Authorization: Bearer …"
    for filler in [": ", "Bearer ", "Basic ", "\"", "'"] {
        at += if text[at..].starts_with(filler) { filler.len() } else { 0 };
    }
    let rest = &text[at..];
    // A quoted value ends at its quote; `&` parts the values of a query.
    let quote = text[..at].chars().next_back().filter(|c| "\"'`".contains(*c));
    let ends = |c: char| match quote {
        Some(quote) => c == quote || c == '\n',
        None => c.is_whitespace() || "\"'`,;<>()[]{}|".contains(c) || c == '&' && verb == "=",
    };
    let length = rest.find(ends).or((text.len() == scan.text.len()).then_some(rest.len()))?;
    let value = rest[..length].trim_end_matches(['.', '!', '?', ':']);
    if !(6..=512).contains(&value.len()) {
        return None;
    }
    let has = |test: fn(char) -> bool| value.chars().any(test);
    let mixes = has(|c| c.is_ascii_digit()) && has(char::is_alphabetic)
        || has(char::is_lowercase) && has(char::is_uppercase) && value.len() >= 10 && !is_prose
        || has(|c| "!@#$%^*?~+".contains(c)) && has(char::is_alphanumeric);
    let is_code = rest[length..].starts_with(['(', '[', '{'])
        || value.contains("::")
        || value.contains("->")
        || value.contains("//")
        || value.starts_with(['$', '%', '*']);
    (mixes && !is_code).then(|| {
        let score = if is_prose { 0.65 } else { 0.75 };
        Span::new(at, at + value.len(), Kind::Secret, score)
    })
}

/// Words that a password follows without a sign between.
const BEFORE_BARE: [&str; 10] =
    ["password", "passwd", "pwd", "pw", "passcode", "passwort", "kennwort", "contraseña", "senha", "passe"];

/// What holds a digit and is talked about after "password".
const TECHNICAL: [&str; 9] = ["sha", "md", "base", "pbkdf", "oauth", "argon", "bcrypt", "utf", "aes"];

/// "password qwerty12": a word of letters and digits right after the one that announces it.
fn bare(scan: &Scan, i: usize) -> Option<Span> {
    let word = scan.str(i).to_lowercase();
    if !BEFORE_BARE.contains(&&*word) || !scan.gap(i).starts_with(' ') {
        return None;
    }
    let start = scan.tokens[i].end + 1;
    let rest = scan.text[start..].split(|c: char| c.is_whitespace() || ",;".contains(c)).next()?;
    let value = rest.trim_end_matches(['.', '!', '?', ':']);
    let lower = value.to_lowercase();
    let is_value = (6..=64).contains(&value.len())
        && value.chars().all(|c| c.is_alphanumeric() || "!@#$%^*?~+.-".contains(c))
        && value.starts_with(char::is_alphanumeric)
        && value.chars().any(|c| c.is_ascii_digit())
        && value.chars().any(char::is_alphabetic)
        && !TECHNICAL.iter().any(|t| lower.starts_with(t));
    is_value.then(|| Span::new(start, start + value.len(), Kind::Secret, 0.6))
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::Secret;

    #[test]
    fn keys_by_their_prefix() {
        check("key AKIAIOSFODNN7EXAMPLE here", Secret, &["AKIAIOSFODNN7EXAMPLE"]);
        let token = format!("ghp_{}", "a1B2c3".repeat(6));
        check(&format!("export T={token};"), Secret, &[&token]);
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N";
        check(&format!("Authorization: Bearer {jwt}."), Secret, &[jwt]);
        let pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----";
        check(&format!("x\n{pem}\ny"), Secret, &[pem]);
        let heads = "-----BEGIN ".repeat(40_000);
        check(&format!("{heads}\n{pem}"), Secret, &[pem]);
    }

    #[test]
    fn values_that_are_announced() {
        check("password: hunter2!", Secret, &["hunter2"]);
        check("The password is: P@ssw0rd123.", Secret, &["P@ssw0rd123"]);
        check("my password is Tr0ub4dor&3 ok", Secret, &["Tr0ub4dor&3"]);
        check("login?user=a&password=hunter22&x=1", Secret, &["hunter22"]);
        check("password = \"a(b c)1;x\"", Secret, &["a(b c)1;x"]);
        check(r#"{"api_key": "f3a9c0d1e2"}"#, Secret, &["f3a9c0d1e2"]);
        check("DB_PASSWORD=correct-horse-9", Secret, &["correct-horse-9"]);
        check("pw: qwerty12", Secret, &["qwerty12"]);
        check("user: bob, password qwerty12", Secret, &["qwerty12"]);
        check("mot de passe : Azerty123", Secret, &["Azerty123"]);
    }

    #[test]
    fn not_secrets() {
        for text in [
            "the password is wrong",
            "password: string",
            "token = getToken2(x)",
            "password=${DB_PASS1}",
            "commit 9f2c41d07ab39f2c41d07ab39f2c41d07ab39f2c",
            "the secret is out",
            "-----BEGIN CERTIFICATE-----",
            "key: value",
            "sk-learn",
            "password reset",
            "the password sha256 hash",
            "password f(x1)y2",
            "le temps passe : 12heures",
        ] {
            check(text, Secret, &[]);
        }
    }
}
