use ferrotune_types::{PairExample, Rendered};

use crate::Tokenizer;
use crate::example::unencodable;
use crate::report::{Limits, Made, Notes, SkipReason, Skipped, Truncation};

impl Tokenizer {
    /// Tokenises a preference pair. The answers are what the full texts' ids have after the prompt's.
    ///
    /// # Errors
    /// [`Skipped`] with the reason; [`SkipReason::PromptNotPrefix`] where the ids of the prompt alone are not how
    /// the ids of prompt and answer begin.
    pub fn pair_example(
        &self,
        prompt: &Rendered,
        chosen: &Rendered,
        rejected: &Rendered,
        id: &str,
        limits: &Limits,
    ) -> Result<Made<PairExample>, Skipped> {
        let settled = |rendered: &Rendered| {
            let mut ids = self.encode_rendered(rendered).map_err(|e| unencodable(id, &e))?.ids;
            let mut mask = vec![false; ids.len()];
            let mut notes = Notes::default();
            self.settle_bos_and_eos(&mut ids, &mut mask, &mut notes);
            Ok::<_, Skipped>((ids, notes))
        };
        let ((mut prompt, asked), (chosen, best), (rejected, worst)) =
            (settled(prompt)?, settled(chosen)?, settled(rejected)?);
        let mut notes = together(asked, [best, worst]);
        let skip = |reason, detail: String, tokens| Skipped { id: id.to_owned(), reason, detail, tokens };
        let answer = |name: &str, full: &[u32]| {
            if !full.starts_with(&prompt) {
                return Err(skip(SkipReason::PromptNotPrefix, self.parting(&prompt, full, name), full.len()));
            }
            let answer = full[prompt.len()..].to_vec();
            if answer.is_empty() {
                return Err(skip(SkipReason::EmptyAnswer, format!("the {name} answer is empty"), full.len()));
            }
            if !limits.allow_missing_eos && !self.ends_a_turn(&answer) {
                let detail = format!("the {name} answer ends without a control token");
                return Err(skip(SkipReason::MissingEos, detail, full.len()));
            }
            Ok(answer)
        };
        let (mut chosen, mut rejected) = (answer("chosen", &chosen)?, answer("rejected", &rejected)?);
        let longest = prompt.len() + chosen.len().max(rejected.len());
        if longest > limits.max_length {
            let over = longest - limits.max_length;
            match limits.truncation {
                Truncation::Drop | Truncation::Error => {
                    let detail = format!("{longest} tokens, {} are allowed", limits.max_length);
                    return Err(skip(SkipReason::TooLong, detail, longest));
                }
                Truncation::Right if prompt.len() < limits.max_length => {
                    let room = limits.max_length - prompt.len();
                    for answer in [&mut chosen, &mut rejected] {
                        notes.truncated_tokens += answer.len().saturating_sub(room);
                        answer.truncate(room);
                    }
                }
                Truncation::Left if prompt.len() > over + 1 => {
                    let keeps_bos = self.ids().bos == prompt.first().copied();
                    prompt.drain(usize::from(keeps_bos)..usize::from(keeps_bos) + over);
                    notes.truncated_tokens += over;
                }
                Truncation::Left | Truncation::Right => {
                    let detail =
                        format!("the prompt has {} tokens, {} are allowed", prompt.len(), limits.max_length);
                    return Err(skip(SkipReason::NoRoom, detail, longest));
                }
            }
        }
        let item = PairExample::new(id, prompt, chosen, rejected)
            .map_err(|e| skip(SkipReason::EmptyAnswer, e.to_string(), longest))?;
        Ok(Made { item, notes })
    }

    /// Where a prompt and a full text part, and what to do.
    fn parting(&self, prompt: &[u32], full: &[u32], name: &str) -> String {
        let at = prompt.iter().zip(full).take_while(|(a, b)| a == b).count();
        let show = |ids: &[u32]| {
            let ids = &ids[at.min(ids.len())..ids.len().min(at + 3)];
            self.decode(ids, false).unwrap_or_default()
        };
        format!(
            "the prompt's tokens are not how prompt and {name} answer begin: after {at} of {} tokens one goes on with \
             {:?}, the other with {:?}. A token would reach over the boundary: end the prompt's text where a token \
             ends (a chat template with a header of control tokens or a line break that the answer does not repeat), \
             or strip leading space from the answers",
            prompt.len(),
            show(prompt),
            show(full),
        )
    }
}

/// What was done to a pair. Its prompt begins both full texts, and what was done there is done once.
fn together(prompt: Notes, full: [Notes; 2]) -> Notes {
    let doubles = full.map(|full| full.doubles_removed.saturating_sub(prompt.doubles_removed));
    Notes {
        bos_added: full.map(|full| full.bos_added).into_iter().fold(prompt.bos_added, usize::max),
        doubles_removed: prompt.doubles_removed + doubles.iter().sum::<usize>(),
        ..prompt
    }
}
