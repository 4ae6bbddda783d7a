//! What is compared: texts by number, each in one part or several.

use std::borrow::Cow;

use super::shingle::Shingling;

/// One part of a text that is compared for itself: a question, an answer.
#[derive(Debug, Clone)]
pub struct Facet<'a> {
    /// Only facets with equal tags are compared.
    pub tag: u64,
    /// Its text.
    pub text: Cow<'a, str>,
}

/// Texts that can be read by number, from memory or from anywhere else.
///
/// Two texts are as similar as their least similar facets, and not at all where their facets' tags differ: a row
/// with the same question and another answer is no duplicate.
pub trait Texts: Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// The parts of a text; a plain text has one.
    fn facets(&self, text: usize) -> Vec<Facet<'_>>;
}

impl<T: AsRef<str> + Sync> Texts for [T] {
    fn count(&self) -> usize {
        self.len()
    }

    fn facets(&self, text: usize) -> Vec<Facet<'_>> {
        vec![Facet { tag: 0, text: Cow::Borrowed(self[text].as_ref()) }]
    }
}

impl<T: AsRef<str> + Sync> Texts for Vec<T> {
    fn count(&self) -> usize {
        self.len()
    }

    fn facets(&self, text: usize) -> Vec<Facet<'_>> {
        self.as_slice().facets(text)
    }
}

impl<T: AsRef<str> + Sync, const N: usize> Texts for [T; N] {
    fn count(&self) -> usize {
        N
    }

    fn facets(&self, text: usize) -> Vec<Facet<'_>> {
        self.as_slice().facets(text)
    }
}

/// How similar two texts are: their least similar facet's [`super::jaccard`]; 0 where facets do not correspond.
pub(crate) fn similarity(a: &[Facet<'_>], b: &[Facet<'_>], how: &Shingling) -> f64 {
    if a.len() != b.len() || a.iter().zip(b).any(|(x, y)| x.tag != y.tag) {
        return 0.0;
    }
    a.iter().zip(b).map(|(x, y)| super::jaccard(&x.text, &y.text, how)).fold(1.0, f64::min)
}
