//! Layout of the hyper-parameter buffer: what changes from step to step, as `f32`.

/// Learning rate of this step.
pub const LEARNING_RATE: usize = 0;
/// Decay of the first moment.
pub const BETA1: usize = 1;
/// Decay of the second moment.
pub const BETA2: usize = 2;
/// Added to the denominator.
pub const EPSILON: usize = 3;
/// Decoupled weight decay.
pub const WEIGHT_DECAY: usize = 4;
/// `1 - beta1^t`.
pub const CORRECTION1: usize = 5;
/// `1 - beta2^t`.
pub const CORRECTION2: usize = 6;
/// Largest allowed global norm of the gradient; 0 for no clipping.
pub const MAX_NORM: usize = 7;
/// Factor of a micro-batch's gradient when it is accumulated: 1 / accumulation steps.
pub const GRADIENT_SCALE: usize = 8;
/// Factor of the low-rank subgradient.
pub const LAMBDA_RANK: usize = 9;
/// Global norm of the gradient, written by `clip_norm`.
pub const NORM: usize = 10;
/// Factor that clips the gradient, written by `clip_norm`.
pub const CLIP: usize = 11;
/// `1 - beta1`, which is not what the rounded [`BETA1`] leaves.
pub const REST1: usize = 12;
/// `1 - beta2`, which is not what the rounded [`BETA2`] leaves.
pub const REST2: usize = 13;
/// Elements of the buffer.
pub const LEN: usize = 16;
