//! A safetensors file of any bytes, and an index of shards of the same bytes: opening it and reading all its tensors
//! give a value or an error.
#![no_main]

use ferrotune_model::Tensors;
use ferrotune_model::checkpoint::Safetensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::with_suffix(".safetensors").expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("room for it");
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("model.safetensors.index.json"), bytes).expect("room for it");
    let _ = Safetensors::open(folder.path());
    let Ok(tensors) = Safetensors::open(file.path()) else { return };
    for name in tensors.names() {
        let _ = tensors.read(&name);
    }
});
