//! Gradient of root mean square normalisation's scale on a CPU.

use crate::norm::affine;
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("dscale"), T => affine::<T>(l, false));
}
