use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use tch::{Device, Kind};

use crate::ModelError;

/// Bytes that are free on a device; `None` where the system does not tell (libtorch names no figure for GPUs).
pub fn free_memory(device: Device) -> Option<u64> {
    if device != Device::Cpu {
        return None;
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)?;
    Some(allowed().map_or(free, |allowed| allowed.min(free)))
}

/// What a container may still take, where it is allowed less than the machine has. Pages of files do not count: the system
/// takes them back.
fn allowed() -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok();
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (most, now) = (number(&read("memory.max")?)?, number(&read("memory.current")?)?);
    let files = read("memory.stat")?.lines().find_map(|line| number(line.strip_prefix("file ")?))?;
    Some(most.saturating_sub(now.saturating_sub(files)))
}

/// Whether so many weights fit into what is free, in this dtype.
///
/// # Errors
/// [`ModelError::Memory`], which says what would fit.
pub(crate) fn check_weights(n_weights: u64, kind: Kind, free: Option<u64>) -> Result<(), ModelError> {
    let bytes = |kind: Kind| n_weights.saturating_mul(kind.elt_size_in_bytes() as u64);
    let Some(free) = free.filter(|&free| bytes(kind) > free) else { return Ok(()) };
    let advice = if bytes(Kind::BFloat16) <= free && kind != Kind::BFloat16 {
        format!("in bf16 they take {} and would fit", size(bytes(Kind::BFloat16)))
    } else {
        format!("a model of up to {:.1} billion weights in bf16 would fit", free as f64 / 2e9)
    };
    let (needed, free) = (size(bytes(kind)), size(free));
    Err(ModelError::Memory(format!("the weights take {needed} in {kind:?}, {free} are free; {advice}")))
}

/// Runs `work`; where libtorch finds no memory for a tensor, that becomes an error.
///
/// libtorch's plain operations panic where they fail, so this catches that one panic and hands on any other.
/// `advice` is what would need less.
///
/// # Errors
/// [`ModelError::Memory`] and `work`'s own.
pub fn catch_out_of_memory<T, E: From<ModelError>>(
    advice: &str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let panic = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => return result,
        Err(panic) => panic,
    };
    match wanted(panic.as_ref()) {
        None => resume_unwind(panic),
        Some(Wanted { more, free }) => {
            let free = free.map_or(String::new(), |free| format!("; {free} are free"));
            Err(ModelError::Memory(format!("libtorch asked for {more}{free}: {advice}")).into())
        }
    }
}

/// Whether a panic is the one that [`catch_out_of_memory`] makes an error of: a panic hook may keep silent about it.
pub fn is_out_of_memory(panic: &(dyn Any + Send)) -> bool {
    wanted(panic).is_some()
}

/// What libtorch wanted, and what was free.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    more: String,
    free: Option<String>,
}

/// What libtorch wanted, where a panic of its says that memory ran out.
fn wanted(panic: &(dyn Any + Send)) -> Option<Wanted> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    said(text.or(panic.downcast_ref::<&str>().copied())?)
}

fn said(message: &str) -> Option<Wanted> {
    let between = |before: &str, after: &str| {
        let (_, rest) = message.split_once(before)?;
        Some(rest.split_once(after)?.0.to_owned())
    };
    // A GPU tells itself what it has.
    if message.contains("CUDA out of memory") {
        let more =
            between("Tried to allocate ", ". ").map_or("more memory".to_owned(), |n| format!("another {n}"));
        return Some(Wanted { more, free: between(" of which ", " is free") });
    }
    let free = || free_memory(Device::Cpu).map(size);
    if let Some((_, rest)) = message.split_once("you tried to allocate ")
        && let Some(bytes) = rest.split_whitespace().next().and_then(|n| n.parse().ok())
    {
        return Some(Wanted { more: format!("another {}", size(bytes)), free: free() });
    }
    let told = ["out of memory", "can't allocate memory", "not enough memory"];
    told.iter()
        .any(|part| message.contains(part))
        .then(|| Wanted { more: "more memory".to_owned(), free: free() })
}

fn size(bytes: u64) -> String {
    if bytes < 10_000_000_000 {
        format!("{:.0} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.1} GB", bytes as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_weights_are_an_error_that_says_what_would_fit() {
        let check = |n, kind, free, expect: &str| match check_weights(n, kind, Some(free)) {
            Ok(()) => assert_eq!(expect, ""),
            Err(error) => assert!(!expect.is_empty() && error.to_string().contains(expect), "{error}"),
        };
        check(1_000, Kind::Float, 4_000, "");
        check(3_000_000_000, Kind::Float, 8_000_000_000, "in bf16 they take 6000 MB and would fit");
        check(3_000_000_000, Kind::Float, 4_000_000_000, "up to 2.0 billion weights in bf16");
        check(3_000_000_000, Kind::BFloat16, 4_000_000_000, "take 6000 MB in BFloat16, 4000 MB are free");
        assert!(check_weights(u64::MAX, Kind::Float, None).is_ok());
    }

    #[test]
    fn a_gpu_tells_what_it_has() {
        let message = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which \
            11.25 GiB is free. Process 7 has 67.8 GiB memory in use.";
        let expect = Wanted { more: "another 20.00 GiB".to_owned(), free: Some("11.25 GiB".to_owned()) };
        assert_eq!(said(message), Some(expect));
        assert_eq!(said("the shapes do not fit"), None);
    }

    #[test]
    fn a_tensor_beyond_memory_is_an_error_and_other_panics_go_on() {
        let run = |n: i64| {
            catch_out_of_memory("take less", || {
                Ok::<_, ModelError>(tch::Tensor::zeros([n], (Kind::Float, Device::Cpu)))
            })
        };
        assert_eq!(run(3).unwrap().numel(), 3);
        let error = run(1 << 50).unwrap_err().to_string();
        assert!(error.contains("another 4503599.6 GB") && error.ends_with("take less"), "{error}");
        let other =
            catch_unwind(|| catch_out_of_memory("", || -> Result<(), ModelError> { panic!("other") }));
        assert!(other.is_err());
    }
}
