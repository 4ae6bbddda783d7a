use tch::{Device, Kind, Tensor};

use crate::Decoder;

/// Keys and values of every block for the rows of a batch.
///
/// Rows are aligned at their ends: the last token of every row lies in slot `end − 1`, whatever its length, so
/// that a step writes one slot for all rows and sees one range of slots. Row b begins in slot `starts[b]`; slots
/// before that hold nothing.
#[derive(Debug)]
pub(super) struct KvCache {
    /// By block: keys and values, (rows, Hkv, capacity, D).
    layers: Vec<(Tensor, Tensor)>,
    pub(super) starts: Vec<i64>,
    pub(super) end: i64,
    capacity: i64,
}

impl KvCache {
    /// Room for rows of these lengths, and `extra` tokens more each.
    pub(super) fn new(decoder: &Decoder, lengths: &[usize], extra: usize) -> Self {
        let end = lengths.iter().max().copied().unwrap_or(0) as i64;
        // Long generations are rare: begin small, grow by doubling.
        let capacity = end + extra.min(128) as i64;
        let options = (decoder.kind, decoder.device);
        let layers = decoder
            .blocks
            .iter()
            .map(|block| {
                let a = &block.attention;
                let size = [lengths.len() as i64, a.n_kv_heads, capacity, a.head_dim];
                (Tensor::zeros(size, options), Tensor::zeros(size, options))
            })
            .collect();
        let starts = lengths.iter().map(|&n| end - n as i64).collect();
        KvCache { layers, starts, end, capacity }
    }

    /// Writes a prompt's keys and values, (Hkv, n, D) each, into row `row` of a block, to end in slot `end`.
    pub(super) fn fill(&self, layer_idx: usize, row: usize, k: &Tensor, v: &Tensor) {
        let n = k.size()[1];
        let (keys, values) = &self.layers[layer_idx];
        let slots = |t: &Tensor| t.get(row as i64).narrow(1, self.end - n, n);
        slots(keys).copy_(k);
        slots(values).copy_(v);
    }

    /// Makes room for one more token a row.
    pub(super) fn reserve(&mut self) {
        if self.end < self.capacity {
            return;
        }
        for (keys, values) in &mut self.layers {
            *keys = Tensor::cat(&[&*keys, &keys.zeros_like()], 2);
            *values = Tensor::cat(&[&*values, &values.zeros_like()], 2);
        }
        self.capacity *= 2;
    }

    /// Writes one token's keys and values, (rows, Hkv, D) each, into slot `end` and gives those of the slots from
    /// `from` to it, (rows, Hkv, slots, D).
    pub(super) fn push(&self, layer_idx: usize, k: &Tensor, v: &Tensor, from: i64) -> (Tensor, Tensor) {
        let (keys, values) = &self.layers[layer_idx];
        keys.select(2, self.end).copy_(k);
        values.select(2, self.end).copy_(v);
        let n = self.end + 1 - from;
        (keys.narrow(2, from, n), values.narrow(2, from, n))
    }

    /// Keys and values of every block, (rows, Hkv, capacity, D).
    pub(super) fn layers(&self) -> &[(Tensor, Tensor)] {
        &self.layers
    }

    /// Keeps these rows, in this order; a row may come more than once.
    pub(super) fn keep(&mut self, rows: &[usize]) {
        self.starts = rows.iter().map(|&row| self.starts[row]).collect();
        let device = self.layers.first().map_or(Device::Cpu, |(keys, _)| keys.device());
        let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let index = Tensor::from_slice(&index).to_device(device);
        for (keys, values) in &mut self.layers {
            *keys = keys.index_select(0, &index);
            *values = values.index_select(0, &index);
        }
    }

    /// Which of the slots from `from` to `end` each row sees, (rows, 1, 1, slots); `None` where all see all.
    pub(super) fn mask(&self, from: i64, device: Device) -> Option<Tensor> {
        if self.starts.iter().all(|&start| start <= from) {
            return None;
        }
        let slots = Tensor::arange_start(from, self.end + 1, (Kind::Int64, device));
        let starts = Tensor::from_slice(&self.starts).to_device(device);
        Some(slots.unsqueeze(0).ge_tensor(&starts.unsqueeze(1)).unsqueeze(1).unsqueeze(1))
    }
}
