use super::matrix::floats;
use crate::Norm;
use crate::kernels::for_each_width;

/// A norm with its weight as plain numbers.
#[derive(Debug)]
pub(super) struct PlainNorm {
    weight: Vec<f32>,
    /// Of a layer norm.
    bias: Option<Vec<f32>>,
    eps: f32,
    /// Whether the mean is taken off first.
    centred: bool,
}

impl PlainNorm {
    pub(super) fn new(norm: &Norm) -> Self {
        match norm {
            Norm::Rms { weight, eps, weight_plus_one } => {
                let shift = if *weight_plus_one { 1.0 } else { 0.0 };
                let weight = floats(weight).into_iter().map(|w| w + shift).collect();
                PlainNorm { weight, bias: None, eps: *eps as f32, centred: false }
            }
            Norm::Layer { weight, bias, eps } => PlainNorm {
                weight: floats(weight),
                bias: bias.as_ref().map(floats),
                eps: *eps as f32,
                centred: true,
            },
        }
    }

    /// Every row of `x`, (rows, width), in place.
    pub(super) fn apply(&self, x: &mut [f32]) {
        for row in x.chunks_exact_mut(self.weight.len()) {
            apply_to_row(self, row);
        }
    }
}

for_each_width! {
    fn apply_to_row(norm: &PlainNorm, row: &mut [f32]) {
        let n = row.len() as f32;
        if norm.centred {
            let mean = row.iter().sum::<f32>() / n;
            for x in row.iter_mut() {
                *x -= mean;
            }
        }
        let scale = 1.0 / (sum_of_squares(row) / n + norm.eps).sqrt();
        row.iter_mut().zip(&norm.weight).for_each(|(x, w)| *x = *x * scale * w);
        if let Some(bias) = &norm.bias {
            row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    }
}

/// In eight sums, which the compiler makes a vector of.
#[inline]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x * x);
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>()
}
