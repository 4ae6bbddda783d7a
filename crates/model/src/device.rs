use tch::{Cuda, Device, Kind};

use crate::ModelError;

/// `auto`, `cpu`, `cuda`, `cuda:N`, `mps` → a device that this machine has.
///
/// # Errors
/// [`ModelError::Device`] for an unknown name or a device that is not there.
pub fn parse_device(name: &str) -> Result<Device, ModelError> {
    let absent = |what: &str| Err(ModelError::Device(format!("{name}: {what}; use `auto` or `cpu`")));
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => Ok(Device::Cpu),
        ("auto", "0") if Cuda::is_available() => Ok(Device::Cuda(0)),
        ("auto", "0") if tch::utils::has_mps() => Ok(Device::Mps),
        ("auto", "0") => Ok(Device::Cpu),
        ("mps", "0") if tch::utils::has_mps() => Ok(Device::Mps),
        ("mps", "0") => absent("this libtorch has no MPS device"),
        ("cuda", index) => match index.parse::<usize>() {
            Ok(i) if (i as i64) < Cuda::device_count() => Ok(Device::Cuda(i)),
            Ok(_) if Cuda::device_count() == 0 => absent("no CUDA device (or a libtorch without CUDA)"),
            Ok(_) => absent(&format!("there are only {} CUDA devices", Cuda::device_count())),
            Err(_) => absent("the part after `:` is not a number"),
        },
        _ => absent("unknown device; known: auto, cpu, cuda, cuda:N, mps"),
    }
}

/// `fp32`, `bf16`, `fp16`, `auto` → a dtype. `auto` is bf16 where the device multiplies it natively.
///
/// # Errors
/// [`ModelError::Device`] for an unknown name.
pub fn parse_dtype(name: &str, device: Device) -> Result<Kind, ModelError> {
    match name {
        "fp32" | "float32" => Ok(Kind::Float),
        "bf16" | "bfloat16" => Ok(Kind::BFloat16),
        "fp16" | "float16" => Ok(Kind::Half),
        "auto" if device != Device::Cpu || native_bf16() => Ok(Kind::BFloat16),
        "auto" => Ok(Kind::Float),
        _ => Err(ModelError::Device(format!("unknown dtype {name}; known: auto, fp32, bf16, fp16"))),
    }
}

/// Whether this CPU multiplies bf16 natively (AVX-512 BF16 or AMX).
pub fn native_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Tells glibc to keep freed memory instead of handing big blocks back to the kernel.
///
/// A training step frees and takes the same hundreds of megabytes again; each time they go back, the kernel
/// must clear every page once more. Measured: a training step is about 1.5 times as fast with this. Call it
/// once, first thing in `main`.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two integers and touches only malloc's own settings.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// How the CPU multiplies bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bf16Products {
    /// By units for tiles (Intel's AMX).
    Tiles,
    /// By vectors, faster than fp32 (AMD from Zen 4 on; what is not x86 is left to libtorch).
    Vectors,
    /// No faster than fp32, or not at all.
    Slow,
}

impl Bf16Products {
    /// Whether a product is better taken in bf16 than in fp32.
    pub(crate) fn is_fast(self) -> bool {
        self != Bf16Products::Slow
    }
}

/// How this CPU multiplies bf16.
pub(crate) fn multiplies_bf16() -> Bf16Products {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        static FOUND: std::sync::OnceLock<Bf16Products> = std::sync::OnceLock::new();
        *FOUND.get_or_init(|| {
            // Leaf 7 tells of AMX-BF16 in bit 22 of EDX and of AMX-TILE in bit 24; leaf 0 of the maker.
            let (first, tiles) = (__cpuid(0), 1 << 22 | 1 << 24);
            let amd = first.ebx.to_le_bytes() == *b"Auth";
            if first.eax >= 7 && __cpuid_count(7, 0).edx & tiles == tiles {
                Bf16Products::Tiles
            } else if amd && native_bf16() {
                Bf16Products::Vectors
            } else {
                Bf16Products::Slow
            }
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    Bf16Products::Vectors
}
