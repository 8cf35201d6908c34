//! A weight from the bytes of its file: `y[i] = stored[i]`, widened, and then `y[idx[k]] = p[k]`.
//!
//! `stored` holds the little-endian elements of a file at any alignment, in the type that the scalar names: `f32`, `f64`, `f16` or
//! `bf16`. The positions in `idx` are distinct, in any order; `p` has as many values.

mod cpu;
mod cuda;

use crate::{Arg, DType, Kernel, ScalarKind, TypedCall, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "fetch",
    args: &[
        Arg::read("stored", Types::Only(DType::U8)),
        Arg::read("idx", Types::Only(DType::U32)).or_none(),
        Arg::read("p", Types::Only(DType::F32)).or_none(),
        Arg::write("y", Types::Weight),
    ],
    scalars: &[("type", ScalarKind::Word)],
    admits,
    flops: |_| 0,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

/// Only double precision is loaded as that.
fn admits(t: &TypedCall<'_>) -> bool {
    let form = match t.word("type") {
        "f64" => t.dtype("y") == DType::F64,
        "f32" | "f16" | "bf16" => t.dtype("y") != DType::F64,
        _ => false,
    };
    form && t.has("idx") == t.has("p")
}

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::harness::{Bench, HALVES, noise, places, rounded};
    use crate::{DType, Scalar};

    #[test]
    fn lays_values_over_what_is_stored() {
        type Form = (&'static str, fn(f64) -> Vec<u8>, fn(f64) -> f64);
        let forms: [Form; 4] = [
            ("f32", |v| (v as f32).to_le_bytes().to_vec(), |v| f64::from(v as f32)),
            ("f64", |v| v.to_le_bytes().to_vec(), |v| v),
            ("f16", |v| half::f16::from_f64(v).to_le_bytes().to_vec(), |v| half::f16::from_f64(v).to_f64()),
            ("bf16", |v| half::bf16::from_f64(v).to_le_bytes().to_vec(), |v| half::bf16::from_f64(v).to_f64()),
        ];
        for (len, density) in [(10, 0.5), (100_000, 0.1), (40_000, 1.0), (7, 0.0)] {
            for (name, encode, round) in forms {
                let (x, values) = (noise(len, 1), noise(len, 2));
                // Positions in no order.
                let mut idx = places(len, density);
                idx.reverse();
                let bytes: Vec<i64> = x.iter().flat_map(|v| encode(*v)).map(i64::from).collect();
                let dtype = if name == "f64" { DType::F64 } else { DType::F32 };
                let mut want: Vec<f64> = x.iter().map(|v| round(*v)).collect();
                let p = &values[..idx.len()];
                idx.iter().zip(p).for_each(|(i, v)| want[*i as usize] = f64::from(*v as f32));
                let mut bench = Bench::new(&KERNEL, vec![Scalar::Word(name.into())]);
                bench.ints("stored", DType::U8, &bytes);
                bench.index("idx", &idx);
                bench.float("p", DType::F32, p);
                bench.float("y", dtype, &vec![f64::NAN; len]);
                assert_eq!(bench.run()["y"], want, "{name}");
                for half in HALVES.into_iter().filter(|_| dtype == DType::F32) {
                    bench.float("y", half, &vec![f64::NAN; len]);
                    assert_eq!(bench.run()["y"], rounded(half, &want), "{name}, narrowed to {half}");
                }
            }
        }
    }

    #[test]
    fn a_weight_of_which_nothing_trains_is_what_is_stored() {
        let x = noise(1000, 3);
        let bytes: Vec<i64> = x.iter().flat_map(|v| (*v as f32).to_le_bytes()).map(i64::from).collect();
        let mut bench = Bench::new(&KERNEL, vec![Scalar::Word("f32".into())]);
        bench.ints("stored", DType::U8, &bytes);
        bench.float("y", DType::F32, &vec![f64::NAN; 1000]);
        let want: Vec<f64> = x.iter().map(|v| f64::from(*v as f32)).collect();
        assert_eq!(bench.run()["y"], want);
    }
}
