//! Layer normalisation on a CPU.

use crate::norm::forward;
use crate::{Launch, for_float};

pub(super) fn run(l: &Launch<'_>) {
    for_float!(l.dtype("y"), T => forward::<T>(l, true));
}
