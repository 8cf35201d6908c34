//! Times the kernels with dense arithmetic on shapes of the SD1.5 UNet. A rate of `Gelem/s` counts floating-point operations.

use criterion::{Criterion, Throughput};
use sara_kernels::conv::Geometry;
use sara_kernels::{Buffer, Call, DType, Launch, Pool, Scalar, find};
use sara_kernels::{conv, conv_grad_input, masked_matmul_grad};

/// A float argument of this many elements, or indices.
enum Data {
    Float(usize),
    Index(Vec<u32>),
    None,
}

/// A convolution of square images whose padding keeps their extents, apart from the stride.
fn geometry(ci: usize, co: usize, size: usize, kernel: usize, stride: usize) -> Geometry {
    let square = |v: usize, depth: usize| [depth, v, v];
    Geometry {
        n: 1,
        groups: 1,
        ci,
        co,
        input: square(size, 1),
        output: square(size.div_ceil(stride), 1),
        kernel: square(kernel, 1),
        strides: square(stride, 1),
        pads: square(kernel / 2, 0),
        dilations: [1; 3],
    }
}

/// Scalars of a launch.
fn scalars(g: &Geometry) -> Vec<Scalar> {
    let one = [g.n, g.groups, g.ci, g.co].map(|v| Scalar::Int(v as i64));
    let three = [g.input, g.output, g.kernel, g.strides, g.pads, g.dilations];
    let lists = three.map(|v| Scalar::Ints(v.iter().map(|&v| v as i64).collect()));
    one.into_iter().chain(lists).collect()
}

struct Timer {
    pool: Pool,
    criterion: Criterion,
}

impl Timer {
    /// Times one launch; its rate is in floating-point operations.
    #[expect(unsafe_code, reason = "builds buffers from owned memory")]
    fn time(&mut self, label: &str, kernel: &str, scalars: &[Scalar], data: &[Data]) {
        let Some(kernel) = find(kernel) else {
            return;
        };
        let mut memory: Vec<Vec<u32>> = Vec::new();
        let mut seed = 1_u32;
        for d in data {
            memory.push(match d {
                Data::Float(len) => (0..*len)
                    .map(|_| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        ((seed >> 8) as f32 / (1 << 24) as f32 - 0.5).to_bits()
                    })
                    .collect(),
                Data::Index(idx) => idx.clone(),
                Data::None => vec![],
            });
        }
        let buffers: Vec<Buffer> = data
            .iter()
            .zip(&mut memory)
            .map(|(d, m)| match d {
                // SAFETY: the memory is initialised, aligned and outlives the launch.
                Data::Float(len) => unsafe { Buffer::new(m.as_mut_ptr().cast(), *len, DType::F32) },
                // SAFETY: as above.
                Data::Index(idx) => unsafe { Buffer::new(m.as_mut_ptr().cast(), idx.len(), DType::U32) },
                Data::None => Buffer::NONE,
            })
            .collect();
        let lens: Vec<usize> = buffers.iter().map(Buffer::len).collect();
        let call = Call { kernel, lens: &lens, scalars };
        // SAFETY: each argument has its own memory.
        let launch = unsafe { Launch::new(call, &buffers, &self.pool) };
        let mut group = self.criterion.benchmark_group(kernel.name);
        group.throughput(Throughput::Elements((kernel.flops)(&call)));
        group.bench_function(label, |b| b.iter(|| launch.run()));
        group.finish();
    }

    fn gemm(&mut self, label: &str, m: usize, n: usize, k: usize, transposed: [bool; 2]) {
        let int = |v: usize| Scalar::Int(v as i64);
        let pair = |rows: usize, cols: usize, t: bool| {
            Scalar::Ints(if t { vec![1, rows as i64] } else { vec![cols as i64, 1] })
        };
        let none = || Scalar::Ints(vec![]);
        let scalars = [
            int(m),
            int(n),
            int(k),
            none(),
            none(),
            none(),
            none(),
            pair(m, k, transposed[0]),
            pair(k, n, transposed[1]),
            pair(m, n, false),
            Scalar::Float(1.0),
            Scalar::Float(0.0),
        ];
        let label = format!("{label} {m}x{n}x{k}");
        self.time(&label, "gemm", &scalars, &[Data::Float(m * k), Data::Float(k * n), Data::None, Data::Float(m * n)]);
    }

    fn conv(&mut self, ci: usize, co: usize, size: usize, kernel: usize, stride: usize) {
        let g = geometry(ci, co, size, kernel, stride);
        let scalars = scalars(&g);
        let (x, w, y) = (ci * size * size, ci * co * kernel * kernel, co * g.output_len());
        let label = format!("{ci}->{co} {kernel}x{kernel}/{stride} {size}x{size}");
        let f = Data::Float;
        let work = |len: usize| if len > 0 { f(len) } else { Data::None };
        let args = [f(x), f(w), Data::None, f(y), work(conv::work_len(&g))];
        self.time(&label, "conv", &scalars, &args);
        let args = [f(y), f(w), f(x), work(conv_grad_input::work_len(&g))];
        self.time(&label, "conv_grad_input", &scalars, &args);
    }

    fn entries(len: usize, density: f64) -> Vec<u32> {
        let mut state = 7_u64;
        (0..len as u32)
            .filter(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 33) as f64) < density * f64::from(1_u32 << 31)
            })
            .collect()
    }

    fn masked_conv(&mut self, channels: usize, size: usize, kernel: usize) {
        let g = geometry(channels, channels, size, kernel, 1);
        let scalars = scalars(&g);
        let (x, w) = (channels * size * size, channels * channels * kernel * kernel);
        let f = Data::Float;
        let label = format!("{channels} {kernel}x{kernel} {size}x{size}");
        self.time(&label, "conv_grad_weight", &scalars, &[f(x), f(x), f(w)]);
        for density in [0.0058, 0.058] {
            let idx = Self::entries(w, density);
            let args = [f(x), f(x), Data::Index(idx.clone()), f(idx.len())];
            self.time(&format!("{label} {density}"), "masked_conv_grad", &scalars, &args);
        }
    }

    fn masked_matmul(&mut self, n: usize, rows: usize, cols: usize) {
        self.gemm("dense gradient", rows, cols, n, [true, false]);
        let int = |v: usize| Scalar::Int(v as i64);
        let scalars = [int(1), int(n), int(rows), int(cols), int(0), int(0)];
        let f = Data::Float;
        for density in [0.0058, 0.058] {
            let idx = Self::entries(rows * cols, density);
            let work = masked_matmul_grad::work_len(1, n, rows, false, false);
            let args = [f(n * rows), f(n * cols), Data::Index(idx.clone()), f(idx.len()), f(work)];
            let label = format!("{n} {rows}x{cols} {density}");
            self.time(&label, "masked_matmul_grad", &scalars, &args);
        }
    }

    fn attention(&mut self, heads: usize, queries: usize, keys: usize, dim: usize) {
        let int = |v: usize| Scalar::Int(v as i64);
        let mask = Scalar::Ints(vec![0; 4]);
        let scale = Scalar::Float((dim as f64).powf(-0.5));
        let scalars = [int(1), int(heads), int(queries), int(keys), int(dim), int(dim), mask, scale, int(0)];
        let (q, k, l) = (heads * queries * dim, heads * keys * dim, heads * queries);
        let label = format!("h{heads} {queries}x{keys} d{dim}");
        let f = Data::Float;
        let args = [f(q), f(k), f(k), Data::None, f(q), f(l)];
        self.time(&label, "attention", &scalars, &args);
        let args = [f(q), f(k), f(k), Data::None, f(q), f(l), f(q), f(q), f(k), f(k)];
        self.time(&label, "attention_grad", &scalars, &args);
    }
}

fn main() -> std::io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut timer = Timer { pool: Pool::new(threads)?, criterion };
    timer.conv(320, 320, 64, 3, 1);
    timer.conv(640, 640, 32, 3, 1);
    timer.conv(1280, 1280, 16, 3, 1);
    timer.conv(1280, 1280, 8, 3, 1);
    timer.conv(320, 320, 64, 3, 2);
    timer.conv(320, 320, 64, 1, 1);
    timer.conv(1280, 1280, 16, 1, 1);
    timer.conv(4, 320, 64, 3, 1);
    timer.conv(320, 4, 64, 3, 1);
    timer.gemm("nn", 1024, 1024, 1024, [false, false]);
    timer.gemm("nn", 4096, 2560, 320, [false, false]);
    timer.gemm("nt", 4096, 320, 2560, [false, true]);
    timer.gemm("nn", 4096, 320, 320, [false, false]);
    timer.gemm("nt", 4096, 320, 320, [false, true]);
    timer.gemm("nn", 256, 10240, 1280, [false, false]);
    timer.gemm("nt", 256, 1280, 10240, [false, true]);
    timer.gemm("nn", 64, 1280, 1280, [false, false]);
    timer.gemm("nn", 77, 320, 768, [false, false]);
    timer.gemm("tn", 320, 2560, 4096, [true, false]);
    timer.gemm("nn", 1, 1280, 1280, [false, false]);
    timer.attention(8, 4096, 4096, 40);
    timer.attention(8, 1024, 1024, 80);
    timer.attention(8, 256, 256, 160);
    timer.attention(8, 4096, 77, 40);
    timer.attention(1, 4096, 4096, 512);
    timer.masked_conv(320, 64, 3);
    timer.masked_conv(640, 32, 3);
    timer.masked_conv(1280, 16, 3);
    timer.masked_conv(1280, 8, 3);
    timer.masked_conv(320, 64, 1);
    timer.masked_matmul(4096, 320, 2560);
    timer.masked_matmul(4096, 320, 320);
    timer.masked_matmul(256, 1280, 10240);
    timer.masked_matmul(256, 5120, 1280);
    timer.criterion.final_summary();
    Ok(())
}
