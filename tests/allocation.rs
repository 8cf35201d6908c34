//! A training step takes no memory: all of it was taken when the executor was made.

mod common;

use common::{Dim, Tensor as Initialiser, declare, graph, node, noise};
use sara::compiler::compile::{TrainOptions, compile_training, unobserved};
use sara::compiler::import::{Binding, Model};
use sara::compiler::passes::differentiate::TARGET;
use sara::compiler::select::{self, Amount};
use sara::kernels::hyper;
use sara::runtime::executor::Executor;
use sara::runtime::plan::Plan;
use sara::runtime::tensor::{Tensor, Tensors, read_safetensors};
use sara_runtime::oracle::OracleType::F32;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with a count of what all threads ask of it.
struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is handed to the system's allocator as it comes.
#[expect(unsafe_code, reason = "an allocator that counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Allocations of all threads while `f` runs.
fn allocations(f: impl FnOnce()) -> usize {
    let before = TAKEN.load(Ordering::SeqCst);
    f();
    TAKEN.load(Ordering::SeqCst) - before
}

fn compile(model: &Path, shapes: &Tensors) -> Plan {
    let shapes = shapes.iter().filter(|(n, _)| *n != TARGET).map(|(n, t)| (n.clone(), t.shape().to_vec()));
    let binding = Binding { shapes: shapes.collect(), ..Binding::default() };
    let options = TrainOptions { binding, select: select::Options::default(), amount: Amount::Density(0.1) };
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

/// Allocations of what a training step runs, over some steps after two that warm up.
fn of_steps(plan: &Plan, inputs: &Tensors, threads: usize, steps: usize) -> usize {
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
    let mut taken = 0;
    for step in 0..2 + steps {
        for (name, tensor) in inputs {
            executor.set_input("train", name, tensor).unwrap();
        }
        let of_step = allocations(|| {
            executor.run("train").unwrap();
            assert!(executor.scalar("train", "loss").unwrap().is_finite());
            programs.iter().for_each(|p| executor.run(p).unwrap());
        });
        if step >= 2 {
            taken += of_step;
        }
    }
    taken
}

#[test]
fn a_training_step_takes_no_memory() {
    assert!(allocations(|| drop(vec![1u8; 100])) >= 1, "the count counts nothing");
    let folder = tempfile::tempdir().unwrap();
    let (plan, inputs) = products(folder.path());
    assert_eq!(plan.sparse.iter().filter(|s| s.low_rank.is_some()).count(), 2, "the low-rank term takes no part");
    let mut cases = vec![("products", plan, inputs)];
    for name in ["sd15_unet.ts", "dit.dynamo", "sd3_mmdit.dynamo", "pipeline.unet"] {
        let (plan, inputs) = bundled(name);
        cases.push((name, plan, inputs));
    }
    for (name, plan, inputs) in &cases {
        for threads in [1, 2] {
            let taken = of_steps(plan, inputs, threads, 20);
            println!("{name}, {threads} threads: {taken}");
        }
    }
}
