//! Text tests of the passes: every file under `tests/ir` is one test.
//!
//! A file names what to run (`; run: fuse`), holds a graph, a rule of dashes, and the graph that is expected. `BLESS=1` rewrites
//! what is below the rule. The graphs above and below are also executed on the kernels with the same data and must agree. A file
//! with `; run: verify` must be refused with the rule it names in `; error: V03`.

use libtest_mimic::{Arguments, Failed, Trial};
use sara_compiler::evaluate::execute;
use sara_compiler::ir::verify::verify;
use sara_compiler::ir::{Block, Def, Graph, Payload, State, Type, ValueId, parse};
use sara_compiler::passes::{Context, PIPELINE, apply};
use sara_compiler::select::{self, Chosen};
use sara_kernels::{DType, hyper};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const RULE: &str = "; ----";

fn main() {
    let args = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ir");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let trials = files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
            Trial::test(name, move || run(&path).map_err(Failed::from))
        })
        .collect();
    libtest_mimic::run(&args, trials).exit();
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "ir") {
            files.push(path);
        }
    }
}

fn run(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let directive = |key: &str| text.lines().find_map(|l| l.strip_prefix(&format!("; {key}: ")).map(str::trim));
    let command = directive("run").ok_or("the file says nothing to run")?;
    let (input, expected) = text.split_once(RULE).map_or((text.as_str(), None), |(a, b)| (a, Some(b.trim_start())));
    let before = parse(input).map_err(|e| format!("input: {e}"))?;
    if command == "verify" {
        let rule = directive("error").ok_or("a verify test names its error")?;
        return match verify(&before, "test") {
            Ok(()) => Err(format!("nothing was found; {rule} should be broken")),
            Err(e) if e.to_string().starts_with(rule) => Ok(()),
            Err(e) => Err(format!("{rule} should be broken, but: {e}")),
        };
    }
    verify(&before, "the test's input").map_err(|e| e.to_string())?;
    let mut after = before.clone();
    let chosen = every_third(&after);
    for name in command.split_whitespace() {
        let pass = PIPELINE.iter().find(|p| p.name == name).ok_or(format!("there is no pass `{name}`"))?;
        apply(pass, &mut after, &Context { selection: &chosen }).map_err(|e| e.to_string())?;
    }
    agree(&before, &after)?;
    let found = after.to_string();
    if std::env::var_os("BLESS").is_some() {
        let blessed = format!("{}{RULE}\n{found}", input);
        return std::fs::write(path, blessed).map_err(|e| e.to_string());
    }
    let expected = expected.ok_or("there is no expectation; run with BLESS=1")?;
    if found == expected { Ok(()) } else { Err(format!("expected:\n{expected}\nfound:\n{found}")) }
}

/// What sparsify selects in a text test, where weights have no data: every third entry of each eligible weight.
fn every_third(graph: &Graph) -> Chosen {
    let index = select::eligible(graph, &select::Options::default())
        .into_iter()
        .map(|w| (w, (0..graph.weights[w].len() as u32).step_by(3).collect()));
    Chosen { index: index.collect(), ..Chosen::default() }
}

/// Executes both graphs on the same data. What both give back must be equal up to rounding.
fn agree(before: &Graph, after: &Graph) -> Result<(), String> {
    let (a, b) = (outcome(before)?, outcome(after)?);
    let mut compared = 0;
    for (name, x) in &a {
        let Some(y) = b.get(name) else { continue };
        compared += 1;
        let scale = x.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let far = x.iter().zip(y).position(|(x, y)| (x - y).abs() > 1e-5 * scale || x.is_nan());
        if x.len() != y.len() || far.is_some() {
            return Err(format!("`{name}` changed: {x:?} became {y:?}"));
        }
    }
    if compared == 0 { Err("the two graphs have no result in common".into()) } else { Ok(()) }
}

/// Returns and accumulated gradients of a run over forward and backward.
fn outcome(graph: &Graph) -> Result<BTreeMap<String, Vec<f64>>, String> {
    let results =
        execute(graph, &[Block::Forward, Block::Backward], |id| Some(data(graph, id))).map_err(|e| e.to_string())?;
    let types: BTreeMap<&str, DType> = graph
        .values()
        .map(|(_, v)| (v.name.as_str(), v.ty.dtype))
        .chain(graph.returns.iter().map(|(n, v)| (n.as_str(), graph.ty(*v).dtype)))
        .collect();
    Ok(results
        .into_iter()
        .map(|(name, bytes)| {
            let values = match types[name.as_str()] {
                DType::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(&bytes).into_iter().map(f64::from).collect(),
                DType::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(&bytes),
                DType::I64 => bytemuck::pod_collect_to_vec::<u8, i64>(&bytes).into_iter().map(|v| v as f64).collect(),
                _ => bytes.into_iter().map(f64::from).collect(),
            };
            (name, values)
        })
        .collect())
}

/// Data that depends on the value's name and type only, so that both graphs see the same.
fn data(graph: &Graph, id: ValueId) -> Vec<u8> {
    let value = graph.value(id);
    match &value.def {
        Def::Param(index) => {
            let Def::Index(weight, _) = graph.value(*index).def else { return Vec::new() };
            let w: Vec<f32> = bytemuck::pod_collect_to_vec(&data(graph, weight));
            let p: Vec<f32> = positions(graph, *index).into_iter().map(|i| w[i as usize]).collect();
            bytemuck::cast_slice(&p).to_vec()
        }
        Def::Index(..) => bytemuck::cast_slice(&positions(graph, id)).to_vec(),
        Def::Hyper => {
            let mut h = [0f32; hyper::LEN];
            h[hyper::GRADIENT_SCALE] = 1.0;
            bytemuck::cast_slice(&h).to_vec()
        }
        Def::State(State::Gradient | State::Moment1 | State::Moment2, _) => vec![0; value.ty.bytes()],
        Def::Weight(w) if graph.uniform.contains_key(w) => {
            bytemuck::cast_slice(&vec![graph.uniform[w] as f32; value.ty.len()]).to_vec()
        }
        _ => noise(&value.name, &value.ty),
    }
}

fn positions(graph: &Graph, index: ValueId) -> Vec<u32> {
    match &graph.value(index).def {
        Def::Index(_, payload @ Payload::Known(_)) => payload.elements().unwrap_or_default(),
        _ => (0..graph.ty(index).len() as u32).collect(),
    }
}

fn noise(name: &str, ty: &Type) -> Vec<u8> {
    let mut state = name.bytes().fold(1u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)) | 1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64 * 2.0 - 1.0
    };
    let values: Vec<f64> = (0..ty.len()).map(|_| next()).collect();
    match ty.dtype {
        DType::F32 => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
        DType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => values.iter().flat_map(|v| i64::from(*v > 0.0).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| u32::from(*v > 0.0).to_le_bytes()).take(ty.bytes()).collect(),
    }
}
