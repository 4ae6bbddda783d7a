//! One detector a file. Each reads the [`Scan`] and pushes candidates with their scores; it does not know the
//! configuration's kinds or threshold, and overlaps are none of its business.

mod address;
mod card;
mod checksum;
mod crypto;
mod custom;
mod date;
mod email;
mod iban;
mod ip;
mod mac;
mod national_id;
mod national_id_others;
mod person;
mod phone;
mod secrets;
mod url_credentials;
mod us_zip;

pub(crate) use checksum::luhn_digit;
pub(crate) use iban::check_digits as iban_check_digits;

use super::scan::Scan;
use super::{Kind, PiiConfig, Span};

/// Everything that might be personal data, overlapping and unsorted.
pub(crate) fn candidates(scan: &Scan, config: &PiiConfig) -> Vec<Span> {
    let mut found = Vec::new();
    url_credentials::find(scan, &mut found);
    email::find(scan, &mut found);
    mac::find(scan, &mut found);
    ip::find(scan, &mut found);
    iban::find(scan, &mut found);
    card::find(scan, &mut found);
    crypto::find(scan, &mut found);
    date::find(scan, &mut found);
    national_id::find(scan, &mut found);
    secrets::find(scan, &mut found);
    custom::find(scan, config, &mut found);
    // A phone number is whatever else a row of digits is not, so it looks last, and at what was found.
    phone::find(scan, config, &mut found);
    if config.asks_for(Kind::Address) {
        address::find(scan, &mut found);
    }
    if config.asks_for(Kind::Person) {
        person::find(scan, &mut found);
    }
    found
}

/// A base score moved by context: +0.4 where a word of the kind stands near.
fn with_context(base: f32, context: bool) -> f32 {
    if context { (base + 0.4).min(1.0) } else { base }
}

#[cfg(test)]
pub(crate) fn check(text: &str, kind: Kind, expect: &[&str]) {
    let config = PiiConfig::everything();
    let got: Vec<_> =
        super::find(text, &config).into_iter().filter(|s| s.kind == kind).map(|s| &text[s.range()]).collect();
    assert_eq!(got, expect, "in {text:?}");
}
