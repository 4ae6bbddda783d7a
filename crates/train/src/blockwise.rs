use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use crate::TrainError;

/// Values that share one scale.
pub(crate) const BLOCK: usize = 256;

/// A tensor in 8 bits: each block of 256 values is divided by its largest magnitude and every value replaced by the
/// nearest of a table of 256 (arXiv 2110.02861, as bitsandbytes does it).
#[derive(Debug)]
pub(crate) struct Blockwise {
    /// (n), u8: places in the table.
    pub(crate) codes: Tensor,
    /// (⌈n / 256⌉), fp32: each block's largest magnitude.
    pub(crate) absmax: Tensor,
    /// Which table.
    pub(crate) signed: bool,
}

impl Blockwise {
    /// `n` zeros.
    pub(crate) fn zeros(n: usize, signed: bool, device: Device) -> Self {
        let zero = i64::from(Table::of(signed).nearest(0.0));
        Blockwise {
            codes: Tensor::full([n as i64], zero, (Kind::Uint8, device)),
            absmax: Tensor::zeros([n.div_ceil(BLOCK) as i64], (Kind::Float, device)),
            signed,
        }
    }

    /// (n), fp32.
    pub(crate) fn dequantize(&self) -> Tensor {
        let n = self.codes.size()[0];
        let table = Tensor::from_slice(&Table::of(self.signed).values).to_device(self.codes.device());
        let scales = self.absmax.repeat_interleave_self_int(BLOCK as i64, 0, None).narrow(0, 0, n);
        table.index_select(0, &self.codes.to_kind(Kind::Int)) * scales
    }

    /// Takes the values of `t`, (n) in fp32. A value right between two of the table goes to the lower.
    pub(crate) fn quantize_from(&self, t: &Tensor) {
        let n = self.codes.size()[0];
        let padded = t.constant_pad_nd([0, (-n).rem_euclid(BLOCK as i64)]).view([-1, BLOCK as i64]);
        let absmax = padded.abs().amax([1i64].as_slice(), false);
        let middles = Tensor::from_slice(&Table::of(self.signed).middles).to_device(t.device());
        let scaled = padded * absmax.clamp_min(f64::from(f32::MIN_POSITIVE)).reciprocal().unsqueeze(1);
        let codes = scaled.bucketize(&middles, true, false).to_kind(Kind::Uint8).view([-1]);
        self.codes.shallow_clone().copy_(&codes.narrow(0, 0, n));
        self.absmax.shallow_clone().copy_(&absmax);
    }

    /// What a checkpoint keeps, under `part.codes.NAME` and `part.absmax.NAME`.
    pub(crate) fn state(&self, part: &str, name: &str) -> [(String, Tensor); 2] {
        [
            (format!("{part}.codes.{name}"), self.codes.shallow_clone()),
            (format!("{part}.absmax.{name}"), self.absmax.shallow_clone()),
        ]
    }

    /// The tensors that [`Self::state`] gave, checked.
    pub(crate) fn find(
        &self,
        part: &str,
        name: &str,
        find: &impl Fn(&str) -> Option<Tensor>,
    ) -> Result<[Tensor; 2], TrainError> {
        let get = |key: String, like: &Tensor| match find(&key) {
            Some(t) if t.size() == like.size() && t.kind() == like.kind() => Ok(t),
            Some(t) => Err(TrainError::Config(format!(
                "{key} is {:?} of {:?} in the checkpoint but {:?} of {:?} here",
                t.size(),
                t.kind(),
                like.size(),
                like.kind()
            ))),
            None => Err(TrainError::Config(format!("{key} is not in the checkpoint"))),
        };
        Ok([
            get(format!("{part}.codes.{name}"), &self.codes)?,
            get(format!("{part}.absmax.{name}"), &self.absmax)?,
        ])
    }
}

/// bitsandbytes' dynamic map, and what finds the nearest of its values quickly.
pub(crate) struct Table {
    pub(crate) values: [f32; 256],
    /// Halfway between neighbours.
    pub(crate) middles: [f32; 255],
    /// By a number's upper 16 bits: how many middles lie below every number that has them.
    start: Vec<u8>,
}

impl Table {
    /// For moments that may be negative, or for those that cannot.
    pub(crate) fn of(signed: bool) -> &'static Table {
        static TABLES: [OnceLock<Table>; 2] = [OnceLock::new(), OnceLock::new()];
        TABLES[usize::from(signed)].get_or_init(|| Table::new(signed))
    }

    /// `create_dynamic_map(signed, max_exponent_bits=7, total_bits=8)`: seven decades of magnitude, each with twice the
    /// steps of the one below, and 0 and 1; computed in fp32 in the same order, so that it is the same bit by bit.
    fn new(signed: bool) -> Self {
        let mut data = vec![0.0f32, 1.0];
        for decade in 0..7i32 {
            let items = (1i64 << (decade + i32::from(!signed))) + 1;
            let ends = Tensor::linspace(0.1, 1.0, items, (Kind::Float, Device::Cpu));
            let means = (ends.narrow(0, 0, items - 1) + ends.narrow(0, 1, items - 1)) / 2.0;
            let scaled: Vec<f32> = Vec::try_from(means * 10f64.powi(decade - 6)).unwrap_or_default();
            data.extend(&scaled);
            if signed {
                data.extend(scaled.iter().map(|v| -v));
            }
        }
        data.sort_by(f32::total_cmp);
        let mut values = [0.0; 256];
        values.copy_from_slice(&data);
        let mut middles = [0.0; 255];
        for (middle, pair) in middles.iter_mut().zip(values.windows(2)) {
            *middle = f32::midpoint(pair[0], pair[1]);
        }
        let start = (0..=u16::MAX)
            .map(|upper| {
                // The least number with these upper bits: a negative one grows as its lower bits do.
                let lower = if upper >> 15 == 1 { 0xffff } else { 0 };
                let least = f32::from_bits(u32::from(upper) << 16 | lower);
                middles.iter().filter(|&&m| m < least).count() as u8
            })
            .collect();
        Table { values, middles, start }
    }

    /// The place of the value nearest to `x`, which lies in −1..1.
    #[inline]
    pub(crate) fn nearest(&self, x: f32) -> u8 {
        let mut code = usize::from(self.start[(x.to_bits() >> 16) as usize]);
        while code < 255 && x > self.middles[code] {
            code += 1;
        }
        code as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_found_whatever_the_bits() {
        for signed in [false, true] {
            let table = Table::of(signed);
            assert!(table.values.windows(2).all(|w| w[0] < w[1]), "sorted, and nothing twice");
            let check = |x: f32| {
                let plain = table.middles.iter().filter(|&&m| m < x).count();
                assert_eq!(usize::from(table.nearest(x)), plain, "{x:e}, signed {signed}");
            };
            for i in -4000..=4000i32 {
                let x = (i as f32 / 4000.0).powi(3);
                check(if signed { x } else { x.abs() });
            }
            table.values.iter().chain(&table.middles).for_each(|&x| check(x));
            assert_eq!(table.values[usize::from(table.nearest(0.0))], 0.0);
        }
    }

    #[test]
    fn a_value_is_off_by_half_a_step_at_most() {
        let t = Tensor::linspace(-3.0, 5.0, 1000, (Kind::Float, Device::Cpu));
        let kept = Blockwise::zeros(1000, true, Device::Cpu);
        assert_eq!(kept.dequantize().abs().max().double_value(&[]), 0.0);
        kept.quantize_from(&t);
        let off = (kept.dequantize() - &t).abs().max().double_value(&[]);
        // The widest step, between 0.1 and 1, is 0.9 / 64 of the block's largest magnitude.
        assert!(off <= 5.0 * 0.9 / 128.0 + 1e-6, "{off}");
    }
}
