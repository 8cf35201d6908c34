//! What the tests of the kernels with dense arithmetic share: running one kernel on one and two threads.

use crate::{Buffer, Call, DType, Kernel, Launch, Pool, Scalar};
use std::collections::HashMap;

/// Numbers in -1..1 that look random and are the same each time.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Rounded to single precision so that both widths see the same numbers.
            f64::from(((state >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32)
        })
        .collect()
}

/// About `density * len` ascending positions below `len`.
pub(crate) fn places(len: usize, density: f64) -> Vec<u32> {
    let draws = noise(len, 9);
    (0..len as u32).filter(|&i| (draws[i as usize] + 1.0) / 2.0 < density || density >= 1.0).collect()
}

/// Fails unless `|got - want| <= tolerance * (1 + |want|)` everywhere.
#[track_caller]
pub(crate) fn assert_close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "element {i} is {g}, not {w}");
    }
}

/// One launch of a kernel, with its own copies of the arguments.
pub(crate) struct Bench {
    kernel: &'static Kernel,
    scalars: Vec<Scalar>,
    data: Vec<Option<(DType, Vec<u64>, usize)>>,
}

impl Bench {
    /// A launch whose optional arguments are absent until given.
    pub(crate) fn new(kernel: &'static Kernel, scalars: Vec<Scalar>) -> Bench {
        assert_eq!(kernel.scalars.len(), scalars.len());
        for (declared, given) in kernel.scalars.iter().zip(&scalars) {
            assert_eq!(declared.1, given.kind(), "scalar {}", declared.0);
        }
        Bench { kernel, scalars, data: vec![None; kernel.args.len()] }
    }

    fn set(&mut self, name: &str, dtype: DType, bytes: &[u8]) {
        let at = self.kernel.args.iter().position(|a| a.name == name).expect("a declared argument");
        assert!(self.kernel.args[at].types.admits(dtype));
        let mut words = vec![0_u64; bytes.len().div_ceil(8).max(1)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        self.data[at] = Some((dtype, words, bytes.len() / dtype.size()));
    }

    /// Gives a floating-point argument.
    pub(crate) fn float(&mut self, name: &str, dtype: DType, values: &[f64]) {
        if dtype == DType::F32 {
            let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            self.set(name, dtype, bytemuck::cast_slice(&narrow));
        } else {
            self.set(name, dtype, bytemuck::cast_slice(values));
        }
    }

    /// Gives an argument of `u32`.
    pub(crate) fn index(&mut self, name: &str, values: &[u32]) {
        self.set(name, DType::U32, bytemuck::cast_slice(values));
    }

    #[expect(unsafe_code, reason = "builds buffers from owned memory")]
    fn run_on(&self, threads: usize) -> Vec<Option<(DType, Vec<u64>, usize)>> {
        let mut data = self.data.clone();
        let buffers: Vec<Buffer> = data
            .iter_mut()
            .map(|d| match d {
                // SAFETY: the words are aligned, initialised and outlive the launch.
                Some((dtype, words, len)) => unsafe { Buffer::new(words.as_mut_ptr().cast(), *len, *dtype) },
                None => Buffer::NONE,
            })
            .collect();
        let lens: Vec<usize> = buffers.iter().map(Buffer::len).collect();
        let pool = Pool::new(threads).expect("threads");
        let call = Call { kernel: self.kernel, lens: &lens, scalars: &self.scalars };
        let _ = (self.kernel.flops)(&call);
        // SAFETY: each argument has its own memory.
        unsafe { Launch::new(call, &buffers, &pool) }.run();
        data
    }

    /// Runs on one and on two threads, requires equal bits, and returns the floating-point arguments afterwards.
    pub(crate) fn run(&self) -> HashMap<&'static str, Vec<f64>> {
        let one = self.run_on(1);
        let two = self.run_on(2);
        let mut out = HashMap::new();
        for ((arg, one), two) in self.kernel.args.iter().zip(one).zip(two) {
            let (Some((dtype, one, len)), Some((_, two, _))) = (one, two) else {
                continue;
            };
            assert!(one == two || arg.name == "work", "`{}` depends on the number of threads", arg.name);
            match dtype {
                DType::F32 => {
                    let values = &bytemuck::cast_slice::<u64, f32>(&one)[..len];
                    out.insert(arg.name, values.iter().map(|&v| f64::from(v)).collect());
                }
                DType::F64 => {
                    out.insert(arg.name, bytemuck::cast_slice::<u64, f64>(&one)[..len].to_vec());
                }
                _ => {}
            }
        }
        out
    }
}
