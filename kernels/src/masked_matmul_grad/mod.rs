//! Gradient of a matrix weight at its trained entries only.
//!
//! The weight is `[rows, cols]` and entry `k` of `idx` is its flat position `r * cols + c`; positions ascend.
//! `dp[k] = sum over batch, n of A[n, r] * B[n, c]`. `A` is `[batch, n, rows]`, or `[batch, rows, n]` if `a_t` is
//! 1, and `B` likewise with `cols`. The dense gradient does not exist; cost grows with the number of entries. `dp`
//! may be longer than `idx`; what is beyond is left alone. Operands in bfloat16 are widened: sums are those of the numbers they hold.

mod cpu;
pub(crate) mod cuda;
mod few;

use crate::{Arg, DType, Kernel, ScalarKind, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "masked_matmul_grad",
    args: &[
        Arg::read("a", Types::Rounded),
        Arg::read("b", Types::Rounded),
        Arg::read("idx", Types::Only(DType::U32)),
        Arg::write("dp", Types::Float),
        Arg::write("work", Types::Float),
    ],
    scalars: &[
        ("batch", ScalarKind::Int),
        ("n", ScalarKind::Int),
        ("rows", ScalarKind::Int),
        ("cols", ScalarKind::Int),
        ("a_t", ScalarKind::Int),
        ("b_t", ScalarKind::Int),
    ],
    admits: |t| t.agree(),
    flops: |call| 2 * call.len("idx") as u64 * (call.int("batch") * call.int("n")) as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// Elements that `work` holds at most, unless [`TOKENS`] tokens take more.
const WORK: usize = 2 << 20;
/// Tokens that are turned at once at least.
const TOKENS: usize = 128;
/// Channels that a task turns.
const TURNED: usize = 256;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Layout of `work`: the channels of `a`, if they are not its rows, for a band of tokens.
struct Layout {
    /// Images. Without channel-major operands all tokens are those of one.
    batch: usize,
    /// Tokens of an image.
    n: usize,
    /// Tokens of a band.
    band: usize,
    /// Whether each operand is to be turned.
    turned: [bool; 2],
    /// Elements.
    len: usize,
}

impl Layout {
    fn new(batch: usize, n: usize, rows: usize, channel_major: [bool; 2]) -> Layout {
        let (batch, n) = if channel_major == [false; 2] { (1, batch * n) } else { (batch, n) };
        let rows = if channel_major[0] { 0 } else { rows };
        let most = WORK / rows.max(1) / 64 * 64;
        let band = n.min(most.max(TOKENS)).max(1);
        Layout { batch, n, band, turned: channel_major.map(|major| !major), len: rows * pitch(band, size_of::<f32>()) }
    }
}

/// Distance of channels that hold a band of tokens, in elements of `size` bytes: whole cache lines, and one more, because lines a large
/// power of two apart would share cache sets. Smaller elements take no more bytes.
fn pitch(band: usize, size: usize) -> usize {
    let line = LINE / size;
    band.next_multiple_of(line) + line
}

/// Elements that `work` must have.
pub fn work_len(batch: usize, n: usize, rows: usize, a_t: bool, b_t: bool) -> usize {
    Layout::new(batch, n, rows, [a_t, b_t]).len.max(1)
}

#[cfg(test)]
mod tests {
    use super::{KERNEL, work_len};
    use crate::cuda::MatmulPrecision;
    use crate::harness::{Bench, assert_close, assert_same_bits, halves, noise, places};
    use crate::{DType, Scalar};

    fn check(batch: usize, n: usize, rows: usize, cols: usize) {
        for (a_t, b_t) in [(false, false), (true, false), (false, true), (true, true)] {
            let a = noise(batch * n * rows, 1);
            let b = noise(batch * n * cols, 2);
            let mut dense = vec![0.0; rows * cols];
            for i in 0..batch {
                for t in 0..n {
                    let at = |of: usize, j: usize, turned: bool| {
                        if turned { (i * of + j) * n + t } else { (i * n + t) * of + j }
                    };
                    for r in 0..rows {
                        let left = a[at(rows, r, a_t)];
                        for c in 0..cols {
                            dense[r * cols + c] += left * b[at(cols, c, b_t)];
                        }
                    }
                }
            }
            for density in [0.0, 0.003, 0.01, 0.2, 1.0] {
                let idx = places(dense.len(), density);
                let mut want: Vec<f64> = idx.iter().map(|&i| dense[i as usize]).collect();
                want.extend([7.0, 7.0]);
                for dtype in [DType::F32, DType::F64] {
                    let int = |v: usize| Scalar::Int(v as i64);
                    let scalars =
                        vec![int(batch), int(n), int(rows), int(cols), int(usize::from(a_t)), int(usize::from(b_t))];
                    let mut bench = Bench::new(&KERNEL, scalars);
                    // A GPU goes the same way for a fifth of the entries.
                    if density == 1.0 {
                        bench.on_cpu_alone();
                    }
                    bench.float("a", dtype, &a);
                    bench.float("b", dtype, &b);
                    bench.index("idx", &idx);
                    bench.float("dp", dtype, &vec![7.0; idx.len() + 2]);
                    bench.float("work", dtype, &vec![f64::NAN; work_len(batch, n, rows, a_t, b_t)]);
                    let tolerance = if dtype == DType::F32 { 1e-5 } else { 1e-12 };
                    assert_close(&bench.run()["dp"], &want, tolerance);
                }
            }
        }
    }

    #[test]
    fn is_the_dense_gradient_at_the_entries() {
        check(1, 1, 1, 1);
        check(2, 7, 5, 9);
        check(1, 700, 20, 37);
        check(3, 33, 40, 300);
        check(2, 530, 17, 70);
        check(0, 5, 3, 4);
        check(1, 0, 3, 4);
    }

    /// The kernel's values at `idx`.
    fn at(idx: &[u32], shape: [usize; 4], turned: (bool, bool), a: &[f64], b: &[f64]) -> Vec<f64> {
        let mut bench = bench(idx, shape, turned, (DType::F32, a), (DType::F32, b));
        bench.on_cpu_alone();
        bench.run()["dp"].clone()
    }

    fn bench(
        idx: &[u32],
        [batch, n, rows, cols]: [usize; 4],
        turned: (bool, bool),
        a: (DType, &[f64]),
        b: (DType, &[f64]),
    ) -> Bench {
        let scalars = [batch, n, rows, cols, usize::from(turned.0), usize::from(turned.1)];
        let mut bench = Bench::new(&KERNEL, scalars.map(|v| Scalar::Int(v as i64)).to_vec());
        bench.float("a", a.0, a.1);
        bench.float("b", b.0, b.1);
        bench.index("idx", idx);
        bench.float("dp", DType::F32, &vec![0.0; idx.len()]);
        bench.float("work", DType::F32, &vec![f64::NAN; work_len(batch, n, rows, turned.0, turned.1)]);
        bench
    }

    #[test]
    fn operands_in_bfloat16_are_the_numbers_they_hold() {
        for shape in [[2, 7, 5, 9], [1, 700, 20, 37], [3, 33, 40, 300], [2, 530, 17, 70], [1, 1100, 40, 64]] {
            let [batch, n, rows, cols] = shape;
            let (a, b) = (halves(batch * n * rows, 1), halves(batch * n * cols, 2));
            for turned in [(false, false), (true, false), (false, true), (true, true)] {
                for density in [0.003, 0.02, 0.5] {
                    let idx = places(rows * cols, density);
                    let want = at(&idx, shape, turned, &a, &b);
                    for types in [[DType::Bf16; 2], [DType::Bf16, DType::F32], [DType::F32, DType::Bf16]] {
                        let mut bench = bench(&idx, shape, turned, (types[0], &a), (types[1], &b));
                        // A GPU goes the same ways for few tokens.
                        if n > 100 {
                            bench.on_cpu_alone();
                        }
                        assert_same_bits(&bench.run()["dp"], want.iter().copied());
                    }
                }
            }
        }
    }

    #[test]
    fn an_entry_is_the_same_whatever_else_trains() {
        for shape in [[2, 7, 5, 9], [1, 700, 20, 37], [3, 33, 40, 300], [2, 530, 17, 70]] {
            let [batch, n, rows, cols] = shape;
            let (a, b) = (noise(batch * n * rows, 1), noise(batch * n * cols, 2));
            for turned in [(false, false), (true, false), (false, true), (true, true)] {
                let dense = at(&places(rows * cols, 1.0), shape, turned, &a, &b);
                for density in [0.003, 0.05, 0.5] {
                    let idx = places(rows * cols, density);
                    assert_same_bits(&at(&idx, shape, turned, &a, &b), idx.iter().map(|&i| dense[i as usize]));
                }
            }
        }
    }

    #[test]
    fn many_columns_are_parts_and_many_places_are_groups() {
        for shape in [[1, 512, 3, 400], [1, 16, 2000, 300]] {
            let [_, n, rows, cols] = shape;
            let (a, b) = (noise(n * rows, 1), noise(n * cols, 2));
            let idx = places(rows * cols, 0.9);
            let entry = |i: u32| -> f64 {
                let (r, c) = (i as usize / cols, i as usize % cols);
                (0..n).map(|t| a[t * rows + r] * b[t * cols + c]).sum()
            };
            let want: Vec<f64> = idx.iter().map(|i| entry(*i)).collect();
            assert_close(&at(&idx, shape, (false, false), &a, &b), &want, 2e-5);
        }
    }

    /// By tiles where they cost less: that depends on how exactly they multiply, and on how entries meet memory.
    #[test]
    fn a_gpu_goes_the_cheaper_way() {
        use MatmulPrecision::{High, Highest, Tf32};
        let (n, rows, cols) = (64, 1000, 1000);
        let entry = |count: usize, turned: bool, dtype: DType, precision| {
            let scalars = [1, n, rows, cols, usize::from(turned), usize::from(turned)].map(|v| Scalar::Int(v as i64));
            let lens = [n * rows, n * cols, count, count, 1];
            let dtypes = [dtype, dtype, DType::U32, DType::F32, DType::F32].map(Some);
            KERNEL.work(&lens, &scalars, &dtypes, precision).expect("a device's launches").steps[0].entry.clone()
        };
        for (turned, dtype, precision, most) in [
            (true, DType::F32, Highest, 41_666),
            (true, DType::F32, High, 8_333),
            (true, DType::F32, Tf32, 5_555),
            (true, DType::Bf16, Highest, 5_555),
            (false, DType::F32, Highest, 5_208),
            (false, DType::Bf16, Tf32, 347),
        ] {
            let [below, above] = [most, most + 1].map(|count| entry(count, turned, dtype, precision));
            assert!(below.starts_with("masked_matmul_grad_sample_"), "{below}");
            assert!(above.starts_with("masked_matmul_grad_tile_"), "{above}");
        }
    }

    #[test]
    fn work_is_cut_into_bands() {
        // So many rows that a band is shorter than the tokens.
        let (batch, n, rows, cols) = (1, 1200, 1 << 13, 4);
        assert!(work_len(batch, n, rows, false, false) < rows * n);
        let (a, b) = (halves(n * rows, 1), halves(n * cols, 2));
        let idx: Vec<u32> = (0..40).map(|i| i * 800 + i % 4).collect();
        let want: Vec<f64> = idx
            .iter()
            .map(|&i| (0..n).map(|t| a[t * rows + i as usize / cols] * b[t * cols + i as usize % cols]).sum())
            .collect();
        let shape = [batch, n, rows, cols];
        let few = bench(&idx, shape, (false, false), (DType::F32, &a), (DType::F32, &b)).run()["dp"].clone();
        assert_close(&few, &want, 2e-5);
        // All entries are too many for one task.
        let all = places(rows * cols, 1.0);
        let at = |turned: (bool, bool), dtype: DType, b: &[f64]| -> Vec<f64> {
            let mut bench = bench(&all, shape, turned, (dtype, &a), (dtype, b));
            bench.on_cpu_alone();
            let dense = &bench.run()["dp"];
            idx.iter().map(|&i| dense[i as usize]).collect()
        };
        for dtype in [DType::F32, DType::Bf16] {
            assert_same_bits(&few, at((false, false), dtype, &b).into_iter());
        }
        let channels: Vec<f64> = (0..cols * n).map(|i| b[i % n * cols + i / n]).collect();
        assert_close(&at((false, true), DType::F32, &channels), &want, 2e-5);
    }
}
