//! The input gradient on a CPU: for each class of input elements with the same remainder modulo the strides, a sum over
//! output channels and the taps that reach this class.

use crate::Launch;
use crate::conv::cpu::convolve;

pub(super) fn run(l: &Launch<'_>) {
    convolve(l, true, "dy", None, "dx");
}
