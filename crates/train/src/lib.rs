//! Masked losses, optimisers, schedules, accumulation, checkpoint and resume, metric log.
