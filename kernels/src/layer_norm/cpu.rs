//! Layer normalisation on a CPU.

use crate::norm::forward;
use crate::{Launch, for_rounded};

pub(super) fn run(l: &Launch<'_>) {
    for_rounded!(l.dtype("y"), T, Y => forward::<T, Y>(l, true));
}
