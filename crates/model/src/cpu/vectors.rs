//! Vectors of fp32 numbers on three kinds of CPU, all with the same names, and how stored numbers become one.

/// 512 bits.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::{
        __m512, _MM_HINT_T0, _mm_add_ps, _mm_prefetch, _mm_storeu_ps, _mm256_add_ps, _mm256_castpd_ps,
        _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_loadu_si256, _mm512_add_ps, _mm512_and_si512,
        _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps512_ps256, _mm512_castsi512_ps,
        _mm512_cvtepu16_epi32, _mm512_extractf64x4_pd, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_unpackhi_pd,
        _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    use half::bf16;

    pub(in crate::cpu) const LANES: usize = 16;
    /// Rows and inputs of the largest tile: their sums fill the registers.
    pub(in crate::cpu) const ROWS: usize = 3;
    pub(in crate::cpu) const INPUTS: usize = 8;

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::cpu) fn fill(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::cpu) fn load_f32(x: &[f32; LANES]) -> __m512 {
        // SAFETY: the array has as many numbers as are read.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    /// A bf16 is the upper half of an fp32.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::cpu) fn load_bf16(x: &[bf16; LANES]) -> __m512 {
        // SAFETY: the array has as many numbers as are read.
        let halves = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::cpu) fn part_f32(x: &[f32; LANES]) -> [__m512; 1] {
        [load_f32(x)]
    }

    /// Those in even places, and those in odd ones: an operation each, half of what it takes in order.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::cpu) fn parts_bf16(x: &[bf16; 2 * LANES]) -> [__m512; 2] {
        // SAFETY: the array has as many numbers as are read.
        let pairs = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
        let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(-65_536));
        [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::cpu) fn store(x: __m512, to: &mut [f32; LANES]) {
        // SAFETY: the array has as many numbers as are written.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    /// Asks for a line of memory ahead of its use; any address will do.
    #[inline]
    pub(in crate::cpu) fn prefetch<T>(at: *const T) {
        // SAFETY: a prefetch reads nothing that anyone could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    /// c + a · b.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::cpu) fn plus(c: __m512, a: __m512, b: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }

    /// Of all lanes, in the order of [`totals`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub(in crate::cpu) fn total(x: __m512) -> f32 {
        totals([x; 4])[0]
    }

    /// Of all lanes of each, in a fixed order, for less than four times the price.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub(in crate::cpu) fn totals(x: [__m512; 4]) -> [f32; 4] {
        // In every quarter: two numbers of each of two, then one of each of four.
        let pairs =
            |a, b| _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
        let (first, second) = (pairs(x[0], x[1]), pairs(x[2], x[3]));
        let lower = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
        let upper = _mm512_castpd_ps(_mm512_unpackhi_pd(first, second));
        let quarters = _mm512_add_ps(lower, upper);
        let halves = _mm256_add_ps(
            _mm512_castps512_ps256(quarters),
            _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(quarters))),
        );
        let whole = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
        let mut out = [0.0; 4];
        // SAFETY: the array has as many numbers as are written.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), whole) };
        out
    }
}

/// 256 bits.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::{
        __m256, _MM_HINT_T0, _mm_add_ps, _mm_loadu_si128, _mm_prefetch, _mm_storeu_ps, _mm256_and_si256,
        _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_extractf128_ps,
        _mm256_fmadd_ps, _mm256_hadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi32,
        _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps,
    };

    use half::bf16;

    pub(in crate::cpu) const LANES: usize = 8;
    /// Rows and inputs of the largest tile: their sums fill the registers.
    pub(in crate::cpu) const ROWS: usize = 2;
    pub(in crate::cpu) const INPUTS: usize = 5;

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in crate::cpu) fn fill(x: f32) -> __m256 {
        _mm256_set1_ps(x)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in crate::cpu) fn load_f32(x: &[f32; LANES]) -> __m256 {
        // SAFETY: the array has as many numbers as are read.
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }

    /// A bf16 is the upper half of an fp32.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in crate::cpu) fn load_bf16(x: &[bf16; LANES]) -> __m256 {
        // SAFETY: the array has as many numbers as are read.
        let halves = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in crate::cpu) fn part_f32(x: &[f32; LANES]) -> [__m256; 1] {
        [load_f32(x)]
    }

    /// Those in even places, and those in odd ones: an operation each, half of what it takes in order.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in crate::cpu) fn parts_bf16(x: &[bf16; 2 * LANES]) -> [__m256; 2] {
        // SAFETY: the array has as many numbers as are read.
        let pairs = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(-65_536));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in crate::cpu) fn store(x: __m256, to: &mut [f32; LANES]) {
        // SAFETY: the array has as many numbers as are written.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
    }

    /// Asks for a line of memory ahead of its use; any address will do.
    #[inline]
    pub(in crate::cpu) fn prefetch<T>(at: *const T) {
        // SAFETY: a prefetch reads nothing that anyone could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    /// c + a · b.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in crate::cpu) fn plus(c: __m256, a: __m256, b: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }

    /// Of all lanes, in the order of [`totals`].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in crate::cpu) fn total(x: __m256) -> f32 {
        let mut lanes = [0.0; LANES];
        store(x, &mut lanes);
        super::plain::total(lanes)
    }

    /// Of all lanes of each, in a fixed order, for less than four times the price.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(in crate::cpu) fn totals(x: [__m256; 4]) -> [f32; 4] {
        let pairs = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
        let whole = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
        let mut out = [0.0; 4];
        // SAFETY: the array has as many numbers as are written.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), whole) };
        out
    }
}

/// Any CPU: eight numbers, which the compiler puts into what vectors it has.
pub(super) mod plain {
    use half::bf16;

    pub(in crate::cpu) const LANES: usize = 8;
    /// Rows and inputs of the largest tile: their sums fill the registers.
    pub(in crate::cpu) const ROWS: usize = 2;
    pub(in crate::cpu) const INPUTS: usize = 5;

    #[inline]
    pub(in crate::cpu) fn fill(x: f32) -> [f32; LANES] {
        [x; LANES]
    }

    #[inline]
    pub(in crate::cpu) fn load_f32(x: &[f32; LANES]) -> [f32; LANES] {
        *x
    }

    #[inline]
    pub(in crate::cpu) fn load_bf16(x: &[bf16; LANES]) -> [f32; LANES] {
        x.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16))
    }

    #[inline]
    pub(in crate::cpu) fn part_f32(x: &[f32; LANES]) -> [[f32; LANES]; 1] {
        [*x]
    }

    /// Those in even places, and those in odd ones.
    #[inline]
    pub(in crate::cpu) fn parts_bf16(x: &[bf16; 2 * LANES]) -> [[f32; LANES]; 2] {
        let part =
            |odd: usize| std::array::from_fn(|i| f32::from_bits(u32::from(x[2 * i + odd].to_bits()) << 16));
        [part(0), part(1)]
    }

    #[inline]
    pub(in crate::cpu) fn store(x: [f32; LANES], to: &mut [f32; LANES]) {
        *to = x;
    }

    /// Nothing here.
    #[inline]
    pub(in crate::cpu) fn prefetch<T>(_: *const T) {}

    /// c + a · b.
    #[inline]
    pub(in crate::cpu) fn plus(mut c: [f32; LANES], a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        for i in 0..LANES {
            c[i] += a[i] * b[i];
        }
        c
    }

    /// Of all lanes, in a fixed order.
    #[inline]
    pub(in crate::cpu) fn total(x: [f32; LANES]) -> f32 {
        ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]))
    }

    /// Of all lanes of each.
    #[inline]
    pub(in crate::cpu) fn totals(x: [[f32; LANES]; 4]) -> [f32; 4] {
        x.map(total)
    }
}
