//! What the tests of the kernels with dense arithmetic share: running one kernel on one and two threads.

use crate::cuda::MatmulPrecision;
use crate::{Buffer, Call, DType, Kernel, Launch, Mode, Pool, Scalar, TypedCall};
use sara_shim::{Region, launch};
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

/// [`noise`], rounded to bfloat16.
pub(crate) fn halves(len: usize, seed: u64) -> Vec<f64> {
    rounded(DType::Bf16, &noise(len, seed))
}

/// The types of half precision.
pub(crate) const HALVES: [DType; 2] = [DType::Bf16, DType::F16];

/// Numbers as a type of half precision holds them.
pub(crate) fn rounded(dtype: DType, values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| half_value(dtype, half_bits(dtype, *v))).collect()
}

/// The bits of the nearest number of a type of half precision, by other code than the kernels'. The largest of `F16` stands for what
/// exceeds it.
fn half_bits(dtype: DType, value: f64) -> u16 {
    let (value, most) = (value as f32, half::f16::MAX.to_f32());
    match dtype {
        DType::F16 if value.is_finite() => half::f16::from_f32(value.clamp(-most, most)).to_bits(),
        DType::F16 => half::f16::from_f32(value).to_bits(),
        _ => half::bf16::from_f32(value).to_bits(),
    }
}

fn half_value(dtype: DType, bits: u16) -> f64 {
    match dtype {
        DType::F16 => half::f16::from_bits(bits).to_f64(),
        _ => half::bf16::from_bits(bits).to_f64(),
    }
}

/// About `density * len` ascending positions below `len`.
pub(crate) fn places(len: usize, density: f64) -> Vec<u32> {
    let draws = noise(len, 9);
    (0..len as u32).filter(|&i| (draws[i as usize] + 1.0) / 2.0 < density || density >= 1.0).collect()
}

/// Every index of `shape`, row by row.
pub(crate) fn indices(shape: &[i64]) -> Vec<Vec<i64>> {
    let mut all = vec![vec![]];
    for &n in shape {
        all = all.iter().flat_map(|i: &Vec<i64>| (0..n).map(move |j| [&i[..], &[j]].concat())).collect();
    }
    all
}

/// Fails unless `|got - want| <= tolerance * (1 + |want|)` everywhere.
#[track_caller]
pub(crate) fn assert_close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "element {i} is {g}, not {w}");
    }
}

/// Floating-point operations of a launch at most for its CUDA form to be run, too.
const SHIM_FLOPS: u64 = 4 << 20;

/// Fails unless both are the same numbers, to the last bit.
#[track_caller]
pub(crate) fn assert_same_bits(got: &[f64], want: impl ExactSizeIterator<Item = f64>) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert_eq!(g.to_bits(), w.to_bits(), "element {i} is {g}, not {w}");
    }
}

/// An argument's element type, memory and elements; none if it is absent.
type Data = Option<(DType, Vec<u64>, usize)>;

/// One launch of a kernel, with its own copies of the arguments.
#[derive(Clone)]
pub(crate) struct Bench {
    kernel: &'static Kernel,
    scalars: Vec<Scalar>,
    data: Vec<Data>,
    on_shim: bool,
    /// How far numbers in single precision may be from those of the CUDA form, relative to one and the number, if that is more than usual.
    cuda_tolerance: f64,
}

impl Bench {
    /// A launch whose optional arguments are absent until given.
    pub(crate) fn new(kernel: &'static Kernel, scalars: Vec<Scalar>) -> Bench {
        assert_eq!(kernel.scalars.len(), scalars.len());
        for (declared, given) in kernel.scalars.iter().zip(&scalars) {
            assert_eq!(declared.1, given.kind(), "scalar {}", declared.0);
        }
        Bench { kernel, scalars, data: vec![None; kernel.args.len()], on_shim: true, cuda_tolerance: 0.0 }
    }

    /// Lets numbers in single precision of the CUDA form, which rounds otherwise, be so far apart.
    pub(crate) fn cuda_tolerance(&mut self, tolerance: f64) {
        self.cuda_tolerance = tolerance;
    }

    /// Leaves the CUDA form out.
    pub(crate) fn on_cpu_alone(&mut self) {
        self.on_shim = false;
    }

    fn set(&mut self, name: &str, dtype: DType, bytes: &[u8]) {
        let at = self.kernel.args.iter().position(|a| a.name == name).expect("a declared argument");
        let mut words = vec![0_u64; bytes.len().div_ceil(8).max(1)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        self.data[at] = Some((dtype, words, bytes.len() / dtype.size()));
    }

    /// Gives a floating-point argument.
    pub(crate) fn float(&mut self, name: &str, dtype: DType, values: &[f64]) {
        if dtype.is_half() {
            let halves: Vec<u16> = values.iter().map(|&v| half_bits(dtype, v)).collect();
            self.set(name, dtype, bytemuck::cast_slice(&halves));
        } else if dtype == DType::F32 {
            let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            self.set(name, dtype, bytemuck::cast_slice(&narrow));
        } else {
            self.set(name, dtype, bytemuck::cast_slice(values));
        }
    }

    /// Gives an argument of any type by values that it can hold.
    pub(crate) fn ints(&mut self, name: &str, dtype: DType, values: &[i64]) {
        let mut bytes = Vec::new();
        for &v in values {
            match dtype {
                DType::F32 => bytes.extend((v as f32).to_ne_bytes()),
                DType::F64 => bytes.extend((v as f64).to_ne_bytes()),
                DType::I64 => bytes.extend(v.to_ne_bytes()),
                DType::I32 => bytes.extend((v as i32).to_ne_bytes()),
                DType::Bf16 | DType::F16 => bytes.extend(half_bits(dtype, v as f64).to_ne_bytes()),
                DType::I16 => bytes.extend((v as i16).to_ne_bytes()),
                DType::U64 => bytes.extend((v as u64).to_ne_bytes()),
                DType::U32 => bytes.extend((v as u32).to_ne_bytes()),
                DType::U16 => bytes.extend((v as u16).to_ne_bytes()),
                DType::I8 | DType::U8 | DType::Bool => bytes.push(v as u8),
            }
        }
        self.set(name, dtype, &bytes);
    }

    /// Gives an argument of `u32`.
    pub(crate) fn index(&mut self, name: &str, values: &[u32]) {
        self.set(name, DType::U32, bytemuck::cast_slice(values));
    }

    #[expect(unsafe_code, reason = "builds buffers from owned memory")]
    fn run_on(&self, threads: usize) -> Vec<Data> {
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
        let dtypes: Vec<Option<DType>> = data.iter().map(|d| d.as_ref().map(|d| d.0)).collect();
        let typed = TypedCall::new(call, &dtypes);
        assert!(typed.is_admitted(), "{} does not take {typed} together", self.kernel.name);
        let _ = (self.kernel.flops)(&call);
        // SAFETY: each argument has its own memory.
        unsafe { Launch::new(call, &buffers, &pool) }.run();
        data
    }

    /// Runs the CUDA form, with blocks and threads in an order that the seed chooses.
    #[expect(unsafe_code, reason = "hands owned memory to the kernels")]
    fn run_on_shim(&self, seed: u64, precision: MatmulPrecision) -> Option<Vec<Data>> {
        let mut data = self.data.clone();
        let lens: Vec<usize> = data.iter().map(|d| d.as_ref().map_or(0, |d| d.2)).collect();
        let dtypes: Vec<Option<DType>> = data.iter().map(|d| d.as_ref().map(|d| d.0)).collect();
        let work = self.kernel.work(&lens, &self.scalars, &dtypes, precision)?;
        let mut scratch = vec![u64::MAX; work.scratch / 8];
        for step in &work.steps {
            let mut regions = Vec::new();
            for (arg, d) in self.kernel.args.iter().zip(&mut data) {
                let Some((dtype, words, len)) = d else { continue };
                // Several launches may share the writing of an argument, so none must have written what it reads.
                let mode = match arg.mode {
                    Mode::Read => sara_shim::Mode::Read,
                    Mode::Write if work.steps.len() == 1 => sara_shim::Mode::Write,
                    Mode::Write | Mode::Update => sara_shim::Mode::Update,
                };
                let (start, grain) = (words.as_mut_ptr().cast(), dtype.size());
                regions.push(Region { start, bytes: *len * grain, grain, mode, name: arg.name });
            }
            let start = scratch.as_mut_ptr().cast::<u8>();
            let (bytes, mode) = (work.scratch, sara_shim::Mode::Update);
            regions.push(Region { start, bytes, grain: 4, mode, name: "its own memory" });
            let address = |arg: usize, element: usize| {
                data[arg].as_ref().map_or(0, |(dtype, words, _)| words.as_ptr().addr() + element * dtype.size()) as u64
            };
            let params: Vec<Vec<u8>> = step.params.iter().map(|p| p.bytes(address, start.addr() as u64)).collect();
            let params: Vec<&[u8]> = params.iter().map(Vec::as_slice).collect();
            let launched = sara_shim::Launch {
                entry: &step.entry,
                grid: step.grid,
                threads: step.threads,
                dynamic: step.dynamic as usize,
                kinds: &step.kinds(),
                params: &params,
                regions: &regions,
                seed,
            };
            // SAFETY: the regions are owned here, and nobody else uses them meanwhile.
            if let Err(fault) = unsafe { launch(&launched) } {
                panic!("{fault}");
            }
        }
        Some(data)
    }

    /// The same for each precision that its products can have.
    fn compare_with_shim(&self, want: &[Data]) {
        let lens: Vec<usize> = self.data.iter().map(|d| d.as_ref().map_or(0, |d| d.2)).collect();
        let dtypes: Vec<Option<DType>> = self.data.iter().map(|d| d.as_ref().map(|d| d.0)).collect();
        let [highest, high, tf32] = [MatmulPrecision::Highest, MatmulPrecision::High, MatmulPrecision::Tf32];
        let work = |precision| self.kernel.work(&lens, &self.scalars, &dtypes, precision);
        self.compare_in(want, highest);
        for other in [high, tf32] {
            if work(other) != work(highest) {
                self.compare_in(want, other);
            }
        }
    }

    /// Runs the CUDA form twice, in different orders, and requires equal bits, and nearly what the CPU form gives.
    fn compare_in(&self, want: &[Data], precision: MatmulPrecision) {
        let lens: Vec<usize> = self.data.iter().map(|d| d.as_ref().map_or(0, |d| d.2)).collect();
        let flops = (self.kernel.flops)(&Call { kernel: self.kernel, lens: &lens, scalars: &self.scalars });
        if flops > SHIM_FLOPS || !self.on_shim {
            return;
        }
        let got = self.run_on_shim(1, precision).expect("a device can count so far");
        // The order of threads is looked at once.
        let again = match precision {
            MatmulPrecision::Highest => self.run_on_shim(2, precision).expect("as before"),
            MatmulPrecision::High | MatmulPrecision::Tf32 => got.clone(),
        };
        for (((arg, got), again), want) in self.kernel.args.iter().zip(got).zip(again).zip(want) {
            let (Some((dtype, got, len)), Some((_, again, _)), Some((_, want, _))) = (got, again, want) else {
                continue;
            };
            if arg.name == "work" {
                continue;
            }
            let name = format!("`{}` of {}", arg.name, self.kernel.name);
            assert!(got == again, "{name} depends on the order of blocks or threads");
            let close = |i: usize, got: f64, want: f64, tolerance: f64| {
                let same = got == want || got.is_nan() && want.is_nan();
                let near = (got - want).abs() <= tolerance * (1.0 + want.abs());
                assert!(same || near, "element {i} of {name} is {got} on a GPU and {want} on a CPU");
            };
            let terms = (flops as f64 / len.max(1) as f64).max(1.0).sqrt();
            // Probabilities that differ in their last bit may be rounded to different halves.
            let half =
                self.kernel.scalars.iter().zip(&self.scalars).any(|(s, v)| s.0 == "half" && *v == Scalar::Int(1));
            let single = match precision {
                MatmulPrecision::Highest => 1e-6 * terms,
                MatmulPrecision::High => 2e-5 * terms,
                MatmulPrecision::Tf32 => 1e-3 * terms,
            };
            match dtype {
                DType::F32 => {
                    let [got, want] = [&got, want].map(|w| &bytemuck::cast_slice::<u64, f32>(w)[..len]);
                    for (i, (g, w)) in got.iter().zip(want).enumerate() {
                        close(i, (*g).into(), (*w).into(), if half { 8e-3 } else { single.max(self.cuda_tolerance) });
                    }
                }
                DType::F64 => {
                    for (i, (g, w)) in got.iter().zip(want).enumerate() {
                        close(i, f64::from_bits(*g), f64::from_bits(*w), 1e-13 * terms);
                    }
                }
                // What differs in its last bit may be rounded to neighbours. What is only converted or moved is the same.
                DType::Bf16 if arg.types.is_rounded() => {
                    let [got, want] = [&got, want].map(|w| &bytemuck::cast_slice::<u64, u16>(w)[..len]);
                    for (i, (g, w)) in got.iter().zip(want).enumerate() {
                        close(i, half_value(dtype, *g), half_value(dtype, *w), if half { 16e-3 } else { 8e-3 });
                    }
                }
                _ => assert!(got == *want, "{name} is {got:?} on a GPU and {want:?} on a CPU"),
            }
        }
    }

    /// Runs on one and on two threads, requires equal bits, and returns the arguments afterwards.
    fn run_both(&self) -> HashMap<&'static str, (DType, Vec<u64>, usize)> {
        let one = self.run_on(1);
        let two = self.run_on(2);
        self.compare_with_shim(&one);
        let mut out = HashMap::new();
        for ((arg, one), two) in self.kernel.args.iter().zip(one).zip(two) {
            let (Some(one), Some((_, two, _))) = (one, two) else {
                continue;
            };
            assert!(one.1 == two || arg.name == "work", "`{}` depends on the number of threads", arg.name);
            out.insert(arg.name, one);
        }
        out
    }

    /// Fails unless the kernel takes an argument in bfloat16 as it takes the same numbers in single precision, in which it is given here,
    /// and gives in it what it gives there, rounded.
    pub(crate) fn assert_rounded(&self, names: &[&'static str]) {
        let (mut single, mut half) = (self.clone(), self.clone());
        for name in names {
            let at = self.kernel.args.iter().position(|a| a.name == *name).expect("a declared argument");
            let Some((DType::F32, words, len)) = &self.data[at] else { panic!("`{name}` is not in single precision") };
            let values: Vec<f64> =
                bytemuck::cast_slice::<u64, f32>(words)[..*len].iter().map(|v| f64::from(*v)).collect();
            single.float(name, DType::F32, &rounded(DType::Bf16, &values));
            half.float(name, DType::Bf16, &values);
        }
        let (want, got) = (single.run(), half.run());
        for (name, want) in want {
            let want = if names.contains(&name) { rounded(DType::Bf16, &want) } else { want };
            assert_same_bits(&got[name], want.into_iter());
        }
    }

    /// Runs on one and on two threads, requires equal bits, and returns the floating-point arguments afterwards.
    pub(crate) fn run(&self) -> HashMap<&'static str, Vec<f64>> {
        let mut out = HashMap::new();
        for (name, (dtype, words, len)) in self.run_both() {
            match dtype {
                DType::F32 => {
                    let values = &bytemuck::cast_slice::<u64, f32>(&words)[..len];
                    out.insert(name, values.iter().map(|&v| f64::from(v)).collect());
                }
                DType::Bf16 | DType::F16 => {
                    let bits = &bytemuck::cast_slice::<u64, u16>(&words)[..len];
                    out.insert(name, bits.iter().map(|bits| half_value(dtype, *bits)).collect());
                }
                DType::F64 => {
                    out.insert(name, bytemuck::cast_slice::<u64, f64>(&words)[..len].to_vec());
                }
                _ => {}
            }
        }
        out
    }

    /// As [`Bench::run`], with all arguments as integers, save those that hold anything else.
    pub(crate) fn run_ints(&self) -> HashMap<&'static str, Vec<i64>> {
        let whole = |v: f64| (v.fract() == 0.0).then_some(v as i64);
        let mut out = HashMap::new();
        for (name, (dtype, words, len)) in self.run_both() {
            let bytes = &bytemuck::cast_slice::<u64, u8>(&words)[..len * dtype.size()];
            let values: Option<Vec<i64>> = match dtype {
                DType::F32 => bytemuck::cast_slice(bytes).iter().map(|&v: &f32| whole(v.into())).collect(),
                DType::F64 => bytemuck::cast_slice(bytes).iter().map(|&v: &f64| whole(v)).collect(),
                DType::Bf16 | DType::F16 => None,
                DType::I64 => Some(bytemuck::cast_slice(bytes).to_vec()),
                DType::I32 => Some(bytemuck::cast_slice(bytes).iter().map(|&v: &i32| v.into()).collect()),
                DType::I16 => Some(bytemuck::cast_slice(bytes).iter().map(|&v: &i16| v.into()).collect()),
                DType::I8 => Some(bytemuck::cast_slice(bytes).iter().map(|&v: &i8| v.into()).collect()),
                DType::U64 => Some(bytemuck::cast_slice(bytes).to_vec()),
                DType::U32 => Some(bytemuck::cast_slice(bytes).iter().map(|&v: &u32| v.into()).collect()),
                DType::U16 => Some(bytemuck::cast_slice(bytes).iter().map(|&v: &u16| v.into()).collect()),
                DType::U8 | DType::Bool => Some(bytes.iter().map(|&v| v.into()).collect()),
            };
            if let Some(values) = values {
                out.insert(name, values);
            }
        }
        out
    }
}
