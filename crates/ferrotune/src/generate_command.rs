//! `ferrotune generate`: answer once, continue a text, score one, search with beams, or chat in the terminal.

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Result, bail};
use ferrotune_model::checkpoint::Source;
use ferrotune_model::generate::{BeamSearch, Sampling};
use ferrotune_model::quantize_int8;
use ferrotune_types::{Completion, LanguageModel, Message, Role};
use serde_json::{Value, json};

use crate::cli::{GenerateArgs, Output};
use crate::commands::with_adapter;
use crate::completions::ScoredToken;
use crate::local_model::LocalModel;
use crate::local_t5::LocalT5;
use crate::model_store::{Place, load_from, resolve};

/// Runs the command.
///
/// # Errors
/// A model that cannot be loaded, settings out of range, a prompt that is too long.
pub(crate) fn generate(args: &GenerateArgs) -> Result<Output> {
    check(args)?;
    let source = resolve(&args.model)?;
    if LocalT5::is_at(&source)? {
        return rewrite(args, &source);
    }
    let model = load(args, &source)?;
    check_stop_ids(&args.stop_id, model.vocabulary())?;
    let sampling = sampling(args, model.eos_ids());
    let system = args.system.iter().map(|text| Message::new(Role::System, text.clone()));
    let turns: Vec<Message> = system.collect();
    let prompt = match (&args.chat, &args.prompt) {
        (Some(chat), _) => model.prompt(&[turns, vec![Message::new(Role::User, chat.clone())]].concat())?,
        (None, Some(text)) => model.plain_prompt(text)?,
        (None, None) => return chat_in_terminal(&model, turns, &sampling, &args.stop),
    };
    if let Some(answer) = &args.score {
        return score(&model, &prompt, answer);
    }
    if let Some(n_beams) = args.beams {
        return beams(&model, &prompt, n_beams, args, &sampling);
    }
    let started = Instant::now();
    let (answer, tokens) = model.continue_prompt(&prompt, &sampling, &args.stop, None)?;
    Ok(written(answer, &tokens, started))
}

/// Refuses what cannot be meant, and says what greedy decoding does not read.
fn check(args: &GenerateArgs) -> Result<()> {
    if args.stop.iter().any(String::is_empty) {
        bail!("--stop is an empty text, which every answer holds");
    }
    if args.score.as_ref().is_some_and(String::is_empty) {
        bail!("--score is an empty text");
    }
    let of_one_answer = [
        ("--score", args.score.is_some()),
        ("--beams", args.beams.is_some()),
        ("--logprobs", args.logprobs.is_some()),
    ];
    let asks = args.chat.is_some() || args.prompt.is_some();
    if let Some((option, _)) = of_one_answer.into_iter().find(|(_, given)| *given && !asks) {
        bail!("{option} needs --chat TEXT or --prompt TEXT: a chat in the terminal has no use for it");
    }
    let samplers = [
        ("--top-k", args.top_k.is_some()),
        ("--top-p", args.top_p.is_some()),
        ("--min-p", args.min_p.is_some()),
        ("--typical-p", args.typical_p.is_some()),
    ];
    if let Some((option, _)) = samplers.into_iter().find(|(_, given)| *given && args.temperature == 0.0) {
        eprintln!("warning: {option} changes nothing at --temperature 0, which is greedy");
    }
    Ok(())
}

/// Refuses an id that no token has: it would never stop anything.
fn check_stop_ids(stop_ids: &[u32], vocabulary: usize) -> Result<()> {
    if let Some(id) = stop_ids.iter().find(|&&id| id as usize >= vocabulary) {
        bail!("--stop-id is {id}, but the model has {vocabulary} tokens, counted from 0");
    }
    Ok(())
}

fn written(answer: Completion, tokens: &[ScoredToken], started: Instant) -> Output {
    let json = json!({
        "text": answer.text,
        "ids": answer.ids,
        "finish": answer.finish,
        "logprobs": tokens,
        "prompt_tokens": answer.prompt_tokens,
        "tokens_per_s": answer.completion_tokens as f64 / started.elapsed().as_secs_f64(),
        "peak_rss_mib": crate::progress::peak_rss_mib(),
    });
    let text = if tokens.is_empty() { answer.text } else { table(tokens) };
    Output { json: vec![json], text }
}

/// T5 knows no chat: it writes one text for another.
fn rewrite(args: &GenerateArgs, source: &Source) -> Result<Output> {
    let Some(text) = &args.prompt else {
        bail!("{} is a T5: it writes a text for a text, give one with --prompt", args.model);
    };
    let refused = [
        ("--score", args.score.is_some()),
        ("--beams", args.beams.is_some()),
        ("--adapter", args.adapter.is_some()),
        ("--int8", args.int8),
    ];
    if let Some((option, _)) = refused.iter().find(|(_, given)| *given) {
        bail!("{option} does not go with a T5");
    }
    let model = LocalT5::load(source, Place::parse(&args.device, &args.dtype)?)?;
    check_stop_ids(&args.stop_id, model.vocabulary())?;
    let started = Instant::now();
    let (answer, tokens) = model.write(text, &sampling(args, &model.eos_ids()), &args.stop)?;
    Ok(written(answer, &tokens, started))
}

fn load(args: &GenerateArgs, source: &Source) -> Result<LocalModel> {
    let place = Place::parse(&args.device, &args.dtype)?;
    let model = load_from(&args.model, source, place, &args.words.template)?;
    if args.prompt.is_none() {
        model.template()?;
    }
    let mut model = with_adapter(model, args.adapter.as_deref())?;
    if args.int8 {
        quantize_int8(&mut model.decoder);
    }
    Ok(LocalModel::new(&args.model, model))
}

fn sampling(args: &GenerateArgs, eos_ids: &[u32]) -> Sampling {
    Sampling {
        max_new_tokens: args.max_new_tokens,
        min_new_tokens: args.min_new_tokens,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        typical_p: args.typical_p,
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        stop_ids: [eos_ids, &args.stop_id].concat(),
        logprobs: args.logprobs,
        seed: args.seed,
        ..Sampling::default()
    }
}

fn score(model: &LocalModel, prompt: &[u32], answer: &str) -> Result<Output> {
    let (total, tokens) = model.score(prompt, answer)?;
    let json = json!({
        "logprob": total.sum, "n_tokens": total.n_tokens, "is_greedy": total.is_greedy, "tokens": tokens,
    });
    let text = format!("{}ln p {:.4} over {} tokens", table(&tokens), total.sum, total.n_tokens);
    Ok(Output { json: vec![json], text })
}

fn beams(
    model: &LocalModel,
    prompt: &[u32],
    n_beams: usize,
    args: &GenerateArgs,
    sampling: &Sampling,
) -> Result<Output> {
    let search = BeamSearch {
        n_beams,
        max_new_tokens: args.max_new_tokens,
        length_penalty: args.length_penalty,
        stop_ids: sampling.stop_ids.clone(),
    };
    let found = model.beams(prompt, &search)?;
    let json: Vec<Value> = found
        .iter()
        .map(|(text, found)| json!({"text": text, "ids": found.ids, "score": found.score}))
        .collect();
    let lines = found.iter().map(|(text, found)| format!("{:.4}  {text}", found.score));
    Ok(Output { text: lines.collect::<Vec<_>>().join("\n"), json })
}

/// A line a token: its ln p, its text, and the others that were likely.
fn table(tokens: &[ScoredToken]) -> String {
    let line = |token: &ScoredToken| {
        let others: Vec<String> =
            token.top.iter().map(|other| format!("{:?} {:.3}", other.text, other.logprob)).collect();
        format!("{:>9.4}  {:<20} {}\n", token.logprob, format!("{:?}", token.text), others.join("  "))
    };
    tokens.iter().map(line).collect()
}

fn chat_in_terminal(
    model: &LocalModel,
    system: Vec<Message>,
    sampling: &Sampling,
    stop: &[String],
) -> Result<Output> {
    eprintln!("chat with {} (an empty line ends it)", model.name());
    let mut chat = Chat { model, n_system: system.len(), turns: system };
    loop {
        eprint!("> ");
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(Output { json: Vec::new(), text: String::new() });
        }
        let Some(prompt) = chat.ask(line.trim(), sampling.max_new_tokens)? else { continue };
        let mut stdout = std::io::stdout().lock();
        let mut show = |piece: &str| {
            // Whoever closed the terminal does not read on; the answer is still kept in the chat.
            let _ = stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush());
        };
        let (answer, _) = model.continue_prompt(&prompt, sampling, stop, Some(&mut show))?;
        writeln!(stdout)?;
        chat.turns.push(Message::new(Role::Assistant, answer.text));
    }
}

/// What has been said: the system's turns, then user and assistant by turns.
struct Chat<'a> {
    model: &'a LocalModel,
    n_system: usize,
    turns: Vec<Message>,
}

impl Chat<'_> {
    /// The prompt for the answer to a message. The oldest turns are forgotten, and this is said, where they would leave an
    /// answer less room than it may need: `max_new_tokens`, or a quarter of the context. A message that leaves none even
    /// alone is told of and is no part of the chat: nothing comes back then.
    fn ask(&mut self, message: &str, max_new_tokens: usize) -> Result<Option<Vec<u32>>> {
        let context = self.model.context();
        let wanted = max_new_tokens.min(context / 4).max(1);
        let mut turns = [self.turns.as_slice(), &[Message::new(Role::User, message)]].concat();
        let mut prompt = self.model.prompt(&turns)?;
        let n_said = turns.len();
        while prompt.len() + wanted > context && turns.len() > self.n_system + 2 {
            turns.drain(self.n_system..self.n_system + 2);
            prompt = self.model.prompt(&turns)?;
        }
        let room = context.saturating_sub(prompt.len());
        if room == 0 {
            let n = prompt.len();
            eprintln!(
                "(this message makes {n} tokens, which leave no room in the context of {context}: shorten it)"
            );
            return Ok(None);
        }
        if turns.len() < n_said {
            eprintln!("(the chat has outgrown the context: its oldest turns are forgotten)");
        }
        if room < wanted {
            eprintln!("(this message leaves an answer {room} tokens of the context)");
        }
        self.turns = turns;
        Ok(Some(prompt))
    }
}
