use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Threads that share out small jobs. Between jobs they wait awake for a while, because a step hands out a hundred
/// jobs of some ten microseconds each, and waking a sleeper takes as long.
#[derive(Debug)]
pub(super) struct Team {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Counts jobs; a worker that sees it change has one to do.
    epoch: AtomicUsize,
    /// The job, as a pointer to a `&dyn Fn(usize) + Sync` on the caller's stack. Valid while `busy` is not 0.
    job: AtomicUsize,
    n_tasks: AtomicUsize,
    /// The next task that nobody has taken.
    next: AtomicUsize,
    /// Workers that have not finished the job.
    busy: AtomicUsize,
    panicked: AtomicBool,
    quit: AtomicBool,
}

impl Team {
    /// `n` threads, the caller's included.
    pub(super) fn new(n: usize) -> Self {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: AtomicUsize::new(0),
            n_tasks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            quit: AtomicBool::new(false),
        });
        let threads = (1..n)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.work())
            })
            .collect();
        Team { shared, threads }
    }

    /// Runs `task(0)` … `task(n_tasks - 1)`, each once, on whichever thread is free; comes back when all are done.
    pub(super) fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() || n_tasks < 2 {
            (0..n_tasks).for_each(task);
            return;
        }
        let shared = &self.shared;
        // SAFETY of `work`: the pointer is read only by workers between the change of the epoch and their last
        // change of `busy`, which this function waits for; `job` lives on this stack frame until then.
        let job: &(dyn Fn(usize) + Sync) = task;
        shared.job.store(std::ptr::from_ref(&job) as usize, Ordering::Relaxed);
        shared.n_tasks.store(n_tasks, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.threads.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::Release);
        let mut done = Finished(shared, true);
        shared.take_tasks(job);
        done.1 = false;
        drop(done);
        assert!(!shared.panicked.load(Ordering::Relaxed), "a kernel's thread panicked");
    }
}

/// Waits for the workers, also when the caller's own share panics: they must not outlive the job.
struct Finished<'a>(&'a Shared, bool);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.panicked.store(true, Ordering::Relaxed);
        }
        let mut turns = 0u32;
        while self.0.busy.load(Ordering::Acquire) != 0 {
            wait(&mut turns);
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut seen = 0;
        loop {
            let mut turns = 0;
            while self.epoch.load(Ordering::Acquire) == seen {
                if self.quit.load(Ordering::Relaxed) {
                    return;
                }
                wait(&mut turns);
            }
            seen = seen.wrapping_add(1);
            let job = self.job.load(Ordering::Relaxed) as *const &(dyn Fn(usize) + Sync);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                // SAFETY: see `Team::run`.
                self.take_tasks(unsafe { *job });
            }));
            if result.is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    fn take_tasks(&self, task: &(dyn Fn(usize) + Sync)) {
        let n = self.n_tasks.load(Ordering::Relaxed);
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= n {
                return;
            }
            task(i);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Awake at first, then giving way to others, then asleep for moments.
fn wait(turns: &mut u32) {
    *turns = turns.saturating_add(1);
    match *turns {
        0..2_000 => std::hint::spin_loop(),
        2_000..20_000 => std::thread::yield_now(),
        _ => std::thread::sleep(Duration::from_micros(200)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_team() {
        for n in 1..5 {
            let team = Team::new(n);
            for n_tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    team.run(n_tasks, &|i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn a_panic_comes_back_to_the_caller() {
        let team = Team::new(3);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.run(50, &|i| assert!(i != 20, "task 20"));
        }));
        assert!(result.is_err());
    }
}
