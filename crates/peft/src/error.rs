use std::path::PathBuf;

/// What can go wrong with an adapter.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    /// `target_modules` (or `modules_to_save`) matches nothing in this model.
    #[error("{field} {asked} matches no layer of the model; the model has: {existing}")]
    Target {
        /// Which field of the config asked.
        field: &'static str,
        /// What it asked for.
        asked: String,
        /// The layer kinds that exist.
        existing: String,
    },
    /// A rank made of the matrix itself (PiSSA, OLoRA, a combination cut to a rank) that the matrix does not have.
    #[error(
        "{path}: rank {r} is not between 1 and {limit}, the smaller side of its {outputs} x {inputs} matrix: lower it"
    )]
    Rank {
        /// The layer.
        path: String,
        /// The rank asked for.
        r: i64,
        /// min(in, out).
        limit: i64,
        /// Rows of the weight.
        outputs: i64,
        /// Columns of the weight.
        inputs: i64,
    },
    /// The config contradicts itself or holds a value out of range.
    #[error("adapter config: {0}")]
    Config(String),
    /// The config asks for something that would change the numbers and that is not built here.
    #[error("adapter config: {0} is not supported")]
    Unsupported(String),
    /// A file could not be read or written. What was there before is still whole.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `rename`, …
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Tensors of the adapter that the model has no place for, or the other way round.
    #[error(
        "adapter does not match the model: {n_unmatched} tensors without a layer [{unmatched}], {n_missing} layers without a tensor [{missing}]"
    )]
    Keys {
        /// How many tensors belong nowhere.
        n_unmatched: usize,
        /// The first few of them.
        unmatched: String,
        /// How many tensors the config promises and the file lacks.
        n_missing: usize,
        /// The first few of them.
        missing: String,
    },
    /// A tensor of the adapter has another shape than the model's layer asks for: usually another base model.
    #[error(
        "{key} is {found:?} where this model needs {expected:?}: was the adapter trained on another base model?"
    )]
    Shape {
        /// Its key in the file.
        key: String,
        /// Its shape.
        found: Vec<i64>,
        /// The shape that the layer asks for.
        expected: Vec<i64>,
    },
    /// The adapter names another base model than the one it is put on.
    #[error(
        "the adapter was trained on {trained_on:?}, this model is {given:?}; say `any_base` to load it all the same"
    )]
    Base {
        /// `base_model_name_or_path` of the adapter.
        trained_on: String,
        /// The name the caller gave.
        given: String,
    },
    /// Every matrix of the adapter multiplies to zero: with or without it the model is the same.
    #[error(
        "the adapter has no effect: all {layers} updates are zero; it was saved before training or saved wrongly, or no step of its training was better than the start: lower the learning rate then"
    )]
    NoEffect {
        /// How many layers it touches.
        layers: usize,
    },
    /// A layer already carries an adapter.
    #[error("{path} already carries an adapter: detach or merge that one first")]
    Occupied {
        /// The layer.
        path: String,
    },
    /// Adapters to be combined do not fit together.
    #[error("cannot combine adapters: {0}")]
    Combine(String),
    /// A batch that the check pass cannot run.
    #[error(transparent)]
    Model(#[from] ferrotune_model::ModelError),
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}
