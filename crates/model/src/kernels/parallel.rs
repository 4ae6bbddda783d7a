use std::ops::Range;

/// Runs `work` over 0..n in as many parts as libtorch has threads, on libtorch's own threads; in one part where
/// there are fewer than `grain` items a thread, or where they cannot be had.
///
/// libtorch runs its operations on OpenMP's threads, which spin for a while after each. A second pool would
/// fight them for the cores, so the work goes to the same pool, through the entry that compilers call.
pub fn parallel(n: usize, grain: usize, work: impl Fn(Range<usize>) + Sync) {
    let threads = (tch::get_num_threads().max(1) as usize).min(n / grain.max(1));
    if threads < 2 || !openmp::run(threads, |i, of| work(n * i / of..n * (i + 1) / of)) {
        work(0..n);
    }
}

/// How many rows of `width` elements are worth a thread: about ten microseconds of work.
pub fn rows_worth(width: usize) -> usize {
    32_768_usize.div_ceil(width.max(1))
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod openmp {
    use std::any::Any;
    use std::ffi::{CStr, c_int, c_uint, c_void};
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::{Mutex, OnceLock, PoisonError};

    type Body = extern "C" fn(*mut c_void);

    #[derive(Clone, Copy)]
    struct OpenMp {
        parallel: extern "C" fn(Body, *mut c_void, c_uint, c_uint),
        thread: extern "C" fn() -> c_int,
        threads: extern "C" fn() -> c_int,
    }

    /// libgomp's entries, where libtorch brought it along.
    fn find() -> Option<OpenMp> {
        let symbol = |name: &CStr| {
            // SAFETY: the name is a C string; looking a symbol up changes nothing.
            let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            (!address.is_null()).then_some(address)
        };
        let (parallel, thread, threads) =
            (symbol(c"GOMP_parallel")?, symbol(c"omp_get_thread_num")?, symbol(c"omp_get_num_threads")?);
        // SAFETY: these are the functions' types in libgomp, whose binary interface is stable.
        unsafe {
            Some(OpenMp {
                parallel: std::mem::transmute::<*mut c_void, extern "C" fn(Body, *mut c_void, c_uint, c_uint)>(
                    parallel,
                ),
                thread: std::mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(thread),
                threads: std::mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(threads),
            })
        }
    }

    struct Job<'a, F> {
        work: &'a F,
        openmp: OpenMp,
        /// The first: it must not unwind through C.
        panic: Mutex<Option<Box<dyn Any + Send>>>,
    }

    extern "C" fn body<F: Fn(usize, usize) + Sync>(job: *mut c_void) {
        // SAFETY: `run` passes a `Job<F>` that lives until all threads are done.
        let job = unsafe { &*job.cast::<Job<'_, F>>() };
        let (i, of) = ((job.openmp.thread)() as usize, (job.openmp.threads)() as usize);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.work)(i, of))) {
            job.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    /// Calls `work(i, of)` once for each i of `of` threads; false where OpenMP is not there. A panic of theirs comes out
    /// here, when all are done.
    pub(super) fn run<F: Fn(usize, usize) + Sync>(threads: usize, work: F) -> bool {
        static FOUND: OnceLock<Option<OpenMp>> = OnceLock::new();
        let Some(openmp) = *FOUND.get_or_init(find) else { return false };
        let mut job = Job { work: &work, openmp, panic: Mutex::default() };
        (openmp.parallel)(body::<F>, (&raw mut job).cast(), threads as c_uint, 0);
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
        true
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod openmp {
    pub(super) fn run<F: Fn(usize, usize) + Sync>(_threads: usize, _work: F) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_item_is_visited_once() {
        for n in [0, 1, 7, 1000] {
            let visits: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            parallel(n, 2, |range| range.for_each(|i| _ = visits[i].fetch_add(1, Ordering::Relaxed)));
            assert!(visits.iter().all(|v| v.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_panic_of_any_thread_comes_back() {
        for bad in [0, 5, 9] {
            let run = || parallel(10, 1, |range| assert!(!range.contains(&bad), "item {bad}"));
            let panic = std::panic::catch_unwind(run).unwrap_err();
            assert_eq!(panic.downcast_ref::<String>().unwrap(), &format!("item {bad}"));
        }
    }
}
