use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};

/// Runs `task(0)` … `task(n_tasks - 1)`, each once, on whichever thread is free; comes back when all are done.
///
/// A step hands out a hundred jobs of some ten microseconds each. Waking a sleeper takes as long, so threads stay
/// awake for a while between jobs; and nobody waits for a thread that has taken no task (as OpenMP's barrier does,
/// which on a busy machine costs more than the work): whoever is late finds the job done.
pub(super) fn parallel(n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    static TEAM: OnceLock<Mutex<Team>> = OnceLock::new();
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    if threads > 1 && (2..1 << 16).contains(&n_tasks) {
        let team = TEAM.get_or_init(|| Mutex::new(Team::new(threads - 1)));
        match team.try_lock() {
            Ok(mut team) => return team.run(n_tasks, task),
            // A task panicked some time; the team itself is as good as before.
            Err(TryLockError::Poisoned(team)) => return team.into_inner().run(n_tasks, task),
            // Another thread generates: let it have the team.
            Err(TryLockError::WouldBlock) => {}
        }
    }
    (0..n_tasks).for_each(task);
}

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// The threads that help.
struct Team {
    shared: Arc<Shared>,
    threads: Vec<std::thread::Thread>,
}

#[derive(Default)]
struct Shared {
    /// Which job (32 bits), how many tasks it has (16 bits), the next one that nobody took (16 bits): in one
    /// number, so that a task can only be taken from a job that is not done.
    state: AtomicU64,
    /// The address of the job's `Task`, on the stack of who runs it.
    job: AtomicUsize,
    /// Tasks of the job that are done.
    done: AtomicUsize,
    panicked: AtomicBool,
    /// Threads that sleep.
    asleep: AtomicUsize,
}

impl Team {
    fn new(n: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let help = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.help()).thread().clone()
        };
        Team { threads: (0..n).map(help).collect(), shared }
    }

    fn run(&mut self, n_tasks: usize, task: Task<'_>) {
        let shared = &*self.shared;
        shared.done.store(0, Ordering::Relaxed);
        shared.job.store((&raw const task) as usize, Ordering::Relaxed);
        let job = (shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared.state.store(job << 32 | (n_tasks as u64) << 16, Ordering::SeqCst);
        if shared.asleep.load(Ordering::SeqCst) > 0 {
            self.threads.iter().for_each(std::thread::Thread::unpark);
        }
        // Whatever happens here, `task` must not go before the last helper is done with it.
        let mine = catch_unwind(AssertUnwindSafe(|| while shared.take_one() {}));
        if mine.is_err() {
            // What nobody took is not done any more.
            let state = shared.state.fetch_or(0xffff, Ordering::AcqRel);
            let untaken = n_tasks.saturating_sub((state & 0xffff) as usize);
            shared.done.fetch_add(untaken + 1, Ordering::AcqRel);
        }
        let mut turns = 0;
        while shared.done.load(Ordering::Acquire) < n_tasks {
            wait(&mut turns);
        }
        let theirs = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(!theirs, "a task panicked");
    }
}

impl Shared {
    /// Takes a task and does it; false where there is none.
    fn take_one(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let (n_tasks, next) = (state >> 16 & 0xffff, state & 0xffff);
        if next >= n_tasks {
            return false;
        }
        let job = self.job.load(Ordering::Relaxed);
        if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return true;
        }
        // SAFETY: the task was taken from a job that is not done, and `run` does not come back, nor writes another
        // address, before it is; so this is the address that `run` wrote, and what lies there is alive.
        let task = unsafe { *(job as *const Task<'_>) };
        task(next as usize);
        self.done.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// What a helper does all its life.
    fn help(&self) {
        let mut turns = 0;
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.take_one())) {
                Ok(true) => turns = 0,
                Ok(false) if turns < AWAKE => wait(&mut turns),
                Ok(false) => {
                    self.asleep.fetch_add(1, Ordering::SeqCst);
                    // A job that came before that did not see a sleeper.
                    let state = self.state.load(Ordering::SeqCst);
                    if state & 0xffff >= state >> 16 & 0xffff {
                        std::thread::park();
                    }
                    self.asleep.fetch_sub(1, Ordering::SeqCst);
                    turns = 0;
                }
                Err(_) => {
                    self.panicked.store(true, Ordering::Relaxed);
                    self.done.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
    }
}

/// Turns before a helper goes to sleep: a few milliseconds.
const AWAKE: u32 = 6_000;

/// Awake at first, then giving way to others.
fn wait(turns: &mut u32) {
    *turns += 1;
    if *turns < 3_000 {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_team() {
        for n in 0..4 {
            let mut team = Team::new(n);
            for n_tasks in [1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..30 {
                    team.run(n_tasks, &|i| _ = counts[i].fetch_add(1, Ordering::Relaxed));
                }
                assert!(
                    counts.iter().all(|c| c.load(Ordering::Relaxed) == 30),
                    "{n} helpers, {n_tasks} tasks"
                );
                // Long enough for helpers to fall asleep.
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        }
        parallel(0, &|_| unreachable!());
    }

    #[test]
    fn a_panic_comes_back_and_the_team_goes_on() {
        let mut team = Team::new(2);
        for bad in [0, 20, 49] {
            let result =
                catch_unwind(AssertUnwindSafe(|| team.run(50, &|i| assert!(i != bad, "task {bad}"))));
            assert!(result.is_err());
            let sum = AtomicUsize::new(0);
            team.run(50, &|i| _ = sum.fetch_add(i, Ordering::Relaxed));
            assert_eq!(sum.into_inner(), 49 * 25);
        }
    }
}
