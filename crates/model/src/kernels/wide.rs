use tch::{Device, Kind, Tensor};

use crate::device::multiplies_bf16;

/// Whether the CPU takes products of this dtype better in fp32.
///
/// Units for tiles (Intel's AMX) multiply bf16 four times as fast as fp32, and AMD's cores twice as fast. Intel's cores
/// without such units take the same time for a bf16 product as for one in fp32, libtorch's library 1.7 times as long, and
/// older CPUs far longer. There the two factors are widened, which loses nothing, and the result is rounded once, as a
/// product in bf16 does.
pub fn widens(kind: Kind, device: Device) -> bool {
    kind == Kind::BFloat16 && device == Device::Cpu && !multiplies_bf16().is_fast()
}

/// A factor as the CPU takes it: in fp32 where [`widens`], else itself.
pub fn wide(t: &Tensor) -> Tensor {
    if widens(t.kind(), t.device()) { t.to_kind(Kind::Float) } else { t.shallow_clone() }
}
