//! `ferrotune embed`: what it writes, and what it must not write over.

use std::path::Path;

use ferrotune_model::Tensors as _;
use ferrotune_model::checkpoint::Safetensors;
use serde_json::json;

use super::{Files, fails, json_of};

/// A tiny encoder whose words are `w0` to `w42`, and rows of text for it.
fn encoder_and_rows(files: &Files) -> (String, String) {
    let encoder = files.encoder();
    (encoder, files.rows("rows.jsonl", ["w1 w2", "w3"].map(|text| json!({"text": text}))))
}

fn lengths(file: &str) -> Vec<f64> {
    let vectors = Safetensors::open(Path::new(file)).unwrap().read("embeddings").unwrap().unwrap();
    vectors.norm_scalaropt_dim(2, [1], false).try_into().unwrap()
}

#[test]
fn vectors_are_scaled_only_where_the_model_says_so() {
    let files = Files::new();
    let ((encoder, rows), out) = (encoder_and_rows(&files), files.path("vectors.safetensors"));
    json_of(&["embed", &encoder, &rows, "--out", &out]);
    assert!(lengths(&out).iter().all(|length| (length - 1.0).abs() > 0.1), "{:?}", lengths(&out));
    let modules = [("Transformer", ""), ("Pooling", "p"), ("Normalize", "n")]
        .map(|(class, path)| json!({"type": format!("sentence_transformers.models.{class}"), "path": path}));
    files.with("encoder/modules.json", json!(modules).to_string());
    std::fs::create_dir(files.path("encoder/p")).unwrap();
    files.with("encoder/p/config.json", json!({"pooling_mode_mean_tokens": true}).to_string());
    json_of(&["embed", &encoder, &rows, "--out", &out]);
    assert!(lengths(&out).iter().all(|length| (length - 1.0).abs() < 1e-5), "{:?}", lengths(&out));
}

#[test]
fn what_is_read_is_not_written_over() {
    let files = Files::new();
    let (encoder, rows) = encoder_and_rows(&files);
    let weights = files.path("encoder/model.safetensors");
    let before = [&rows, &weights].map(|file| std::fs::read(file).unwrap());
    let refuses = |out: &str, expect: &str| fails(&["embed", &encoder, &rows, "--out", out], 1, expect);
    refuses(&rows, "is the file that is read");
    refuses(&weights, "lies with the model that is read");
    refuses(&files.path("encoder/new.safetensors"), "lies with the model that is read");
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        let link = files.path("link");
        symlink(&rows, &link).unwrap();
        refuses(&link, "is the file that is read");
        // As in the hub's cache: the model's file is a link, and --out is what it points to.
        let blob = files.path("blob");
        std::fs::rename(&weights, &blob).unwrap();
        symlink(&blob, &weights).unwrap();
        refuses(&blob, "lies with the model that is read");
        // Any other link is written through.
        std::fs::remove_file(&link).unwrap();
        symlink("target", &link).unwrap();
        json_of(&["embed", &encoder, &rows, "--out", &link]);
        assert!(Path::new(&link).is_symlink() && Path::new(&files.path("target")).is_file());
    }
    assert!(before == [&rows, &weights].map(|file| std::fs::read(file).unwrap()));
}
