use ferrotune_types::ModelError;

/// What can go wrong in this crate. A model that answers badly is no error: it is a low score.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A line or record of a task or question file cannot be read.
    #[error("{task}, record {record}: {reason}")]
    Record {
        /// The task or file.
        task: String,
        /// The record's number, from 1.
        record: usize,
        /// What is wrong.
        reason: String,
    },
    /// Two lists that belong together differ in length, or one that is needed is empty.
    #[error("{op}: {reason}")]
    Shape {
        /// What was tried.
        op: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A judge that needs reference answers met a question without one.
    #[error("question {id} has no reference answer, which the {judge} judge needs")]
    NoReference {
        /// The question.
        id: String,
        /// The judge.
        judge: String,
    },
    /// More than half of a judge's replies hold no verdict, so what it would come to is chance.
    #[error(
        "{judge}: {unreadable} of {replies} replies hold no verdict, such as that to case {id}: {sample}; give the judge more tokens, or take another model"
    )]
    Unreadable {
        /// The judge.
        judge: String,
        /// Replies without a verdict.
        unreadable: usize,
        /// Replies.
        replies: usize,
        /// The case of the first such reply.
        id: String,
        /// Its beginning, and why it ended.
        sample: String,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}
