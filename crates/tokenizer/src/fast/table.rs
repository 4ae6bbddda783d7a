use std::collections::HashMap;
use std::hash::BuildHasherDefault;

/// Bytes to ids, read only: open addressing over one block of bytes.
#[derive(Debug)]
pub(super) struct ByteTable {
    /// Index into `entries` plus one; 0 is free.
    slots: Vec<u32>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    start: u32,
    len: u32,
    id: u32,
}

impl ByteTable {
    /// The first of equal keys wins.
    pub(super) fn new(keys: Vec<(Vec<u8>, u32)>) -> Self {
        let slots = vec![0; (keys.len() * 2).next_power_of_two().max(2)];
        let mut table = ByteTable { slots, entries: Vec::with_capacity(keys.len()), bytes: Vec::new() };
        for (key, id) in keys {
            if table.get(&key).is_some() {
                continue;
            }
            let mut at = table.home(&key);
            while table.slots[at] != 0 {
                at = (at + 1) & (table.slots.len() - 1);
            }
            table.entries.push(Entry { start: table.bytes.len() as u32, len: key.len() as u32, id });
            table.slots[at] = table.entries.len() as u32;
            table.bytes.extend(key);
        }
        table
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<u32> {
        let mut at = self.home(key);
        loop {
            let entry = self.slots[at].checked_sub(1).map(|i| &self.entries[i as usize])?;
            let start = entry.start as usize;
            if entry.len as usize == key.len() && self.bytes[start..start + key.len()] == *key {
                return Some(entry.id);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    fn home(&self, key: &[u8]) -> usize {
        hash(key) as usize & (self.slots.len() - 1)
    }
}

/// Pairs of ids to merges, read only: open addressing.
#[derive(Debug)]
pub(super) struct PairTable {
    keys: Vec<u64>,
    values: Vec<(u32, u32)>,
}

/// No pair: vocabularies are far smaller than 2^32.
const FREE: u64 = u64::MAX;

impl PairTable {
    /// The last of equal keys wins, as in a map that is filled in order.
    pub(super) fn new(pairs: &[(u32, u32, (u32, u32))]) -> Self {
        let size = (pairs.len() * 2).next_power_of_two().max(2);
        let mut table = PairTable { keys: vec![FREE; size], values: vec![(0, 0); size] };
        for &(left, right, value) in pairs {
            let at = table.place(left, right);
            table.keys[at] = key(left, right);
            table.values[at] = value;
        }
        table
    }

    pub(super) fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let at = self.place(left, right);
        (self.keys[at] != FREE).then(|| self.values[at])
    }

    /// Where the pair stands, or the free place where it would.
    fn place(&self, left: u32, right: u32) -> usize {
        let key = key(left, right);
        let mut at = mix(key) as usize & (self.keys.len() - 1);
        while self.keys[at] != key && self.keys[at] != FREE {
            at = (at + 1) & (self.keys.len() - 1);
        }
        at
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// A multiply and a fold: the high half of the product depends on all bits.
fn mix(x: u64) -> u64 {
    let product = u128::from(x ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93;
    (product >> 64) as u64 ^ product as u64
}

fn hash(bytes: &[u8]) -> u64 {
    let mut state = bytes.len() as u64;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        state = mix(state ^ u64::from_le_bytes(*chunk));
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        state = mix(state ^ u64::from_le_bytes(last));
    }
    state
}

/// The same hash for std maps. Not against floods of crafted keys: a thread's memory is bounded.
pub(super) type Hasher = BuildHasherDefault<BytesHasher>;

#[derive(Default)]
pub(super) struct BytesHasher(u64);

impl std::hash::Hasher for BytesHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = mix(self.0 ^ hash(bytes));
    }

    fn write_usize(&mut self, n: usize) {
        self.0 ^= n as u64;
    }
}

/// GPT-2's alphabet: the printable character that stands for each byte.
pub(super) fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    (0..=255)
        .map(|b: u8| {
            let c = if printable(b) {
                char::from(b)
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap_or('\0')
            };
            (c, b)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_alphabet_is_gpt2s() {
        let alphabet = byte_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(
            (alphabet[&'Ġ'], alphabet[&'Ċ'], alphabet[&'a'], alphabet[&'é']),
            (b' ', b'\n', b'a', 0xE9)
        );
    }

    proptest! {
        #[test]
        fn a_table_gives_back_what_it_was_given(keys in prop::collection::btree_map(prop::collection::vec(0..4u8, 0..20), any::<u32>(), 0..60)) {
            let table = ByteTable::new(keys.clone().into_iter().collect());
            for (key, id) in &keys {
                prop_assert_eq!(table.get(key), Some(*id));
            }
            prop_assert_eq!(table.get(&[9, 9]), None);
        }
    }
}
