//! Every kind of tokenizer, from GGUF metadata and from folders, against transformers. `golden/kinds.py` made the
//! values.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ferrotune_tokenizer::{GgufTokenizer, Tokenizer};
use ferrotune_types::Rendered;
use rayon::prelude::*;
use serde_json::Value;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

/// What the tokenizers are built from, by name.
fn given() -> &'static Value {
    static GIVEN: OnceLock<Value> = OnceLock::new();
    GIVEN.get_or_init(|| {
        let file = fs::File::open(golden("kinds.json.gz")).unwrap();
        serde_json::from_reader(flate2::read::GzDecoder::new(file)).unwrap()
    })
}

/// What transformers makes of the texts, by name.
fn values() -> &'static Value {
    static VALUES: OnceLock<Value> = OnceLock::new();
    VALUES.get_or_init(|| serde_json::from_slice(&fs::read(golden("kinds.json")).unwrap()).unwrap())
}

fn metadata(json: &Value, pre: &str) -> GgufTokenizer {
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| json[key].as_array().cloned().unwrap_or_default();
    let texts = |key: &str| list(key).iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    let id = |key: &str| json[key].as_u64().map(|id| id as u32);
    GgufTokenizer {
        architecture: text("architecture"),
        model: text("model"),
        pre: Some(pre.to_owned()),
        tokens: texts("tokens"),
        scores: list("scores").iter().map(|x| x.as_f64().unwrap() as f32).collect(),
        token_types: list("token_type").iter().map(|t| t.as_i64().unwrap() as i32).collect(),
        merges: texts("merges"),
        precompiled_charsmap: list("precompiled_charsmap")
            .iter()
            .map(|b| b.as_u64().unwrap() as u8)
            .collect(),
        bos: id("bos"),
        eos: id("eos"),
        unk: id("unk"),
        pad: id("pad"),
        add_space_prefix: json["add_space_prefix"].as_bool(),
        ..GgufTokenizer::default()
    }
}

fn tokenizer(name: &str) -> Tokenizer {
    let entry = &given()[name];
    if let Some(base) = entry["base"].as_str() {
        let gguf = metadata(&given()[base]["gguf"], entry["pre"].as_str().unwrap());
        return Tokenizer::from_gguf_metadata(&gguf).unwrap();
    }
    if entry["gguf"].is_object() {
        return Tokenizer::from_gguf_metadata(&metadata(&entry["gguf"], "default")).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), entry["tokenizer_json"].to_string()).unwrap();
    Tokenizer::from_dir(folder.path()).unwrap()
}

/// What is wrong with a tokenizer's ids.
fn differences(name: &str, tokenizer: &Tokenizer) -> Vec<String> {
    let (texts, expect) = (&values()["texts"], &values()[name]);
    let mut wrong = Vec::new();
    for (text, expect) in texts["odd"].as_array().unwrap().iter().zip(expect["odd"].as_array().unwrap()) {
        let text = text.as_str().unwrap();
        let expect: Vec<u32> = serde_json::from_value(expect.clone()).unwrap();
        let got = tokenizer.encode(text, false).unwrap();
        if got != expect {
            wrong.push(format!("{name} {text:?}: {got:?}, not {expect:?}"));
        }
    }
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !shared.is_dir() {
        eprintln!("the shared test data are not there: only the odd texts are compared");
        return wrong;
    }
    let (files, expect) = (texts["files"].as_array().unwrap(), expect["files"].as_array().unwrap());
    assert_eq!(files.len(), expect.len(), "{name}");
    for (file, expect) in files.iter().zip(expect) {
        let file = file.as_str().unwrap();
        let text = match fs::read_to_string(shared.join(file)) {
            Ok(text) => text.chars().take(20_000).collect::<String>(),
            Err(e) => {
                wrong.push(format!("{name} {file}: {e}"));
                continue;
            }
        };
        let ids = tokenizer.encode(&text, false).unwrap();
        let mut crc = flate2::Crc::new();
        for id in &ids {
            crc.update(&id.to_le_bytes());
        }
        let got = serde_json::json!([ids.len(), crc.sum()]);
        if got != *expect {
            wrong.push(format!("{name} {file}: {got}, not {expect}"));
        }
    }
    wrong
}

#[test]
fn ids_of_every_kind_are_those_of_transformers() {
    let names: Vec<&String> = given().as_object().unwrap().keys().filter(|name| *name != "bytes").collect();
    assert!(names.len() >= 15, "{names:?}");
    let wrong: Vec<String> = names.par_iter().flat_map(|name| differences(name, &tokenizer(name))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_tokenizer_of_a_gguf_file_is_the_same_one_when_saved_and_loaded() {
    for name in ["llama", "phi3", "gemma", "t5", "llama-bpe", "deepseek-coder"] {
        let folder = tempfile::tempdir().unwrap();
        tokenizer(name).save(folder.path()).unwrap();
        let wrong = differences(name, &Tokenizer::from_dir(folder.path()).unwrap());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn qwens_normalised_texts_take_the_fast_path() {
    assert!(tokenizer("qwen2_folder").is_fast());
    for pre in ["gpt-2", "llama-bpe", "qwen2"] {
        assert!(tokenizer(pre).is_fast(), "{pre}");
    }
}

#[test]
fn minilm_reads_as_in_transformers() {
    let cache = std::env::var_os("FERROTUNE_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ferrotune")));
    let folder = cache.unwrap().join("models/all-minilm-l6-v2");
    if !folder.is_dir() {
        eprintln!("skipped: {} is absent; `cargo xtask setup` fetches it", folder.display());
        return;
    }
    let wrong = differences("minilm", &Tokenizer::from_dir(&folder).unwrap());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn control_tokens_in_peoples_words_stay_words_and_no_space_is_made_up() {
    let text = "<s>say </s> and<s>go</s>";
    let user = text.find("</s>").unwrap();
    let forged = [user..user + 4, user + 8..user + 11];
    let said = user + 11..text.len();
    for name in ["llama", "gemma", "phi3", "qwen2"] {
        let tokenizer = tokenizer(name);
        let plain = Rendered::new(text, vec![said.clone()]).unwrap();
        let ids = tokenizer.encode_rendered(&plain.with_literal(forged.to_vec()).unwrap()).unwrap().ids;
        let controls = ids.iter().filter(|&&id| tokenizer.is_control(id)).count();
        if name == "qwen2" {
            assert_eq!(controls, 0, "it knows no <s>");
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
            continue;
        }
        let (bos, eos) = (tokenizer.ids().bos.unwrap(), tokenizer.ids().eos.unwrap());
        assert_eq!((controls, ids[0], ids[ids.len() - 1]), (2, bos, eos), "{name}");
        let decoded = tokenizer.decode(&ids[1..ids.len() - 1], false).unwrap();
        // Phi-3 puts a space after every control token, as its published tokenizer does.
        assert_eq!(decoded.trim_start(), "say </s> and<s>go", "{name}");
    }
}
