//! The programs that README.md and the docs show, compiled and, where they need no server, run: each block of Rust there
//! must stand here, line for line.
#![cfg(feature = "torch")]
#![expect(
    clippy::print_stdout,
    clippy::default_trait_access,
    clippy::single_range_in_vec_init,
    clippy::items_after_statements,
    clippy::needless_pass_by_value,
    reason = "the programs are those of the docs"
)]

use std::error::Error;
use std::path::{Path, PathBuf};

use ferrotune_types::{Conversation, Document, Embed, LanguageModel, Message, Role};

type Shown = Result<(), Box<dyn Error>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Lines without indentation, alignment and what rustdoc hides.
fn lines(text: &str) -> Vec<String> {
    let plain = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().filter(|line| !line.starts_with("# ")).map(plain).filter(|line| !line.is_empty()).collect()
}

#[test]
fn every_program_of_the_docs_stands_here() {
    let here = lines(include_str!("readme.rs"));
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|e| e == "md")));
    let mut n_blocks = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in text.split("\n```rust").skip(1) {
            let (_, block) = block.split_once('\n').unwrap();
            let block = lines(block.split("\n```").next().unwrap());
            let stands = here.windows(block.len()).any(|window| window == block);
            assert!(stands, "{} shows what tests/readme.rs does not have: {block:#?}", page.display());
            n_blocks += 1;
        }
    }
    assert!(n_blocks >= 12, "{n_blocks} blocks");
}

#[test]
fn personal_data_is_replaced() {
    use ferrotune_data::pii::{self, PiiConfig};

    let text = "Hi Sarah, order #BS-10482 is late. Mail me at sam@example.org or call 785 8949.";
    assert_eq!(
        pii::redact(text, &PiiConfig::default()).unwrap().text,
        "Hi [PERSON_1], order #BS-10482 is late. Mail me at [EMAIL_1] or call [PHONE_1]."
    );
}

#[test]
fn one_model_is_better_than_another() -> Shown {
    use ferrotune_eval::{Case, ReferenceJudge, Verdict, judge};

    let case = |id: usize| Case {
        id: id.to_string(),
        question: "How long do I have to return an item?".into(),
        before: vec![],
        reference: Some("You have 30 days to return an item with its receipt.".into()),
        base: "Thank you for asking! You have 90 days to return an item with its receipt.".into(),
        tuned: "Returns are accepted for 30 days with a receipt.".into(),
    };
    let report = judge(&ReferenceJudge::default(), &(0..8).map(case).collect::<Vec<_>>(), 0)?;
    assert_eq!((report.tuned, report.verdict), (8, Verdict::Better));
    Ok(())
}

#[test]
fn a_verdict_tells_how_sure_it_is() -> Shown {
    let cases = [ferrotune_eval::Case { reference: Some("30 days.".into()), ..Default::default() }];
    use ferrotune_eval::{ReferenceJudge, judge};

    let report = judge(&ReferenceJudge::default(), &cases, 0)?;
    println!("{}: {} of {} won, p = {:.3}", report.verdict, report.tuned, report.n, report.p_value);
    Ok(())
}

#[test]
fn documents_answer_with_quotes() -> Shown {
    use ferrotune_rag::{ChunkConfig, GroundConfig, RetrieveConfig, SqliteStore, extract, index, retrieve};
    use ferrotune_types::Document;

    let text = "Items may be returned within 30 days. A receipt is needed.";
    let documents = [Document { id: "returns".into(), text: text.into(), meta: Default::default() }];
    let mut store = SqliteStore::in_memory()?;
    index(&mut store, &documents, &ChunkConfig::default(), None)?;
    let question = "How many days do I have to return an item?";
    let hits = retrieve(&store, None, question, &RetrieveConfig::default())?;
    let quotes = extract(question, &hits, None, &GroundConfig::default())?;
    assert_eq!(quotes[0].text, "Items may be returned within 30 days.");
    Ok(())
}

#[test]
fn a_preference_loss_begins_at_ln_2() -> Shown {
    use ferrotune_preference::{Loss, Objective, PairLogps};
    use tch::{Kind, Tensor};

    let (chosen, rejected) = (Tensor::from_slice(&[-12.0f32, -30.0]), Tensor::from_slice(&[-15.0f32, -22.0]));
    let same = || (chosen.shallow_clone(), rejected.shallow_clone());
    let logps = PairLogps::new(same(), same(), &[(8, 9), (20, 11)])?;
    let objective = Objective::new(Loss::from_name("sigmoid")?, 0.1);
    let loss = objective.loss(&logps)?.losses.mean(Kind::Float).double_value(&[]);
    objective.check_start(loss, 1e-6)?; // policy = reference: ln 2
    Ok(())
}

/// Those that name files by paths of a clone, one after another: the working directory is the process's.
#[test]
fn files_of_a_clone_are_read() -> Shown {
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join("fixtures/tiny/llama");
    std::fs::create_dir_all(&copy)?;
    for entry in std::fs::read_dir(root().join("fixtures/tiny/llama"))? {
        let path = entry?.path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap_or_default()))?;
    }
    let tickets = (0..8)
        .map(|i| format!("{{\"question\": \"Where is order {i}?\", \"answer\": \"In the {i}th van.\"}}\n"));
    std::fs::write(dir.path().join("tickets.jsonl"), tickets.collect::<String>())?;
    std::env::set_current_dir(dir.path())?;
    a_chat_has_a_mask()?;
    an_adapter_is_saved()?;
    assert!(dir.path().join("adapter/adapter_model.safetensors").is_file());
    tickets_are_curated()?;
    let turn = |role, text: &str| Message::new(role, text);
    let conversation = Conversation {
        id: "c".into(),
        messages: vec![turn(Role::User, "Where?"), turn(Role::Assistant, "Here.")],
        tools: vec![],
        meta: Default::default(),
    };
    let tokenizer = ferrotune_tokenizer::Tokenizer::from_dir(&copy)?;
    let rendered = from_a_conversation(&tokenizer, conversation)?;
    a_mask_of_many(&copy, vec![("c".into(), rendered)])
}

fn a_chat_has_a_mask() -> Shown {
    use ferrotune_tokenizer::{Limits, Tokenizer};
    use ferrotune_types::Rendered;

    let tokenizer = Tokenizer::from_dir("fixtures/tiny/llama")?;
    let text = "<|im_start|>user\nwhere?<|im_end|>\n<|im_start|>assistant\nshipped<|im_end|>\n";
    let said = text.find("shipped").unwrap();
    let chat = Rendered::new(text, vec![said..text.len()])?;
    let example = tokenizer.example(&chat, "row-1", &Limits::default()).unwrap().item;
    assert_eq!(example.ids().len(), example.loss_mask().len());
    Ok(())
}

fn an_adapter_is_saved() -> Shown {
    use ferrotune_model::checkpoint::{HubOptions, Source, load_decoder};
    use ferrotune_peft::{LoraConfig, inject, save};
    use tch::{Device, Kind};

    let source = Source::resolve("fixtures/tiny/llama", &HubOptions::default())?;
    let mut decoder = load_decoder(&source, Kind::Float, Device::Cpu)?.decoder;
    let adapter = inject(&mut decoder, &LoraConfig::all_linear(16, 32.0), 42)?;
    println!("{}", adapter.parameter_table(&decoder));
    save(&adapter, "adapter".as_ref())?;
    Ok(())
}

fn tickets_are_curated() -> Shown {
    use ferrotune_data::curate::{self, Recipe};

    let recipe = Recipe::builtin("tickets")?;
    let outcome = curate::run(&["tickets.jsonl".into()], &recipe, &mut ())?;
    println!("{} of {} rows kept", outcome.report.kept, outcome.report.read);
    Ok(())
}

fn from_a_conversation(
    tokenizer: &ferrotune_tokenizer::Tokenizer,
    conversation: Conversation,
) -> Result<ferrotune_types::Rendered, Box<dyn Error>> {
    use ferrotune_data::chat::{ChatTemplate, RenderOptions};

    let template = ChatTemplate::new(tokenizer.chat_template().unwrap(), tokenizer.special())?;
    let rendered = template.render(&conversation, &RenderOptions::default())?;
    Ok(rendered)
}

fn a_mask_of_many(folder: &Path, rows: Vec<(String, ferrotune_types::Rendered)>) -> Shown {
    use ferrotune_tokenizer::{Limits, Tokenizer};

    let tokenizer = Tokenizer::from_dir(folder)?; // or Tokenizer::from_gguf_metadata(&metadata)?
    let made = tokenizer.examples(&rows, &Limits { max_length: 1024, ..Limits::default() })?;
    println!("{}", made.report); // rows, tokens, trained tokens, what was dropped and why
    Ok(())
}

/// Needs a server that has the model.
#[expect(dead_code, reason = "compiled, and not run")]
fn a_server_is_a_model_like_any_other() -> Shown {
    use ferrotune_llm::{Client, ClientConfig, Provider};
    use ferrotune_types::{GenerateParams, LanguageModel, Message, Role};

    let model = Client::new(ClientConfig::new(Provider::Ollama, "qwen3:4b"))?;
    let reply = model.chat(&[Message::new(Role::User, "Hello")], &GenerateParams::default())?;
    println!("{}", reply.text);
    Ok(())
}

/// Needs models to answer and to embed.
#[expect(dead_code, reason = "compiled, and not run")]
fn answers_are_cited(documents: &[Document], model: &dyn LanguageModel, embedder: &dyn Embed) -> Shown {
    use ferrotune_rag::{
        ChunkConfig, GroundConfig, Language, RetrieveConfig, SqliteStore, answer, index, retrieve,
    };
    let mut store = SqliteStore::open_or_create("shop.index", Language::English)?;
    index(&mut store, documents, &ChunkConfig::default(), Some(embedder))?;

    let question = "How long do I have to return an item?";
    let hits = retrieve(&store, Some(embedder), question, &RetrieveConfig::default())?;
    let found = answer(Some(model), Some(embedder), question, &hits, &GroundConfig::default())?;
    println!("{}", found.text); // Items may be returned within 30 days [1].
    Ok(())
}
