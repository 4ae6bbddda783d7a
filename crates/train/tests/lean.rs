//! The passes written out by hand against autograd's: the same numbers and the same gradients.

mod tiny;

use ferrotune_model::{Decoder, Linear, LinearAdapter, Update};
use ferrotune_train::{Forward, HeadOptions, score};
use ferrotune_types::{Batch, Example, PairExample};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use crate::tiny::{VOCAB, tiny};

/// LoRA as the peft crate hangs it on a layer.
#[derive(Debug)]
struct Lora {
    a: Tensor,
    b: Tensor,
    scale: f64,
}

impl LinearAdapter for Lora {
    fn forward(&self, x: &Tensor, linear: &Linear) -> Tensor {
        let low = x.linear(&self.a.to_kind(x.kind()), None::<&Tensor>) * self.scale;
        linear.base(x) + low.matmul(&self.b.to_kind(x.kind()).tr())
    }

    fn update(&self) -> Update {
        Update::LowRank { a: self.a.shallow_clone(), b: self.b.shallow_clone(), scale: self.scale }
    }
}

fn random(rng: &mut ChaCha8Rng, rows: i64, columns: i64) -> Tensor {
    let values: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-0.3..0.3f32)).collect();
    Tensor::from_slice(&values).reshape([rows, columns]).set_requires_grad(true)
}

/// Hangs LoRA on the layers whose name holds one of `targets`; gives the trained tensors by name.
fn adapt(decoder: &mut Decoder, targets: &[&str]) -> Vec<(String, Tensor)> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut trained = Vec::new();
    for linear in decoder.linears_mut() {
        if !targets.iter().any(|t| linear.name.contains(t)) {
            continue;
        }
        let rank = if linear.name.contains("k_proj") { 3 } else { 2 };
        let a = random(&mut rng, rank, linear.in_features());
        let b = random(&mut rng, linear.out_features(), rank);
        trained.push((format!("{}.a", linear.name), a.shallow_clone()));
        trained.push((format!("{}.b", linear.name), b.shallow_clone()));
        linear.set_adapter(Some(Box::new(Lora { a, b, scale: 1.5 })));
    }
    trained
}

fn example(rng: &mut ChaCha8Rng, length: usize) -> Example {
    let ids = (0..length).map(|_| rng.random_range(0..VOCAB as u32)).collect();
    Example::new("e", ids, (0..length).map(|t| t > 0 && (t == 1 || t % 3 == 0)).collect()).unwrap()
}

/// Short, long (several blocks of queries) and very long (probabilities computed again) examples, and pairs.
fn batches() -> Vec<(&'static str, Batch)> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut of = |lengths: &[usize]| {
        let examples: Vec<Example> = lengths.iter().map(|&n| example(&mut rng, n)).collect();
        Batch::from_examples(&examples.iter().collect::<Vec<_>>()).unwrap()
    };
    let plain = [("short", of(&[5, 4, 2, 17])), ("long", of(&[9, 600])), ("very long", of(&[1100]))];
    let pair = |p: u32, c: u32, r: u32| {
        let ids = |n: u32, by: u32| (0..n).map(|i| (i * by + 7) % VOCAB as u32).collect::<Vec<_>>();
        PairExample::new("p", ids(p, 5), ids(c, 11), ids(r, 13)).unwrap()
    };
    let pairs = [("pairs", vec![pair(6, 4, 9), pair(1, 2, 1)]), ("long pairs", vec![pair(300, 100, 90)])];
    let pairs =
        pairs.map(|(name, pairs)| (name, Batch::from_pairs(&pairs.iter().collect::<Vec<_>>()).unwrap()));
    plain.into_iter().chain(pairs).collect()
}

/// Whether the loss weighs a segment's targets: all of them; none of an answer that only estimates something; one segment alone.
const WEIGHINGS: [fn(usize) -> bool; 3] = [|_| true, |segment| segment % 3 != 2, |segment| segment == 1];

/// ln p of the targets, and the gradients of an uneven weighing of them, nothing outside the segments that `is_weighed`.
fn run(
    decoder: &Decoder,
    forward: Forward<'_>,
    trained: &mut [(String, Tensor)],
    is_weighed: fn(usize) -> bool,
) -> (Tensor, Vec<Tensor>) {
    let (ids, weighed): (Vec<i64>, Vec<bool>) =
        forward.batch().targets().map(|(_, t, s)| (forward.batch().ids()[t], is_weighed(s))).unzip();
    let scored = score(decoder, forward.graded(), &Tensor::from_slice(&ids), HeadOptions::default());
    let weights =
        (Tensor::arange(ids.len() as i64, (Kind::Float, tch::Device::Cpu)).sin() + 0.5) / ids.len() as f64;
    let weights = weights * Tensor::from_slice(&weighed);
    forward.backward(&scored, &weights).unwrap();
    let gradients = trained.iter_mut().map(|(_, t)| {
        let gradient = t.grad().copy();
        t.zero_grad();
        gradient
    });
    (scored.logps.copy(), gradients.collect())
}

fn check(base: &[&str], targets: &[&str], kind: Kind, within: (f64, f64)) {
    let mut decoder = tiny(base, kind);
    let trained = adapt(&mut decoder, targets);
    check_decoder(&decoder, trained, base.is_empty(), within);
}

fn check_decoder(
    decoder: &Decoder,
    mut trained: Vec<(String, Tensor)>,
    longest_too: bool,
    (value, gradient): (f64, f64),
) {
    let kind = decoder.kind;
    trained.extend(decoder.named_tensors().into_iter().filter(|(_, t)| t.requires_grad()));
    for (name, batch) in batches() {
        // Once is enough for the longest.
        if name == "very long" && (kind != Kind::Float || !longest_too) {
            continue;
        }
        let weighings =
            WEIGHINGS.into_iter().filter(|is_weighed| batch.targets().any(|(.., s)| is_weighed(s)));
        for is_weighed in weighings {
            let recorded = Forward::recorded(decoder, &batch, false).unwrap();
            let (logps, expected) = run(decoder, recorded, &mut trained, is_weighed);
            for checkpointing in [false, true] {
                let lean = Forward::run_learning_from(decoder, &batch, checkpointing, &is_weighed).unwrap();
                assert!(
                    !lean.graded().requires_grad(),
                    "{name}: autograd recorded a pass that should be lean"
                );
                let (ours, found) = run(decoder, lean, &mut trained, is_weighed);
                let off = (&ours - &logps).abs().max().double_value(&[]);
                assert!(off < value, "{name}: ln p is off by {off:e}");
                for (((at, _), x), y) in trained.iter().zip(&expected).zip(&found) {
                    let off = (x - y).to_kind(Kind::Float).norm().double_value(&[]);
                    let size = x.to_kind(Kind::Float).norm().double_value(&[]);
                    assert!(size > 1e-7, "{name}: the gradient of {at} is zero");
                    assert!(
                        off < gradient * size,
                        "{name}: the gradient of {at} is off by {:e} of it",
                        off / size
                    );
                }
            }
        }
    }
}

#[test]
fn lora_on_every_layer() {
    check(&[], &["proj"], Kind::Float, (2e-5, 2e-5));
}

#[test]
fn lora_on_some_layers_of_the_upper_blocks() {
    check(&[], &["1.self_attn.k_proj", "1.mlp.up_proj", "2.self_attn.v_proj"], Kind::Float, (2e-5, 2e-5));
}

#[test]
fn base_weights_norms_and_embedding_trained() {
    check(&["proj", "norm", "embed"], &[], Kind::Float, (2e-5, 3e-5));
    check(&["layers.1.mlp", "2.input_layernorm"], &["q_proj", "down_proj"], Kind::Float, (2e-5, 2e-5));
}

/// Biases that an adapter puts in the place of the base's: the joined layers' own must not be used any more.
#[test]
fn biases_of_an_adapter() {
    let mut decoder = tiny(&[], Kind::Float);
    let trained = adapt(&mut decoder, &["q_proj", "up_proj"]);
    for linear in decoder.linears_mut() {
        linear.bias =
            linear.bias.as_ref().map(|bias| (bias.detach() * -1.5 + 0.1).detach().set_requires_grad(true));
    }
    check_decoder(&decoder, trained, false, (2e-5, 3e-5));
}

#[test]
fn bf16_within_its_rounding() {
    check(&[], &["proj"], Kind::BFloat16, (0.15, 0.1));
}

#[test]
fn nothing_is_kept_where_nothing_is_recorded() {
    let mut decoder = tiny(&[], Kind::Float);
    let mut trained = adapt(&mut decoder, &["proj"]);
    let (_, batch) = batches().remove(0);
    let forward = tch::no_grad(|| Forward::run(&decoder, &batch, false)).unwrap();
    let zeros = forward.graded().ones_like();
    forward.backward_from(&zeros).unwrap();
    assert!(trained.iter_mut().all(|(_, t)| !t.grad().defined()));
}
