use std::fmt;
use std::sync::Arc;

use ferrotune_types::{Conversation, Message, Role};
use minijinja::value::{Enumerator, Object, ObjectExt, ObjectRepr};
use minijinja::{Error, ErrorKind, State, Value};
use serde_json::Value as Json;

use super::marks::{self, FOCUS, LITERAL};
use super::python;
use super::template::{ChatTemplate, ContentForm, ControlTokens, RenderOptions, TRACKED, UNTRACKED};
use crate::DataError;

/// Which message's words are marked, so that they can be found in the rendered text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Focus {
    /// No message's.
    Nowhere,
    /// A mark before and one after the words of this message; see [`core`].
    Words(usize),
    /// The same for every turn of the assistant that has words.
    AllWords,
    /// A mark and a space at the end of this message.
    End(usize),
}

/// The variables that a template is rendered with, before they are made.
#[derive(Debug, Clone)]
pub(super) struct Context<'a> {
    template: &'a ChatTemplate,
    chat: &'a Conversation,
    options: &'a RenderOptions,
    messages: &'a [Message],
    add_generation_prompt: bool,
    focus: Focus,
    generation_marks: bool,
    literal_marks: bool,
}

pub(super) struct Values {
    pub(super) variables: Value,
    /// Whether a control token was found in people's words and marked.
    pub(super) has_literals: bool,
}

impl<'a> Context<'a> {
    pub(super) fn of(template: &'a ChatTemplate, chat: &'a Conversation, options: &'a RenderOptions) -> Self {
        Context {
            template,
            chat,
            options,
            messages: &chat.messages,
            add_generation_prompt: options.add_generation_prompt,
            focus: Focus::Nowhere,
            generation_marks: true,
            literal_marks: true,
        }
    }

    pub(super) fn with_messages(mut self, n: usize) -> Self {
        self.messages = &self.chat.messages[..n];
        self
    }

    pub(super) fn with_generation_prompt(mut self, yes: bool) -> Self {
        self.add_generation_prompt = yes;
        self
    }

    pub(super) fn with_focus(mut self, focus: Focus) -> Self {
        self.focus = focus;
        self
    }

    pub(super) fn without_generation_marks(mut self) -> Self {
        self.generation_marks = false;
        self
    }

    pub(super) fn without_literal_marks(mut self) -> Self {
        self.literal_marks = false;
        self
    }

    pub(super) fn template_name(&self) -> &'static str {
        if self.generation_marks { TRACKED } else { UNTRACKED }
    }

    /// The variables, as transformers passes them.
    pub(super) fn values(&self) -> Result<Values, DataError> {
        let mut maker = Maker {
            template: self.template,
            control: self.options.control_tokens,
            literal_marks: self.literal_marks,
            has_literals: false,
        };
        let messages = self
            .messages
            .iter()
            .enumerate()
            .map(|(i, message)| self.message(&mut maker, i, message))
            .collect::<Result<Vec<_>, _>>()?;
        let mut variables: Vec<(Arc<str>, Value)> = Vec::with_capacity(12);
        let special = self.template.special();
        let names = ["bos_token", "eos_token", "unk_token", "pad_token"];
        for (name, token) in names.into_iter().zip([&special.bos, &special.eos, &special.unk, &special.pad]) {
            if let Some(token) = token {
                variables.push((name.into(), Value::from(token.as_str())));
            }
        }
        let list = |maker: &mut Maker<'_>, items: &[Json]| {
            if items.is_empty() {
                return Ok(Value::from(()));
            }
            let items = items.iter().map(|item| maker.json(item)).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, DataError>(Value::from_object(List(items)))
        };
        variables.push(("tools".into(), list(&mut maker, &self.chat.tools)?));
        variables.push(("documents".into(), list(&mut maker, &self.options.documents)?));
        variables.push(("messages".into(), Value::from_object(List(messages))));
        variables.push(("add_generation_prompt".into(), Value::from(self.add_generation_prompt)));
        for (name, value) in &self.options.kwargs {
            // Settings are the caller's own words, not a row's.
            let value = Maker { control: ControlTokens::Allow, ..maker }.json(value)?;
            variables.retain(|(known, _)| **known != **name);
            variables.push((name.as_str().into(), value));
        }
        if let Some(now) = &self.options.now {
            variables.push((super::environment::NOW.into(), Value::from(now.as_str())));
        }
        Ok(Values { variables: Value::from_object(Dict(variables)), has_literals: maker.has_literals })
    }

    fn message(&self, maker: &mut Maker<'_>, index: usize, message: &Message) -> Result<Value, DataError> {
        let locate = |e: DataError| match e {
            DataError::Template(reason) => DataError::Template(format!("message {index}: {reason}")),
            other => other,
        };
        let mut pairs: Vec<(Arc<str>, Value)> = Vec::with_capacity(3 + message.extra.len());
        // As transformers: a message's reasoning goes under the name that templates read, whatever it came as.
        let reasoning = ["reasoning_content", "thinking", "reasoning"]
            .iter()
            .find_map(|name| message.extra.get(*name).filter(|value| !value.is_null()));
        if let Some(reasoning) = reasoning
            && !message.extra.contains_key("thinking")
        {
            pairs.push(("thinking".into(), maker.json(reasoning).map_err(locate)?));
        }
        pairs.push(("role".into(), Value::from(self.template.shown_role(message.role))));
        pairs.push(("content".into(), self.content(maker, index, message).map_err(locate)?));
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| maker.json(call)).collect::<Result<Vec<_>, _>>();
            pairs.push(("tool_calls".into(), Value::from_object(List(calls.map_err(locate)?))));
        }
        for (name, value) in &message.extra {
            if name != "reasoning_content" {
                pairs.push((name.as_str().into(), maker.json(value).map_err(locate)?));
            }
        }
        if let Some(reasoning) = reasoning {
            pairs.push(("reasoning_content".into(), maker.json(reasoning).map_err(locate)?));
        }
        Ok(Value::from_object(Dict(pairs)))
    }

    fn content(&self, maker: &mut Maker<'_>, index: usize, message: &Message) -> Result<Value, DataError> {
        let source = self.template.source();
        if message.content.is_empty() && !message.tool_calls.is_empty() && tells_null_content(source) {
            return Ok(Value::from(()));
        }
        let is_focus = match self.focus {
            Focus::Words(at) => at == index,
            Focus::AllWords => message.role == Role::Assistant && !core(&message.content).is_empty(),
            Focus::Nowhere | Focus::End(_) => false,
        };
        let text = match self.focus {
            _ if is_focus => {
                let core = core(&message.content);
                let mut text = maker.text(&message.content[..core.start])?.into_owned();
                text.push(FOCUS);
                text.push_str(&maker.text(&message.content[core.clone()])?);
                text.push(FOCUS);
                text.push_str(&maker.text(&message.content[core.end..])?);
                text.into()
            }
            Focus::End(at) if at == index => {
                let mut text = maker.text(&message.content)?.into_owned();
                text.push(FOCUS);
                text.push(' ');
                text.into()
            }
            _ => maker.text(&message.content)?,
        };
        let parts = match self.options.content {
            ContentForm::Text => false,
            ContentForm::Parts => true,
            ContentForm::Auto => wants_parts(source),
        };
        Ok(if parts {
            let part = Dict(vec![("type".into(), "text".into()), ("text".into(), Value::from(&*text))]);
            Value::from_object(List(vec![Value::from_object(part)]))
        } else {
            Value::from(&*text)
        })
    }
}

/// The part of a message's words that a template shows unchanged: without the space around it, and without the
/// reasoning that ends in `</think>`, which reasoning models' templates drop or move.
pub(super) fn core(content: &str) -> std::ops::Range<usize> {
    let after = content.rfind("</think>").map_or(0, |at| at + "</think>".len());
    let words = python::strip(&content[after..]);
    let start = words.as_ptr() as usize - content.as_ptr() as usize;
    start..start + words.len()
}

/// Whether the template tells a turn of tool calls only by its content being null (DeepSeek's do). A message's
/// content is a text here, so "no words" is shown to such a template as null, to all others as "".
fn tells_null_content(source: &str) -> bool {
    source.match_indices("content").any(|(at, word)| {
        let rest = &source[at + word.len()..];
        let rest = rest.strip_prefix(['\'', '"']).unwrap_or(rest);
        let rest = rest.strip_prefix(']').unwrap_or(rest);
        rest.starts_with(" is none") || rest.starts_with(" is not none")
    })
}

fn wants_parts(source: &str) -> bool {
    ["'content'][0]", "\"content\"][0]", ".content[0]"].iter().any(|form| source.contains(form))
        && !source.contains("is string")
        && !source.contains("is not string")
}

/// Refuses a text that could be taken for marks.
fn clean(text: &str) -> Result<&str, DataError> {
    if marks::has_mark(text) {
        let reason = "the text holds one of the Unicode noncharacters U+FDD0 to U+FDD4, which mark spans while \
                      rendering; remove it";
        return Err(DataError::Template(reason.into()));
    }
    Ok(text)
}

/// Makes minijinja values of JSON ones, marking control tokens in strings.
struct Maker<'a> {
    template: &'a ChatTemplate,
    control: ControlTokens,
    literal_marks: bool,
    has_literals: bool,
}

impl Maker<'_> {
    fn json(&mut self, json: &Json) -> Result<Value, DataError> {
        Ok(match json {
            Json::Null => Value::from(()),
            Json::Bool(b) => Value::from(*b),
            Json::Number(n) => {
                if let Some(n) = n.as_i64() {
                    Value::from(n)
                } else if let Some(n) = n.as_u64() {
                    Value::from(n)
                } else {
                    Value::from(n.as_f64().unwrap_or(f64::NAN))
                }
            }
            Json::String(text) => Value::from(&*self.text(text)?),
            Json::Array(items) => {
                let items = items.iter().map(|item| self.json(item)).collect::<Result<Vec<_>, _>>()?;
                Value::from_object(List(items))
            }
            Json::Object(map) => {
                let pairs = map
                    .iter()
                    .map(|(key, value)| Ok((Arc::from(clean(key)?), self.json(value)?)))
                    .collect::<Result<Vec<_>, DataError>>()?;
                Value::from_object(Dict(pairs))
            }
        })
    }

    fn text<'t>(&mut self, text: &'t str) -> Result<std::borrow::Cow<'t, str>, DataError> {
        clean(text)?;
        let control = match (self.control, self.template.control()) {
            (ControlTokens::Allow, _) | (_, None) => return Ok(text.into()),
            (_, Some(control)) => control,
        };
        let Some(first) = control.find(text) else { return Ok(text.into()) };
        if self.control == ControlTokens::Error {
            return Err(DataError::Template(format!(
                "the text holds the control token {:?}",
                &text[first.range()]
            )));
        }
        self.has_literals = true;
        if !self.literal_marks {
            return Ok(text.into());
        }
        let (mut out, mut at) = (String::with_capacity(text.len() + 16), 0);
        for found in control.find_iter(text) {
            out.push_str(&text[at..found.start()]);
            out.push(LITERAL[0]);
            out.push_str(&text[found.range()]);
            out.push(LITERAL[1]);
            at = found.end();
        }
        out.push_str(&text[at..]);
        Ok(out.into())
    }
}

/// A Python dict: keys in order, its methods before its keys, printed as Python prints it.
#[derive(Debug)]
pub(super) struct Dict(pub(super) Vec<(Arc<str>, Value)>);

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.0.iter().find(|(known, _)| **known == *key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|this| Box::new(this.0.iter().map(|(key, _)| Value::from(Arc::clone(key)))))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.len())
    }

    fn call_method(
        self: &Arc<Self>,
        state: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let this = Value::from_dyn_object(Arc::clone(self));
        match python::method(state, &this, method, args) {
            Err(e) if e.kind() == ErrorKind::UnknownMethod => match self.get_value_by_str(method) {
                Some(value) => value.call(state, args),
                None => Err(e),
            },
            result => result,
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&python::repr(&Value::from_dyn_object(Arc::clone(self))))
    }
}

/// A Python list, printed as Python prints it.
#[derive(Debug)]
pub(super) struct List(pub(super) Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&python::repr(&Value::from_dyn_object(Arc::clone(self))))
    }
}
