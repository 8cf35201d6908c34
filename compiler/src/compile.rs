//! From a model to a plan: import, passes, lowering, placement.

use crate::error::{Error, Result};
use crate::fit;
use crate::import::{Binding, Model, import};
use crate::ir::verify::{LOSS, verify};
use crate::ir::{Block, Def, Graph, Payload, Stage, State, Type, ValueId};
use crate::loss::Loss;
use crate::lower::{Buffers, lower, sparse_numbers};
use crate::ops::{Accumulate, LowRank};
use crate::passes::{Context, Limit, Measured, PIPELINE, apply, differentiate, update};
use crate::place::place;
use crate::select::{self, Amount, Chosen};
use sara_kernels::{DType, hyper};
use sara_runtime::executor::{Site, arena_bytes, memory, memory_of};
use sara_runtime::plan::{Place, Plan, Program, Selection, Sparse, Weight};
use std::cell::Cell;

/// Where weights are while a plan runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residency {
    /// In memory.
    #[default]
    Resident,
    /// The large ones in the model's files, which are mapped; each is copied for the launch that reads it.
    Streamed,
}

/// What is stored in half precision. Sums are in single precision, and so is what trains and each gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Nothing.
    #[default]
    Single,
    /// Weights of products and convolutions, and what is kept for the backward, in bfloat16, in which linear layers and attention
    /// multiply, too.
    Bf16,
    /// The same in IEEE half precision; what is computed stays in single precision.
    Fp16,
}

impl Precision {
    /// The type that large things are stored in; none if they are stored as they are computed.
    pub fn half(self) -> Option<DType> {
        match self {
            Precision::Single => None,
            Precision::Bf16 => Some(DType::Bf16),
            Precision::Fp16 => Some(DType::F16),
        }
    }
}

/// What to compile for training.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Shapes.
    pub binding: Binding,
    /// Further shapes, each with a name: programs of their own over the same weights.
    pub buckets: Vec<(String, Binding)>,
    /// Which weights may train.
    pub select: select::Options,
    /// How many of their entries train.
    pub amount: Amount,
    /// What is made small.
    pub loss: Loss,
    /// Bytes of memory that training may take.
    pub memory_limit: Option<u64>,
    /// Where weights are while training.
    pub weights: Residency,
    /// What is stored in half precision.
    pub precision: Precision,
    /// Whether the moments of Adam are stored in a byte each, as [`sara_kernels::sparse_adamw_8bit`] says.
    pub use_8bit_adam: bool,
    /// Whose memory training will take.
    pub site: Site,
    /// Threads to compile with.
    pub threads: usize,
}

impl TrainOptions {
    /// Options without a limit on memory, for one thread.
    pub fn new(binding: Binding, select: select::Options, amount: Amount) -> TrainOptions {
        TrainOptions {
            binding,
            buckets: Vec::new(),
            select,
            amount,
            loss: Loss::default(),
            memory_limit: None,
            weights: Residency::Resident,
            precision: Precision::Single,
            use_8bit_adam: false,
            site: Site::Cpu { threads: 1 },
            threads: 1,
        }
    }
}

/// Called with the name of each pass and the graph after it.
pub type Observer<'a> = &'a mut dyn FnMut(&str, &Graph) -> Result<()>;

/// An observer that does nothing.
pub fn unobserved() -> impl FnMut(&str, &Graph) -> Result<()> {
    |_, _| Ok(())
}

/// The graph of a model after import and the passes before selection.
pub fn canonical(model: &Model, binding: &Binding, observe: Observer<'_>) -> Result<Graph> {
    let mut graph = import(model, binding)?;
    verify(&graph, "import")?;
    observe("import", &graph)?;
    let context = Context {
        selection: &Chosen::default(),
        loss: Loss::default(),
        limit: None,
        weights: Residency::Resident,
        precision: Precision::Single,
        use_8bit_adam: false,
    };
    run_passes(&mut graph, &context, Stage::Imported..=Stage::Canonical, observe)?;
    Ok(graph)
}

fn run_passes(
    graph: &mut Graph,
    context: &Context<'_>,
    stages: std::ops::RangeInclusive<Stage>,
    observe: Observer<'_>,
) -> Result<()> {
    for pass in PIPELINE.iter().filter(|p| stages.contains(&p.stage)) {
        apply(pass, graph, context)?;
        observe(pass.name, graph)?;
    }
    Ok(())
}

/// Compiles a model for training: programs `train`, `forward`, `update`, one for each matrix that takes part in the low-rank
/// term, and `train:NAME` and `forward:NAME` for each bucket.
pub fn compile_training(model: &Model, options: &TrainOptions, observe: Observer<'_>) -> Result<Plan> {
    let graph = canonical(model, &options.binding, observe)?;
    let chosen = select::choose(model, &graph, &options.select, options.amount, options.threads)?;
    match compile_chosen(model, &graph, &chosen, options, observe) {
        Err(Error::Memory { limit, least, .. }) => {
            let compile = |options: &TrainOptions| {
                let plan = compile_chosen(model, &graph, &chosen, options, &mut unobserved())?;
                Ok(memory(&plan, options.site).total())
            };
            Err(Error::Memory { limit, least, others: fit::nearest(options, limit, least, compile) })
        }
        compiled => compiled,
    }
}

/// The same for the canonical graph of the model and what trains. Reads no weights.
pub fn compile_chosen(
    model: &Model,
    graph: &Graph,
    chosen: &Chosen,
    options: &TrainOptions,
    observe: Observer<'_>,
) -> Result<Plan> {
    let mut plan = compile_once(model, graph.clone(), chosen, options, observe)?;
    let Some(limit) = options.memory_limit else { return Ok(plan.0) };
    loop {
        let (compiled, measured) = plan;
        let bytes = memory(&compiled, options.site).total();
        if bytes <= limit {
            return Ok(compiled);
        }
        // Shapes are measured one by one, without the programs of the low-rank term. What the plan takes beyond that has to fit too, and
        // another graph has to be found.
        let aim = limit.saturating_sub(bytes.saturating_sub(measured)).min(measured.saturating_sub(1));
        let asked = TrainOptions { memory_limit: Some(aim), ..options.clone() };
        plan = match compile_once(model, graph.clone(), chosen, &asked, &mut unobserved()) {
            Err(Error::Memory { .. }) => return Err(Error::Memory { limit, least: bytes, others: Vec::new() }),
            plan => plan?,
        };
    }
}

/// The same, within a limit as far as each shape by itself takes memory, and what the one with most takes.
fn compile_once(
    model: &Model,
    graph: Graph,
    chosen: &Chosen,
    options: &TrainOptions,
    observe: Observer<'_>,
) -> Result<(Plan, u64)> {
    let (mut graph, mut measured) = sparse_graph(graph, chosen, options, observe)?;
    let mut buffers = Buffers::new(sparse_numbers(&graph));
    let mut programs = training_programs(&graph, &mut buffers);
    for (name, binding) in &options.buckets {
        let own = canonical(model, binding, &mut unobserved())?;
        let (own, bytes) = sparse_graph(own, chosen, options, &mut unobserved())?;
        measured = measured.max(bytes);
        if own.weights != graph.weights {
            return Err(Error::Option(format!(
                "the model has other weights at the shapes of {name}; compile a plan for them alone"
            )));
        }
        programs.extend(shaped_programs(&own, &format!(":{name}"), &mut buffers));
    }
    let mut sparse = Vec::new();
    let indices: Vec<(ValueId, ValueId, Vec<u32>)> = graph
        .values()
        .filter_map(|(id, v)| match &v.def {
            Def::Index(weight, payload) => Some((id, *weight, payload.elements().unwrap_or_default())),
            _ => None,
        })
        .collect();
    for (_, value, index) in indices {
        let Def::Weight(weight) = graph.value(value).def else { continue };
        let low_rank = match select::low_rank(&graph, weight) {
            None => None,
            Some(shape) => {
                let name = format!("lowrank:{}", graph.weights[weight].name);
                // The small graph borrows the table of weights.
                let small = low_rank_graph(std::mem::take(&mut graph.weights), weight, shape, &index)?;
                programs.push(lower(&small, &name, &[Block::Update], &[], &mut buffers));
                graph.weights = small.weights;
                Some(name)
            }
        };
        let (threshold, base_sha256) = chosen.base.get(&weight).cloned().unwrap_or_default();
        sparse.push(Sparse { weight: weight as u32, index, threshold, base_sha256, low_rank });
    }
    Ok((finish(model, &graph, buffers, programs, sparse, chosen.summary.clone())?, measured))
}

/// The graph of a training step, for a canonical graph and what trains, and what it takes if there is a limit.
fn sparse_graph(
    mut graph: Graph,
    chosen: &Chosen,
    options: &TrainOptions,
    observe: Observer<'_>,
) -> Result<(Graph, u64)> {
    let TrainOptions { loss, weights, precision, use_8bit_adam, site, .. } = *options;
    let unlimited = Context { selection: chosen, loss, limit: None, weights, precision, use_8bit_adam };
    // A graph that is within the limit is taken, and is the last that is measured.
    let last = Cell::new(0);
    let measure = |graph: &Graph| {
        let mut graph = graph.clone();
        for pass in PIPELINE.iter().skip_while(|p| p.name != "rematerialise").skip(1) {
            (pass.run)(&mut graph, &unlimited)?;
        }
        let mut buffers = Buffers::new(sparse_numbers(&graph));
        let mut programs = training_programs(&graph, &mut buffers);
        programs.iter_mut().for_each(|p| place(p, &mut buffers.list));
        let Buffers { list, constants, .. } = &buffers;
        let trained = chosen.index.values().map(Vec::len);
        let taken = memory_of(&graph.weights, list, &programs, constants.len(), trained, use_8bit_adam, site);
        let bytes = taken.total();
        last.set(bytes);
        Ok(Measured { bytes, besides: bytes - taken.arena })
    };
    let limit = options.memory_limit.map(|bytes| Limit { bytes, measure: &measure });
    let context = Context { limit, ..unlimited };
    run_passes(&mut graph, &context, Stage::Sparse..=Stage::Fused, observe)?;
    Ok((graph, last.get()))
}

/// The programs that every training has, not placed yet.
fn training_programs(graph: &Graph, buffers: &mut Buffers) -> Vec<Program> {
    let mut programs = shaped_programs(graph, "", buffers).to_vec();
    programs.push(lower(graph, "update", &[Block::Update], &[], buffers));
    programs
}

/// Those of them that depend on shapes, their names followed by `suffix`.
fn shaped_programs(graph: &Graph, suffix: &str, buffers: &mut Buffers) -> [Program; 2] {
    let (loss, outputs): (Vec<_>, Vec<_>) = graph.returns.iter().cloned().partition(|r| r.0 == LOSS);
    [
        lower(graph, &format!("train{suffix}"), &[Block::Forward, Block::Backward], &loss, buffers),
        lower(graph, &format!("forward{suffix}"), &[Block::Forward], &outputs, buffers),
    ]
}

/// Compiles a model for inference: the program `forward`.
pub fn compile_forward(model: &Model, binding: &Binding, observe: Observer<'_>) -> Result<Plan> {
    let graph = canonical(model, binding, observe)?;
    let mut buffers = Buffers::default();
    let returns = graph.returns.clone();
    let programs = vec![lower(&graph, "forward", &[Block::Forward], &returns, &mut buffers)];
    finish(model, &graph, buffers, programs, Vec::new(), Selection::default())
}

/// Compiles the dense gradient of `mean((first output - target)^2)` with respect to every eligible weight: the program `gradients`,
/// whose outputs are the loss and the gradients under the weights' ONNX names.
pub fn compile_gradients(
    model: &Model,
    binding: &Binding,
    options: &select::Options,
    observe: Observer<'_>,
) -> Result<Plan> {
    let mut graph = canonical(model, binding, observe)?;
    let eligible = select::eligible(&graph, options);
    let wanted: Vec<ValueId> = graph
        .values()
        .filter(|(_, v)| matches!(v.def, Def::Weight(w) if eligible.contains(&w)))
        .map(|(id, _)| id)
        .collect();
    let loss = Loss::default().add(&mut graph)?;
    let found = differentiate::gradients(&mut graph, loss, &wanted)?;
    graph.returns = vec![(LOSS.to_owned(), loss)];
    for (weight, gradient) in found {
        let (Def::Weight(index), Some(gradient)) = (&graph.value(weight).def, gradient) else { continue };
        let name = graph.weights[*index].name.clone();
        graph.returns.push((name, gradient));
    }
    crate::passes::fold::share(&mut graph);
    verify(&graph, "gradients")?;
    observe("gradients", &graph)?;
    let mut buffers = Buffers::default();
    let returns = graph.returns.clone();
    let programs = vec![lower(&graph, "gradients", &[Block::Forward, Block::Backward], &returns, &mut buffers)];
    finish(model, &graph, buffers, programs, Vec::new(), Selection::default())
}

/// The graph that adds the low-rank subgradient of one weight to its gradient.
fn low_rank_graph(weights: Vec<Weight>, weight: usize, (rows, cols): (usize, usize), index: &[u32]) -> Result<Graph> {
    let mut small = Graph::new(&format!("lowrank {}", weights[weight].name));
    small.stage = Stage::Sparse;
    small.weights = weights;
    let w = small.add_value("w", Type::new(DType::F32, &[rows, cols]), Def::Weight(weight));
    let shape = [index.len()];
    let idx = small.add_value("w.idx", Type::new(DType::U32, &shape), Def::Index(w, Payload::of(index)));
    let p = small.add_value("w.p", Type::new(DType::F32, &shape), Def::Param(idx));
    let g = small.add_value("w.p.g", Type::new(DType::F32, &shape), Def::State(State::Gradient, p));
    let hyper = update::hyper_value(&mut small);
    let origin = "low-rank".into();
    let d = small.emit(Block::Update, LowRank { rows, cols }.into(), &[Some(idx), Some(p)], "d", &origin)?[0];
    let sum = Accumulate { scale: hyper::LAMBDA_RANK };
    small.emit(Block::Update, sum.into(), &[Some(d), Some(hyper), Some(g)], "", &origin)?;
    verify(&small, "low-rank")?;
    Ok(small)
}

fn finish(
    model: &Model,
    graph: &Graph,
    mut buffers: Buffers,
    mut programs: Vec<Program>,
    sparse: Vec<Sparse>,
    selection: Selection,
) -> Result<Plan> {
    for program in &mut programs {
        place(program, &mut buffers.list);
    }
    let plan = Plan {
        name: graph.name.clone(),
        model: model.identity()?,
        selection,
        arena_bytes: arena_bytes(&programs),
        use_8bit_adam: buffers.list.iter().any(|b| matches!(b.place, Place::Absmax1(_))),
        buffers: buffers.list,
        weights: graph.weights.clone(),
        sparse,
        constants: buffers.constants,
        programs,
    };
    plan.verify().map_err(Error::from)?;
    Ok(plan)
}
