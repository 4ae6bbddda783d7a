use ferrotune_types::{Conversation, Message, PreferencePair, Rendered, Role, SpecialTokens};
use minijinja::{Environment, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::marks::{self, Marked};
use super::value::{Context, Focus};
use super::{budget, builtin, environment, generation, python, spans};
use crate::DataError;

/// How a template sees `content`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentForm {
    /// As parts where the template indexes `content` and never asks whether it is a string, else as text.
    #[default]
    Auto,
    /// A string.
    Text,
    /// A list of one part, `[{"type": "text", "text": …}]`, as templates of vision models want it.
    Parts,
}

/// What to do with a control token that stands in people's words (content, tool calls, tools, documents).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlTokens {
    /// Keep the text and mark it as literal: the tokenizer reads it as plain characters.
    #[default]
    Escape,
    /// Let it act as a control token.
    Allow,
    /// Refuse the conversation.
    Error,
}

/// How to render. The default renders a finished conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RenderOptions {
    /// End with the header that opens the assistant's turn.
    pub add_generation_prompt: bool,
    /// Leave the last turn open: the text ends with its last word.
    pub continue_final_message: bool,
    /// How the template sees `content`.
    pub content: ContentForm,
    /// What to do with control tokens in people's words.
    pub control_tokens: ControlTokens,
    /// Documents for templates that ground answers, each with `title` and `text`.
    pub documents: Vec<serde_json::Value>,
    /// Further variables for the template: `enable_thinking`, `date_string`, ….
    pub kwargs: Map<String, serde_json::Value>,
    /// What `strftime_now` reads instead of the clock (UTC), such as `2026-11-22T10:00:00`.
    pub now: Option<String>,
}

/// A preference pair as three texts; `prompt` begins both others where the template is fit for preference training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedPair {
    /// The turns before the answer and the header that opens it.
    pub prompt: Rendered,
    /// Prompt and better answer.
    pub chosen: Rendered,
    /// Prompt and worse answer.
    pub rejected: Rendered,
}

/// A compiled chat template with the special tokens that it writes.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    special: SpecialTokens,
    environment: Environment<'static>,
    /// How the template marks what the assistant says.
    blocks: generation::Blocks,
    /// Finds control tokens in people's words; absent where there are none to find.
    control: Option<aho_corasick::AhoCorasick>,
}

/// The template whose generation blocks write marks, and the one whose blocks write none.
pub(super) const TRACKED: &str = "chat";
pub(super) const UNTRACKED: &str = "chat without marks";

/// Instructions that one rendering may take: thousands of turns, but not an endless loop.
const FUEL: u64 = 20_000_000;
/// Bytes of a template; the longest known has some forty thousand.
const MAX_TEMPLATE: usize = 1 << 18;
/// Each `elif` stands inside the one before it when it is compiled.
const MAX_ELIF: usize = 500;
/// Enough for the deepest template that the limits here and in `operators.rs` let through; the thread that asks may have
/// a small one.
const COMPILER_STACK: usize = 64 << 20;

impl ChatTemplate {
    /// Compiles a Hugging Face template.
    ///
    /// # Errors
    /// [`DataError::Template`] where it does not parse, or is too long or nested too deep.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self, DataError> {
        let (environment, blocks) = on_a_deep_stack(|| compile(source))?;
        let control: Vec<&String> = special.control.iter().filter(|token| !token.is_empty()).collect();
        let control = if control.is_empty() {
            None
        } else {
            let searcher = aho_corasick::AhoCorasick::builder()
                .match_kind(aho_corasick::MatchKind::LeftmostLongest)
                .build(control)
                .map_err(|e| DataError::Template(format!("control tokens: {e}")))?;
            Some(searcher)
        };
        Ok(ChatTemplate { source: source.to_owned(), special: special.clone(), environment, blocks, control })
    }

    /// A template that comes with Ferrotune, with its family's own special tokens; [`super::BUILTIN`] lists them.
    ///
    /// # Errors
    /// [`DataError::Template`] with the known names where there is none of that name.
    pub fn builtin(name: &str) -> Result<Self, DataError> {
        let known = builtin::find(name)?;
        ChatTemplate::new(known.source, &known.special_tokens())
    }

    /// The template as it was given, to be saved beside the model.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The special tokens it writes.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Whether the template itself marks what the assistant says.
    pub fn has_generation_blocks(&self) -> bool {
        self.blocks != generation::Blocks::None
    }

    /// Renders a conversation with its assistant spans.
    ///
    /// # Errors
    /// [`DataError::Template`] where the template raises, runs out of fuel, or gives no exact spans.
    pub fn render(&self, chat: &Conversation, options: &RenderOptions) -> Result<Rendered, DataError> {
        if options.continue_final_message {
            // The open turn is what is asked for, so it has no end-of-turn token: its span ends with the text.
            let cut = self.run(chat, options)?;
            let closed = RenderOptions { continue_final_message: false, ..options.clone() };
            let closed = self.render(chat, &closed)?;
            let assistant = closed.assistant().iter().filter(|span| span.start < cut.text.len());
            let assistant = assistant.map(|span| span.start..span.end.min(cut.text.len())).collect();
            return cut.into_rendered(assistant);
        }
        let whole = self.run(chat, options)?;
        let assistant = match self.blocks {
            generation::Blocks::None => spans::derive(self, chat, options, &whole)?,
            generation::Blocks::Plain => whole.generated.clone(),
            generation::Blocks::Nested => {
                // A block inside a macro, filter or `set` passes through code that may look at its text, and with
                // it at our marks: the text must be the same without them.
                let unmarked = self.evaluate(&Context::of(self, chat, options).without_generation_marks())?;
                if unmarked.text != whole.text {
                    let reason = "its generation blocks lie inside an expression that changes what they say";
                    return Err(DataError::Template(reason.into()));
                }
                whole.generated.clone()
            }
        };
        whole.into_rendered(assistant)
    }

    /// Renders a prompt: the conversation and the header that opens the assistant's turn, no spans.
    ///
    /// # Errors
    /// [`DataError::Template`] where the template raises or runs out of fuel.
    pub fn render_prompt(&self, chat: &Conversation, options: &RenderOptions) -> Result<Rendered, DataError> {
        let options =
            RenderOptions { add_generation_prompt: !options.continue_final_message, ..options.clone() };
        self.render_text(chat, &options)
    }

    /// Renders as `options` say, without looking for spans.
    ///
    /// # Errors
    /// [`DataError::Template`] where the template raises or runs out of fuel.
    pub fn render_text(&self, chat: &Conversation, options: &RenderOptions) -> Result<Rendered, DataError> {
        self.run(chat, options)?.into_rendered(Vec::new())
    }

    /// Renders a preference pair: prompt, prompt + chosen, prompt + rejected. A list of tools under the pair's
    /// `tools` column is shown to the template.
    ///
    /// # Errors
    /// [`DataError::Template`] where the template raises, or where the prompt does not begin both texts: the model
    /// would be trained on a prompt that it never sees when it is asked.
    pub fn render_pair(
        &self,
        pair: &PreferencePair,
        options: &RenderOptions,
    ) -> Result<RenderedPair, DataError> {
        let tools = pair.meta.get("tools").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
        let with = |answer: &[Message]| Conversation {
            id: pair.id.clone(),
            messages: pair.prompt.iter().chain(answer).cloned().collect(),
            tools: tools.clone(),
            meta: Map::new(),
        };
        let prompt = self.render_prompt(&with(&[]), options)?;
        let finished = RenderOptions { add_generation_prompt: false, ..options.clone() };
        let chosen = self.render_text(&with(&pair.chosen), &finished)?;
        let rejected = self.render_text(&with(&pair.rejected), &finished)?;
        for (name, text) in [("chosen", chosen.text()), ("rejected", rejected.text())] {
            if !text.starts_with(prompt.text()) {
                return Err(DataError::Template(format!(
                    "pair {}: the prompt is not how prompt + {name} begins, they part at {:?}; use a template whose \
                     earlier turns do not change when one is added (a training template), or set its kwargs \
                     (enable_thinking) to fit the answers",
                    pair.id,
                    tail_of_common_prefix(prompt.text(), text),
                )));
            }
        }
        Ok(RenderedPair { prompt, chosen, rejected })
    }

    /// One rendering with its marks taken out again, `continue_final_message` and literal spans settled.
    fn run(&self, chat: &Conversation, options: &RenderOptions) -> Result<Marked, DataError> {
        if options.continue_final_message {
            return self.run_to_be_continued(chat, options);
        }
        self.evaluate(&Context::of(self, chat, options))
    }

    /// Evaluates the template, takes the marks out, and checks that marks around literal control tokens did not
    /// change what the template wrote.
    fn evaluate(&self, context: &Context<'_>) -> Result<Marked, DataError> {
        let values = context.values()?;
        let marked = self.expand(context, values.variables)?;
        if values.has_literals {
            let context = context.clone().without_literal_marks();
            let plain = self.expand(&context, context.values()?.variables)?;
            if plain.text != marked.text {
                let reason = "the template takes apart a text that holds a control token, so it cannot be escaped; \
                              clean the text, or set control_tokens to \"allow\"";
                return Err(DataError::Template(reason.into()));
            }
        }
        Ok(marked)
    }

    fn expand(&self, context: &Context<'_>, variables: Value) -> Result<Marked, DataError> {
        let template = self.environment.get_template(context.template_name()).map_err(|e| broken(&e))?;
        budget::begin();
        let mut text = Bounded(Vec::new());
        template.render_captured_to(variables, &mut text).map_err(|e| broken(&e))?;
        let text = String::from_utf8(text.0).map_err(|e| DataError::Template(e.to_string()))?;
        marks::take_out(&text)
    }

    /// As transformers does: a tag after the last words, and the text ends where it stands.
    fn run_to_be_continued(&self, chat: &Conversation, options: &RenderOptions) -> Result<Marked, DataError> {
        let refuse = |reason: &str| Err(DataError::Template(format!("continue_final_message: {reason}")));
        if options.add_generation_prompt {
            return refuse("it cannot be had together with add_generation_prompt");
        }
        let Some(last) = chat.messages.last() else {
            return refuse("there is no message to continue");
        };
        let context = Context::of(self, chat, options).with_focus(Focus::End(chat.messages.len() - 1));
        let marked = self.evaluate(&context)?;
        let [.., end] = marked.focus[..] else {
            return refuse("the template does not show the end of the last message");
        };
        if !marked.text.contains(python::strip(&last.content)) {
            return refuse("the template changes the last message");
        }
        // The mark is followed by a space that is not the message's; where it is gone, the template trims.
        let kept = &marked.text[..end];
        let kept = if marked.text[end..].starts_with(' ') { kept } else { python::rstrip(kept) };
        let end = kept.len();
        Ok(marked.cut(end))
    }

    /// Renders `messages` alone, for the span search.
    pub(super) fn render_part(
        &self,
        chat: &Conversation,
        n_messages: usize,
        add_generation_prompt: bool,
        focus: Focus,
        options: &RenderOptions,
    ) -> Result<Marked, DataError> {
        let context = Context::of(self, chat, options)
            .with_messages(n_messages)
            .with_generation_prompt(add_generation_prompt)
            .with_focus(focus);
        self.evaluate(&context)
    }

    /// Whether `developer` must be shown as `system`.
    pub(super) fn shown_role(&self, role: Role) -> &'static str {
        if role == Role::Developer && !self.source.contains("developer") { "system" } else { role.as_str() }
    }

    pub(super) fn control(&self) -> Option<&aho_corasick::AhoCorasick> {
        self.control.as_ref()
    }
}

/// Checks and compiles a template.
fn compile(source: &str) -> Result<(Environment<'static>, generation::Blocks), DataError> {
    let too_long = |what: String| Err(DataError::Template(format!("the template has more than {what}")));
    if source.len() > MAX_TEMPLATE {
        return too_long(format!("{MAX_TEMPLATE} bytes"));
    }
    if source.matches("elif").count() > MAX_ELIF {
        return too_long(format!("{MAX_ELIF} elif"));
    }
    let (tracked, blocks) = generation::rewrite(source)?;
    let mut environment = environment::environment();
    environment.set_fuel(Some(FUEL));
    environment.add_template_owned(TRACKED, tracked).map_err(|e| broken(&e))?;
    if blocks == generation::Blocks::Nested {
        let untracked = generation::rewrite_untracked(source)?;
        environment.add_template_owned(UNTRACKED, untracked).map_err(|e| broken(&e))?;
    }
    Ok((environment, blocks))
}

fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> Result<T, DataError> + Send) -> Result<T, DataError> {
    let failed = |what: &str| DataError::Template(format!("the template cannot be compiled: {what}"));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(COMPILER_STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| failed(&e.to_string()))?;
        thread.join().unwrap_or_else(|_| Err(failed("the compiler failed")))
    })
}

/// The rendered text. What is written as it stands in the template is counted here; the rest was counted before.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > budget::BUDGET {
            return Err(std::io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn broken(error: &minijinja::Error) -> DataError {
    let line = error.line().map(|l| format!(" (line {l})")).unwrap_or_default();
    let detail = match error.kind() {
        // `Bounded` refuses, and nothing else can.
        minijinja::ErrorKind::WriteFailure => "the rendered text is too long".into(),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
    DataError::Template(format!("{detail}{line}"))
}

/// The last few characters that two texts share, for messages.
fn tail_of_common_prefix(a: &str, b: &str) -> String {
    let shared: Vec<char> = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x).collect();
    shared[shared.len().saturating_sub(24)..].iter().collect()
}
