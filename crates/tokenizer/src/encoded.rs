/// Token ids with the bytes of the text that each covers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token, its first byte and one past its last. A token that the tokenizer adds itself covers none.
    pub offsets: Vec<(usize, usize)>,
}

impl Encoded {
    pub(crate) fn push(&mut self, id: u32, start: usize, end: usize) {
        self.ids.push(id);
        self.offsets.push((start, end));
    }

    /// What `tokenizers` made of a text that begins at byte `offset`.
    pub(crate) fn push_encoding(&mut self, encoding: &tokenizers::Encoding, offset: usize) {
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            self.push(id, offset + start, offset + end);
        }
    }

    /// The parts of a word that begins at byte `offset`: ids and where each ends in the word.
    pub(crate) fn push_parts(&mut self, parts: &[(u32, u32)], offset: usize) {
        let mut start = offset;
        for &(id, end) in parts {
            let end = offset + end as usize;
            self.push(id, start, end);
            start = end;
        }
    }
}
