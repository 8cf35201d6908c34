//! Clipping of the norm on a CPU.

use crate::Launch;
use crate::hyper::{CLIP, MAX_NORM, NORM};

pub(super) fn run(l: &Launch<'_>) {
    // The sum of nothing is a negative zero.
    let norm = l.read::<f64>("sums").iter().sum::<f64>().abs().sqrt();
    let hyper = l.write::<f32>("hyper");
    let max_norm = f64::from(hyper[MAX_NORM]);
    let factor = max_norm / (norm + 1e-6);
    // A factor that is not a number must not turn into 1, so `min` does not serve.
    let clip = if max_norm <= 0.0 || factor > 1.0 { 1.0 } else { factor };
    hyper[NORM] = norm as f32;
    hyper[CLIP] = clip as f32;
}
