//! Personal data: found, scored, and replaced in a way that can be audited and, with a key, undone.
//!
//! [`find`] is the heart: a text in, disjoint [`Span`]s out. Everything else is what to do with a span
//! ([`Operator`]), how to keep the originals ([`Vault`]) and how a curation run calls it ([`PiiStep`]).
//!
//! One pass cuts the text into words and looks each up in one lexicon (names, months, street words, and the
//! words that announce a phone number or a birthday). Each detector, a file of its own, starts only from the
//! words that can begin what it seeks. A *shape* gives a base score, a *checksum* settles it where one exists
//! (Luhn, mod 97, Base58Check, …), and *context words* move it: `785 8949` is a phone number after "you can
//! call" and nothing after "order".
//!
//! **Invariants.** Spans are sorted, disjoint and on character boundaries. What some accepted span covers is
//! covered after overlaps are resolved. After [`redact`] with an operator that hides (every one but
//! [`Operator::Fake`]), [`find`] finds nothing.
//!
//! **Limits.** Names and postal addresses are found by rules and word lists, not by a model: a name that is in
//! no list and that nothing announces ("Itou was here") is missed, and a brand that looks like a name is
//! taken for one. Presence of a date is not personal by itself: [`Kind::Date`] is off unless asked for, while
//! [`Kind::DateOfBirth`] is on. English context words lead; German, French, Spanish, Italian, Portuguese and
//! Dutch have the commonest. Read a sample of what was kept before you trust it.
//!
//! ```
//! use ferrotune_data::pii::{self, Kind, PiiConfig};
//! let config = PiiConfig::default();
//! let text = "Hi Sarah, order #BS-10482 is late. Mail me at sam@example.org or call 785 8949.";
//! let spans = pii::find(text, &config);
//! let found: Vec<_> = spans.iter().map(|s| (s.kind, &text[s.start..s.end])).collect();
//! assert_eq!(found, [(Kind::Person, "Sarah"), (Kind::Email, "sam@example.org"), (Kind::Phone, "785 8949")]);
//! assert_eq!(
//!     pii::redact(text, &config).unwrap().text,
//!     "Hi [PERSON_1], order #BS-10482 is late. Mail me at [EMAIL_1] or call [PHONE_1]."
//! );
//! ```

mod conceal;
mod config;
mod detect;
mod fake;
mod key;
mod lexicon;
mod numbering;
mod redact;
mod scan;
mod span;
mod step;
mod vault;
mod visit;

pub(crate) use conceal::Conceal;
pub use config::{CustomPattern, Operator, PiiConfig, Scope};
pub use key::PiiKey;
pub use redact::{Redacted, Replacement, redact};
pub use span::{Kind, Span, char_offsets};
pub use step::PiiStep;
pub use vault::Vault;

/// Every piece of personal data in `text` whose kind `config` asks for and whose score reaches its
/// `min_score`, in order, none overlapping another.
///
/// Linear in the text; it never fails and never panics, whatever the text.
pub fn find(text: &str, config: &PiiConfig) -> Vec<Span> {
    let scan = scan::Scan::new(text, config);
    let mut spans = detect::candidates(&scan, config);
    spans.retain(|s| {
        config.asks_for(s.kind) && s.score >= config.min_score && !config.allows(&text[s.range()])
    });
    // Placeholders that stand there already win every overlap, and are not reported.
    let placeholder = Kind::Custom(usize::MAX);
    let opaque = scan.tokens.iter().filter(|t| t.is_opaque());
    spans.extend(opaque.map(|t| Span::new(t.start, t.end, placeholder, 1.0)));
    spans = span::resolve(text, spans);
    spans.retain(|s| s.kind != placeholder);
    spans
}
