use std::collections::{BTreeMap, VecDeque};

/// Packs of indices: longest first, each into the pack with the least room that is enough; among packs with equal
/// room the one that has had it longest; equal lengths in their order (TRL's `_pack_bfd`).
///
/// `lengths` are at least 1 and at most `max_length`.
pub(super) fn decreasing(lengths: &[usize], max_length: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut by_room: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for i in order {
        let length = lengths[i];
        let found = by_room.range(length..max_length).next().map(|(&room, _)| room);
        let found = found.and_then(|room| Some((room, by_room.get_mut(&room)?.pop_front()?)));
        let (room, pack) = found.unwrap_or((max_length, packs.len()));
        if pack == packs.len() {
            packs.push(Vec::new());
        }
        if by_room.get(&room).is_some_and(VecDeque::is_empty) {
            by_room.remove(&room);
        }
        packs[pack].push(i);
        if room > length {
            by_room.entry(room - length).or_default().push_back(pack);
        }
    }
    packs
}
