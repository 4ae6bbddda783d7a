#![expect(clippy::inline_always, reason = "each must be compiled with its caller's vector instructions")]

use tch::{Kind, Tensor};

/// What a kernel reads and writes: computed with as fp32.
pub trait Element: Copy + Send + Sync + sealed::Sealed + 'static {
    /// As libtorch calls it.
    const KIND: Kind;
    /// Its value.
    fn get(self) -> f32;
    /// The nearest to a value.
    fn put(x: f32) -> Self;
}

/// Tensors become slices of elements by their dtype, so nobody else may say what an element is.
mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for super::Bf16 {}
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;

    fn get(self) -> f32 {
        self
    }

    fn put(x: f32) -> Self {
        x
    }
}

/// The upper half of an fp32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Bf16(u16);

impl Bf16 {
    /// Its 16 bits.
    #[inline(always)]
    pub fn bits(self) -> u16 {
        self.0
    }
}

impl Element for Bf16 {
    const KIND: Kind = Kind::BFloat16;

    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    /// Rounded to nearest, ties to even; what is no number stays none.
    #[inline(always)]
    fn put(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        Bf16(if x.is_nan() { 0x7fc0 } else { rounded as u16 })
    }
}

/// The elements of a contiguous CPU tensor.
///
/// # Panics
/// For a tensor of another dtype, on another device, or not contiguous.
pub fn elements<E: Element>(t: &Tensor) -> &[E] {
    check::<E>(t);
    // SAFETY: the tensor is contiguous, holds `numel` elements of this dtype and outlives the slice.
    unsafe { std::slice::from_raw_parts(t.data_ptr().cast_const().cast::<E>(), t.numel()) }
}

/// Rows of a contiguous CPU tensor, which several threads write, each its own.
pub struct Rows<E> {
    start: *mut E,
    width: usize,
    n: usize,
}

// SAFETY: threads get disjoint rows (see `row`).
unsafe impl<E: Send> Send for Rows<E> {}
// SAFETY: as above.
unsafe impl<E: Send> Sync for Rows<E> {}

impl<E: Element> Rows<E> {
    /// `t` as rows of `width`.
    ///
    /// # Panics
    /// As [`elements`], and where rows of `width` do not fill the tensor.
    pub fn of(t: &Tensor, width: usize) -> Self {
        check::<E>(t);
        assert!(
            width > 0 && t.numel().is_multiple_of(width),
            "{} elements are no rows of {width}",
            t.numel()
        );
        Rows { start: t.data_ptr().cast::<E>(), width, n: t.numel() / width }
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Row `i`.
    ///
    /// # Panics
    /// Where there is no such row.
    ///
    /// # Safety
    /// No two live slices may be of the same row, and the tensor must outlive them.
    #[expect(clippy::mut_from_ref, reason = "rows are disjoint")]
    pub unsafe fn row(&self, i: usize) -> &mut [E] {
        assert!(i < self.n);
        // SAFETY: the row lies within the tensor; that it is the only slice of it is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.width), self.width) }
    }

    /// The elements of `range`, rows or not.
    ///
    /// # Panics
    /// Where the range does not lie in the tensor.
    ///
    /// # Safety
    /// As [`Self::row`], of the range.
    #[expect(clippy::mut_from_ref, reason = "ranges are disjoint")]
    pub unsafe fn part(&self, range: std::ops::Range<usize>) -> &mut [E] {
        assert!(range.start <= range.end && range.end <= self.n * self.width);
        // SAFETY: as in `row`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}

fn check<E: Element>(t: &Tensor) {
    assert!(t.kind() == E::KIND, "a tensor of {:?} where {:?} is wanted", t.kind(), E::KIND);
    assert!(t.is_contiguous() && t.device() == tch::Device::Cpu, "a kernel wants a contiguous CPU tensor");
}

/// Whether this machine runs what [`for_each_width`](crate::for_each_width) compiles for AVX-512.
pub fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// How many sums run side by side: the widest vector of fp32, twice.
pub(crate) const LANES: usize = 32;

/// Σ f(x) in a fixed number of lanes.
#[inline(always)]
pub fn sum<E: Element>(x: &[E], f: impl Fn(f32) -> f32) -> f32 {
    sum_zipped([x, x], x, |x, _, _| f(x))
}

/// Σ f(x, y, z) over three slices of one length, in a fixed number of lanes.
#[inline(always)]
pub fn sum_zipped<E: Element, F: Element>(
    [x, y]: [&[E]; 2],
    z: &[F],
    f: impl Fn(f32, f32, f32) -> f32,
) -> f32 {
    let n = x.len().min(y.len()).min(z.len());
    let ((x, x_rest), (y, y_rest)) = (x[..n].as_chunks::<LANES>(), y[..n].as_chunks::<LANES>());
    let (z, z_rest) = z[..n].as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for ((x, y), z) in x.iter().zip(y).zip(z) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane].get(), y[lane].get(), z[lane].get());
        }
    }
    for (((lane, x), y), z) in lanes.iter_mut().zip(x_rest).zip(y_rest).zip(z_rest) {
        *lane += f(x.get(), y.get(), z.get());
    }
    lanes.iter().sum()
}

/// The greatest; −∞ where there is none.
#[inline(always)]
pub fn max<E: Element>(x: &[E]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = greater(lanes[lane], chunk[lane].get());
        }
    }
    rest.iter().map(|x| x.get()).chain(lanes).fold(f32::NEG_INFINITY, greater)
}

/// eˣ to about 1e-7 of its value, in arithmetic that vectorises: x = n·ln 2 + r, e^r by its series. Each step is one
/// fused operation, so the bits are the same on every machine.
///
/// Below −87 it is 0; what is no number stays none.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number
    let clamped = x.clamp(-88.0, 88.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND); // its lowest bits are n
    let n = shifted - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, clamped));
    let series = 1.987_569_1e-4f32;
    let series = series.mul_add(r, 1.398_199_9e-3);
    let series = series.mul_add(r, 8.333_452e-3);
    let series = series.mul_add(r, 4.166_579_6e-2);
    let series = series.mul_add(r, 0.166_666_65);
    let series = series.mul_add(r, 0.5);
    let value = series.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { value * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_the_standard_library() {
        for i in -8600..=8800 {
            let x = i as f32 * 0.01;
            let (ours, theirs) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / theirs - 1.0).abs() < 3e-7, "exp({x}) is {ours}, not {theirs}");
        }
        assert_eq!((exp(-200.0), exp(0.0)), (0.0, 1.0));
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn bf16_rounds_as_libtorch_does() {
        let values: Vec<f32> =
            (0..4000).map(|i| (i as f32 - 2000.0) * 1.0009e-3).chain([f32::INFINITY]).collect();
        let theirs = Tensor::from_slice(&values).to_kind(Kind::BFloat16);
        for (ours, theirs) in values.iter().map(|&x| Bf16::put(x)).zip(elements::<Bf16>(&theirs)) {
            assert_eq!(ours.0, theirs.0);
        }
        assert!(Bf16::put(f32::from_bits(0x7fff_ffff)).get().is_nan());
    }
}
