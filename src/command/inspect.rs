//! `sara inspect`: what a model holds and what of it can train.

use super::options::{Dims, Dump, ModelArg, Select, observe};
use super::{Failure, report};
use sara_compiler::compile::canonical;
use sara_compiler::import::{Binding, Model, read_weight};
use sara_compiler::ir::{Def, Graph};
use sara_compiler::ops::Op;
use sara_compiler::select::{self, Role};
use sara_models::layers::{self, Layer};
use sara_runtime::files::write_atomic;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    dims: Dims,
    #[command(flatten)]
    select: Select,
    #[command(flatten)]
    dump: Dump,
    /// Also draw how many weights of each layer that trains lie below the thresholds.
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,
    /// Report as JSON.
    #[arg(long, conflicts_with = "dump_after")]
    json: bool,
}

/// Size at which dimensions that no flag binds are looked at; what is reported hardly depends on it.
const OPEN: usize = 64;

/// Thresholds that the counts are shown for: the paper's for 5, 20 and 50 million entries of SD1.5, and one above.
const THRESHOLDS: [f64; 4] = [2e-4, 8e-4, 2e-3, 5e-3];

#[derive(Serialize)]
struct Report {
    opset: i64,
    producer: String,
    dims: Vec<String>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    onnx_operators: BTreeMap<String, usize>,
    /// What exporters write with several nodes and the compiler takes for one.
    recognised: BTreeMap<String, usize>,
    /// The other operators, elementwise functions by name.
    primitive: BTreeMap<String, usize>,
    weights: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    path: String,
    shape: Vec<u64>,
    role: String,
    below: [u64; 4],
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let model = args.model.open()?;
    let mut observer = args.dump.observer();
    let binding = Binding { open: Some(OPEN), ..args.dims.binding() };
    let graph = canonical(&model, &binding, observe(&mut observer))?;
    let report = inspect(&model, &graph, &args.select.options())?;
    if let Some(path) = &args.plot {
        plot(&report, path)?;
    }
    if args.json {
        return report::json(&report);
    }
    say!("opset {}, made by {}", report.opset, report.producer);
    if !report.dims.is_empty() {
        say!(
            "dimensions {} (--dim binds them; {OPEN} here where it does not, and 1 for a batch)",
            report.dims.join(", ")
        );
    }
    say!("inputs   {}", report.inputs.join(", "));
    say!("outputs  {}", report.outputs.join(", "));
    let list = |counts: &BTreeMap<String, usize>| {
        counts.iter().map(|(op, n)| format!("{n} {op}")).collect::<Vec<_>>().join(", ")
    };
    say!("in the file   {}", list(&report.onnx_operators));
    say!("recognised    {}", list(&report.recognised));
    say!("primitive     {}", list(&report.primitive));
    let header = ["weight", "shape", "role", "|w|<2e-4", "<8e-4", "<2e-3", "<5e-3"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let mut sums = [0; 4];
    for row in &report.weights {
        let shape = row.shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
        let mut cells = vec![row.path.clone(), shape, row.role.clone()];
        cells.extend(row.below.map(report::grouped));
        rows.push(cells);
        if row.role == "trains" {
            sums.iter_mut().zip(row.below).for_each(|(s, n)| *s += n);
        }
    }
    let mut total = vec!["all that train".to_owned(), String::new(), String::new()];
    total.extend(sums.map(report::grouped));
    rows.push(total);
    say!("{}", report::table(&rows));
    Ok(())
}

/// Draws the layers that train.
fn plot(report: &Report, path: &Path) -> Result<(), Failure> {
    let trains = report.weights.iter().filter(|row| row.role == "trains");
    let layer =
        |row: &Row| Layer { name: row.path.clone(), total: row.shape.iter().product(), below: row.below.to_vec() };
    let layers: Vec<Layer> = trains.map(layer).collect();
    let svg = layers::svg("weights of each layer below the thresholds", &THRESHOLDS, &layers)?;
    write_atomic(path, |out| out.write_all(svg.as_bytes()))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// Whether the operator stands for what exporters write with several nodes, and its name.
fn describe(op: &Op) -> (bool, String) {
    match op {
        Op::Unary(u) => (matches!(u.op.as_str(), "silu" | "gelu" | "gelu_tanh" | "quick_gelu"), u.op.clone()),
        Op::Binary(b) => (false, b.op.clone()),
        Op::Reduce(r) => (false, format!("reduce {}", r.op)),
        Op::Glu(g) => (true, format!("glu {}", g.op)),
        Op::Attention(_) | Op::GroupNorm(_) | Op::LayerNorm(_) | Op::RmsNorm(_) => (true, op.name().to_owned()),
        other => (false, other.name().to_owned()),
    }
}

fn inspect(model: &Model, graph: &Graph, options: &select::Options) -> Result<Report, Failure> {
    let mut onnx_operators = BTreeMap::new();
    for node in &model.graph().node {
        *onnx_operators.entry(node.op_type.clone()).or_default() += 1;
    }
    let (mut recognised, mut primitive) = (BTreeMap::new(), BTreeMap::new());
    for id in graph.program() {
        let (known, name) = describe(&graph.node(id).op);
        *if known { &mut recognised } else { &mut primitive }.entry(name).or_default() += 1;
    }
    let inputs = graph.values().filter_map(|(_, v)| match &v.def {
        Def::Arg(name) => Some(format!("{name} {}", v.ty)),
        _ => None,
    });
    let outputs = graph.returns.iter().map(|(name, v)| format!("{name} {}", graph.ty(*v)));
    let eligible = select::eligible(graph, options);
    let mut weights = Vec::new();
    for (weight, role) in select::roles(graph) {
        let w = &graph.weights[weight];
        let role = match role {
            _ if eligible.contains(&weight) => "trains".to_owned(),
            Role::Matrix => "matrix, not selected".to_owned(),
            Role::Other => "not a matrix".to_owned(),
            Role::Frequency => "frequencies".to_owned(),
            Role::Untrainable(reason) => format!("cannot: {reason}"),
        };
        let bytes = read_weight(model, w)?;
        let size = w.stored.loaded().size();
        let mut below = [0; 4];
        if size == 4 {
            for v in bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])) {
                for (n, t) in below.iter_mut().zip(THRESHOLDS) {
                    *n += u64::from(f64::from(v.abs()) < t);
                }
            }
        }
        weights.push(Row { name: w.name.clone(), path: w.path.clone(), shape: w.shape.clone(), role, below });
    }
    Ok(Report {
        opset: model.opset(),
        producer: format!("{} {}", model.proto.producer_name, model.proto.producer_version),
        dims: model.dims(),
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        onnx_operators,
        recognised,
        primitive,
        weights,
    })
}
