use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use ferrotune_types::{Embed, ModelError};

/// Remembers every vector it has asked for: sentences of the same sources come again with each question.
///
/// It grows with the texts that it sees (about 2 KB each at 384 numbers), so it is meant for one evaluation or
/// one session, not for a server's lifetime.
pub struct CachedEmbed<'a> {
    inner: &'a dyn Embed,
    known: Mutex<BTreeMap<String, Vec<f32>>>,
}

impl<'a> CachedEmbed<'a> {
    /// An empty memory before an embedder.
    pub fn new(inner: &'a dyn Embed) -> Self {
        CachedEmbed { inner, known: Mutex::default() }
    }
}

impl Embed for CachedEmbed<'_> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<&str> = {
            let new: BTreeSet<&str> =
                texts.iter().copied().filter(|text| !known.contains_key(*text)).collect();
            new.into_iter().collect()
        };
        if !new.is_empty() {
            let rows = self.inner.embed(&new)?;
            if rows.len() != new.len() {
                let what = format!("{} gave {} vectors for {} texts", self.name(), rows.len(), new.len());
                return Err(ModelError::failed(what));
            }
            known.extend(new.iter().map(|&text| text.to_owned()).zip(rows));
        }
        let found: Option<Vec<Vec<f32>>> = texts.iter().map(|text| known.get(*text).cloned()).collect();
        found.ok_or_else(|| ModelError::failed("a vector went missing"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::HashEmbed;

    struct Counting(HashEmbed, AtomicUsize);

    impl Embed for Counting {
        fn name(&self) -> &str {
            self.0.name()
        }

        fn dim(&self) -> usize {
            self.0.dim()
        }

        fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
            self.1.fetch_add(texts.len(), Ordering::Relaxed);
            self.0.embed(texts)
        }
    }

    #[test]
    fn each_text_is_embedded_once_and_order_is_kept() {
        let inner = Counting(HashEmbed::new(16), AtomicUsize::new(0));
        let cached = CachedEmbed::new(&inner);
        let direct = inner.0.embed(&["b two", "a one", "b two"]).unwrap();
        assert_eq!(cached.embed(&["b two", "a one", "b two"]).unwrap(), direct);
        assert_eq!(cached.embed(&["a one"]).unwrap(), direct[1..2]);
        assert_eq!(inner.1.load(Ordering::Relaxed), 2);
        assert!(cached.embed(&[]).unwrap().is_empty());
    }
}
