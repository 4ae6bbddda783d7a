use std::path::PathBuf;

/// What stops a training run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file could not be read or written; nothing under its final name was touched.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, …
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A checkpoint does not belong to this run or is broken.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The loss is not a number or has exploded.
    #[error("step {step}: the loss is {loss}{}; lower the learning rate or look at the batch", saved.as_ref().map(|p| format!(" (batch saved in {})", p.display())).unwrap_or_default())]
    Diverged {
        /// Optimiser step, counted from 1.
        step: usize,
        /// The loss.
        loss: f64,
        /// Where the batch was written for a look.
        saved: Option<PathBuf>,
    },
    /// A batch has nothing to train on.
    #[error("{0}")]
    NothingToTrain(String),
    /// A setting is out of range.
    #[error("config: {0}")]
    Config(String),
    /// The model refused the batch.
    #[error(transparent)]
    Model(#[from] ferrotune_model::ModelError),
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// A plot could not be drawn.
    #[error("plot: {0}")]
    Plot(String),
}

impl TrainError {
    /// A [`TrainError::Io`] for `map_err`.
    pub(crate) fn io(op: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> TrainError {
        let path = path.to_owned();
        move |source| TrainError::Io { op, path, source }
    }
}
