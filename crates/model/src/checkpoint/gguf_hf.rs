//! A GGUF file in the words of Hugging Face: config.json, tensor names, tokenizer data.
//!
//! llama.cpp renames every tensor and changes a few: Llama's query and key rows are reordered for its rotary
//! embedding, Gemma's norms have one added, GPT-2's layers are transposed. Each change is undone here, so that
//! the tensors are the ones transformers would hold.

use std::collections::{BTreeMap, BTreeSet};

use ferrotune_types::ends_of_answers;
use serde_json::{Map, Value, json};
use tch::Tensor;

use super::format_error;
use super::gguf::Gguf;
use crate::families::ORIGINAL_MAX;
use crate::{ModelError, Tensors};

/// The tensors of a GGUF file under their names in a Hugging Face checkpoint, dequantised to fp32 when read.
#[derive(Debug)]
pub struct GgufTensors {
    gguf: Gguf,
    names: BTreeMap<String, (String, Change)>,
    config: Value,
}

/// What llama.cpp's converter did to a tensor, to be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// Rows of each of so many heads were interleaved for its rotary embedding.
    Permuted(i64),
    /// One was added.
    PlusOne,
    /// (in, out) became (out, in).
    Transposed,
    /// This expert is one of those stacked in the tensor.
    Expert(i64),
}

/// What a GGUF file says about its tokenizer, as plain data: `ferrotune-tokenizer` builds one from it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizerData {
    /// `general.architecture`: a few read the same kind of tokenizer otherwise.
    pub architecture: String,
    /// `gpt2` (byte-level BPE), `llama` (SentencePiece BPE), `t5` (Unigram), `bert` (WordPiece).
    pub model: String,
    /// Which pre-tokenizer: `llama-bpe`, `qwen2`, `smollm`, ….
    pub pre: String,
    /// Token texts by id.
    pub tokens: Vec<String>,
    /// Scores by id, for the SentencePiece kinds.
    pub scores: Vec<f32>,
    /// By id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i64>,
    /// Merges, `left right`, first to last.
    pub merges: Vec<String>,
    /// Begins a sequence.
    pub bos: Option<u32>,
    /// Ends a sequence or turn.
    pub eos: Option<u32>,
    /// Ends a turn where that is another token than `eos`. [`Self::end_ids`] gives all that do.
    pub eot: Option<u32>,
    /// Fills rows up.
    pub pad: Option<u32>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<u32>,
    /// Whether texts begin with `bos`.
    pub add_bos: Option<bool>,
    /// Whether texts end with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a space goes before a text (SentencePiece kinds).
    pub add_space_prefix: Option<bool>,
    /// Whether runs of white space count as one space (Unigram).
    pub remove_extra_whitespaces: Option<bool>,
    /// SentencePiece's table of normalised characters; empty for none.
    pub precompiled_charsmap: Vec<u8>,
    /// The chat template, in Jinja.
    pub chat_template: Option<String>,
}

impl GgufTokenizerData {
    /// Every id at which an answer ends: `eos` and `eot`, and the control and user-defined tokens whose text says so.
    pub fn end_ids(&self) -> Vec<u32> {
        let (ids, types) = (0.., self.token_types.iter());
        let special = ids.zip(self.tokens.iter().zip(types)).filter(|(_, (_, kind))| matches!(kind, 3 | 4));
        let by_text = ends_of_answers(special.map(|(id, (text, _))| (id, text.as_str())));
        let mut ends: Vec<u32> = self.eos.into_iter().chain(self.eot).chain(by_text).collect();
        let mut seen = BTreeSet::new();
        ends.retain(|id| seen.insert(*id));
        ends
    }
}

impl GgufTensors {
    /// # Errors
    /// [`ModelError::Format`] for an architecture that is not known here (the known ones are listed), or
    /// metadata that lacks a size.
    pub fn new(gguf: Gguf) -> Result<Self, ModelError> {
        let config = config(&gguf).map_err(|reason| format_error(gguf.path(), reason))?;
        let mut names = BTreeMap::new();
        for (name, tensor) in gguf.tensors() {
            for (hf_name, change) in hf_names(name, &config, &tensor.size) {
                if let Some((other, _)) = names.insert(hf_name.clone(), (name.clone(), change)) {
                    let reason = format!("holds {hf_name} twice, as {other} and as {name}");
                    return Err(format_error(gguf.path(), reason));
                }
            }
        }
        Ok(GgufTensors { gguf, names, config })
    }

    /// What the metadata says, as a config.json.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// What the file says about its tokenizer.
    pub fn tokenizer(&self) -> GgufTokenizerData {
        let g = &self.gguf;
        let id = |key: &str| g.int(&format!("tokenizer.ggml.{key}_token_id")).and_then(|n| n.try_into().ok());
        let text = |key: &str| g.string(key).map(str::to_owned);
        GgufTokenizerData {
            architecture: text("general.architecture").unwrap_or_default(),
            model: text("tokenizer.ggml.model").unwrap_or_default(),
            pre: text("tokenizer.ggml.pre").unwrap_or_default(),
            tokens: g.strings("tokenizer.ggml.tokens"),
            scores: g.floats("tokenizer.ggml.scores"),
            token_types: g.ints("tokenizer.ggml.token_type"),
            merges: g.strings("tokenizer.ggml.merges"),
            bos: id("bos"),
            eos: id("eos"),
            eot: id("eot"),
            pad: id("padding"),
            unk: id("unknown"),
            add_bos: g.flag("tokenizer.ggml.add_bos_token"),
            add_eos: g.flag("tokenizer.ggml.add_eos_token"),
            add_space_prefix: g.flag("tokenizer.ggml.add_space_prefix"),
            remove_extra_whitespaces: g.flag("tokenizer.ggml.remove_extra_whitespaces"),
            precompiled_charsmap: g
                .ints("tokenizer.ggml.precompiled_charsmap")
                .into_iter()
                .map(|byte| byte as u8)
                .collect(),
            chat_template: text("tokenizer.chat_template"),
        }
    }
}

impl Tensors for GgufTensors {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn read(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some((stored, change)) = self.names.get(name) else { return Ok(None) };
        let Some(tensor) = self.gguf.tensors().get(stored) else { return Ok(None) };
        let (mut bytes, mut size) = (self.gguf.bytes(tensor), tensor.size.as_slice());
        if let Change::Expert(e) = *change {
            let n = bytes.len() / size[0] as usize;
            bytes = &bytes[e as usize * n..][..n];
            size = &size[1..];
        }
        let values = Tensor::f_from_slice(&tensor.kind.dequantize(bytes))?.f_reshape(size)?;
        self.gguf.forget(bytes);
        Ok(Some(match *change {
            Change::None | Change::Expert(_) => values,
            Change::PlusOne => values - 1.0,
            Change::Transposed => values.f_transpose(0, -1)?.f_contiguous()?,
            Change::Permuted(heads) => {
                let rows = size.first().copied().unwrap_or(0);
                if heads < 1 || rows < 1 || rows % heads != 0 || (rows / heads) % 2 != 0 {
                    let reason = format!("{stored} has {rows} rows for {heads} heads");
                    return Err(format_error(self.gguf.path(), reason));
                }
                values
                    .f_view([heads, rows / heads / 2, 2, -1])?
                    .f_transpose(1, 2)?
                    .f_reshape(size)?
                    .f_contiguous()?
            }
        }))
    }
}

/// llama.cpp's architecture name → `model_type`, class and activation of config.json.
const ARCHITECTURES: &[(&str, &str, &str, &str)] = &[
    ("llama", "llama", "LlamaForCausalLM", "silu"),
    ("mistral", "mistral", "MistralForCausalLM", "silu"),
    ("qwen2", "qwen2", "Qwen2ForCausalLM", "silu"),
    ("qwen3", "qwen3", "Qwen3ForCausalLM", "silu"),
    ("qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", "silu"),
    ("gemma2", "gemma2", "Gemma2ForCausalLM", "gelu_pytorch_tanh"),
    ("gemma3", "gemma3_text", "Gemma3ForCausalLM", "gelu_pytorch_tanh"),
    ("phi3", "phi3", "Phi3ForCausalLM", "silu"),
    ("olmo2", "olmo2", "Olmo2ForCausalLM", "silu"),
    ("gpt2", "gpt2", "GPT2LMHeadModel", "gelu_new"),
];

fn config(gguf: &Gguf) -> Result<Value, String> {
    let arch = gguf.string("general.architecture").ok_or("has no general.architecture")?;
    let Some(&(_, model_type, class, activation)) = ARCHITECTURES.iter().find(|(name, ..)| *name == arch)
    else {
        let known = ARCHITECTURES.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
        return Err(format!("has the unknown architecture {arch:?}; known: {known}"));
    };
    let key = |name: &str| format!("{arch}.{name}");
    let count = |name: &str| {
        let n = gguf.int(&key(name)).ok_or_else(|| format!("has no {}", key(name)))?;
        if (1..1 << 31).contains(&n) { Ok(n) } else { Err(format!("{} is {n}, not a count", key(name))) }
    };
    let moe = count("expert_count").unwrap_or(0);
    let mixtral = arch == "llama" && moe > 0;
    let (hidden, heads, layers) =
        (count("embedding_length")?, count("attention.head_count")?, count("block_count")?);
    let head_dim = match (count("attention.key_length"), count("rope.dimension_count")) {
        (Ok(n), _) => n,
        (_, Ok(n)) if arch == "llama" || arch == "mistral" => n,
        _ => hidden / heads,
    };
    let tied = !gguf.tensors().contains_key("output.weight");
    let vocabulary = match gguf.tensors().get("token_embd.weight") {
        Some(tensor) => tensor.size.first().copied().unwrap_or(0),
        None => count("vocab_size")?,
    };
    let mut config = Map::new();
    let mut set = |name: &str, value: Value| {
        config.insert(name.to_owned(), value);
    };
    set("architectures", json!([if mixtral { "MixtralForCausalLM" } else { class }]));
    set("model_type", json!(if mixtral { "mixtral" } else { model_type }));
    set("vocab_size", json!(vocabulary));
    set("tie_word_embeddings", json!(tied));
    for (name, key) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        if let Some(id) = gguf.int(&format!("tokenizer.ggml.{key}_token_id")) {
            set(name, json!(id));
        }
    }
    if arch == "gpt2" {
        for (name, value) in [("n_embd", hidden), ("n_head", heads), ("n_layer", layers)] {
            set(name, json!(value));
        }
        set("n_positions", json!(count("context_length")?));
        set("n_inner", json!(count("feed_forward_length")?));
        set("activation_function", json!(activation));
        set("layer_norm_epsilon", json!(gguf.float(&key("attention.layer_norm_epsilon")).unwrap_or(1e-5)));
        return Ok(Value::Object(config));
    }
    set("hidden_size", json!(hidden));
    set("num_hidden_layers", json!(layers));
    set("num_attention_heads", json!(heads));
    set("num_key_value_heads", json!(count("attention.head_count_kv").unwrap_or(heads)));
    set("head_dim", json!(head_dim));
    set("max_position_embeddings", json!(count("context_length")?));
    let act_key = if arch.starts_with("gemma") { "hidden_activation" } else { "hidden_act" };
    set(act_key, json!(activation));
    let eps = gguf.float(&key("attention.layer_norm_rms_epsilon"));
    set("rms_norm_eps", json!(eps.unwrap_or(1e-5)));
    let bias = gguf.tensors().contains_key("blk.0.attn_q.bias");
    if matches!(arch, "llama" | "qwen3" | "qwen3moe" | "olmo2") {
        set("attention_bias", json!(bias));
    }
    if arch == "llama" {
        set("mlp_bias", json!(gguf.tensors().contains_key("blk.0.ffn_up.bias")));
    }
    if let Ok(n) = count("feed_forward_length") {
        set("intermediate_size", json!(n));
    }
    if moe > 0 {
        set(if mixtral { "num_local_experts" } else { "num_experts" }, json!(moe));
        set("num_experts_per_tok", json!(count("expert_used_count")?));
        if !mixtral {
            set("moe_intermediate_size", json!(count("expert_feed_forward_length")?));
            set("norm_topk_prob", json!(true));
            let is_dense = |n: &i64| !gguf.tensors().contains_key(&format!("blk.{n}.ffn_gate_inp.weight"));
            set("mlp_only_layers", json!((0..layers.min(4096)).filter(is_dense).collect::<Vec<_>>()));
        }
    }
    if let Ok(window) = count("attention.sliding_window") {
        set("sliding_window", json!(window));
    }
    if arch.starts_with("gemma") {
        // The 27B models alone scale by the width of a head in the residual stream; no key says so.
        let scalar =
            if matches!((arch, layers), ("gemma2", 46) | ("gemma3", 62)) { hidden / heads } else { 256 };
        set("query_pre_attn_scalar", json!(scalar));
    }
    if arch == "gemma2" {
        // Where the file leaves them out the family's own count, as in llama.cpp.
        for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(cap) = gguf.float(&key(name)) {
                set(name, json!(cap));
            }
        }
    }
    let mut rope = rope(gguf, arch, count("context_length")?);
    if let Ok(n) = count("rope.dimension_count").map(|n| n.min(head_dim))
        && n < head_dim
    {
        if arch != "phi3" {
            return Err(format!(
                "turns {n} of a head's {head_dim} features; for {arch} only whole heads are known"
            ));
        }
        rope["partial_rotary_factor"] = json!(n as f64 / head_dim as f64);
    }
    // Where Phi-3's class looks first.
    if let Some(length) = rope.get(ORIGINAL_MAX).filter(|_| arch == "phi3") {
        set(ORIGINAL_MAX, length.clone());
    }
    if arch == "gemma3" {
        set("sliding_window_pattern", json!(6));
        let local = json!({"rope_type": "default", "rope_theta": 10000.0});
        set("rope_parameters", json!({"full_attention": rope, "sliding_attention": local}));
    } else {
        set("rope_parameters", rope);
    }
    Ok(Value::Object(config))
}

/// `rope_parameters` as transformers 5 writes them.
fn rope(gguf: &Gguf, arch: &str, context: i64) -> Value {
    let key = |name: &str| format!("{arch}.rope.{name}");
    let default = if arch == "gemma3" { 1e6 } else { 1e4 };
    let theta = gguf.float(&key("freq_base")).unwrap_or(default);
    let factors = |name: &str| {
        let tensor = gguf.tensors().get(name).filter(|tensor| is_rope(name, &tensor.size))?;
        Some(tensor.kind.dequantize(gguf.bytes(tensor)))
    };
    // Llama 3.1's frequencies come as a tensor of divisors, which is what LongRoPE reads, and so do Phi-3's.
    let single = factors("rope_freqs.weight");
    let pair = factors("rope_factors_short.weight").zip(factors("rope_factors_long.weight"));
    if let Some((short, long)) = single.map(|f| (f.clone(), f)).or(pair) {
        let original = gguf.int(&key("scaling.original_context_length")).unwrap_or(context);
        let mut rope = json!({
            "rope_type": "longrope", "rope_theta": theta, "short_factor": short, "long_factor": long,
            "original_max_position_embeddings": original,
        });
        let attention = gguf.float(&key("scaling.attn_factor"));
        if let Some(factor) = if arch == "llama" { Some(1.0) } else { attention } {
            rope["attention_factor"] = json!(factor);
        }
        return rope;
    }
    // As llama.cpp reads them: a factor without a type is linear, and once had another name.
    let factor = gguf.float(&key("scaling.factor")).or_else(|| gguf.float(&key("scale_linear")));
    match (gguf.string(&key("scaling.type")), factor.filter(|factor| *factor != 0.0)) {
        (Some("linear") | None, Some(factor)) => {
            json!({"rope_type": "linear", "rope_theta": theta, "factor": factor})
        }
        (Some("yarn"), Some(factor)) => {
            let original = gguf.int(&key("scaling.original_context_length")).unwrap_or(context);
            json!({"rope_type": "yarn", "rope_theta": theta, "factor": factor,
                "original_max_position_embeddings": original,
                "attention_factor": gguf.float(&key("scaling.yarn_attn_factor")),
                "beta_fast": gguf.float(&key("scaling.yarn_beta_fast")),
                "beta_slow": gguf.float(&key("scaling.yarn_beta_slow"))})
        }
        (Some("none" | "linear") | None, _) => json!({"rope_type": "default", "rope_theta": theta}),
        (Some(other), factor) => json!({"rope_type": other, "rope_theta": theta, "factor": factor}),
    }
}

/// The Hugging Face names that a tensor of the file stands for: none where it is no weight of the model, its own where it is
/// not known, which no layer will ask for.
fn hf_names(name: &str, config: &Value, size: &[i64]) -> Vec<(String, Change)> {
    if is_rope(name, size) {
        return Vec::new();
    }
    weight_names(name, config, size).unwrap_or_else(|| vec![(name.to_owned(), Change::None)])
}

/// Rotary divisors, which the config takes: one for every two numbers of a head.
fn is_rope(name: &str, size: &[i64]) -> bool {
    let n = size.iter().fold(1i64, |n, &m| n.saturating_mul(m));
    name.starts_with("rope_f") && n <= 1 << 10
}

/// As [`hf_names`], of a weight that is known.
fn weight_names(name: &str, config: &Value, size: &[i64]) -> Option<Vec<(String, Change)>> {
    let model_type = config["model_type"].as_str().unwrap_or_default();
    let heads = |key: &str| config[key].as_i64().unwrap_or(0);
    let gpt2 = model_type == "gpt2";
    let gemma = model_type.starts_with("gemma");
    let one = |name: String, change| Some(vec![(name, change)]);
    let whole = match (name, gpt2) {
        ("token_embd.weight", false) => "model.embed_tokens.weight",
        ("token_embd.weight", true) => "transformer.wte.weight",
        ("position_embd.weight", true) => "transformer.wpe.weight",
        ("output_norm.weight", false) => "model.norm.weight",
        ("output_norm.weight", true) => "transformer.ln_f.weight",
        ("output_norm.bias", true) => "transformer.ln_f.bias",
        ("output.weight", _) => "lm_head.weight",
        _ => "",
    };
    if !whole.is_empty() {
        let change = if gemma && name == "output_norm.weight" { Change::PlusOne } else { Change::None };
        return one(whole.to_owned(), change);
    }
    let (layer_idx, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    if let Some(stacked) = part.strip_suffix("_exps").and_then(|p| p.strip_prefix("ffn_")) {
        let expert_name = match (stacked, model_type) {
            ("gate", "mixtral") => "w1",
            ("up", "mixtral") => "w3",
            ("down", "mixtral") => "w2",
            ("gate", _) => "gate_proj",
            ("up", _) => "up_proj",
            ("down", _) => "down_proj",
            _ => return None,
        };
        let mlp = if model_type == "mixtral" { "block_sparse_moe" } else { "mlp" };
        // A tensor without elements may claim any number of experts.
        let n_experts = if size.contains(&0) { 0 } else { size.first().copied().unwrap_or(0).min(1 << 10) };
        let prefix = format!("model.layers.{layer_idx}.{mlp}.experts");
        let name = |e| (format!("{prefix}.{e}.{expert_name}.{kind}"), Change::Expert(e));
        return Some((0..n_experts).map(name).collect());
    }
    if gpt2 {
        let (hf, change) = match part {
            "attn_norm" => ("ln_1", Change::None),
            "attn_qkv" => ("attn.c_attn", Change::Transposed),
            "attn_output" => ("attn.c_proj", Change::Transposed),
            "ffn_norm" => ("ln_2", Change::None),
            "ffn_up" => ("mlp.c_fc", Change::Transposed),
            "ffn_down" => ("mlp.c_proj", Change::Transposed),
            _ => return None,
        };
        let change = if kind == "weight" { change } else { Change::None };
        return one(format!("transformer.h.{layer_idx}.{hf}.{kind}"), change);
    }
    let permuted = matches!(model_type, "llama" | "mixtral" | "mistral");
    let (hf, change) = match part {
        "attn_norm" => ("input_layernorm", Change::None),
        "attn_q" if permuted => ("self_attn.q_proj", Change::Permuted(heads("num_attention_heads"))),
        "attn_k" if permuted => ("self_attn.k_proj", Change::Permuted(heads("num_key_value_heads"))),
        "attn_q" => ("self_attn.q_proj", Change::None),
        "attn_k" => ("self_attn.k_proj", Change::None),
        "attn_v" => ("self_attn.v_proj", Change::None),
        "attn_qkv" => ("self_attn.qkv_proj", Change::None),
        "attn_output" => ("self_attn.o_proj", Change::None),
        "attn_q_norm" => ("self_attn.q_norm", Change::None),
        "attn_k_norm" => ("self_attn.k_norm", Change::None),
        "ffn_norm" if gemma => ("pre_feedforward_layernorm", Change::None),
        "ffn_norm" => ("post_attention_layernorm", Change::None),
        "post_attention_norm" => ("post_attention_layernorm", Change::None),
        "post_ffw_norm" => ("post_feedforward_layernorm", Change::None),
        "ffn_gate_inp" if model_type == "mixtral" => ("block_sparse_moe.gate", Change::None),
        "ffn_gate_inp" => ("mlp.gate", Change::None),
        "ffn_gate" => ("mlp.gate_proj", Change::None),
        "ffn_up" if model_type == "phi3" => ("mlp.gate_up_proj", Change::None),
        "ffn_up" => ("mlp.up_proj", Change::None),
        "ffn_down" => ("mlp.down_proj", Change::None),
        _ => return None,
    };
    let change = if gemma && part.ends_with("norm") { Change::PlusOne } else { change };
    one(format!("model.layers.{layer_idx}.{hf}.{kind}"), change)
}
