use crate::pii::scan::Scan;
use crate::pii::{Kind, PiiConfig, Span};

/// The user's own patterns.
pub(super) fn find(scan: &Scan, config: &PiiConfig, out: &mut Vec<Span>) {
    for (n, pattern) in config.custom.iter().enumerate() {
        for found in pattern.regex().find_iter(scan.text) {
            if !found.is_empty() {
                out.push(Span::new(found.start(), found.end(), Kind::Custom(n), pattern.score()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::pii::{self, CustomPattern, Kind, PiiConfig};

    #[test]
    fn a_custom_pattern_wins_over_every_other_kind() {
        let pattern = CustomPattern::new("TICKET", r"T-\d{3}-\d{3}-\d{4}", 1.0).unwrap();
        let config = PiiConfig { custom: vec![pattern], ..PiiConfig::default() };
        let spans = pii::find("call T-555-123-4567", &config);
        assert_eq!(spans.iter().map(|s| s.kind).collect::<Vec<_>>(), [Kind::Custom(0)]);
        assert_eq!(pii::redact("call T-555-123-4567", &config).unwrap().text, "call [TICKET_1]");
    }

    #[test]
    fn a_bad_pattern_is_refused() {
        for (name, pattern, score) in [("x", "a", 1.0), ("X", "(", 1.0), ("X", "a", 2.0), ("", "a", 1.0)] {
            assert!(CustomPattern::new(name, pattern, score).is_err(), "{name} {pattern}");
        }
    }
}
