//! Chat templates: a conversation becomes the exact text that the model reads, with the spans it may learn to say.
//!
//! [`ChatTemplate`] runs Hugging Face Jinja templates, byte for byte as transformers does, inside minijinja: no file,
//! network or attribute access. `docs/tokenizer.md` lists the few things of Jinja2 that are not there. One template
//! renders for training, evaluation and serving, so what a model is trained on is what it is later asked.
//!
//! **Templates are not trusted.** A template that is too long or nested too deep is an error before it is compiled. One
//! rendering may take 20 million instructions, make 512 MiB of strings and lists in all and none of more than 16 MiB,
//! and nest values 200 deep. One instruction may take up to some 500 MiB beside that, where it cuts a string of 16 MiB
//! into characters. Time is bounded by the instructions only, and comparing two values is one of them.
//!
//! [`ChatTemplate::render`] also gives the assistant spans. A template that marks them with
//! `{% generation %}…{% endgeneration %}` is believed. For any other template they are derived from what it renders
//! (`spans.rs`) and verified: the header that opens the turn outside, the words and the end-of-turn token inside.
//! Where no exact span can be had, that is an error, never a guess. As TRL's training templates do, a line break that
//! the template writes after the end-of-turn token belongs to the span.
//!
//! **Control tokens in people's words.** A user may type `<|im_end|>`. By default ([`ControlTokens::Escape`]) the text
//! stays as typed, and [`ferrotune_types::Rendered::literal`] tells the tokenizer to read those bytes as plain characters.
//!
//! ```
//! use ferrotune_data::chat::{ChatTemplate, RenderOptions};
//! use ferrotune_types::{Conversation, Message, Role};
//!
//! let chat = Conversation {
//!     id: "1".into(),
//!     messages: vec![Message::new(Role::User, "Hi"), Message::new(Role::Assistant, "Hello!")],
//!     tools: vec![],
//!     meta: Default::default(),
//! };
//! let rendered = ChatTemplate::builtin("chatml")?.render(&chat, &RenderOptions::default())?;
//! assert_eq!(rendered.text(), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n");
//! assert_eq!(&rendered.text()[rendered.assistant()[0].clone()], "Hello!<|im_end|>\n");
//! # Ok::<(), ferrotune_data::DataError>(())
//! ```

mod template;

mod budget;
mod builtin;
mod environment;
mod filters;
mod generation;
mod json;
mod marks;
mod operators;
mod python;
mod spans;
mod value;

pub use builtin::BUILTIN;
pub use template::{ChatTemplate, ContentForm, ControlTokens, RenderOptions, RenderedPair};
