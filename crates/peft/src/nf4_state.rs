use std::collections::BTreeMap;

use ferrotune_model::{Decoder, GateUp, Linear, Mlp, PackedWeight, Qkv, Weight};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::PeftError;
use crate::blocks::dynamic_map;
use crate::nf4::{BLOCK, NESTED_BLOCK, NF4, Nf4Weight, Scales};

/// Puts every linear layer of the blocks into 4 bits, layer after layer, so that the plain and the packed model
/// are never there at once. Embedding, head and norms stay as they are.
///
/// # Errors
/// [`PeftError::Occupied`] where a layer carries an adapter (quantise first, then adapt); [`PeftError::Torch`].
pub fn quantize_base(decoder: &mut Decoder, double_quant: bool) -> Result<(), PeftError> {
    if let Some(taken) = decoder.linears().into_iter().find(|l| l.has_adapter()) {
        return Err(PeftError::Occupied { path: taken.name.clone() });
    }
    for block in &mut decoder.blocks {
        let linears = block.attention.qkv.linears_mut().into_iter().chain([&mut block.attention.o_proj]);
        for linear in linears.chain(block.mlp.linears_mut()) {
            if let Weight::Dense(weight) = &linear.weight {
                linear.weight = Weight::Packed(Box::new(Nf4Weight::quantize(weight, double_quant)?));
            }
        }
        rejoin_qkv(&mut block.attention.qkv);
        rejoin_mlp(&mut block.mlp);
    }
    Ok(())
}

/// The joined projections keep the plain weights alive: made anew of packed ones, they hold nothing.
fn rejoin_qkv(qkv: &mut Qkv) {
    let placeholder = || Linear::new("", Tensor::zeros([0, 0], (Kind::Float, tch::Device::Cpu)), None);
    if let Qkv::Split { .. } = qkv
        && let Qkv::Split { q_proj, k_proj, v_proj, .. } = std::mem::replace(qkv, Qkv::Fused(placeholder()))
    {
        *qkv = Qkv::split(q_proj, k_proj, v_proj);
    }
}

fn rejoin_mlp(mlp: &mut Mlp) {
    let placeholder = || Linear::new("", Tensor::zeros([0, 0], (Kind::Float, tch::Device::Cpu)), None);
    match mlp {
        Mlp::Gated { gate_up, .. } => {
            if let GateUp::Split { .. } = gate_up
                && let GateUp::Split { gate_proj, up_proj, .. } =
                    std::mem::replace(gate_up, GateUp::Fused(placeholder()))
            {
                *gate_up = GateUp::split(gate_proj, up_proj);
            }
        }
        Mlp::Plain { .. } => {}
        Mlp::Moe { experts, .. } => experts.iter_mut().for_each(rejoin_mlp),
    }
}

/// What bitsandbytes keeps beside the tensors, as JSON in a tensor of bytes.
#[derive(Debug, Serialize, Deserialize)]
struct QuantState {
    quant_type: String,
    blocksize: i64,
    dtype: String,
    shape: (i64, i64),
    #[serde(skip_serializing_if = "Option::is_none")]
    nested_blocksize: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nested_dtype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nested_offset: Option<f64>,
}

const DTYPES: [(&str, Kind); 3] =
    [("float32", Kind::Float), ("bfloat16", Kind::BFloat16), ("float16", Kind::Half)];

impl Nf4Weight {
    /// The tensors that bitsandbytes saves for the weight `name` (`model.layers.0.mlp.up_proj.weight`): the packed
    /// bytes under that name and the state under `name.absmax`, `name.quant_map`, ….
    pub fn state(&self, name: &str) -> Vec<(String, Tensor)> {
        let dtype = DTYPES.iter().find(|(_, kind)| *kind == self.kind).map_or("float32", |(name, _)| name);
        let mut state = QuantState {
            quant_type: "nf4".to_owned(),
            blocksize: BLOCK,
            dtype: dtype.to_owned(),
            shape: self.size,
            nested_blocksize: None,
            nested_dtype: None,
            nested_offset: None,
        };
        let mut out = vec![(name.to_owned(), self.packed.shallow_clone())];
        let mut push = |suffix: &str, tensor| out.push((format!("{name}.{suffix}"), tensor));
        push("quant_map", Tensor::from_slice(&NF4));
        match &self.scales {
            Scales::Plain(absmax) => push("absmax", absmax.shallow_clone()),
            Scales::Nested { codes, absmax, offset } => {
                push("absmax", codes.shallow_clone());
                push("nested_absmax", absmax.shallow_clone());
                push("nested_quant_map", Tensor::from_slice(&dynamic_map()));
                state.nested_blocksize = Some(NESTED_BLOCK);
                state.nested_dtype = Some("float32".to_owned());
                state.nested_offset = Some(f64::from(*offset));
            }
        }
        let json = serde_json::to_string(&state).unwrap_or_default(); // plain strings and finite numbers
        push("quant_state.bitsandbytes__nf4", Tensor::from_slice(json.as_bytes()));
        out
    }

    /// Reads what bitsandbytes saved for the weight `name`.
    ///
    /// # Errors
    /// [`PeftError::Config`] where a tensor is missing, misshapen, or of a kind that is not read here (FP4,
    /// another block size).
    pub fn from_state(name: &str, tensors: &BTreeMap<String, Tensor>) -> Result<Self, PeftError> {
        let bad = |reason: String| PeftError::Config(format!("{name}: {reason}"));
        let get = |suffix: &str| {
            let key = format!("{name}{suffix}");
            tensors.get(&key).ok_or_else(|| PeftError::Config(format!("{key} is missing")))
        };
        let json = Vec::<u8>::try_from(
            get(".quant_state.bitsandbytes__nf4")?.to_device(tch::Device::Cpu).view([-1]),
        )?;
        let state: QuantState = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
        if state.quant_type != "nf4"
            || state.blocksize != BLOCK
            || state.nested_blocksize.unwrap_or(NESTED_BLOCK) != NESTED_BLOCK
        {
            return Err(bad(format!(
                "{} in blocks of {} is not read here",
                state.quant_type, state.blocksize
            )));
        }
        let kind =
            DTYPES.iter().find(|(name, _)| *name == state.dtype).map_or(Kind::Float, |(_, kind)| *kind);
        let n = state.shape.0.max(0) * state.shape.1.max(0);
        let blocks = (n + BLOCK - 1) / BLOCK;
        let sized = |what: &str, tensor: &Tensor, len: i64, kind: Kind| {
            if tensor.numel() as i64 == len && tensor.kind() == kind {
                Ok(tensor.contiguous())
            } else {
                Err(bad(format!(
                    "{what} is {:?} of {:?}, not {len} of {kind:?}",
                    tensor.size(),
                    tensor.kind()
                )))
            }
        };
        let packed = sized("the weight", get("")?, (n + 1) / 2, Kind::Uint8)?.view([-1, 1]);
        let scales = match state.nested_offset {
            None => Scales::Plain(sized("absmax", get(".absmax")?, blocks, Kind::Float)?),
            Some(offset) => Scales::Nested {
                codes: sized("absmax", get(".absmax")?, blocks, Kind::Uint8)?,
                absmax: sized(
                    "nested_absmax",
                    get(".nested_absmax")?,
                    (blocks + NESTED_BLOCK - 1) / NESTED_BLOCK,
                    Kind::Float,
                )?,
                offset: offset as f32,
            },
        };
        Ok(Nf4Weight::from_parts(packed, scales, state.shape, kind))
    }
}

/// A plain model's tensors with its blocks' linear weights in 4 bits, named as transformers and bitsandbytes
/// save them. The model is not changed.
///
/// # Errors
/// [`PeftError::Torch`].
pub fn nf4_tensors(decoder: &Decoder, double_quant: bool) -> Result<Vec<(String, Tensor)>, PeftError> {
    let packed: BTreeMap<String, &Linear> =
        decoder.linears().into_iter().map(|l| (format!("{}.weight", l.name), l)).collect();
    let mut out = Vec::new();
    for (name, tensor) in decoder.named_tensors() {
        match packed.get(&name) {
            Some(linear) => {
                let weight = linear.weight.dense(decoder.kind);
                out.extend(Nf4Weight::quantize(&weight, double_quant)?.state(&name));
            }
            None => out.push((name, tensor)),
        }
    }
    Ok(out)
}

/// Replaces the weights of `decoder` that `tensors` holds in 4 bits; gives how many. Load the rest of such a
/// checkpoint from [`plain_tensors`].
///
/// # Errors
/// [`PeftError::Config`], [`PeftError::Shape`] where a weight is another size than its layer.
pub fn restore_nf4(decoder: &mut Decoder, tensors: &BTreeMap<String, Tensor>) -> Result<usize, PeftError> {
    let device = decoder.device;
    let mut restored = 0;
    for block in &mut decoder.blocks {
        let linears = block.attention.qkv.linears_mut().into_iter().chain([&mut block.attention.o_proj]);
        for linear in linears.chain(block.mlp.linears_mut()) {
            let key = format!("{}.weight", linear.name);
            if !tensors.contains_key(&format!("{key}.quant_state.bitsandbytes__nf4")) {
                continue;
            }
            let weight = Nf4Weight::from_state(&key, tensors)?.to_device(device);
            let (found, expected) = (weight.size(), linear.weight.size());
            if found != expected {
                let (found, expected) = (vec![found.0, found.1], vec![expected.0, expected.1]);
                return Err(PeftError::Shape { key, found, expected });
            }
            linear.weight = Weight::Packed(Box::new(weight));
            restored += 1;
        }
        rejoin_qkv(&mut block.attention.qkv);
        rejoin_mlp(&mut block.mlp);
    }
    Ok(restored)
}

/// A 4-bit checkpoint as plain tensors, for [`Decoder::load`].
///
/// # Errors
/// [`PeftError::Config`].
pub fn plain_tensors(
    tensors: &BTreeMap<String, Tensor>,
    kind: Kind,
) -> Result<BTreeMap<String, Tensor>, PeftError> {
    let is_state = |name: &str| {
        let state = [
            ".absmax",
            ".quant_map",
            ".nested_absmax",
            ".nested_quant_map",
            ".quant_state.bitsandbytes__nf4",
        ];
        state.iter().any(|s| name.ends_with(s))
    };
    let mut out = BTreeMap::new();
    for (name, tensor) in tensors.iter().filter(|(name, _)| !is_state(name)) {
        let plain = if tensors.contains_key(&format!("{name}.quant_state.bitsandbytes__nf4")) {
            Nf4Weight::from_state(name, tensors)?.dequantize(kind)
        } else {
            tensor.shallow_clone()
        };
        out.insert(name.clone(), plain);
    }
    Ok(out)
}
