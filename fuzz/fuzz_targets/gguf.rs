//! A GGUF file of any bytes: opening it, its config, its tokenizer and all its tensors give a value or an error.
#![no_main]

use ferrotune_model::Tensors;
use ferrotune_model::checkpoint::{Gguf, GgufTensors};
use ferrotune_model::families::decoder_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::with_suffix(".gguf").expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("room for it");
    let Ok(gguf) = Gguf::open(file.path()) else { return };
    for key in gguf.metadata().keys() {
        let _ = (gguf.strings(key), gguf.ints(key), gguf.floats(key));
    }
    let Ok(tensors) = GgufTensors::new(gguf) else { return };
    let _ = (tensors.tokenizer(), decoder_config(tensors.config()));
    for name in tensors.names() {
        let _ = tensors.read(&name);
    }
});
