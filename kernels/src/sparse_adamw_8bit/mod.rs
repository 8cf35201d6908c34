//! [`crate::sparse_adamw`] with moments of a byte each (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2021).
//!
//! Entries are in blocks of [`BLOCK`]. A moment is a code of a dynamic map times the largest magnitude of its block. A step
//! decodes a block, moves its entries by the new moments, and encodes those:
//!
//! ```text
//! m = SIGNED[m code] * m_absmax            v = UNSIGNED[v code] * v_absmax
//! ...                                      as in sparse_adamw, m and v in single precision
//! m_absmax = max |m|                       v_absmax = max v
//! m code = nearest(SIGNED, m / m_absmax)   v code = nearest(UNSIGNED, v / v_absmax)
//! ```
//!
//! Numbers are rounded to the nearest level, and of two that are as near to the lower. This is bitsandbytes' 8-bit AdamW except next
//! to zero: bitsandbytes gives a first moment that would become 0 the smallest level of its sign, and lets a second moment become 0.
//!
//! Memory of zeros is the state before the first step.

mod cpu;
mod cuda;
mod map;

pub use map::{BLOCK, Map, SIGNED, UNSIGNED};

use crate::{Arg, DType, Kernel, Types};

/// Declaration of the kernel.
pub const KERNEL: Kernel = Kernel {
    name: "sparse_adamw_8bit",
    args: &[
        Arg::update("w", Types::Weight).accessed(|call| call.len("idx") as u64).or_none(),
        Arg::read("idx", Types::Only(DType::U32)),
        Arg::update("p", Types::Only(DType::F32)),
        Arg::update("m", Types::Only(DType::U8)),
        Arg::update("v", Types::Only(DType::U8)),
        Arg::update("g", Types::Only(DType::F32)),
        Arg::read("hyper", Types::Only(DType::F32)),
        Arg::update("m_absmax", Types::Only(DType::F32)),
        Arg::update("v_absmax", Types::Only(DType::F32)),
    ],
    scalars: &[],
    admits: |t| t.agree(),
    // Two products to decode and two quotients to encode more than in single precision.
    flops: |call| 19 * call.len("idx") as u64,
    cpu: cpu::run,
    cuda: Some(cuda::FORM),
};

#[cfg(test)]
mod tests {
    use super::{BLOCK, KERNEL, Map, SIGNED, UNSIGNED};
    use crate::harness::{Bench, HALVES, assert_close, noise, places, rounded};
    use crate::hyper::{self, *};
    use crate::{DType, sparse_adamw};

    /// Hyper-parameters of step `t`.
    fn hyper(t: i32) -> Vec<f64> {
        let mut h = vec![0.0; hyper::LEN];
        h[LEARNING_RATE] = 0.01;
        h[BETA1] = 0.9;
        h[BETA2] = 0.99;
        h[REST1] = 0.1;
        h[REST2] = 0.01;
        h[EPSILON] = 1e-6;
        h[WEIGHT_DECAY] = 0.3;
        h[CORRECTION1] = 1.0 - 0.9_f64.powi(t);
        h[CORRECTION2] = 1.0 - 0.99_f64.powi(t);
        h[CLIP] = 0.7;
        h
    }

    #[derive(Clone)]
    struct State {
        w: Vec<f64>,
        idx: Vec<u32>,
        p: Vec<f64>,
        codes: [Vec<i64>; 2],
        absmax: [Vec<f64>; 2],
    }

    impl State {
        /// Before the first step.
        fn new(len: usize, density: f64) -> State {
            let idx = places(len, density);
            let (n, blocks) = (idx.len(), idx.len().div_ceil(BLOCK));
            let p = noise(n, 2);
            State {
                w: noise(len, 1),
                idx,
                p,
                codes: [vec![0; n], vec![0; n]],
                absmax: [vec![0.0; blocks], vec![0.0; blocks]],
            }
        }

        /// A step by the kernel.
        fn step(&mut self, dtype: Option<DType>, g: &[f64], hyper: &[f64]) {
            let mut bench = Bench::new(&KERNEL, vec![]);
            if let Some(dtype) = dtype {
                bench.float("w", dtype, &self.w);
            }
            bench.index("idx", &self.idx);
            bench.float("p", DType::F32, &self.p);
            bench.float("g", DType::F32, g);
            bench.float("hyper", DType::F32, hyper);
            for (k, name) in ["m", "v"].into_iter().enumerate() {
                bench.ints(name, DType::U8, &self.codes[k]);
                bench.float(&format!("{name}_absmax"), DType::F32, &self.absmax[k]);
            }
            let mut got = bench.run();
            self.p = got.remove("p").expect("an argument");
            self.w = got.remove("w").unwrap_or_default();
            self.absmax = ["m_absmax", "v_absmax"].map(|name| got.remove(name).expect("an argument"));
            assert!(got["g"].iter().all(|g| *g == 0.0));
            self.codes = ["m", "v"].map(|name| bench.run_ints().remove(name).expect("an argument"));
        }

        /// The same, written down in double precision; only what is stored in single precision is rounded. Returns the moments.
        fn naive(&mut self, g: &[f64], hyper: &[f64]) -> [Vec<f64>; 2] {
            let h = |place: usize| f64::from(hyper[place] as f32);
            let mut moments = [decoded(self, 0, &SIGNED), decoded(self, 1, &UNSIGNED)];
            let [m, v] = &mut moments;
            for (k, &i) in self.idx.iter().enumerate() {
                let d = g[k] * h(CLIP);
                m[k] = h(BETA1) * m[k] + h(REST1) * d;
                v[k] = h(BETA2) * v[k] + h(REST2) * d * d;
                let root = v[k].sqrt() / h(CORRECTION2).sqrt() + h(EPSILON);
                let decayed = self.p[k] * (1.0 - h(LEARNING_RATE) * h(WEIGHT_DECAY));
                self.p[k] = f64::from((decayed - h(LEARNING_RATE) / h(CORRECTION1) * m[k] / root) as f32);
                self.w[i as usize] = self.p[k];
            }
            for (absmax, moments) in self.absmax.iter_mut().zip(&moments) {
                let most = |values: &[f64]| values.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
                *absmax = moments.chunks(BLOCK).map(|values| f64::from(most(values) as f32)).collect();
            }
            moments
        }
    }

    /// Asserts that a code is that of the level nearest to `x`, a part of the largest magnitude of a block. Single precision may see
    /// `x` a little to the side of where it is, and as zero what is next to it.
    fn assert_nearest(which: usize, code: i64, x: f64) {
        let far = |code: i64| (level([&SIGNED, &UNSIGNED][which], code) - x).abs();
        let nearest = (0..256).map(far).fold(f64::INFINITY, f64::min);
        let kept = which == 1 && code == 1 && x > 0.0;
        let lost = which == 1 && code == 0 && x > 1e-30;
        assert!((far(code) <= nearest + 1e-6 * x.abs() || kept) && !lost, "moment {which}, {x}, is given code {code}");
    }

    fn level(map: &Map, code: i64) -> f64 {
        let mut level = [0.0];
        map.decode(&[code as u8], 1.0, &mut level);
        level[0].into()
    }

    fn decoded(state: &State, which: usize, map: &Map) -> Vec<f64> {
        let value = |(k, code): (usize, &i64)| level(map, *code) * state.absmax[which][k / BLOCK];
        state.codes[which].iter().enumerate().map(value).collect()
    }

    #[test]
    fn steps_match_the_algorithm_written_down() {
        for (len, density, dtype) in [
            (0, 0.5, Some(DType::F32)),
            (1, 1.0, Some(DType::F32)),
            (700, 0.37, Some(DType::F32)),
            (512, 1.0, Some(DType::F64)),
            (40_000, 0.9, Some(DType::F32)),
        ] {
            let mut state = State::new(len, density);
            for t in 1..4 {
                let n = state.idx.len();
                // Gradients of many magnitudes, and some of none.
                let g: Vec<f64> = noise(n, t as u64).iter().map(|g| g.powi(5)).collect();
                let g: Vec<f64> =
                    g.iter().enumerate().map(|(k, g)| if k % 7 == 3 { 0.0 } else { f64::from(*g as f32) }).collect();
                let mut want = state.clone();
                let moments = want.naive(&g, &hyper(t));
                state.step(dtype, &g, &hyper(t));
                assert_close(&state.p, &want.p, 1e-6);
                assert_close(&state.w, &want.w, 1e-6);
                for (which, moments) in moments.iter().enumerate() {
                    assert_close(&state.absmax[which], &want.absmax[which], 1e-7);
                    for (k, (code, value)) in state.codes[which].iter().zip(moments).enumerate() {
                        let absmax = want.absmax[which][k / BLOCK];
                        assert_nearest(which, *code, if absmax > 0.0 { value / absmax } else { 0.0 });
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_stored_in_half_precision_takes_the_rounded_value() {
        for dtype in HALVES {
            let mut states = [State::new(300, 0.5), State::new(300, 0.5)];
            let g = noise(states[0].idx.len(), 4);
            let mut want: Vec<f64> = states[0].w.clone();
            let [half, absent] = &mut states;
            half.step(Some(dtype), &g, &hyper(1));
            absent.step(None, &g, &hyper(1));
            assert_eq!(half.p, absent.p);
            half.idx.iter().zip(&half.p).for_each(|(i, p)| want[*i as usize] = *p);
            assert_eq!(half.w, rounded(dtype, &want));
        }
    }

    /// Over many steps the values stay near those of moments in single precision.
    #[test]
    fn values_follow_those_of_single_precision() {
        let mut state = State::new(1000, 0.8);
        let (n, start) = (state.idx.len(), state.p.clone());
        let mut single = [state.p.clone(), vec![0.0; n], vec![0.0; n]];
        for t in 1..30 {
            let g: Vec<f64> = noise(n, 7).iter().zip(noise(n, 100 + t as u64)).map(|(a, b)| a + 0.5 * b).collect();
            let g: Vec<f64> = g.into_iter().map(|g| f64::from(g as f32)).collect();
            let mut bench = Bench::new(&sparse_adamw::KERNEL, vec![]);
            bench.index("idx", &state.idx);
            for (name, values) in ["p", "m", "v"].into_iter().zip(&single) {
                bench.float(name, DType::F32, values);
            }
            bench.float("g", DType::F32, &g);
            bench.float("hyper", DType::F32, &hyper(t));
            let got = bench.run();
            single = ["p", "m", "v"].map(|name| got[name].clone());
            state.step(None, &g, &hyper(t));
        }
        let far = |to: &[f64]| {
            let squares = state.p.iter().zip(to).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            (squares / n as f64).sqrt()
        };
        assert!(far(&single[0]) < 0.03 * far(&start), "{} of {}", far(&single[0]), far(&start));
    }
}
