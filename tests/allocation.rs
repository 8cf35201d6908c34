//! What a training step allocates: nothing of its own, since all memory was taken when the executor was made. The `gemm` crate
//! takes buffers for the length of a product.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod common;

use common::{Dim, Tensor as Initialiser, declare, graph, node, noise};
use sara::compiler::compile::{TrainOptions, compile_training, unobserved};
use sara::compiler::import::{Binding, Model};
use sara::compiler::loss::TARGET;
use sara::compiler::select::{self, Amount};
use sara::kernels::hyper;
use sara::runtime::executor::Executor;
use sara::runtime::plan::Plan;
use sara::runtime::tensor::{Tensor, Tensors, read_safetensors};
use sara_runtime::oracle::OracleType::F32;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with an account of what all threads ask of it.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Buffers into which the `gemm` crate packs operands: one for each thread, which it keeps from its first product on, and others for
/// the length of a product. It alone asks for this alignment.
static PACKING: AtomicUsize = AtomicUsize::new(0);
/// Lists of flags, one for each call of the `gemm` crate. It alone asks for zeroed bytes.
static FLAGS: AtomicUsize = AtomicUsize::new(0);
/// All others.
static OTHER: AtomicUsize = AtomicUsize::new(0);
/// Bytes that are held, and the most that were.
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
/// Bytes of the largest packing buffer, which is the one that each thread keeps, and how many of its size were taken.
static LARGEST: AtomicUsize = AtomicUsize::new(0);
static LARGE: AtomicUsize = AtomicUsize::new(0);

const PACKING_ALIGN: usize = 128;

fn take(layout: Layout, zeroed: bool) {
    let kind = match layout.align() {
        PACKING_ALIGN => &PACKING,
        1 if zeroed => &FLAGS,
        _ => &OTHER,
    };
    kind.fetch_add(1, Ordering::Relaxed);
    let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
    MOST.fetch_max(held, Ordering::Relaxed);
    if layout.align() == PACKING_ALIGN {
        let largest = LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        LARGE.fetch_add(usize::from(layout.size() >= largest), Ordering::Relaxed);
    }
}

fn give(layout: Layout) {
    HELD.fetch_sub(layout.size(), Ordering::Relaxed);
}

// SAFETY: everything is handed to the system's allocator as it comes.
#[expect(unsafe_code, reason = "an allocator that counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout, false);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout, true);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        OTHER.fetch_add(1, Ordering::Relaxed);
        HELD.fetch_add(size, Ordering::Relaxed);
        give(layout);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        give(layout);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What all threads allocated, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Taken {
    packing: usize,
    flags: usize,
    other: usize,
    /// The most bytes that were held at a time.
    most: usize,
}

/// What all threads allocate while `f` runs.
fn allocations(f: impl FnOnce()) -> Taken {
    let read = || [&PACKING, &FLAGS, &OTHER].map(|c| c.load(Ordering::SeqCst));
    let (before, held) = (read(), HELD.load(Ordering::SeqCst));
    MOST.store(held, Ordering::SeqCst);
    f();
    let after = read();
    let [packing, flags, other] = std::array::from_fn(|i| after[i] - before[i]);
    Taken { packing, flags, other, most: MOST.load(Ordering::SeqCst) - held }
}

fn compile(model: &Path, shapes: &Tensors) -> Plan {
    let shapes = shapes.iter().filter(|(n, _)| *n != TARGET).map(|(n, t)| (n.clone(), t.shape().to_vec()));
    let binding = Binding { shapes: shapes.collect(), ..Binding::default() };
    let options = TrainOptions::new(binding, select::Options::default(), Amount::Density(0.1));
    compile_training(&Model::open(model).unwrap(), &options, &mut unobserved()).unwrap()
}

/// A bundled model and its inputs.
fn bundled(name: &str) -> (Plan, Tensors) {
    let path = |file: String| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file);
    let (mut inputs, _) = read_safetensors(&path(format!("{name}.case.safetensors"))).unwrap();
    inputs.retain(|n, _| !n.starts_with("expected"));
    (compile(&path(format!("{name}.onnx")), &inputs), inputs)
}

/// Products that are large enough for several tasks each, and for the low-rank term.
fn products(folder: &Path) -> (Plan, Tensors) {
    const BATCH: usize = 3000;
    let matrix = |rows: usize, cols: usize, seed| {
        let values: Vec<f64> = noise(seed, rows * cols).iter().map(|v| (v - 0.5) / 10.0).collect();
        Initialiser::new(F32, &[rows, cols], &values).proto(&format!("w{seed}"))
    };
    let nodes = vec![
        node("MatMul", &["x", "w1"], &["h"], &[]),
        node("Tanh", &["h"], &["a"], &[]),
        node("MatMul", &["a", "w2"], &["y"], &[]),
    ];
    let x = declare("x", F32, &[Dim::Fixed(BATCH), Dim::Fixed(96)]);
    let model = common::model(17, graph(nodes, vec![x], vec![matrix(96, 200, 1), matrix(200, 70, 2)], &["y"]));
    let path = folder.join("model.onnx");
    std::fs::write(&path, common::bytes(&model)).unwrap();
    let tensor = |width: usize, seed| {
        let values = noise(seed, BATCH * width).iter().map(|v| *v as f32).collect();
        Tensor::f32(&[BATCH, width], values).unwrap()
    };
    let inputs = Tensors::from([("x".to_owned(), tensor(96, 3)), (TARGET.to_owned(), tensor(70, 4))]);
    (compile(&path, &inputs), inputs)
}

/// Steps that warm up at least, and steps that are watched.
const WARM: usize = 2;
const STEPS: usize = 20;
/// Bytes that one product of these models packs at most.
const MOST_OF_A_PRODUCT: usize = 256 << 10;

/// What the programs of a training step allocate, over some steps after all threads have warmed up.
fn of_steps(plan: &Plan, inputs: &Tensors, threads: usize) -> Taken {
    let large = LARGE.load(Ordering::SeqCst);
    let mut executor = Executor::new(plan.clone(), threads, None).unwrap();
    executor.poison(false);
    let low_rank = plan.sparse.iter().filter_map(|s| s.low_rank.clone());
    let programs: Vec<String> = low_rank.chain(["update".to_owned()]).collect();
    for (slot, value) in [
        (hyper::LEARNING_RATE, 1e-4),
        (hyper::BETA1, 0.9),
        (hyper::BETA2, 0.999),
        (hyper::EPSILON, 1e-8),
        (hyper::CORRECTION1, 0.1),
        (hyper::CORRECTION2, 1e-3),
        (hyper::MAX_NORM, 1.0),
        (hyper::GRADIENT_SCALE, 1.0),
        (hyper::LAMBDA_RANK, 5e-4),
    ] {
        executor.hyper()[slot] = value;
    }
    let mut step = || {
        for (name, tensor) in inputs {
            executor.set_input("train", name, tensor).unwrap();
        }
        allocations(|| {
            executor.run("train").unwrap();
            assert!(executor.scalar("train", "loss").unwrap().is_finite());
            programs.iter().for_each(|p| executor.run(p).unwrap());
        })
    };
    let mut warm = 0;
    // This thread, which takes part, has had its buffer since the first product of all.
    while warm < WARM || LARGE.load(Ordering::SeqCst) - large < threads - 1 {
        assert!(warm < 10_000, "some of {threads} threads compute no product");
        step();
        warm += 1;
    }
    let held = HELD.load(Ordering::SeqCst);
    let mut taken = Taken::default();
    for of_step in (0..STEPS).map(|_| step()) {
        taken.packing += of_step.packing;
        taken.flags += of_step.flags;
        taken.other += of_step.other;
        taken.most = taken.most.max(of_step.most);
    }
    assert_eq!(HELD.load(Ordering::SeqCst), held, "{STEPS} steps hold other memory than before");
    assert_eq!(taken.other, 0, "{taken:?}");
    taken
}

#[test]
fn a_training_step_takes_no_memory_but_that_of_the_gemm_crate() {
    let one = allocations(|| drop(std::hint::black_box(vec![1u16; 100])));
    assert_eq!((one.other, one.most), (1, 200), "the account is wrong");
    let folder = tempfile::tempdir().unwrap();
    let (plan, inputs) = products(folder.path());
    assert_eq!(plan.sparse.iter().filter(|s| s.low_rank.is_some()).count(), 2, "the low-rank term takes no part");
    // The first product of all finds the largest packing buffer.
    Executor::new(plan.clone(), 1, None).unwrap().run("train").unwrap();
    let mut cases = vec![("products", plan, inputs)];
    for name in ["sd15_unet.ts", "dit.dynamo", "sd3_mmdit.dynamo", "pipeline.unet"] {
        let (plan, inputs) = bundled(name);
        cases.push((name, plan, inputs));
    }
    for (name, plan, inputs) in &cases {
        let [one, two] = [1, 2].map(|threads| {
            let taken = of_steps(plan, inputs, threads);
            println!("{name}, {threads} threads: {taken:?} in {STEPS} steps");
            assert!(taken.packing <= taken.flags, "{name}: more packing than products: {taken:?}");
            assert!(taken.most <= threads * MOST_OF_A_PRODUCT, "{name}: {taken:?}");
            taken
        });
        assert_eq!([one.packing, one.flags], [two.packing, two.flags], "{name}: threads change what is computed");
    }
}
