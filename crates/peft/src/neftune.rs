use ferrotune_types::Batch;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tch::Tensor;

/// Token embeddings with NEFTune's noise (arXiv 2310.05914): x + U(−m, m), m = α / √(L·C), L the tokens of the
/// segment. For training only; α of 5 is usual.
///
/// x of (T, C) from `Decoder::embed` → (T, C). The noise comes from a ChaCha8 stream: give each step its own
/// seed, and a resumed run draws what the uninterrupted one would have. `batch` must be the one that was embedded.
pub fn neftune(x: &Tensor, batch: &Batch, alpha: f64, seed: u64) -> Tensor {
    let width = x.size().last().copied().unwrap_or(0).max(0) as usize;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut noise = Vec::with_capacity(batch.n_tokens() * width);
    for segment in batch.segments() {
        let n = segment.range.len() * width;
        let bound = (alpha / (n.max(1) as f64).sqrt()) as f32;
        noise.extend((0..n).map(|_| (rng.next_u32() >> 8) as f32 / 8_388_608.0 * bound - bound));
    }
    x + Tensor::from_slice(&noise).view_as(x).to_device(x.device()).to_kind(x.kind())
}
