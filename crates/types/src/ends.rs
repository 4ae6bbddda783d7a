/// Texts of the tokens that end what a model writes, as llama.cpp knows them. `</s>` is not among them: it is a tag of HTML in
/// some vocabularies, and files of the others name it.
const ENDS: [&str; 21] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
];

/// Of a vocabulary's special tokens, the ids of those whose text says that they end an answer. For files that name one such
/// token where a model has several: GGUF has `eos_token_id` and at times `eot_token_id`.
///
/// ```
/// let special = [(0, "<s>"), (7, "<|end|>"), (9, "<|user|>")];
/// assert_eq!(ferrotune_types::ends_of_answers(special), [7]);
/// ```
pub fn ends_of_answers<'t>(special: impl IntoIterator<Item = (u32, &'t str)>) -> Vec<u32> {
    let mut ends: Vec<(u32, &str)> = special.into_iter().filter(|(_, text)| ENDS.contains(text)).collect();
    let has = |wanted: &[&str]| ends.iter().any(|(_, text)| wanted.contains(text));
    // Where answers have several parts (OpenAI's harmony), this one ends a part.
    if has(&["<|call|>", "<|calls|>"]) && has(&["<|return|>", "<|flush|>"]) {
        ends.retain(|(_, text)| *text != "<|end|>");
    }
    ends.into_iter().map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::ends_of_answers;

    #[test]
    fn what_ends_an_answer_is_known_by_its_text() {
        let check = |tokens: &[&str], expect: &[u32]| {
            assert_eq!(ends_of_answers((0..).zip(tokens.iter().copied())), expect, "{tokens:?}");
        };
        check(&["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"], &[1, 2, 3]);
        check(&["<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|end|>"], &[2, 4]);
        check(&["<end_of_turn>", "</s>", "<eos>"], &[0, 2]);
        check(&["<|im_start|>", "<|im_end|>", "<|fim_pad|>"], &[1]);
        check(&["<｜end▁of▁sentence｜>", "<|end▁of▁sentence|>"], &[0]);
        check(&["<|end|>", "<|return|>", "<|call|>"], &[1, 2]);
        check(&["<|end|>", "<|return|>"], &[0, 1]);
        check(&["<|flush|>", "<|calls|>", "<|end|>"], &[0, 1]);
        check(&[], &[]);
    }
}
