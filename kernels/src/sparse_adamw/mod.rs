//! A step of AdamW for the trained entries of one weight (Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
//! in the form that PyTorch gives it).
//!
//! For each entry, with the values of [`crate::hyper`]:
//!
//! ```text
//! g *= CLIP
//! p *= 1 - LEARNING_RATE * WEIGHT_DECAY
//! m = BETA1 * m + REST1 * g
//! v = BETA2 * v + REST2 * g^2
//! p -= LEARNING_RATE / CORRECTION1 * m / (sqrt(v) / sqrt(CORRECTION2) + EPSILON)
//! w[idx] = p
//! g = 0
//! ```
//!
//! Without `w` nothing is written into it.
//!
//! `idx`, which holds strictly ascending positions in `w`, says how many entries there are; `p`, `m`, `v` and `g` have at
//! least as many elements, and those beyond are left alone.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Arg, DType, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "sparse_adamw",
    args: &[
        Arg::update("w", Types::Weight).accessed(|call| call.len("idx") as u64).or_none(),
        Arg::read("idx", Types::Only(DType::U32)),
        Arg::update("p", Types::Only(DType::F32)),
        Arg::update("m", Types::Only(DType::F32)),
        Arg::update("v", Types::Only(DType::F32)),
        Arg::update("g", Types::Only(DType::F32)),
        Arg::read("hyper", Types::Only(DType::F32)),
    ],
    scalars: &[],
    admits: |t| t.agree(),
    // Roots and divisions count one.
    flops: |call| 15 * call.len("idx") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::KERNEL;
    use crate::DType;
    use crate::harness::{Bench, HALVES, assert_close, noise, places, rounded};
    use crate::hyper::*;
    use std::collections::HashMap;

    /// Hyper-parameters with a clipping factor, before step `t`.
    fn hyper(decay: f64, clip: f64, t: i32) -> Vec<f64> {
        let mut h = vec![f64::NAN; LEN];
        h[LEARNING_RATE] = 0.1;
        h[BETA1] = 0.9;
        h[BETA2] = 0.99;
        h[REST1] = 0.1;
        h[REST2] = 0.01;
        h[EPSILON] = 1e-3;
        h[WEIGHT_DECAY] = decay;
        h[CORRECTION1] = 1.0 - 0.9_f64.powi(t);
        h[CORRECTION2] = 1.0 - 0.99_f64.powi(t);
        h[CLIP] = clip;
        h
    }

    struct State {
        dtype: DType,
        w: Vec<f64>,
        idx: Vec<u32>,
        p: Vec<f64>,
        m: Vec<f64>,
        v: Vec<f64>,
        g: Vec<f64>,
    }

    impl State {
        fn step(&self, hyper: &[f64]) -> HashMap<&'static str, Vec<f64>> {
            let mut bench = Bench::new(&KERNEL, vec![]);
            bench.float("w", self.dtype, &self.w);
            bench.index("idx", &self.idx);
            bench.float("p", DType::F32, &self.p);
            bench.float("m", DType::F32, &self.m);
            bench.float("v", DType::F32, &self.v);
            bench.float("g", DType::F32, &self.g);
            bench.float("hyper", DType::F32, hyper);
            bench.run()
        }
    }

    #[test]
    fn first_steps_match_a_calculation_by_hand() {
        // Step 1 with g = 4 and clip 0.5: decay 1 * (1 - 0.1 * 0.5) = 0.95, m = 0.2, v = 0.04; corrected 2 and 4, so
        // p = 0.95 - 0.1 * 2 / (2 + 0.001).
        let mut state = State {
            dtype: DType::F32,
            w: vec![7.0, 1.0, 8.0],
            idx: vec![1],
            p: vec![1.0],
            m: vec![0.0],
            v: vec![0.0],
            g: vec![4.0],
        };
        let got = state.step(&hyper(0.5, 0.5, 1));
        assert_close(&got["p"], &[0.850_049_975], 1e-7);
        assert_close(&got["w"], &[7.0, 0.850_049_975, 8.0], 1e-7);
        assert_close(&got["m"], &[0.2], 1e-7);
        assert_close(&got["v"], &[0.04], 1e-7);
        assert_eq!(got["g"], [0.0]);
        // What is stored in half precision takes the rounded value; what stays in its file takes none.
        for half in HALVES {
            state.dtype = half;
            assert_eq!(state.step(&hyper(0.5, 0.5, 1))["w"], rounded(half, &[7.0, 0.850_049_975, 8.0]));
        }
        state.dtype = DType::F32;
        // Step 2 without decay or clipping, g = -1: m = 0.9 * 0.2 - 0.1 = 0.08, v = 0.99 * 0.04 + 0.01 = 0.0496;
        // corrected 0.08 / 0.19 = 0.421052632 and sqrt(0.0496 / 0.0199) = 1.578753404, so
        // p = 0.850049975 - 0.0421052632 / 1.579753404.
        (state.p, state.m, state.v) = (got["p"].clone(), got["m"].clone(), got["v"].clone());
        state.g = vec![-1.0];
        let got = state.step(&hyper(0.0, 1.0, 2));
        assert_close(&got["m"], &[0.08], 1e-7);
        assert_close(&got["v"], &[0.0496], 1e-7);
        assert_close(&got["p"], &[0.823_396_914], 2e-7);
    }

    /// A steady gradient gives a moment that is corrected to that gradient: what a step adds must fit the correction, also where
    /// beta is so near 1 that single precision changes what is left.
    #[test]
    fn moments_and_corrections_fit() {
        let beta = 0.999_999_9_f64;
        let mut h = hyper(0.0, 1.0, 1);
        (h[BETA1], h[REST1], h[CORRECTION1]) = (0.0, 1.0, 1.0);
        (h[BETA2], h[REST2], h[CORRECTION2]) = (beta, 1.0 - beta, 1.0 - beta);
        let (p, m, v, g) = (vec![1.0], vec![0.0], vec![0.0], vec![2.0]);
        let state = State { dtype: DType::F32, w: vec![1.0], idx: vec![0], p, m, v, g };
        // p = 1 - 0.1 * 2 / (2 + 0.001).
        assert_close(&state.step(&h)["p"], &[0.900_049_975], 1e-7);
    }

    #[test]
    fn matches_a_naive_loop() {
        for (len, density, dtype, spare) in [
            (0, 0.5, DType::F32, 0),
            (1, 1.0, DType::F32, 0),
            (100, 0.37, DType::F32, 0),
            (100, 0.37, DType::F64, 5),
            (60_000, 0.6, DType::F32, 0),
            (30_000, 1.0, DType::F64, 40),
        ] {
            let idx = places(len, density);
            let count = idx.len() + spare;
            let state = State {
                dtype,
                w: noise(len, 1),
                p: noise(count, 2),
                m: noise(count, 3),
                v: noise(count, 4).iter().map(|v| v.abs()).collect(),
                g: noise(count, 5),
                idx,
            };
            let hyper = hyper(0.3, 0.7, 3);
            let mut want = [state.w.clone(), state.p.clone(), state.m.clone(), state.v.clone(), state.g.clone()];
            let [w, p, m, v, g] = &mut want;
            for (k, &i) in state.idx.iter().enumerate() {
                let d = g[k] * hyper[CLIP];
                m[k] = hyper[BETA1] * m[k] + hyper[REST1] * d;
                v[k] = hyper[BETA2] * v[k] + hyper[REST2] * d * d;
                let root = v[k].sqrt() / hyper[CORRECTION2].sqrt() + hyper[EPSILON];
                p[k] -= hyper[LEARNING_RATE] * hyper[WEIGHT_DECAY] * p[k];
                p[k] -= hyper[LEARNING_RATE] / hyper[CORRECTION1] * m[k] / root;
                w[i as usize] = p[k];
                g[k] = 0.0;
            }
            let got = state.step(&hyper);
            for (name, want) in ["w", "p", "m", "v", "g"].into_iter().zip(&want) {
                // The hyper-parameters are rounded to single precision on the way.
                assert_close(&got[name], want, 1e-6);
            }
        }
    }
}
