use tch::Tensor;

use super::element::{Element, Rows, elements, exp};
use super::parallel::{parallel, rows_worth};
use super::{by_kind, for_each_width};

/// silu(gate) · up of (T, 2·I), the gate first → (T, I).
pub(crate) fn silu_forward(gate_up: &Tensor) -> Tensor {
    let (t, width) = gate_up.size2().unwrap_or((0, 0));
    let act = Tensor::empty([t, width / 2], (gate_up.kind(), gate_up.device()));
    by_kind!(gate_up.kind(), forward(gate_up, &act));
    act
}

/// Turns `gate_up` (T, 2·I) into its gradient, given the gradient `g` (T, I) of [`silu_forward`]'s result.
pub(crate) fn silu_backward(gate_up: &Tensor, g: &Tensor) {
    by_kind!(gate_up.kind(), backward(gate_up, g));
}

fn forward<E: Element>(gate_up: &Tensor, act: &Tensor) {
    let inner = act.size()[1] as usize;
    let (gate_up, act) = (elements::<E>(gate_up), Rows::<E>::of(act, inner));
    parallel(act.len(), rows_worth(2 * inner), |rows| {
        for i in rows {
            let (gate, up) = gate_up[2 * i * inner..2 * (i + 1) * inner].split_at(inner);
            // SAFETY: each row belongs to one thread.
            forward_row::<E>(gate, up, unsafe { act.row(i) });
        }
    });
}

fn backward<E: Element>(gate_up: &Tensor, g: &Tensor) {
    let inner = g.size()[1] as usize;
    let (gate_up, g) = (Rows::<E>::of(gate_up, 2 * inner), elements::<E>(g));
    parallel(gate_up.len(), rows_worth(2 * inner), |rows| {
        for i in rows {
            // SAFETY: each row belongs to one thread.
            let (gate, up) = unsafe { gate_up.row(i) }.split_at_mut(inner);
            backward_row::<E>(gate, up, &g[i * inner..(i + 1) * inner]);
        }
    });
}

for_each_width! {
    fn forward_row<E: Element>(gate: &[E], up: &[E], act: &mut [E]) {
        for ((act, gate), up) in act.iter_mut().zip(gate).zip(up) {
            let gate = gate.get();
            *act = E::put(gate / (1.0 + exp(-gate)) * up.get());
        }
    }
}

for_each_width! {
    /// d silu(x) / dx = σ(x) · (1 + x · (1 − σ(x))).
    fn backward_row<E: Element>(gate: &mut [E], up: &mut [E], g: &[E]) {
        for ((gate, up), g) in gate.iter_mut().zip(up).zip(g) {
            let (x, y, g) = (gate.get(), up.get(), g.get());
            let sigmoid = 1.0 / (1.0 + exp(-x));
            let silu = x * sigmoid;
            *up = E::put(g * silu);
            *gate = E::put(g * y * (sigmoid * (1.0 + x * (1.0 - sigmoid))));
        }
    }
}
