//! Runs a plan on a CPU. All memory is taken when the executor is made; a step allocates nothing.

use crate::block::Block;
use crate::error::{Error, Result};
use crate::load::{Loaded, load, resident, room};
use crate::map::Map;
use crate::plan::{self, ALIGN, BufferId, Place, Plan, Port, Program, Weight};
use crate::source::Source;
use crate::tensor::Tensor;
use sara_kernels::{Buffer, Call, DType, Launch, Mode, Pool, hyper, narrow};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

/// A plan with its memory: weights, sparse state, constants, arena.
pub struct Executor {
    plan: Plan,
    pool: Pool,
    weights: Block,
    weight_at: Vec<Option<(usize, DType)>>,
    /// The files of weights that launches read from there, each with its name in the plan.
    maps: Vec<(String, Map)>,
    constants: Block,
    arena: Block,
    state: Block,
    state_at: Vec<StateAt>,
    hyper_at: usize,
    bound: Vec<Bound>,
    poison: bool,
}

/// Where the state of a sparse weight lies, in bytes of the state block, and how many of its entries train now. Behind those lie
/// the positions and values of the entries that train no more.
#[derive(Clone, Copy)]
struct StateAt {
    index: usize,
    param: usize,
    gradient: usize,
    moment1: usize,
    moment2: usize,
    count: usize,
    all: usize,
}

/// What a buffer lies in.
enum Memory<'a> {
    Block(&'a Block),
    /// The number of the map.
    File(usize),
}

/// What trains of a sparse weight, and what no more does.
#[derive(Clone, Copy, Debug)]
pub struct SparseState<'a> {
    /// Positions of the entries that train, ascending.
    pub index: &'a [u32],
    /// Their values.
    pub values: &'a [f32],
    /// Their first and second moments.
    pub moments: [&'a [f32]; 2],
    /// Positions of the entries that train no more, ascending.
    pub left: &'a [u32],
    /// Their values.
    pub left_values: &'a [f32],
}

/// The buffers of a program's launches, ready to be handed to kernels.
#[derive(Default)]
struct Bound {
    buffers: Vec<Buffer>,
    lens: Vec<usize>,
    /// Range of `buffers` for each step.
    ranges: Vec<(usize, usize)>,
    /// Steps that read a file, in order: the map, and the bytes of it.
    fetches: Vec<(usize, usize, Range<usize>)>,
}

// SAFETY: the pointers in `Bound` point into the executor's own blocks, which move with it without moving their memory.
#[expect(unsafe_code, reason = "pointers into memory that the executor owns")]
unsafe impl Send for Bound {}
// SAFETY: a shared executor only reads; everything that writes takes it exclusively.
#[expect(unsafe_code, reason = "pointers into memory that the executor owns")]
unsafe impl Sync for Bound {}

/// Fetches by which reading a file runs ahead of the launches.
const AHEAD: usize = 4;

/// A tensor that holds a number that is not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// Its name.
    pub tensor: String,
    /// The ONNX node that made it; empty for an input.
    pub origin: String,
    /// Whether it holds NaN; otherwise it holds an infinity.
    pub nan: bool,
    /// Of a NaN: the first tensor before it that holds an infinity, which may be the cause or be meant.
    pub after: Option<String>,
}

/// What one launch took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Floating-point operations, as the kernel declares them.
    pub flops: u64,
}

/// The worst that a tensor holds.
enum Extreme {
    Finite,
    Infinite,
    NaN,
}

impl Executor {
    /// Reads the weights and takes all memory that the plan needs. `model` overrides the path that the plan remembers.
    pub fn new(plan: Plan, threads: usize, model: Option<&Path>) -> Result<Executor> {
        let pool = Pool::new(threads).map_err(|e| Error::Option(format!("no threads could be started: {e}")))?;
        let source = plan.model.source(model);
        let Loaded { at: weight_at, block: weights, values } = load(&plan, &source, &pool)?;
        let maps = maps(&plan, &source)?;
        let mut constants = Block::new(plan.constants.len())?;
        constants.bytes_mut()[..plan.constants.len()].copy_from_slice(&plan.constants);
        let arena = Block::new(plan.arena_bytes as usize)?;
        let mut end = 0;
        let mut take = |bytes: usize| {
            let at = end;
            end += bytes.next_multiple_of(ALIGN as usize);
            at
        };
        let state_at: Vec<StateAt> = plan
            .sparse
            .iter()
            .map(|s| {
                let bytes = s.index.len() * 4;
                StateAt {
                    index: take(bytes),
                    param: take(bytes),
                    gradient: take(bytes),
                    moment1: take(bytes),
                    moment2: take(bytes),
                    count: s.index.len(),
                    all: s.index.len(),
                }
            })
            .collect();
        let hyper_at = take(hyper::LEN * 4);
        let state = Block::new(end)?;
        let poison = cfg!(debug_assertions);
        let mut executor = Executor {
            plan,
            pool,
            weights,
            weight_at,
            maps,
            constants,
            arena,
            state,
            state_at,
            hyper_at,
            bound: Vec::new(),
            poison,
        };
        let mut rest = values.as_slice();
        for (sparse, at) in executor.plan.sparse.iter().zip(&executor.state_at) {
            let (own, others) = rest.split_at(at.count);
            executor.state.view_mut(at.index, at.count).copy_from_slice(&sparse.index);
            executor.state.view_mut(at.param, at.count).copy_from_slice(own);
            rest = others;
        }
        drop(values);
        executor.bind();
        Ok(executor)
    }

    /// Frees all memory but the plan.
    pub fn into_plan(self) -> Plan {
        self.plan
    }

    /// Fills the arena with NaN before each run, so that a read of what was never written shows. On by default in debug builds.
    pub fn poison(&mut self, on: bool) {
        self.poison = on;
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Elements of a weight that lies in memory in `f32`.
    pub fn weight(&self, weight: u32) -> Option<&[f32]> {
        let w = &self.plan.weights[weight as usize];
        let (at, _) = self.weight_at[weight as usize].filter(|at| at.1 == DType::F32)?;
        Some(self.weights.view(at, w.len() as usize))
    }

    /// Replaces elements of a weight that lies in memory. Indices are within the weight.
    pub fn patch(&mut self, weight: u32, index: &[u32], values: &[f32]) -> Result<()> {
        let w = &self.plan.weights[weight as usize];
        let misfit = |what: &str| Error::tensor(&w.name, what);
        let len = w.len() as usize;
        let at = self.weight_at[weight as usize].ok_or_else(|| misfit("does not lie in memory"))?;
        let (at, DType::F32) = at else { return Err(misfit("is not stored in single precision")) };
        if index.len() != values.len() || index.iter().any(|i| *i as usize >= len) {
            return Err(misfit("is given values for positions that it does not have"));
        }
        let all: &mut [f32] = self.weights.view_mut(at, len);
        index.iter().zip(values).for_each(|(i, v)| all[*i as usize] = *v);
        Ok(())
    }

    /// Entries of sparse weight `s` that train now.
    pub fn count(&self, s: usize) -> usize {
        self.state_at[s].count
    }

    /// Positions of the entries of sparse weight `s` that train now.
    pub fn indices(&self, s: usize) -> &[u32] {
        let at = self.state_at[s];
        self.state.view(at.index, at.count)
    }

    /// State of sparse weight `s`: values, accumulated gradient, first and second moment.
    pub fn state(&self, s: usize) -> [&[f32]; 4] {
        let at = self.state_at[s];
        [at.param, at.gradient, at.moment1, at.moment2].map(|offset| self.state.view(offset, at.count))
    }

    /// Positions and values of the entries of sparse weight `s` that train no more, in ascending order.
    pub fn left(&self, s: usize) -> (&[u32], &[f32]) {
        let at = self.state_at[s];
        let (index, values) = (self.state.view(at.index, at.all), self.state.view(at.param, at.all));
        (&index[at.count..], &values[at.count..])
    }

    /// Values of all entries of sparse weight `s` that the plan trains, in the order of the plan, whether they still train or not.
    pub fn values(&self, s: usize) -> Vec<f32> {
        let at = self.state_at[s];
        let (index, values): (&[u32], &[f32]) = (self.state.view(at.index, at.all), self.state.view(at.param, at.all));
        let mut pairs: Vec<(u32, f32)> = index.iter().copied().zip(values.iter().copied()).collect();
        pairs.sort_unstable_by_key(|p| p.0);
        pairs.into_iter().map(|p| p.1).collect()
    }

    /// Replaces the state of sparse weight `s`. The gradient becomes zero, and the weight takes the values.
    pub fn set_state(&mut self, s: usize, state: &SparseState<'_>) -> Result<()> {
        let SparseState { index, values, moments, left, left_values } = *state;
        let sparse = &self.plan.sparse[s];
        let name = || self.plan.weights[sparse.weight as usize].name.clone();
        let n = index.len();
        if [values.len(), moments[0].len(), moments[1].len()] != [n; 3] || left.len() != left_values.len() {
            return Err(Error::tensor(name(), "index, values and moments have different lengths"));
        }
        let mut all = [index, left].concat();
        all.sort_unstable();
        if all != sparse.index || !index.is_sorted() || !left.is_sorted() {
            return Err(Error::tensor(name(), "its positions are not those that the plan trains, in ascending order"));
        }
        let at = StateAt { count: n, ..self.state_at[s] };
        self.state.view_mut(at.index, at.all).copy_from_slice(&[index, left].concat());
        self.state.view_mut(at.param, at.all).copy_from_slice(&[values, left_values].concat());
        self.state.view_mut(at.moment1, n).copy_from_slice(moments[0]);
        self.state.view_mut(at.moment2, n).copy_from_slice(moments[1]);
        self.state.view_mut::<f32>(at.gradient, n).fill(0.0);
        self.state_at[s] = at;
        let len = self.plan.weights[sparse.weight as usize].len() as usize;
        let entries = index.iter().zip(values).chain(left.iter().zip(left_values));
        match self.weight_at[sparse.weight as usize] {
            None => {}
            Some((place, DType::Bf16)) => {
                let w = self.weights.view_mut::<half::bf16>(place, len);
                entries.for_each(|(i, v)| w[*i as usize] = narrow(*v));
            }
            Some((place, _)) => {
                let w = self.weights.view_mut::<f32>(place, len);
                entries.for_each(|(i, v)| w[*i as usize] = *v);
            }
        }
        self.bind();
        Ok(())
    }

    /// Keeps, of each sparse weight, the entries with `|w|` below the threshold by which they were chosen; the others stay as they
    /// are and train no more. Moments of those that stay are kept. Returns how many entries train now.
    pub fn reselect(&mut self) -> u64 {
        let mut total = 0;
        for (at, sparse) in self.state_at.iter_mut().zip(&self.plan.sparse) {
            let (index, param, m, v) = (at.index, at.param, at.moment1, at.moment2);
            let mut kept = 0;
            for k in 0..at.count {
                let value: f32 = self.state.view::<f32>(param, k + 1)[k];
                if f64::from(value.abs()) < sparse.threshold {
                    self.state.view_mut::<u32>(index, k + 1).swap(kept, k);
                    for field in [param, m, v] {
                        self.state.view_mut::<f32>(field, k + 1).swap(kept, k);
                    }
                    kept += 1;
                }
            }
            let (positions, values): (&[u32], &[f32]) =
                (self.state.view(index, at.all), self.state.view(param, at.all));
            let mut left: Vec<(u32, f32)> =
                positions[kept..].iter().copied().zip(values[kept..].iter().copied()).collect();
            left.sort_unstable_by_key(|l| l.0);
            for (k, (position, value)) in left.into_iter().enumerate() {
                self.state.view_mut::<u32>(index, at.all)[kept + k] = position;
                self.state.view_mut::<f32>(param, at.all)[kept + k] = value;
            }
            at.count = kept;
            self.state.view_mut::<f32>(at.gradient, kept).fill(0.0);
            total += kept as u64;
        }
        self.bind();
        total
    }

    /// Sets all accumulated gradients to zero.
    pub fn clear_gradients(&mut self) {
        for at in &self.state_at {
            self.state.view_mut::<f32>(at.gradient, at.count).fill(0.0);
        }
    }

    /// The hyper-parameters.
    pub fn hyper(&mut self) -> &mut [f32] {
        self.state.view_mut(self.hyper_at, hyper::LEN)
    }

    /// Sets an input of a program. Integer widths and float widths are converted; anything else must fit exactly.
    pub fn set_input(&mut self, program: &str, name: &str, tensor: &Tensor) -> Result<()> {
        let program = self.program(program)?;
        let port = program.inputs.iter().find(|p| p.name == name).ok_or_else(|| {
            let names: Vec<&str> = program.inputs.iter().map(|p| p.name.as_str()).collect();
            Error::tensor(name, format!("is not an input of the model; its inputs are {}", names.join(", ")))
        })?;
        if !tensor.shape().iter().map(|d| *d as u64).eq(port.shape.iter().copied()) {
            return Err(Error::tensor(name, format!("must have shape {:?}, not {:?}", port.shape, tensor.shape())));
        }
        let buffer = self.plan.buffer(port.buffer);
        let Place::Arena(at) = buffer.place else { return Err(Error::tensor(name, "is not an input")) };
        let converted = tensor.to_dtype(buffer.dtype).ok_or_else(|| {
            Error::tensor(
                name,
                format!("must be {}, and {} cannot be converted without loss", buffer.dtype, tensor.dtype()),
            )
        })?;
        let bytes = converted.bytes();
        self.arena.bytes_mut()[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }

    /// An output of a program that ran last.
    pub fn output(&self, program: &str, name: &str) -> Result<Tensor> {
        let port = self.output_port(program, name)?;
        let shape: Vec<usize> = port.shape.iter().map(|d| *d as usize).collect();
        let bytes = self.bytes(port.buffer);
        let dtype = self.plan.buffer(port.buffer).dtype;
        Tensor::from_bytes(dtype, &shape, bytes).ok_or_else(|| Error::tensor(name, "does not fit its buffer"))
    }

    /// An output of one number, of a program that ran last. Allocates nothing.
    pub fn scalar(&self, program: &str, name: &str) -> Result<f64> {
        let port = self.output_port(program, name)?;
        match self.plan.buffer(port.buffer).dtype {
            DType::F64 => Ok(bytemuck::cast_slice::<u8, f64>(self.bytes(port.buffer))[0]),
            DType::F32 => Ok(f64::from(bytemuck::cast_slice::<u8, f32>(self.bytes(port.buffer))[0])),
            other => Err(Error::tensor(name, format!("is {other}, not a real number"))),
        }
    }

    /// Runs a program. Its inputs must have been set since the last run of any program, because all share the arena.
    pub fn run(&mut self, program: &str) -> Result<()> {
        let at = self.position(program)?;
        self.run_at(at);
        Ok(())
    }

    /// Runs the low-rank program of sparse weight `s`, if it has one.
    pub fn run_low_rank(&mut self, s: usize) -> Result<()> {
        let Some(name) = &self.plan.sparse[s].low_rank else { return Ok(()) };
        let at = self.position(name)?;
        self.run_at(at);
        Ok(())
    }

    /// Runs a program as [`Executor::run`] does and tells what each of its launches took, in the order of the plan.
    pub fn time(&mut self, program: &str) -> Result<Vec<Timing>> {
        let at = self.position(program)?;
        self.prepare(at);
        let this = &*self;
        let steps = 0..this.plan.programs[at].steps.len();
        Ok(this.pool.enter(|| {
            let timed = steps.map(|step| {
                let start = Instant::now();
                this.launch(at, step);
                let seconds = start.elapsed().as_secs_f64();
                let call = this.call(at, step);
                Timing { seconds, flops: (call.kernel.flops)(&call) }
            });
            timed.collect()
        }))
    }

    fn run_at(&mut self, at: usize) {
        self.prepare(at);
        let this = &*self;
        this.pool.enter(|| {
            for step in 0..this.plan.programs[at].steps.len() {
                this.launch(at, step);
            }
        });
    }

    /// Runs a program until a tensor holds NaN. An infinity can be meant, as in a mask: the first tensor that holds one is the answer
    /// only if none holds NaN, and comes with the NaN otherwise.
    ///
    /// A tensor is looked at where it is first read, because it may be written in parts.
    pub fn find_not_finite(&mut self, program: &str) -> Result<Option<NotFinite>> {
        let at = self.position(program)?;
        let program = &self.plan.programs[at];
        let mut written: HashMap<BufferId, Option<usize>> = program.inputs.iter().map(|p| (p.buffer, None)).collect();
        let mut infinite: Option<NotFinite> = None;
        let name = |id: BufferId| {
            let port = program.inputs.iter().find(|p| p.buffer == id);
            port.map_or(&self.plan.buffer(id).name, |p| &p.name).clone()
        };
        let mut look = |id: BufferId, by: Option<usize>| {
            let nan = match self.extreme(id) {
                Extreme::Finite => return None,
                Extreme::Infinite => false,
                Extreme::NaN => true,
            };
            let origin = by.map_or(String::new(), |step| program.steps[step].origin.clone());
            let mut found = NotFinite { tensor: name(id), origin, nan, after: None };
            if nan {
                found.after = infinite.take().map(|i| i.tensor);
                return Some(found);
            }
            infinite.get_or_insert(found);
            None
        };
        for port in &program.inputs {
            if let Some(found) = written.remove(&port.buffer).and_then(|by| look(port.buffer, by)) {
                return Ok(Some(found));
            }
        }
        for (i, step) in program.steps.iter().enumerate() {
            let args = || step.kernel.args.iter().zip(&step.args).filter_map(|(arg, id)| id.map(|id| (arg.mode, id)));
            for (_, id) in args().filter(|(mode, _)| *mode == Mode::Read) {
                if let Some(found) = written.remove(&id).and_then(|by| look(id, by)) {
                    return Ok(Some(found));
                }
            }
            self.launch(at, i);
            written.extend(args().filter(|(mode, _)| *mode != Mode::Read).map(|(_, id)| (id, Some(i))));
        }
        // Of what nothing read, the arena holds only outputs whole.
        let mut last: Vec<(Option<usize>, BufferId)> = written.into_iter().map(|(id, by)| (by, id)).collect();
        last.sort_unstable();
        for (by, id) in last {
            let whole = !matches!(self.plan.buffer(id).place, Place::Arena(_))
                || program.outputs.iter().any(|p| p.buffer == id);
            if let Some(found) = Some(()).filter(|()| whole).and_then(|()| look(id, by)) {
                return Ok(Some(found));
            }
        }
        Ok(infinite)
    }

    fn extreme(&self, id: BufferId) -> Extreme {
        fn of<T: Copy>(values: &[T], nan: fn(T) -> bool, finite: fn(T) -> bool) -> Extreme {
            if values.iter().all(|v| finite(*v)) {
                Extreme::Finite
            } else if values.iter().any(|v| nan(*v)) {
                Extreme::NaN
            } else {
                Extreme::Infinite
            }
        }
        let bytes = self.bytes(id);
        match self.plan.buffer(id).dtype {
            DType::F32 => of(bytemuck::cast_slice(bytes), f32::is_nan, f32::is_finite),
            DType::F64 => of(bytemuck::cast_slice(bytes), f64::is_nan, f64::is_finite),
            _ => Extreme::Finite,
        }
    }

    fn program(&self, name: &str) -> Result<&Program> {
        self.position(name).map(|i| &self.plan.programs[i])
    }

    fn position(&self, name: &str) -> Result<usize> {
        self.plan
            .programs
            .iter()
            .position(|p| p.name == name)
            .ok_or_else(|| Error::Option(format!("the plan has no program `{name}`; compile it for this use")))
    }

    fn output_port(&self, program: &str, name: &str) -> Result<&Port> {
        let program = self.program(program)?;
        program
            .outputs
            .iter()
            .find(|p| p.name == name)
            .ok_or_else(|| Error::tensor(name, format!("is not an output of program `{}`", program.name)))
    }

    /// Poisons all of the arena but a program's inputs.
    fn prepare(&mut self, program: usize) {
        if !self.poison {
            return;
        }
        let mut keep: Vec<(usize, usize)> = self.plan.programs[program]
            .inputs
            .iter()
            .filter_map(|p| {
                let b = self.plan.buffer(p.buffer);
                match b.place {
                    Place::Arena(at) => Some((at as usize, at as usize + b.len as usize * b.dtype.size())),
                    _ => None,
                }
            })
            .collect();
        keep.sort_unstable();
        let bytes = self.arena.bytes_mut();
        let mut at = 0;
        for (from, to) in keep {
            bytes[at..from.max(at)].fill(0xff);
            at = at.max(to);
        }
        bytes[at..].fill(0xff);
    }

    /// A launch without its data, with the current lengths.
    fn call(&self, program: usize, step: usize) -> Call<'_> {
        let bound = &self.bound[program];
        let (from, to) = bound.ranges[step];
        let step = &self.plan.programs[program].steps[step];
        Call { kernel: step.kernel, lens: &bound.lens[from..to], scalars: &step.scalars }
    }

    #[expect(unsafe_code, reason = "hands verified plan memory to kernels")]
    fn launch(&self, program: usize, step: usize) {
        let bound = &self.bound[program];
        let (from, to) = bound.ranges[step];
        let call = self.call(program, step);
        // SAFETY: the buffers were bound to this executor's memory, which lives and does not move; the plan's verifier has
        // checked that a written argument overlaps no other argument of its launch. `run` holds the executor exclusively.
        unsafe { Launch::new(call, &bound.buffers[from..to], &self.pool) }.run();
        if let Ok(fetch) = bound.fetches.binary_search_by_key(&step, |f| f.0) {
            let (_, map, range) = &bound.fetches[fetch];
            self.maps[*map].1.give_back(range);
            if let Some((_, map, range)) = bound.fetches.get(fetch + AHEAD) {
                self.maps[*map].1.will_need(range);
            }
        }
    }

    fn bytes(&self, id: BufferId) -> &[u8] {
        let (memory, at, len) = self.locate(id);
        let size = self.plan.buffer(id).dtype.size();
        let all = match memory {
            Memory::Block(block) => block.bytes(),
            Memory::File(map) => self.maps[map].1.as_ref(),
        };
        &all[at..at + len * size]
    }

    /// Memory, byte offset in it and current number of elements of a buffer.
    fn locate(&self, id: BufferId) -> (Memory<'_>, usize, usize) {
        let buffer = self.plan.buffer(id);
        let len = buffer.len as usize;
        let sparse = |s: u32| self.state_at[s as usize];
        let (block, at, len) = match buffer.place {
            Place::File(w) => {
                let weight = &self.plan.weights[w as usize];
                let map = self.maps.iter().position(|m| m.0 == weight.file);
                let Some(map) = map else { unreachable!("every file that a buffer lies in is mapped") };
                return (Memory::File(map), weight.offset as usize, len);
            }
            Place::Arena(at) => (&self.arena, at as usize, len),
            Place::Weight(w) => (&self.weights, self.weight_at[w as usize].map_or(0, |at| at.0), len),
            Place::Constant(at) => (&self.constants, at as usize, len),
            Place::Index(s) => (&self.state, sparse(s).index, sparse(s).count),
            Place::AllIndex(s) => (&self.state, sparse(s).index, len),
            Place::Param(s) => (&self.state, sparse(s).param, sparse(s).count),
            Place::AllParam(s) => (&self.state, sparse(s).param, len),
            Place::Gradient(s) => (&self.state, sparse(s).gradient, sparse(s).count),
            Place::Moment1(s) => (&self.state, sparse(s).moment1, sparse(s).count),
            Place::Moment2(s) => (&self.state, sparse(s).moment2, sparse(s).count),
            Place::Hyper => (&self.state, self.hyper_at, len),
        };
        (Memory::Block(block), at, len)
    }

    /// Points every launch's arguments at this executor's memory, with the current lengths.
    #[expect(unsafe_code, reason = "pointers into memory that the executor owns")]
    fn bind(&mut self) {
        let bound = self.plan.programs.iter().map(|program| {
            let mut bound = Bound::default();
            for (i, step) in program.steps.iter().enumerate() {
                let from = bound.buffers.len();
                for arg in &step.args {
                    let buffer = match arg {
                        None => Buffer::NONE,
                        Some(id) => {
                            let (memory, at, len) = self.locate(*id);
                            let address = match memory {
                                Memory::Block(block) => block.address(at),
                                Memory::File(map) => {
                                    bound.fetches.push((i, map, at..at + len));
                                    self.maps[map].1.as_ref()[at..at + len].as_ptr().cast_mut()
                                }
                            };
                            // SAFETY: the plan's verifier has checked that the buffer lies inside its block and is aligned, and that
                            // no launch writes to a file; blocks and maps are initialised, never move and live as long as the
                            // executor.
                            unsafe { Buffer::new(address, len, self.plan.buffer(*id).dtype) }
                        }
                    };
                    bound.lens.push(buffer.len());
                    bound.buffers.push(buffer);
                }
                bound.ranges.push((from, bound.buffers.len()));
            }
            bound
        });
        self.bound = bound.collect();
    }
}

/// Maps the files from which launches read weights.
fn maps(plan: &Plan, source: &Source) -> Result<Vec<(String, Map)>> {
    let read = plan.buffers.iter().filter_map(|b| if let Place::File(w) = b.place { Some(w) } else { None });
    let weights: Vec<&Weight> = read.map(|w| &plan.weights[w as usize]).collect();
    let names: BTreeSet<&str> = weights.iter().map(|w| w.file.as_str()).collect();
    let mut maps = Vec::new();
    for name in names {
        let map = Map::open(source, name)?;
        let len = map.as_ref().len() as u64;
        let ends = |w: &&&Weight| w.offset.checked_add(w.stored_bytes()).is_none_or(|end| end > len);
        if let Some(w) = weights.iter().filter(|w| w.file == name).find(ends) {
            let reason = format!("ends at byte {len}, within weight `{}`; fetch it anew", w.name);
            return Err(Error::file(source.path(name), reason));
        }
        maps.push((name.to_owned(), map));
    }
    Ok(maps)
}

/// Bytes that an executor of this plan takes, by kind: weights, mapped pages, sparse state, constants, arena, scratch of the threads.
pub fn memory(plan: &Plan, threads: usize) -> [(&'static str, u64); 6] {
    let trained = plan.sparse.iter().map(|s| s.index.len());
    memory_by_kind(&plan.weights, &plan.buffers, trained, plan.constants.len(), plan.arena_bytes, threads)
}

/// The same for a plan with these weights, buffers, numbers of trained entries, bytes of constants and of the arena.
pub fn memory_by_kind(
    weights: &[Weight],
    buffers: &[plan::Buffer],
    trained: impl Iterator<Item = usize>,
    constants: usize,
    arena: u64,
    threads: usize,
) -> [(&'static str, u64); 6] {
    let aligned = |bytes: u64| bytes.next_multiple_of(ALIGN);
    let resident = resident(buffers).into_iter().map(|(w, dtype)| room(&weights[w], dtype) as u64).sum();
    let files = buffers.iter().filter(|b| matches!(b.place, Place::File(_)));
    // Five arrays of four bytes; the plan keeps the initial index besides.
    let state = trained.map(|n| n as u64 * 4).map(|n| aligned(n) * 5 + n).sum::<u64>();
    [
        ("weights", resident),
        ("mapped pages", files.map(|b| b.len).max().unwrap_or(0)),
        ("sparse state", state + aligned(hyper::LEN as u64 * 4)),
        ("constants", constants as u64 * 2),
        ("arena", arena),
        ("scratch", (threads.max(1) * sara_kernels::SCRATCH_BYTES) as u64),
    ]
}
