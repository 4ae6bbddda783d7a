use std::cell::RefCell;

use ferrotune_types::Batch;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tch::Tensor;

/// NEFTune's noise on the token embeddings of one step (arXiv 2310.05914): x + U(−m, m), m = α / √(L·C), L the tokens of
/// the segment. For training only; α of 5 is usual.
///
/// The noise comes from one ChaCha8 stream, segment after segment, so a step draws the same however it is split into
/// batches. Give each step its own seed, and a resumed run draws what the uninterrupted one would have.
#[derive(Debug)]
pub struct Neftune {
    alpha: f64,
    rng: RefCell<ChaCha8Rng>,
}

impl Neftune {
    /// With α of 0 there is no noise.
    pub fn new(alpha: f64, seed: u64) -> Self {
        Neftune { alpha, rng: RefCell::new(ChaCha8Rng::seed_from_u64(seed)) }
    }

    /// x of (T, C), from `Decoder::embed` of this very `batch` → (T, C), with the stream's next noise.
    pub fn add(&self, x: Tensor, batch: &Batch) -> Tensor {
        if self.alpha == 0.0 {
            return x;
        }
        let width = x.size().last().copied().unwrap_or(0).max(0) as usize;
        let mut rng = self.rng.borrow_mut();
        let mut noise = Vec::with_capacity(batch.n_tokens() * width);
        for segment in batch.segments() {
            let n = segment.range.len() * width;
            let bound = (self.alpha / (n.max(1) as f64).sqrt()) as f32;
            noise.extend((0..n).map(|_| (rng.next_u32() >> 8) as f32 / 8_388_608.0 * bound - bound));
        }
        &x + Tensor::from_slice(&noise).view_as(&x).to_device(x.device()).to_kind(x.kind())
    }
}
