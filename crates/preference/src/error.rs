/// What can go wrong with a preference loss or with preference data.
#[derive(Debug, thiserror::Error)]
pub enum PreferenceError {
    /// A loss's name is unknown.
    #[error("unknown loss {asked:?}; known: {known}; and with settings of their own orpo, simpo, cpo, kto")]
    UnknownLoss {
        /// What was asked for.
        asked: String,
        /// The names that exist.
        known: String,
    },
    /// A setting is out of range, or set where nothing reads it.
    #[error("preference objective: {0}")]
    Config(String),
    /// Tensors of one batch disagree in shape.
    #[error("{what} is {found:?} where {expected:?} was expected")]
    Shape {
        /// Which input.
        what: &'static str,
        /// Its shape.
        found: Vec<i64>,
        /// The shape it should have.
        expected: Vec<i64>,
    },
    /// An answer without tokens has no probability to speak of.
    #[error("pair {pair} of the batch has an empty {side} answer")]
    Empty {
        /// Index in the batch.
        pair: usize,
        /// `chosen` or `rejected`.
        side: &'static str,
    },
    /// The first loss is not what it must be while policy and reference are one: the reference is another
    /// model than meant, or its log-probabilities are stale.
    #[error(
        "the first loss is {found:.6} where policy = reference gives {expected:.6}: the reference is not the model that training starts from"
    )]
    Start {
        /// The loss of the first step.
        found: f64,
        /// What it must be.
        expected: f64,
    },
}
