use tch::{Kind, Tensor};

use super::element::{Element, Rows, elements, sum, sum_zipped};
use super::parallel::{parallel, rows_worth};
use super::{by_kind, for_each_width};

/// x / rms(x) · w of x (T, C) with fp32 w (C): the result (T, C), and 1 / rms of every row (T) in fp32.
pub(crate) fn rms_forward(x: &Tensor, w: &Tensor, eps: f64) -> (Tensor, Tensor) {
    let inverse = Tensor::empty([x.size()[0]], (Kind::Float, x.device()));
    let y = x.empty_like();
    by_kind!(x.kind(), forward(x, w, eps as f32, &y, &inverse));
    (y, inverse)
}

/// The result of [`rms_forward`] again, from the kept 1 / rms.
pub(crate) fn rms_normed(x: &Tensor, w: &Tensor, inverse: &Tensor) -> Tensor {
    let y = x.empty_like();
    by_kind!(x.kind(), normed(x, w, inverse, &y));
    y
}

/// Adds to `into` (T, C) the gradient with respect to x of a loss with gradient `g` (T, C) with respect to the
/// result: r·(g·w) − x · r³/C · Σ g·w·x, where r is 1 / rms.
pub(crate) fn rms_backward(x: &Tensor, w: &Tensor, inverse: &Tensor, g: &Tensor, into: &Tensor) {
    by_kind!(x.kind(), backward(x, w, inverse, g, into));
}

fn forward<E: Element>(x: &Tensor, w: &Tensor, eps: f32, y: &Tensor, inverse: &Tensor) {
    let (w, x) = (elements::<f32>(w), elements::<E>(x));
    let (y, inverse, c) = (Rows::<E>::of(y, w.len()), Rows::<f32>::of(inverse, 1), w.len());
    parallel(y.len(), rows_worth(c), |rows| {
        for i in rows {
            // SAFETY: each row belongs to one thread.
            let (y, inverse) = unsafe { (y.row(i), inverse.row(i)) };
            inverse[0] = forward_row::<E>(&x[i * c..(i + 1) * c], w, eps, y);
        }
    });
}

fn normed<E: Element>(x: &Tensor, w: &Tensor, inverse: &Tensor, y: &Tensor) {
    let (w, x, inverse) = (elements::<f32>(w), elements::<E>(x), elements::<f32>(inverse));
    let (y, c) = (Rows::<E>::of(y, w.len()), w.len());
    parallel(y.len(), rows_worth(c), |rows| {
        for i in rows {
            // SAFETY: each row belongs to one thread.
            scale_row::<E>(&x[i * c..(i + 1) * c], w, inverse[i], unsafe { y.row(i) });
        }
    });
}

fn backward<E: Element>(x: &Tensor, w: &Tensor, inverse: &Tensor, g: &Tensor, into: &Tensor) {
    let (w, x, inverse, g) =
        (elements::<f32>(w), elements::<E>(x), elements::<f32>(inverse), elements::<E>(g));
    let (into, c) = (Rows::<E>::of(into, w.len()), w.len());
    parallel(into.len(), rows_worth(c), |rows| {
        for i in rows {
            let at = i * c..(i + 1) * c;
            // SAFETY: each row belongs to one thread.
            backward_row::<E>(&x[at.clone()], w, inverse[i], &g[at], unsafe { into.row(i) });
        }
    });
}

for_each_width! {
    fn forward_row<E: Element>(x: &[E], w: &[f32], eps: f32, y: &mut [E]) -> f32 {
        let square = sum(x, |x| x * x);
        let inverse = 1.0 / (square / x.len() as f32 + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = E::put(x.get() * inverse * w);
        }
        inverse
    }
}

for_each_width! {
    fn scale_row<E: Element>(x: &[E], w: &[f32], inverse: f32, y: &mut [E]) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = E::put(x.get() * inverse * w);
        }
    }
}

for_each_width! {
    fn backward_row<E: Element>(x: &[E], w: &[f32], inverse: f32, g: &[E], into: &mut [E]) {
        let n = x.len().min(w.len()).min(g.len());
        let (x, w, g) = (&x[..n], &w[..n], &g[..n]);
        let dot = sum_zipped([g, x], w, |g, x, w| g * w * x);
        let pull = dot * inverse * inverse * inverse / n as f32;
        for (((into, x), w), g) in into.iter_mut().zip(x).zip(w).zip(g) {
            *into = E::put(into.get() + (inverse * g.get() * w - pull * x.get()));
        }
    }
}
