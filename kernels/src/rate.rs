//! What this machine can do at most: the rate of a large dense product, against which kernels are judged.

use crate::{Buffer, Call, DType, Launch, Pool, Scalar, gemm};
use std::time::Instant;

/// Rows, columns and terms of the product.
const SIDE: usize = 1536;

/// Floating-point operations in a second of a dense product in `f32` on `threads` threads: the best of as many as `seconds`
/// allow, and at least three.
#[expect(unsafe_code, reason = "builds buffers from owned memory")]
pub fn dense_rate(threads: usize, seconds: f64) -> std::io::Result<f64> {
    let pool = Pool::new(threads)?;
    let mut memory = vec![0.5_f32; 3 * SIDE * SIDE];
    let mut buffers: Vec<Buffer> = memory
        .chunks_exact_mut(SIDE * SIDE)
        // SAFETY: the memory is initialised, aligned and outlives the launch.
        .map(|m| unsafe { Buffer::new(m.as_mut_ptr().cast(), m.len(), DType::F32) })
        .collect();
    // There is no bias.
    buffers.insert(2, Buffer::NONE);
    let side = || Scalar::Int(SIDE as i64);
    let (none, strides) = (|| Scalar::Ints(vec![]), || Scalar::Ints(vec![SIDE as i64, 1]));
    let scalars = [
        side(),
        side(),
        side(),
        none(),
        none(),
        none(),
        none(),
        strides(),
        strides(),
        strides(),
        Scalar::Float(1.0),
        Scalar::Float(0.0),
    ];
    let lens: Vec<usize> = buffers.iter().map(Buffer::len).collect();
    let call = Call { kernel: &gemm::KERNEL, lens: &lens, scalars: &scalars };
    // SAFETY: each argument has its own memory.
    let launch = unsafe { Launch::new(call, &buffers, &pool) };
    let (begin, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 3 || begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        launch.run();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    Ok((gemm::KERNEL.flops)(&call) as f64 / best)
}
