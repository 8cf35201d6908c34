//! Gradient of layer normalisation on a CPU.

use crate::norm::gradient;
use crate::{Launch, for_rounded};

pub(super) fn run(l: &Launch<'_>) {
    for_rounded!(l.dtype("x"), T, X => gradient::<T, X>(l, true));
}
