use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Runs `work` for each item on at most `threads` threads; results come in the order of items.
///
/// After a failure no new item is begun, and the failure of the earliest item is returned.
pub(crate) fn in_parallel<T: Sync, R: Send, E: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<Vec<(usize, Result<R, E>)>> = Mutex::new(Vec::with_capacity(items.len()));
    let run = || {
        while !failed.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { break };
            let result = work(item);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            done.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, items.len().max(1)) {
            scope.spawn(run);
        }
        run();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn results_keep_their_order_and_the_first_failure_wins(
            items in prop::collection::vec(0..100u32, 0..40), threads in 0..9usize, bad in 0..100u32,
        ) {
            let found = in_parallel(&items, threads, |&x| if x == bad { Err(x) } else { Ok(x * 2) });
            if items.contains(&bad) {
                prop_assert_eq!(found, Err(bad));
            } else {
                prop_assert_eq!(found, Ok(items.iter().map(|x| x * 2).collect::<Vec<_>>()));
            }
        }
    }
}
