use half::bf16;

/// A vector of fp32 numbers, and how stored weights become one.
///
/// # Safety
/// The methods may only run where the CPU has the instructions that an implementation is made of; all are meant
/// to be inlined into a function that was chosen by asking for them ([`super::kernels`]). Pointers must be
/// readable for `LANES` elements.
pub(super) unsafe trait Simd: Copy {
    const LANES: usize;
    unsafe fn zero() -> Self;
    unsafe fn fill(x: f32) -> Self;
    unsafe fn load_f32(from: *const f32) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;
    unsafe fn load_i8(from: *const i8) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// self · b + c.
    unsafe fn times_plus(self, b: Self, c: Self) -> Self;
    /// Of all lanes, in a fixed order.
    unsafe fn sum(self) -> f32;
}

/// A type that weights and caches are stored in.
pub(super) trait Stored: Copy + Send + Sync + 'static {
    fn widen(self) -> f32;
    fn narrow(x: f32) -> Self;
    /// # Safety
    /// As [`Simd`].
    unsafe fn load<S: Simd>(from: *const Self) -> S;
}

impl Stored for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S {
        unsafe { S::load_f32(from) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(x: f32) -> bf16 {
        bf16::from_f32(x)
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const bf16) -> S {
        unsafe { S::load_bf16(from) }
    }
}

impl Stored for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }

    #[inline(always)]
    fn narrow(x: f32) -> i8 {
        x as i8
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const i8) -> S {
        unsafe { S::load_i8(from) }
    }
}

/// Any CPU: eight numbers, which the compiler puts into what vectors it has.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

unsafe impl Simd for Plain {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Plain([0.0; 8])
    }

    #[inline(always)]
    unsafe fn fill(x: f32) -> Self {
        Plain([x; 8])
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        Plain(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Plain(unsafe { from.cast::<[bf16; 8]>().read_unaligned() }.map(Stored::widen))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Plain(unsafe { from.cast::<[i8; 8]>().read_unaligned() }.map(Stored::widen))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn times_plus(self, b: Self, c: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let a = self.0;
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::Simd;

    /// 512 bits: AVX-512F.
    #[derive(Clone, Copy)]
    pub(in crate::cpu) struct Avx512(__m512);

    unsafe impl Simd for Avx512 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn zero() -> Self {
            Avx512(unsafe { _mm512_setzero_ps() })
        }

        #[inline(always)]
        unsafe fn fill(x: f32) -> Self {
            Avx512(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> Self {
            Avx512(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Self {
            // A bf16 is the upper half of an fp32.
            Avx512(unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            })
        }

        #[inline(always)]
        unsafe fn load_i8(from: *const i8) -> Self {
            Avx512(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn times_plus(self, b: Self, c: Self) -> Self {
            Avx512(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
    }

    /// 256 bits: AVX2 with FMA.
    #[derive(Clone, Copy)]
    pub(in crate::cpu) struct Avx2(__m256);

    unsafe impl Simd for Avx2 {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> Self {
            Avx2(unsafe { _mm256_setzero_ps() })
        }

        #[inline(always)]
        unsafe fn fill(x: f32) -> Self {
            Avx2(unsafe { _mm256_set1_ps(x) })
        }

        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> Self {
            Avx2(unsafe { _mm256_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Self {
            Avx2(unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            })
        }

        #[inline(always)]
        unsafe fn load_i8(from: *const i8) -> Self {
            Avx2(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn times_plus(self, b: Self, c: Self) -> Self {
            Avx2(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            let mut lanes = [0.0f32; 8];
            unsafe { self.store(lanes.as_mut_ptr()) };
            let a = lanes;
            ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
        }
    }
}
