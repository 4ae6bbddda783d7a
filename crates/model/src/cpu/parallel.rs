use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `task(0)` … `task(n_tasks - 1)`, each once, on whichever of libtorch's threads is free.
///
/// libtorch runs its operations on OpenMP's threads, which stay awake for a while after each; a step hands out a
/// hundred jobs of some ten microseconds, and waking a sleeper takes as long. A second pool would fight them for
/// the cores, so the work goes to the same one, through the entry that compilers call. Where that is not to be
/// had, everything runs here, in order.
pub(super) fn parallel(n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).min(n_tasks);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n_tasks {
                return;
            }
            task(i);
        }
    };
    if threads < 2 || !openmp::run(threads, &work) {
        work();
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod openmp {
    use std::ffi::{c_uint, c_void};
    use std::sync::OnceLock;

    type Body = extern "C" fn(*mut c_void);
    type Parallel = extern "C" fn(Body, *mut c_void, c_uint, c_uint);

    /// libgomp's `GOMP_parallel`, where libtorch brought it along.
    fn find() -> Option<Parallel> {
        // SAFETY: the name is a C string; looking a symbol up changes nothing.
        let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
        // SAFETY: this is the function's type in libgomp, whose binary interface is stable.
        (!address.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Parallel>(address) })
    }

    /// A panic cannot cross into C: the process ends there, as it does for any `extern "C"` function.
    extern "C" fn body(work: *mut c_void) {
        // SAFETY: `run` passes the address of its `work`, which outlives every thread's call.
        let work = unsafe { *work.cast::<&(dyn Fn() + Sync)>() };
        work();
    }

    /// Calls `work` once on each of `threads` threads, this one among them; false where OpenMP is not there.
    pub(super) fn run(threads: usize, work: &(dyn Fn() + Sync)) -> bool {
        static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
        let Some(parallel) = *FOUND.get_or_init(find) else { return false };
        let mut work = work;
        parallel(body, (&raw mut work).cast(), threads as c_uint, 0);
        true
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod openmp {
    pub(super) fn run(_threads: usize, _work: &(dyn Fn() + Sync)) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for n_tasks in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
            parallel(n_tasks, &|i| _ = counts[i].fetch_add(1, Ordering::Relaxed));
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}
