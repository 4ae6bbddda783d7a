use ferrotune_types::SpecialTokens;

use crate::DataError;

/// A template that comes with the crate. Its generation blocks hold the words and the end-of-turn token.
pub(super) struct Known {
    names: &'static [&'static str],
    pub(super) source: &'static str,
    bos: Option<&'static str>,
    eos: &'static str,
    others: &'static [&'static str],
}

/// Names that [`super::ChatTemplate::builtin`] knows.
pub const BUILTIN: [&str; 13] = [
    "chatml", "smollm2", "llama2", "llama3", "mistral", "gemma", "phi3", "qwen2.5", "qwen3", "zephyr",
    "alpaca", "vicuna", "deepseek",
];

const IM: &[&str] = &["<|im_start|>", "<|endoftext|>"];

static KNOWN: [Known; 13] = [
    Known {
        names: &["chatml"],
        source: include_str!("templates/chatml.jinja"),
        bos: None,
        eos: "<|im_end|>",
        others: IM,
    },
    Known {
        names: &["smollm2"],
        source: include_str!("templates/smollm2.jinja"),
        bos: Some("<|im_start|>"),
        eos: "<|im_end|>",
        others: IM,
    },
    Known {
        names: &["llama2"],
        source: include_str!("templates/llama2.jinja"),
        bos: Some("<s>"),
        eos: "</s>",
        others: &[],
    },
    Known {
        names: &["llama3"],
        source: include_str!("templates/llama3.jinja"),
        bos: Some("<|begin_of_text|>"),
        eos: "<|eot_id|>",
        others: &["<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"],
    },
    Known {
        names: &["mistral"],
        source: include_str!("templates/mistral.jinja"),
        bos: Some("<s>"),
        eos: "</s>",
        others: &[],
    },
    Known {
        names: &["gemma"],
        source: include_str!("templates/gemma.jinja"),
        bos: Some("<bos>"),
        eos: "<end_of_turn>",
        others: &["<start_of_turn>", "<eos>"],
    },
    Known {
        names: &["phi3"],
        source: include_str!("templates/phi3.jinja"),
        bos: None,
        eos: "<|endoftext|>",
        others: &["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    },
    Known {
        names: &["qwen2.5", "qwen"],
        source: include_str!("templates/qwen2.5.jinja"),
        bos: None,
        eos: "<|im_end|>",
        others: IM,
    },
    Known {
        names: &["qwen3"],
        source: include_str!("templates/qwen3.jinja"),
        bos: None,
        eos: "<|im_end|>",
        others: IM,
    },
    Known {
        names: &["zephyr"],
        source: include_str!("templates/zephyr.jinja"),
        bos: Some("<s>"),
        eos: "</s>",
        others: &[],
    },
    Known {
        names: &["alpaca"],
        source: include_str!("templates/alpaca.jinja"),
        bos: Some("<s>"),
        eos: "</s>",
        others: &[],
    },
    Known {
        names: &["vicuna"],
        source: include_str!("templates/vicuna.jinja"),
        bos: Some("<s>"),
        eos: "</s>",
        others: &[],
    },
    Known {
        names: &["deepseek"],
        source: include_str!("templates/deepseek.jinja"),
        bos: Some("<｜begin▁of▁sentence｜>"),
        eos: "<｜end▁of▁sentence｜>",
        others: &["<｜User｜>", "<｜Assistant｜>"],
    },
];

impl Known {
    pub(super) fn special_tokens(&self) -> SpecialTokens {
        let control = self.bos.into_iter().chain([self.eos]).chain(self.others.iter().copied());
        SpecialTokens {
            bos: self.bos.map(str::to_owned),
            eos: Some(self.eos.to_owned()),
            unk: None,
            pad: None,
            control: control.map(str::to_owned).collect(),
        }
    }
}

pub(super) fn find(name: &str) -> Result<&'static Known, DataError> {
    KNOWN.iter().find(|known| known.names.contains(&name)).ok_or_else(|| {
        DataError::Template(format!("there is no built-in template {name:?}, only {}", BUILTIN.join(", ")))
    })
}
