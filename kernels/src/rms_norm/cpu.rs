//! Root mean square normalisation on a CPU.

use crate::norm::forward;
use crate::{Launch, for_rounded_pair};

pub(super) fn run(l: &Launch<'_>) {
    for_rounded_pair!(l.dtype("x"), l.dtype("y"), T, X, Y => forward::<T, X, Y>(l, false));
}
