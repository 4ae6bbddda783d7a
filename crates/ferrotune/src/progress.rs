//! What a person sees while a job runs: a bar on a terminal, a plain line now and then elsewhere; and the one
//! flag by which Ctrl-C asks a loop to stop at a good place.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The user pressed Ctrl-C; what has been done is on disk.
#[derive(Debug, thiserror::Error)]
#[error("stopped on request; {0}")]
pub struct Interrupted(
    /// How to go on.
    pub String,
);

/// From now on the first Ctrl-C (or SIGTERM) sets a flag that loops look at between steps; a second one ends
/// the program at once.
pub fn catch_interrupts() {
    let result = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
        eprintln!("\nstopping after this step (again to stop at once) …");
    });
    if let Err(error) = result {
        eprintln!("warning: Ctrl-C cannot be caught: {error}");
    }
}

/// Whether the user asked to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Progress of one stage, on stderr.
pub struct Progress {
    name: String,
    total: u64,
    done: u64,
    bar: Option<ProgressBar>,
    start: Instant,
    last_line: Instant,
}

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// `total` units of work ahead; 0 where it is not known.
    pub fn new(name: &str, total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let style =
                ProgressStyle::with_template("{prefix:>12} {bar:28} {pos}/{len} {eta:>4} left  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_owned());
            bar
        });
        let now = Instant::now();
        Progress { name: name.to_owned(), total: total as u64, done: 0, bar, start: now, last_line: now }
    }

    /// `n` more units are done; `message` tells the figures of the moment.
    pub fn step(&mut self, n: usize, message: impl FnOnce() -> String) {
        self.done += n as u64;
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done);
                bar.set_message(message());
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                let left = self.start.elapsed().as_secs_f64() / self.done.max(1) as f64
                    * self.total.saturating_sub(self.done) as f64;
                eprintln!("{:>12}: {}/{} ({left:.0} s left) {}", self.name, self.done, self.total, message());
            }
            None => {}
        }
    }

    /// A line that stays, above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("{:>12}  {line}", self.name)),
            None => eprintln!("{:>12}: {line}", self.name),
        }
    }

    /// Takes the bar away and leaves one line.
    pub fn finish(self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{:>12}: {line} ({:.1} s)", self.name, self.start.elapsed().as_secs_f64());
    }
}

/// The most memory that this process has held, in MiB.
pub fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}
