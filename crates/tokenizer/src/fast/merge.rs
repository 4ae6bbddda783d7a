use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use serde_json::Value;

use super::table::PairTable;

/// The merges of a byte-level BPE.
#[derive(Debug)]
pub(super) struct Merges {
    /// Id of each byte; absent where the vocabulary lacks it, and then the byte is lost, as in `tokenizers`.
    bytes: [Option<u32>; 256],
    /// Left and right id to rank and merged id.
    pairs: PairTable,
}

/// Buffers that are kept from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    /// Rank, place and merged id of pairs that may be merged, lowest first.
    queue: BinaryHeap<Reverse<(u32, u32, u32)>>,
    parts: Vec<(u32, u32)>,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    /// Places of the neighbours; `NONE` at the ends.
    prev: u32,
    next: u32,
    /// Where it ends in the word; 0 once it is merged into the one before.
    end: u32,
}

const NONE: u32 = u32::MAX;

impl Merges {
    pub(super) fn new(merges: &Value, ids: &HashMap<&str, u32>, tokens: &[(Vec<u8>, u32)]) -> Option<Self> {
        let mut bytes = [None; 256];
        for (token, id) in tokens {
            if let [byte] = token[..] {
                bytes[usize::from(byte)] = Some(*id);
            }
        }
        let mut pairs = Vec::new();
        let mut joined = String::new();
        for (rank, merge) in merges.as_array()?.iter().enumerate() {
            let (left, right) = match merge {
                Value::String(pair) => pair.split_once(' ')?,
                Value::Array(pair) => (pair.first()?.as_str()?, pair.get(1)?.as_str()?),
                _ => return None,
            };
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            pairs.push((*ids.get(left)?, *ids.get(right)?, (rank as u32, *ids.get(&*joined)?)));
        }
        Some(Merges { bytes, pairs: PairTable::new(&pairs) })
    }

    /// Splits a word into tokens: ids and where each ends. Merges in the order that `tokenizers` does.
    pub(super) fn split<'s>(&self, word: &[u8], scratch: &'s mut Scratch) -> &'s [(u32, u32)] {
        let Scratch { symbols, queue, parts } = scratch;
        symbols.clear();
        queue.clear();
        parts.clear();
        for (i, &byte) in word.iter().enumerate() {
            if let Some(id) = self.bytes[usize::from(byte)] {
                let at = symbols.len() as u32;
                symbols.push(Symbol { id, prev: at.wrapping_sub(1), next: at + 1, end: i as u32 + 1 });
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        for (at, pair) in symbols.windows(2).enumerate() {
            if let Some((rank, id)) = self.pairs.get(pair[0].id, pair[1].id) {
                queue.push(Reverse((rank, at as u32, id)));
            }
        }
        while let Some(Reverse((_, at, id))) = queue.pop() {
            let left = symbols[at as usize];
            if left.end == 0 || left.next == NONE {
                continue;
            }
            let right = symbols[left.next as usize];
            // One of the two has been merged since, and what stands here now is another pair.
            if self.pairs.get(left.id, right.id).is_none_or(|(_, merged)| merged != id) {
                continue;
            }
            symbols[left.next as usize].end = 0;
            symbols[at as usize] = Symbol { id, prev: left.prev, next: right.next, end: right.end };
            if right.next != NONE {
                symbols[right.next as usize].prev = at;
                if let Some((rank, merged)) = self.pairs.get(id, symbols[right.next as usize].id) {
                    queue.push(Reverse((rank, at, merged)));
                }
            }
            if left.prev != NONE
                && let Some((rank, merged)) = self.pairs.get(symbols[left.prev as usize].id, id)
            {
                queue.push(Reverse((rank, left.prev, merged)));
            }
        }
        parts.extend(symbols.iter().filter(|symbol| symbol.end != 0).map(|symbol| (symbol.id, symbol.end)));
        parts
    }
}
