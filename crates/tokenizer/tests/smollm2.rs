//! SmolLM2's tokenizer, built from the metadata of its GGUF file, against transformers. `golden/tokenizer.py` made
//! the values.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ferrotune_tokenizer::{GgufTokenizer, Limits, Packing, Tokenizer, pack};
use ferrotune_types::{Example, Rendered};
use rayon::prelude::*;
use serde_json::Value;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

fn shared(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(file)
}

fn values() -> &'static Value {
    static VALUES: OnceLock<Value> = OnceLock::new();
    VALUES.get_or_init(|| serde_json::from_slice(&fs::read(golden("tokenizer.json")).unwrap()).unwrap())
}

fn metadata() -> GgufTokenizer {
    let file = fs::File::open(golden("smollm2.json.gz")).unwrap();
    let json: Value = serde_json::from_reader(flate2::read::GzDecoder::new(file)).unwrap();
    let text = |key: &str| json[key].as_str().map(str::to_owned);
    let texts =
        |key: &str| json[key].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    let id = |key: &str| json[key].as_u64().map(|id| id as u32);
    GgufTokenizer {
        model: text("model").unwrap(),
        pre: text("pre"),
        tokens: texts("tokens"),
        scores: Vec::new(),
        token_types: json["token_types"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t.as_i64().unwrap() as i32)
            .collect(),
        merges: texts("merges"),
        bos: id("bos"),
        eos: id("eos"),
        unk: id("unk"),
        pad: id("pad"),
        add_bos: json["add_bos"].as_bool(),
        add_eos: None,
        add_space_prefix: json["add_space_prefix"].as_bool(),
        chat_template: text("chat_template"),
        ..GgufTokenizer::default()
    }
}

fn smollm2() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| Tokenizer::from_gguf_metadata(&metadata()).unwrap())
}

fn crc(ids: impl IntoIterator<Item = u32>) -> u64 {
    let mut crc = flate2::Crc::new();
    ids.into_iter().for_each(|id| crc.update(&id.to_le_bytes()));
    u64::from(crc.sum())
}

#[test]
fn ids_are_those_of_transformers() {
    let tokenizer = smollm2();
    assert!(tokenizer.is_fast());
    for case in values()["cases"].as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        let expect: Vec<u32> = serde_json::from_value(case[1].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, false).unwrap(), expect, "{text:?}");
    }
}

#[test]
fn ids_of_every_shared_text_are_those_of_transformers() {
    if !shared("").is_dir() {
        eprintln!("skipped: the shared test data are not there");
        return;
    }
    let files: Vec<_> = values()["files"].as_object().unwrap().iter().collect();
    let compared: Vec<Result<(), String>> = files
        .par_iter()
        .map(|(file, expect)| {
            let text = fs::read_to_string(shared(file)).map_err(|e| format!("{file}: {e}"))?;
            let chars: Vec<char> = text.chars().collect();
            let chunks: Vec<String> = chars.chunks(20_000).map(|chunk| chunk.iter().collect()).collect();
            let ids = smollm2().encode_batch(&chunks, false).unwrap().concat();
            let got = [ids.len() as u64, crc(ids)];
            if serde_json::json!(got) == **expect {
                Ok(())
            } else {
                Err(format!("{file}: {got:?}, not {expect}"))
            }
        })
        .collect();
    let equal = compared.iter().filter(|one| one.is_ok()).count();
    let wrong: Vec<String> = compared.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(equal > 150, "only {equal} texts were compared");
}

/// What the built-in `smollm2` template renders; this crate does not know templates.
fn alpaca() -> Option<Vec<(String, Rendered)>> {
    if !shared("").is_dir() {
        eprintln!("skipped: the shared test data are not there");
        return None;
    }
    let file = "llama_factory/alpaca_en_demo.json";
    let bytes = fs::read(shared(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let rows: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
    let field = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let render = |(i, row): (usize, &Value)| {
        let input = field(row, "input");
        let user = field(row, "instruction") + &if input.is_empty() { input } else { format!("\n{input}") };
        let prompt = format!(
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
             <|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        );
        let text = format!("{prompt}{}<|im_end|>\n", field(row, "output"));
        let span = prompt.len()..text.len();
        (i.to_string(), Rendered::new(text, vec![span]).unwrap())
    };
    Some(rows.iter().enumerate().map(render).collect())
}

#[test]
fn ids_and_masks_of_conversations_are_those_of_transformers() {
    let Some(rows) = alpaca() else { return };
    let expect = &values()["chats"];
    let limits = Limits { max_length: usize::MAX, ..Limits::default() };
    let made = smollm2().examples(&rows, &limits).unwrap();
    assert_eq!(made.report.examples as u64, expect["rows"].as_u64().unwrap(), "{}", made.report);
    assert_eq!(made.report.tokens as u64, expect["tokens"].as_u64().unwrap());
    assert_eq!(made.report.trained_tokens as u64, expect["trained"].as_u64().unwrap());
    assert_eq!(
        crc(made.examples.iter().flat_map(|e| e.ids().iter().copied())),
        expect["ids"].as_u64().unwrap()
    );
    let mask = made.examples.iter().flat_map(|e| e.loss_mask().iter().map(|&m| u32::from(m)));
    assert_eq!(crc(mask), expect["mask"].as_u64().unwrap());
    // Trained tokens decode to exactly what the assistant says.
    for (example, (_, rendered)) in made.examples.iter().zip(&rows) {
        let ids = example.ids().iter().zip(example.loss_mask()).filter(|(_, mask)| **mask).map(|(id, _)| *id);
        let text = smollm2().decode(&ids.collect::<Vec<_>>(), false).unwrap();
        assert_eq!(text, rendered.text()[rendered.assistant()[0].clone()]);
    }
}

#[test]
fn packs_are_those_of_trl() {
    for case in values()["packing"].as_array().unwrap() {
        let packing = match case["strategy"].as_str().unwrap() {
            "bfd" => Packing::BestFit,
            "bfd_split" => Packing::BestFitSplit,
            _ => Packing::Wrapped,
        };
        let lengths: Vec<u32> = serde_json::from_value(case["lengths"].clone()).unwrap();
        let mut next = 1;
        let examples = lengths.iter().enumerate().map(|(i, &n)| {
            let ids: Vec<u32> = (next..next + n).collect();
            next += n;
            Example::new(i.to_string(), ids, vec![false; n as usize]).unwrap()
        });
        let max_length = case["max_length"].as_u64().unwrap() as usize;
        let (packs, report) = pack(examples.collect(), max_length, packing).unwrap();
        let ids: Vec<Vec<u32>> =
            packs.iter().map(|pack| pack.iter().flat_map(|e| e.ids().iter().copied()).collect()).collect();
        let got = if lengths.len() > 6 {
            serde_json::json!(ids.into_iter().map(crc).collect::<Vec<_>>())
        } else {
            serde_json::json!(ids)
        };
        assert_eq!(got, case["packed"], "{packing:?} {max_length}");
        if !case["seq_lengths"].is_null() {
            let lengths: Vec<Vec<usize>> =
                packs.iter().map(|pack| pack.iter().map(Example::n_tokens).collect()).collect();
            assert_eq!(serde_json::json!(lengths), case["seq_lengths"]);
        }
        assert!(report.efficiency > 0.5, "{report}");
    }
}
