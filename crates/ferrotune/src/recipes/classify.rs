//! Classification, top to bottom: a decoder, tuned by an adapter or itself, and a head of one row a class, on whole texts (the last
//! token's hidden state) or on every token.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ferrotune_model::Decoder;
use ferrotune_train::{Forward, Param};
use ferrotune_types::{Batch, Segment};
use tch::{Kind, Tensor};

use super::run::{Best, Run, RunConfig, RunOutcome, fixed_batches};
use super::trained::Trained;

/// A text's ids and what they are to be taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Classes.
    pub labels: Labels,
}

/// What carries a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// The whole text.
    Text(usize),
    /// Its tokens, one entry each; `None` is not graded.
    Tokens(Vec<Option<usize>>),
}

/// The head, (classes, C) in fp32, zero at first: every class is as likely.
pub fn class_head(decoder: &Decoder, n_classes: usize) -> Tensor {
    let size = [n_classes as i64, decoder.config.hidden_size as i64];
    Tensor::zeros(size, (Kind::Float, decoder.device)).set_requires_grad(true)
}

/// Trains `head` ([`class_head`]) and what is `trained` beside it: an adapter, which hangs on `decoder`, or tensors of
/// the model itself. With nothing beside it the model stays frozen and only the head learns. Rows are shuffled into
/// batches, so that a file sorted by class does not make batches of one class each.
///
/// # Errors
/// No rows; a class that the head lacks; a row without a label; a loss that is no number; a full disk;
/// [`crate::progress::Interrupted`].
pub fn classify(
    decoder: &Decoder,
    trained: Option<Trained<'_>>,
    head: &Tensor,
    [train, validation]: [&[Labelled]; 2],
    config: &RunConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<RunOutcome> {
    if train.is_empty() {
        bail!("there is no labelled text to train on");
    }
    let n_classes = head.size()[0] as usize;
    check(train, n_classes)?;
    check(validation, n_classes).context("held out")?;
    let train = fixed_batches(train, config.batch, config.shuffle.then_some(config.seed), Rows::of)?;
    let validation = fixed_batches(validation, config.batch, None, Rows::of)?;
    let mut params = trained.map_or_else(Vec::new, |t| t.params(1.0));
    params.push(Param::new("score.weight", head.shallow_clone()));
    let mut run = Run::start("classify", params, config, train.len(), dir, run_hash)?;
    let set_training = |on: bool| trained.iter().for_each(|t| t.set_training(on));
    set_training(true);

    loop {
        if run.validates() && !validation.is_empty() {
            set_training(false);
            let (mut loss, mut hits, mut n) = (0.0, 0.0, 0.0);
            for rows in &validation {
                let logits = tch::no_grad(|| -> Result<Tensor> {
                    Ok(logits(Forward::run_at(decoder, &rows.batch, false, &rows.carriers)?.graded(), head))
                })?;
                let labels = rows.classes.to_device(decoder.device);
                loss += logits
                    .cross_entropy_loss(&labels, None::<&Tensor>, tch::Reduction::Sum, -100, 0.0)
                    .double_value(&[]);
                hits += logits.argmax(-1, false).eq_tensor(&labels).sum(Kind::Float).double_value(&[]);
                n += labels.size()[0] as f64;
            }
            set_training(true);
            let figures = [("eval_loss", loss / n), ("eval_accuracy", hits / n)];
            if !run.validated_with(hits / n, Best::Loss, &figures)? {
                break;
            }
        }
        let Some(b) = run.next_batch() else { break };
        let rows = &train[b];
        let labels = rows.classes.to_device(decoder.device);
        let forward = Forward::run_at(decoder, &rows.batch, config.activation_checkpointing, &rows.carriers)?;
        let hidden = forward.graded().detach().set_requires_grad(true);
        let logits = logits(&hidden, head);
        let loss = logits.cross_entropy_for_logits(&labels);
        loss.backward(); // the head's gradient, and that of the hidden states, which goes on into the model
        if trained.is_some() {
            forward.backward_from(&hidden.grad())?;
        }
        let accuracy = logits.argmax(-1, false).eq_tensor(&labels).to_kind(Kind::Float).mean(Kind::Float);
        run.update(loss.double_value(&[]), &rows.batch, &[("accuracy", accuracy.double_value(&[]))])?;
    }
    set_training(false);
    Ok(run.finish())
}

/// The likeliest class of each label place, in order.
///
/// # Errors
/// As [`classify`].
pub fn classes(decoder: &Decoder, head: &Tensor, rows: &[Labelled]) -> Result<Vec<i64>> {
    check(rows, head.size()[0] as usize)?;
    let rows = Rows::of(&rows.iter().collect::<Vec<_>>())?;
    let _guard = tch::no_grad_guard();
    let forward = Forward::run_at(decoder, &rows.batch, false, &rows.carriers)?;
    Ok(Vec::<i64>::try_from(logits(forward.graded(), head).argmax(-1, false))?)
}

fn logits(hidden: &Tensor, head: &Tensor) -> Tensor {
    hidden.to_kind(Kind::Float).matmul(&head.tr())
}

/// Refuses rows that no batch can hold, by where they stand among `rows`.
fn check(rows: &[Labelled], n_classes: usize) -> Result<()> {
    for (i, row) in rows.iter().enumerate() {
        let n = row.ids.len();
        if n == 0 {
            bail!("row {i} has no tokens");
        }
        let largest = match &row.labels {
            Labels::Tokens(classes) if classes.len() != n => {
                bail!("row {i} has {n} tokens but {} labels", classes.len())
            }
            Labels::Tokens(classes) => classes.iter().flatten().max().copied(),
            Labels::Text(class) => Some(*class),
        };
        if let Some(class) = largest.filter(|&class| class >= n_classes) {
            bail!("row {i} is of class {class}, but the head has {n_classes} classes");
        }
    }
    Ok(())
}

/// Rows that go together.
struct Rows {
    batch: Batch,
    /// Tokens whose hidden states carry a class.
    carriers: Vec<usize>,
    /// Their classes, (N).
    classes: Tensor,
}

impl Rows {
    fn of(rows: &[&Labelled]) -> Result<Self> {
        let (mut ids, mut segments) = (Vec::new(), Vec::new());
        let (mut carriers, mut classes) = (Vec::new(), Vec::new());
        for row in rows {
            let (start, n) = (ids.len(), row.ids.len());
            let of_token: Vec<Option<usize>> = match &row.labels {
                Labels::Text(class) => (0..n).map(|t| (t + 1 == n).then_some(*class)).collect(),
                Labels::Tokens(classes) => classes.clone(),
            };
            ids.extend(row.ids.iter().map(|&id| i64::from(id)));
            for (t, class) in of_token.into_iter().enumerate().filter_map(|(t, class)| Some((t, class?))) {
                carriers.push(start + t);
                classes.push(class as i64);
            }
            segments.push(Segment { range: start..ids.len(), prefix: None });
        }
        let no_targets = vec![false; ids.len()];
        let batch = Batch::new(ids, no_targets, segments)?;
        Ok(Rows { batch, carriers, classes: Tensor::from_slice(&classes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_store::{self, Place};

    #[test]
    fn rows_that_no_batch_can_hold_are_named_by_their_place_in_the_file() {
        let good = Labelled { ids: vec![1, 2], labels: Labels::Text(1) };
        let error = |bad: Labelled| {
            let rows = [vec![good.clone(); 9], vec![bad]].concat();
            check(&rows, 2).unwrap_err().to_string()
        };
        assert_eq!(error(Labelled { ids: Vec::new(), ..good.clone() }), "row 9 has no tokens");
        assert!(error(Labelled { labels: Labels::Text(2), ..good.clone() }).contains("row 9 is of class 2"));
        let tokens = |labels: Vec<Option<usize>>| Labelled { labels: Labels::Tokens(labels), ..good.clone() };
        assert!(error(tokens(vec![None])).contains("row 9 has 2 tokens but 1 labels"));
        assert!(error(tokens(vec![Some(7), None])).contains("row 9 is of class 7"));
        check(&[good.clone(), tokens(vec![Some(1), None])], 2).unwrap();
    }

    #[test]
    fn a_file_sorted_by_class_makes_mixed_batches() {
        tch::set_num_threads(1); // the model is too small to share
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama");
        let place = Place::parse("cpu", "fp32").unwrap();
        let model = model_store::load(&folder.display().to_string(), place, "").unwrap();
        // The same text is of either class, so that only what came before tells the head what to expect.
        let row = |i: u32| Labelled { ids: vec![20, 30], labels: Labels::Text(usize::from(i >= 8)) };
        let sorted: Vec<Labelled> = (0..16).map(row).collect();
        let second_loss = |shuffle: bool| {
            let config = RunConfig { batch: 8, lr: 1e-1, shuffle, ..RunConfig::default() };
            let (head, dir) = (class_head(&model.decoder, 2), tempfile::tempdir().unwrap());
            classify(&model.decoder, None, &head, [&sorted, &[]], &config, dir.path(), "h").unwrap().losses[1]
        };
        let (mixed, apart) = (second_loss(true), second_loss(false));
        assert!(mixed + 0.2 < apart, "{mixed} mixed, {apart} apart");
    }
}
