//! Element-wise functions without branches, so that loops over them become vectors.

use crate::Activation;
use crate::kernels::{exp, for_each_width};

for_each_width! {
    /// `gate[i] = act(gate[i]) · up[i]`, or `act(gate[i])` alone.
    pub(super) fn activate(activation: Activation, gate: &mut [f32], up: Option<&[f32]>) {
        match activation {
            Activation::Silu => gate.iter_mut().for_each(|x| *x /= 1.0 + exp(-*x)),
            Activation::Relu => gate.iter_mut().for_each(|x| *x = x.max(0.0)),
            Activation::GeluTanh => gate.iter_mut().for_each(|x| {
                let inner = 0.797_884_6 * (*x + 0.044_715 * *x * *x * *x);
                *x *= 0.5 * (1.0 + tanh(inner));
            }),
            Activation::Gelu => gate.iter_mut().for_each(|x| *x *= 0.5 * (1.0 + erf(*x * 0.707_106_77))),
        }
        if let Some(up) = up {
            gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
        }
    }
}

for_each_width! {
    pub(super) fn softmax(x: &mut [f32]) {
        let greatest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for x in x.iter_mut() {
            *x = exp(*x - greatest);
        }
        for x in x.iter() {
            sum += x;
        }
        for x in x.iter_mut() {
            *x /= sum;
        }
    }
}

for_each_width! {
    /// cap · tanh(x / cap).
    pub(super) fn softcap(x: &mut [f32], cap: f32) {
        for x in x.iter_mut() {
            *x = tanh(*x / cap) * cap;
        }
    }
}

#[inline]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// To 1.5e-7 (Abramowitz and Stegun 7.1.26).
#[inline]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let poly =
        ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_8) * t - 0.284_496_72) * t + 0.254_829_6) * t;
    let y = 1.0 - poly * exp(-a * a);
    if x < 0.0 { -y } else { y }
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;

    fn check(got: &[f32], expect: Tensor, tolerance: f32, what: &str) {
        let expect = Vec::<f32>::try_from(expect).unwrap();
        for (i, (got, expect)) in got.iter().zip(&expect).enumerate() {
            let error = (got - expect).abs() / expect.abs().max(1.0);
            assert!(error < tolerance, "{what} at {i}: {got} is not {expect}");
        }
    }

    #[test]
    fn functions_are_libtorchs() {
        let x: Vec<f32> = (-4000..4000).map(|i| i as f32 / 100.0).collect();
        let t = Tensor::from_slice(&x);
        let each = |f: fn(f32) -> f32| x.iter().copied().map(f).collect::<Vec<_>>();
        check(&each(exp), t.exp(), 3e-7, "exp");
        check(&each(tanh), t.tanh(), 1e-6, "tanh");
        check(&each(erf), t.erf(), 1e-6, "erf");
        for activation in [Activation::Silu, Activation::Relu, Activation::Gelu, Activation::GeluTanh] {
            let mut got = x.clone();
            activate(activation, &mut got, Some(&x));
            check(&got, activation.forward(&t) * &t, 5e-6, &format!("{activation:?}"));
        }
        let mut got = x.clone();
        softmax(&mut got);
        check(&got, t.softmax(-1, tch::Kind::Float), 1e-6, "softmax");
        let mut got = x.clone();
        softcap(&mut got, 30.0);
        check(&got, (&t / 30.0).tanh() * 30.0, 5e-6, "softcap");
    }
}
