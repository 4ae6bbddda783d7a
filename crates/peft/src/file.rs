use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ferrotune_model::Decoder;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tch::{Kind, Tensor};

use crate::PeftError;
use crate::adapter::{Adapter, PREFIX, new_layers, targets};
use crate::config::{Init, LoraConfig, Pattern};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// How strictly [`load`] looks at an adapter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Name or path of the model it is put on. Where the adapter names one too, their last parts must agree.
    pub base_model: Option<String>,
    /// Load it whatever base it names.
    pub any_base: bool,
    /// Load it even if all its updates are zero.
    pub allow_no_effect: bool,
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` into `folder` (made where absent), as PEFT
/// reads them. Each file is written beside its name, flushed and renamed: a reader never sees half of one, and
/// a full disk leaves the old one.
///
/// A PiSSA or OLoRA adapter is saved as plain LoRA of twice the rank, [A; A₀] and [B, −B₀], which fits the
/// unchanged base (PEFT's `path_initial_model_for_weight_conversion`).
///
/// # Errors
/// [`PeftError::Io`].
pub fn save(adapter: &Adapter, folder: &Path) -> Result<(), PeftError> {
    let io = |op, path: &Path| {
        let path = path.to_owned();
        move |source| PeftError::Io { op, path, source }
    };
    fs::create_dir_all(folder).map_err(io("create", folder))?;
    let (config, tensors) = as_saved(adapter);
    let buffers: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(key, tensor)| {
            let (dtype, bytes) = to_bytes(tensor)?;
            Ok((key.clone(), dtype, tensor.size().iter().map(|&n| n as usize).collect(), bytes))
        })
        .collect::<Result<_, PeftError>>()?;
    let weights_path = folder.join(WEIGHTS_FILE);
    let broken = |e: safetensors::SafeTensorError| PeftError::Format {
        path: weights_path.clone(),
        reason: e.to_string(),
    };
    let views: Vec<(&str, TensorView<'_>)> = buffers
        .iter()
        .map(|(key, dtype, shape, bytes)| Ok((key.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<_, _>>()
        .map_err(broken)?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(broken)?;
    replace(&weights_path, &bytes)?;
    let config_path = folder.join(CONFIG_FILE);
    let json = serde_json::to_string_pretty(&config)
        .map_err(|e| PeftError::Format { path: config_path.clone(), reason: e.to_string() })?;
    replace(&config_path, json.as_bytes())
}

/// Reads an adapter's config alone.
///
/// # Errors
/// [`PeftError::Io`], [`PeftError::Format`].
pub fn read_config(folder: &Path) -> Result<LoraConfig, PeftError> {
    let path = folder.join(CONFIG_FILE);
    let text = fs::read_to_string(&path).map_err(|source| PeftError::Io {
        op: "read",
        path: path.clone(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|e| PeftError::Format { path, reason: e.to_string() })
}

/// Reads an adapter that PEFT or [`save`] wrote, and hangs it on `decoder`, ready for inference
/// ([`Adapter::set_training`] turns dropout on to train it further).
///
/// # Errors
/// [`PeftError::Io`], [`PeftError::Format`] (a broken file, a value that is not a number); [`PeftError::Keys`]
/// unless every tensor has its layer and every layer its tensors; [`PeftError::Shape`], [`PeftError::Base`];
/// [`PeftError::NoEffect`]; and what [`crate::inject`] reports. The model is untouched by an error.
pub fn load(decoder: &mut Decoder, folder: &Path, options: &LoadOptions) -> Result<Adapter, PeftError> {
    let mut config = read_config(folder)?;
    check_base(&config, options)?;
    config.init_lora_weights = loaded_init(&config.init_lora_weights)?;
    config.check()?;
    let path = folder.join(WEIGHTS_FILE);
    let mut stored = read_tensors(&path)?;
    let targets = targets(decoder, &config)?;
    let layers = new_layers(decoder, &config, &targets, 0)?; // its numbers are overwritten below
    config.inference_mode = true;
    let mut adapter = Adapter::from_parts(decoder, config, layers, &targets)?;
    drop_tied_copy(decoder, &adapter.config, &mut stored, &path)?;
    fill(&mut adapter, &mut stored, &path)?;
    if !options.allow_no_effect && !adapter.has_effect(decoder) {
        return Err(PeftError::NoEffect { layers: adapter.layers.len() });
    }
    adapter.attach(decoder)?;
    adapter.config.inference_mode = false;
    Ok(adapter)
}

/// What an adapter of this file begins as, before its own numbers are put in: whatever leaves the base as it is, is
/// plain LoRA by then. What PEFT does to the base on loading (peft 0.21, `lora/layer.py`) must be done here too.
fn loaded_init(saved: &Init) -> Result<Init, PeftError> {
    let Init::Other(name) = saved else {
        return Ok(match saved {
            Init::Pissa | Init::Olora => saved.clone(),
            _ => Init::Default,
        });
    };
    let lower = name.to_lowercase();
    let reason = match lower.as_str() {
        "eva" | "orthogonal" | "mica" => return Ok(Init::Default),
        "loftq" => "PEFT puts a rounded weight in the base's place: merge the adapter in PEFT",
        // Their beginnings came from data or chance, so that they cannot be subtracted here.
        "lora_ga" => UNCONVERTED,
        _ if lower.starts_with("corda") || lower.starts_with("pissa_niter") => UNCONVERTED,
        _ => {
            "known are true, false, gaussian, eva, orthogonal, mica, pissa and olora; where training began with the \
             base as it is, write true into adapter_config.json"
        }
    };
    Err(PeftError::Unsupported(format!("an adapter with init_lora_weights {name:?} ({reason})")))
}

const UNCONVERTED: &str =
    "it was saved without conversion: save it in PEFT with path_initial_model_for_weight_conversion";

/// Under `ensure_weight_tying` PEFT writes the one tensor of embedding and tied head under both names.
fn drop_tied_copy(
    decoder: &Decoder,
    config: &LoraConfig,
    stored: &mut BTreeMap<String, Tensor>,
    path: &Path,
) -> Result<(), PeftError> {
    let embedding = format!("{PREFIX}{}.weight", decoder.config.names.embedding);
    let head = format!("{PREFIX}lm_head.weight");
    let tied = config.ensure_weight_tying && decoder.lm_head.is_none();
    let (true, Some(first), Some(second)) = (tied, stored.get(&embedding), stored.get(&head)) else {
        return Ok(());
    };
    if first.size() != second.size() || first.kind() != second.kind() || !first.equal(second) {
        let reason =
            format!("{head} differs from {embedding}, but ensure_weight_tying says that they are one");
        return Err(PeftError::Format { path: path.to_owned(), reason });
    }
    stored.remove(&head);
    Ok(())
}

/// Copies the file's tensors into the adapter's; none may be left over on either side.
fn fill(adapter: &mut Adapter, stored: &mut BTreeMap<String, Tensor>, path: &Path) -> Result<(), PeftError> {
    // Older PEFT versions wrote `lora_magnitude_vector.weight`.
    let old: Vec<String> =
        stored.keys().filter(|k| k.ends_with(".lora_magnitude_vector.weight")).cloned().collect();
    for key in old {
        if let Some(tensor) = stored.remove(&key) {
            stored.insert(key.trim_end_matches(".weight").to_owned(), tensor);
        }
    }
    let places = adapter.parameters();
    let missing: Vec<&str> =
        places.iter().map(|(k, _)| k.as_str()).filter(|k| !stored.contains_key(*k)).collect();
    let known: BTreeSet<&str> = places.iter().map(|(k, _)| k.as_str()).collect();
    let unmatched: Vec<&str> = stored.keys().map(String::as_str).filter(|k| !known.contains(k)).collect();
    if !missing.is_empty() || !unmatched.is_empty() {
        let first = |keys: &[&str]| keys.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        return Err(PeftError::Keys {
            n_unmatched: unmatched.len(),
            unmatched: first(&unmatched),
            n_missing: missing.len(),
            missing: first(&missing),
        });
    }
    for (key, mut place) in places {
        let Some(tensor) = stored.remove(&key) else { continue };
        if tensor.size() != place.size() {
            return Err(PeftError::Shape { key, found: tensor.size(), expected: place.size() });
        }
        if tensor.isfinite().all().int64_value(&[]) == 0 {
            let reason = format!("{key} holds values that are not numbers");
            return Err(PeftError::Format { path: path.to_owned(), reason });
        }
        tch::no_grad(|| place.f_copy_(&tensor))?;
    }
    Ok(())
}

fn check_base(config: &LoraConfig, options: &LoadOptions) -> Result<(), PeftError> {
    let last = |name: &str| name.trim_end_matches('/').rsplit('/').next().unwrap_or(name).to_lowercase();
    match (&config.base_model_name_or_path, &options.base_model) {
        (Some(trained_on), Some(given))
            if !options.any_base && !trained_on.is_empty() && last(trained_on) != last(given) =>
        {
            Err(PeftError::Base { trained_on: trained_on.clone(), given: given.clone() })
        }
        _ => Ok(()),
    }
}

/// The config and tensors as they go to disk: PiSSA and OLoRA as plain LoRA of twice the rank and scale.
fn as_saved(adapter: &Adapter) -> (LoraConfig, Vec<(String, Tensor)>) {
    let mut config = adapter.config.clone();
    config.inference_mode = true; // as PEFT writes it
    if !adapter.layers.iter().any(|l| l.origin.is_some()) {
        return (config, adapter.parameters());
    }
    // s stays α / r: twice α for twice r; under rsLoRA s is α / √r, so √2 times α.
    let factor = if config.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 };
    let times =
        |pattern: &Pattern<f64>| Pattern(pattern.0.iter().map(|(k, v)| (k.clone(), v * factor)).collect());
    config.r *= 2;
    config.lora_alpha *= factor;
    config.alpha_pattern = times(&config.alpha_pattern);
    config.rank_pattern = Pattern(config.rank_pattern.0.iter().map(|(k, v)| (k.clone(), v * 2)).collect());
    config.init_lora_weights = Init::Default;
    let mut tensors = adapter.parameters();
    for layer in &adapter.layers {
        let (a, b) = layer.factors(Kind::Float);
        for (suffix, factor) in [("lora_A.weight", a), ("lora_B.weight", b)] {
            let key = format!("{PREFIX}{}.{suffix}", layer.path);
            if let Some(slot) = tensors.iter_mut().find(|(k, _)| *k == key) {
                slot.1 = factor;
            }
        }
    }
    (config, tensors)
}

/// Writes beside `path`, flushes, renames.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), PeftError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&part); // the error that stopped us matters more
        PeftError::Io { op: "write", path: path.to_owned(), source }
    })
}

/// Every tensor of a safetensors file, on the CPU.
pub(crate) fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>, PeftError> {
    let path_buf: PathBuf = path.to_owned();
    let bytes =
        fs::read(path).map_err(|source| PeftError::Io { op: "read", path: path_buf.clone(), source })?;
    let broken = |reason: String| PeftError::Format { path: path_buf.clone(), reason };
    let file = SafeTensors::deserialize(&bytes).map_err(|e| broken(e.to_string()))?;
    let mut out = BTreeMap::new();
    for (name, view) in file.tensors() {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F64 => Kind::Double,
            Dtype::U8 => Kind::Uint8,
            other => return Err(broken(format!("{name} has dtype {other:?}"))),
        };
        let size: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        out.insert(name, Tensor::f_from_data_size(view.data(), &size, kind)?);
    }
    Ok(out)
}

/// A tensor's dtype and its bytes, row after row.
pub(crate) fn to_bytes(tensor: &Tensor) -> Result<(Dtype, Vec<u8>), PeftError> {
    let dtype = match tensor.kind() {
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Uint8 => Dtype::U8,
        _ => Dtype::F32,
    };
    let kind = if dtype == Dtype::F32 { Kind::Float } else { tensor.kind() };
    let flat = tensor.detach().to_device(tch::Device::Cpu).to_kind(kind).contiguous().view([-1]);
    let n = flat.numel();
    let mut bytes = vec![0u8; n * kind.elt_size_in_bytes()];
    flat.f_copy_data_u8(&mut bytes, n)?;
    Ok((dtype, bytes))
}
