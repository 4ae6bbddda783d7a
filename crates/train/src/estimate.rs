use ferrotune_model::kernels::widens;
use ferrotune_model::lean::{Lean, n_kept};
use ferrotune_model::{Decoder, GateUp, Mlp, Qkv, Update, Weight};
use ferrotune_types::Batch;
use serde::{Deserialize, Serialize};

use crate::HeadOptions;

/// What a run is expected to take, told before its first step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The most memory held at once, in MiB.
    pub peak_mib: f64,
    /// Of that what is held already: the program, the model, the data.
    pub held_mib: f64,
    /// The optimiser's states, gradients, and the best weights so far.
    pub states_mib: f64,
    /// What the largest pass keeps for its backward pass, and what it needs for a moment.
    pub pass_mib: f64,
    /// Seconds of a step, on average; `None` where nothing was timed.
    pub step_seconds: Option<f64>,
    /// Seconds of the whole run, validations counted in.
    pub seconds: Option<f64>,
}

impl Estimate {
    /// In words.
    pub fn words(&self) -> String {
        let memory = format!(
            "about {:.0} MiB of memory (held {:.0}, optimiser and gradients {:.0}, the largest pass {:.0})",
            self.peak_mib, self.held_mib, self.states_mib, self.pass_mib
        );
        let (Some(step), Some(seconds)) = (self.step_seconds, self.seconds) else { return memory };
        let whole = seconds.round() as u64;
        let time = if whole < 120 {
            format!("{whole} s")
        } else {
            format!("{} min {:02} s", whole / 60, whole % 60)
        };
        format!("{memory}; {step:.2} s a step, {time} in all")
    }
}

/// The size of a pass over one batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassLoad {
    /// T.
    pub tokens: usize,
    /// N, the tokens that are trained on.
    pub graded: usize,
    /// Lengths of the runs of tokens that see each other.
    pub islands: Vec<usize>,
}

impl PassLoad {
    /// Of a batch.
    pub fn of(batch: &Batch) -> Self {
        let mut islands: Vec<usize> = Vec::new();
        for segment in batch.segments() {
            match (&segment.prefix, islands.last_mut()) {
                (Some(_), Some(last)) => *last += segment.range.len(),
                _ => islands.push(segment.range.len()),
            }
        }
        PassLoad { tokens: batch.n_tokens(), graded: batch.n_targets(), islands }
    }

    /// Σ n² over the islands.
    fn squares(&self) -> f64 {
        self.islands.iter().map(|&n| (n * n) as f64).sum()
    }
}

/// What passes through a model cost, as it stands: with its adapter, and with what is trained.
#[derive(Debug, Clone)]
pub struct PassCost {
    blocks: Vec<BlockCost>,
    /// The first block that anything is trained in or before.
    lowest: usize,
    c: usize,
    v: usize,
    /// H·D, and D·(H + 2·Hkv).
    heads: usize,
    q_width: usize,
    qkv_width: usize,
    inner: usize,
    /// Bytes of an activation, and of what is widened of one for products (`kernels::wide`): 0 or 4.
    element: usize,
    widened: usize,
    head_trains: bool,
    embedding_trains: bool,
    lean: bool,
    checkpointing: bool,
}

#[derive(Debug, Clone, Default)]
struct BlockCost {
    /// Numbers in the weights, and in those that are trained.
    weights: usize,
    trained: usize,
    /// Σ r·(in + out), Σ r.
    low: usize,
    ranks: usize,
    /// Numbers in the adapters' factors as the hand-written pass joins them.
    joined: usize,
    /// Bytes for a moment where the largest product's weight is packed.
    unpacked: usize,
}

impl PassCost {
    /// Of passes over batches like `batch`.
    pub fn of(decoder: &Decoder, batch: &Batch, checkpointing: bool) -> Self {
        let config = &decoder.config;
        let element = decoder.kind.elt_size_in_bytes();
        let lean = Lean::fits(decoder, batch);
        let widened = if lean && widens(decoder.kind, decoder.device) { 4 } else { 0 };
        let blocks: Vec<BlockCost> = decoder
            .blocks
            .iter()
            .map(|block| {
                let mut cost = BlockCost::default();
                for linear in block.linears() {
                    let (out, inputs) = (linear.out_features() as usize, linear.in_features() as usize);
                    cost.weights += out * inputs;
                    match &linear.weight {
                        Weight::Dense(w) if w.requires_grad() => cost.trained += out * inputs,
                        Weight::Dense(_) => {}
                        // The fp32 values on the way, and the plain weight.
                        Weight::Packed(_) => cost.unpacked = cost.unpacked.max(out * inputs * (8 + element)),
                    }
                    let rank = match linear.update() {
                        Update::LowRank { a, .. } => a.size()[0] as usize,
                        Update::None | Update::Opaque => 0,
                    };
                    cost.low += rank * (out + inputs);
                    cost.ranks += rank;
                    cost.joined += rank * inputs;
                }
                cost.joined += joined_b(block);
                cost
            })
            .collect();
        let trains = |block: &ferrotune_model::Block, cost: &BlockCost| {
            cost.trained + cost.low > 0
                || block.linears().iter().any(|l| matches!(l.update(), Update::Opaque))
                || block.attention_norms.0.iter().any(|n| n.weight().requires_grad())
        };
        let embedding_trains = decoder.embedding.requires_grad();
        let first = decoder.blocks.iter().zip(&blocks).position(|(block, cost)| trains(block, cost));
        PassCost {
            lowest: if embedding_trains { 0 } else { first.unwrap_or(blocks.len()) },
            blocks,
            c: config.hidden_size,
            v: config.vocab_size,
            heads: config.num_attention_heads,
            q_width: config.num_attention_heads * config.head_dim,
            qkv_width: (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim,
            inner: config.intermediate_size,
            element,
            widened,
            head_trains: decoder.head_weight().requires_grad(),
            embedding_trains,
            lean,
            checkpointing,
        }
    }

    /// Multiplications and additions of a forward pass.
    pub fn forward_flops(&self, load: &PassLoad) -> f64 {
        let products: usize = self.blocks.iter().map(|b| b.weights + b.low).sum();
        2.0 * (load.tokens * products) as f64
            + 4.0 * load.squares() * (self.q_width * self.blocks.len()) as f64
            + 2.0 * self.head_flops(load)
    }

    /// Those of a forward and a backward pass.
    pub fn flops(&self, load: &PassLoad) -> f64 {
        let above = &self.blocks[self.lowest.min(self.blocks.len())..];
        let t = load.tokens as f64;
        let attention = 4.0 * load.squares() * (self.q_width * above.len()) as f64;
        let again = if self.checkpointing {
            2.0 * t * above.iter().map(|b| b.weights + b.low).sum::<usize>() as f64 + attention
        } else {
            0.0
        };
        let backward =
            2.0 * t * above.iter().map(|b| b.weights + b.trained + 2 * b.low).sum::<usize>() as f64;
        let head = if self.head_trains { 6.0 } else { 2.0 };
        self.forward_flops(load) + backward + 2.0 * attention + again + head * self.head_flops(load)
    }

    fn head_flops(&self, load: &PassLoad) -> f64 {
        load.graded as f64 * (self.v * self.c) as f64
    }

    /// Bytes that a pass needs beside the weights: what it keeps, and the most that it holds for a moment.
    pub fn pass_bytes(&self, load: &PassLoad) -> usize {
        let (t, e) = (load.tokens, self.element);
        let one = self.tape_bytes(load).div_ceil(self.blocks.len().max(1));
        let kept = if self.checkpointing {
            self.blocks.len() * t * self.c * e + one
        } else {
            self.tape_bytes(load) + self.joined_bytes()
        };
        let longest = load.islands.iter().copied().max().unwrap_or(0);
        let feed_forward = t * (2 * self.inner + 3 * self.c);
        let attention = t * (2 * self.qkv_width + 2 * self.q_width + self.c) + self.heads * longest * longest;
        let chunk = load.graded.min(HeadOptions::default().chunk as usize);
        // A trained head takes its softmax in fp32, and its gradient stands beside the sum.
        let fp32 = if self.head_trains { 3 * 4 * chunk * self.v } else { 0 };
        let wide = e + self.widened;
        let head = chunk * self.v * wide + fp32 + self.v * self.c * self.widened;
        let table = if self.embedding_trains || self.head_trains { 2 * self.v * self.c * e } else { 0 };
        let weight = self.blocks.iter().map(|b| b.weights).max().unwrap_or(0) / 2 * self.widened;
        let moment = (wide * feed_forward.max(attention)).max(head) + table + weight;
        let unpacked = self.blocks.iter().map(|b| b.unpacked).max().unwrap_or(0);
        let needed = kept + moment + unpacked + 4 * e * load.graded * self.c;
        // Passes of many sizes leave gaps in the heap that no later tensor fits: about a quarter, fitted to four runs.
        needed + needed / 4
    }

    /// Whether the pass is the one written out by hand, whose bytes are counted exactly.
    pub fn is_exact(&self) -> bool {
        self.lean
    }

    /// Bytes that all blocks keep for their backward passes.
    fn tape_bytes(&self, load: &PassLoad) -> usize {
        let (t, e) = (load.tokens, self.element);
        if !self.lean {
            // What autograd keeps of a Llama block: each product's input and output, fp32 copies in the norms.
            let plain = t * (6 * self.c + 2 * self.qkv_width + 3 * self.q_width + 4 * self.inner) * e;
            let packed: usize = self.blocks.iter().filter(|b| b.unpacked > 0).map(|b| b.weights * e).sum();
            return self.blocks.len() * plain + packed;
        }
        let kept: usize = load.islands.iter().map(|&n| n_kept(n)).sum();
        let width = 2 * self.c + self.qkv_width + self.q_width + 2 * self.inner;
        let ranks: usize = self.blocks.iter().map(|b| b.ranks).sum();
        self.blocks.len() * (t * width * e + 2 * t * 4 + self.heads * kept * e) + t * ranks * e
    }

    /// Bytes of the adapters' factors, joined and in the model's dtype.
    fn joined_bytes(&self) -> usize {
        self.blocks.iter().map(|b| b.joined * self.element).sum()
    }
}

/// Numbers in a block's B as they are joined: layers that share an input have theirs on one diagonal.
fn joined_b(block: &ferrotune_model::Block) -> usize {
    let of = |linears: Vec<&ferrotune_model::Linear>| {
        let ranks: i64 = linears
            .iter()
            .map(|l| match l.update() {
                Update::LowRank { a, .. } => a.size()[0],
                Update::None | Update::Opaque => 0,
            })
            .sum();
        (ranks * linears.iter().map(|l| l.out_features()).sum::<i64>()) as usize
    };
    let qkv = match &block.attention.qkv {
        Qkv::Split { q_proj, k_proj, v_proj, .. } => of(vec![q_proj, k_proj, v_proj]),
        Qkv::Fused(one) => of(vec![one]),
    };
    let mlp = match &block.mlp {
        Mlp::Gated { gate_up, down_proj, .. } => {
            let first = match gate_up {
                GateUp::Split { gate_proj, up_proj, .. } => of(vec![gate_proj, up_proj]),
                GateUp::Fused(one) => of(vec![one]),
            };
            first + of(vec![down_proj])
        }
        other => other.linears().into_iter().map(|l| of(vec![l])).sum(),
    };
    qkv + of(vec![&block.attention.o_proj]) + mlp
}

/// What this process holds now, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldMemory {
    /// In use: the heap without what the allocator keeps free for later, and what is resident of files and libraries.
    pub used: usize,
    /// Resident now: with what the allocator keeps free.
    pub resident: usize,
    /// The most that was resident so far.
    pub peak: usize,
}

impl HeldMemory {
    /// As the system and the allocator tell; zeros where they do not.
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key))?;
            line.split_whitespace().nth(1)?.parse::<usize>().ok()
        };
        let bytes = |key: &str| kib(key).unwrap_or(0) * 1024;
        let (resident, files) = (bytes("VmRSS:"), bytes("RssFile:"));
        HeldMemory { used: in_use().map_or(resident, |heap| heap + files), resident, peak: bytes("VmHWM:") }
    }
}

/// Bytes of the heap that somebody holds, where the allocator tells.
#[cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(clippy::unnecessary_wraps, reason = "elsewhere the allocator does not tell")
)]
fn in_use() -> Option<usize> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it only reads the allocator's own counts.
        let counts = unsafe { libc::mallinfo2() };
        Some(counts.uordblks + counts.hblkhd)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

#[cfg(test)]
#[path = "../tests/tiny/mod.rs"]
mod tiny;

#[cfg(test)]
mod tests {
    use ferrotune_model::lean::Keep;
    use ferrotune_types::{Example, PairExample};
    use tch::Kind;

    use super::tiny::{VOCAB, tiny};
    use super::*;

    fn batch(lengths: &[usize]) -> Batch {
        let example = |n: usize| {
            let ids = (0..n).map(|t| (t * 7 % VOCAB) as u32).collect();
            Example::new("e", ids, (0..n).map(|t| t > 0).collect()).unwrap()
        };
        let examples: Vec<Example> = lengths.iter().map(|&n| example(n)).collect();
        Batch::from_examples(&examples.iter().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_tape_holds_what_the_estimate_says_to_the_byte() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let decoder = tiny(&["proj"], kind);
            // Short ones, one whose scores are cut into blocks of queries, one whose probabilities are not kept.
            for lengths in [vec![5, 17, 1], vec![700], vec![1100, 3]] {
                let batch = batch(&lengths);
                let rows = tch::Tensor::from_slice(&[0i64]);
                let keep = Keep { checkpointing: false, learns_from: &|_| true };
                let (pass, x) = (decoder.pass(&batch).unwrap(), tch::no_grad(|| decoder.embed(&batch)));
                let (lean, _) = Lean::run(&decoder, &batch, pass, x, rows, Some(keep));
                let cost = PassCost::of(&decoder, &batch, false);
                assert_eq!(cost.tape_bytes(&PassLoad::of(&batch)), lean.tape_bytes(), "{kind:?} {lengths:?}");
            }
        }
    }

    #[test]
    fn nothing_is_kept_of_answers_that_are_not_learnt_from() {
        let decoder = tiny(&["proj"], Kind::Float);
        let kept = |batch: &Batch, learns_from: &dyn Fn(usize) -> bool| {
            let (pass, x) = (decoder.pass(batch).unwrap(), tch::no_grad(|| decoder.embed(batch)));
            let keep = Keep { checkpointing: false, learns_from };
            Lean::run(&decoder, batch, pass, x, tch::Tensor::from_slice(&[0i64]), Some(keep)).0.tape_bytes()
        };
        let pair = |p, c, r| PairExample::new("p", vec![1; p], vec![2; c], vec![3; r]).unwrap();
        let pairs = Batch::from_pairs(&[&pair(6, 4, 9), &pair(300, 100, 90)]).unwrap();
        assert_eq!(kept(&pairs, &|segment| segment % 3 == 1), kept(&batch(&[10, 400]), &|_| true));
    }

    #[test]
    fn operations_are_those_counted_by_hand() {
        let batch = batch(&[6, 4]);
        let load = PassLoad::of(&batch);
        assert_eq!((load.tokens, load.graded, load.islands.as_slice()), (10, 8, [6, 4].as_slice()));
        let (c, i, kv, v) = (24.0, 40.0, 12.0, 97.0);
        let weights: f64 = 3.0 * (2.0 * c * c + 2.0 * kv * c + 3.0 * i * c);
        let attention = 3.0 * 4.0 * (36.0 + 16.0) * c;
        let head = 2.0 * 8.0 * v * c;
        let forward = 2.0 * 10.0 * weights + attention + head;
        // Everything but embedding and norms learns: a product each for the inputs and the weights.
        let all = PassCost::of(&tiny(&["proj"], Kind::Float), &batch, false);
        assert_eq!(all.forward_flops(&load), forward);
        assert_eq!(all.flops(&load), forward + 4.0 * 10.0 * weights + 2.0 * attention + head);
        // Only the last block learns: nothing goes further down.
        let last = PassCost::of(&tiny(&["layers.2"], Kind::Float), &batch, false);
        assert_eq!(last.flops(&load), forward + 4.0 * 10.0 * weights / 3.0 + 2.0 * attention / 3.0 + head);
    }

    #[test]
    fn a_pair_is_one_island() {
        let pair = PairExample::new("p", vec![1, 2, 3], vec![4, 5], vec![6]).unwrap();
        let load = PassLoad::of(&Batch::from_pairs(&[&pair, &pair]).unwrap());
        assert_eq!(load.islands, [6, 6]);
    }

    #[test]
    fn words_say_memory_and_time() {
        let estimate = Estimate {
            peak_mib: 812.4,
            held_mib: 500.0,
            states_mib: 60.0,
            pass_mib: 252.4,
            step_seconds: Some(1.5),
            seconds: Some(150.0),
        };
        let words = estimate.words();
        assert!(
            words.starts_with("about 812 MiB of memory")
                && words.ends_with("1.50 s a step, 2 min 30 s in all"),
            "{words}"
        );
        let untimed = Estimate { seconds: None, ..estimate };
        assert!(!untimed.words().contains("step"), "{}", untimed.words());
    }
}
