//! Rendered conversations to token ids with an exact loss mask; packing and batches.
//!
//! [`Tokenizer`] loads what people have: a model folder with `tokenizer.json`, or the metadata of a GGUF file. It gives
//! exactly the ids that transformers gives; byte-level BPE tokenizers (GPT-2, SmolLM2, Llama 3, Qwen) run on a path of
//! their own that is several times faster. [`Tokenizer::example`] makes a `Rendered` conversation an `Example`:
//!
//! * the text is tokenised whole, once, and the loss mask comes from where each token lies in it;
//! * a control token spelled in a person's own words (a literal range) is read as plain characters;
//! * BOS and EOS are checked in every example: never doubled, never missing;
//! * what is too long is dropped, cut or an error, as [`Limits`] say; every row that gives no example is a [`Skipped`]
//!   with its reason, and [`TokenizeReport`] counts them.
//!
//! [`pack`] fills packs as TRL does, and [`batches`] deals them into `Batch`es: plain vectors, no padding, the same for
//! the same seed.
//!
//! **Absent here:** tensors, padding, templates. A chat template is only carried along; `ferrotune-data` renders it.
//!
//! ```
//! use ferrotune_tokenizer::{Limits, Packing, Tokenizer, TrainConfig, batches, pack};
//! use ferrotune_types::Rendered;
//!
//! let texts = ["where is my order?", "it was shipped this morning"];
//! let tokenizer = Tokenizer::train(texts, &TrainConfig { vocab_size: 300, ..TrainConfig::default() })?;
//!
//! let text = "<|im_start|>user\nwhere?<|im_end|>\n<|im_start|>assistant\nshipped<|im_end|>\n";
//! let said = text.find("shipped").unwrap();
//! let chat = Rendered::new(text, vec![said..text.len()]).unwrap();
//! let made = tokenizer.example(&chat, "row-1", &Limits::default()).unwrap();
//!
//! let trained = made.item.ids().iter().zip(made.item.loss_mask()).filter(|(_, mask)| **mask).map(|(id, _)| *id);
//! assert_eq!(tokenizer.decode(&trained.collect::<Vec<_>>(), false)?, "shipped<|im_end|>\n");
//!
//! let (packs, report) = pack(vec![made.item], 1024, Packing::BestFit)?;
//! assert_eq!(report.packs, 1);
//! assert_eq!(batches(&packs, &Default::default())?.len(), 1);
//! # Ok::<(), ferrotune_tokenizer::TokenizerError>(())
//! ```

mod tokenizer;

mod config_tokens;
mod gguf;
mod gguf_words;
mod save;
mod train;
mod vocabulary;

mod encoded;
mod fast;
mod literal;
mod stream;

mod example;
mod pack;
mod pair;
mod report;

mod error;
mod explain;

pub use encoded::Encoded;
pub use error::TokenizerError;
pub use explain::{Budget, Explanation, Piece, compare};
pub use gguf::GgufTokenizer;
pub use pack::{BatchConfig, BatchSize, PackReport, Packing, batches, pack, pair_batches};
pub use report::{Counted, Limits, Made, Notes, SkipReason, Skipped, TokenizeReport, Tokenized, Truncation};
pub use stream::DecodeStream;
pub use tokenizer::{SpecialIds, Tokenizer};
pub use train::{ModelKind, TrainConfig};
pub use vocabulary::{NewToken, ResizePlan};
