//! Gradient of layer normalisation on a CPU.

use crate::norm::gradient;
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("dx"), T => gradient::<T>(l, true));
}
