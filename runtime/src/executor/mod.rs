//! Runs a plan. All memory is taken when the executor is made; on a CPU a step allocates nothing.

mod attached;
mod finite;
mod fuse;
mod memory;
mod sparse;

use crate::block::Block;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::load::{Loaded, load};
use crate::map::Map;
use crate::plan::{ALIGN, BufferId, Place, Plan, Port, Program};
use crate::tensor::Tensor;
use attached::Attached;
use sara_kernels::sparse_adamw_8bit::BLOCK;
use sara_kernels::{Buffer, Call, DType, Launch, Pool, Scalar, TypedCall, hyper};
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

pub use finite::NotFinite;
pub use memory::{Site, Taken, arena_bytes, check_device, memory, memory_of};
pub use sparse::{Moments, SparseState};

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
    /// The device on which it runs, if not the CPU.
    attached: Option<Attached>,
    poison: bool,
}

/// Where the state of a sparse weight lies, in bytes of the state block, and how many of its entries train now. Behind those lie
/// the positions and values of the entries that train no more.
#[derive(Clone, Copy)]
struct StateAt {
    index: usize,
    param: usize,
    gradient: usize,
    moments: [usize; 2],
    absmax: [usize; 2],
    end: usize,
    count: usize,
    all: usize,
}

/// What a buffer lies in.
enum Memory<'a> {
    Block(&'a Block),
    /// The number of the map.
    File(usize),
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

/// What one launch took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Floating-point operations, as the kernel declares them.
    pub flops: u64,
    /// Bytes that it moves, as [`TypedCall::bytes`] counts them.
    pub bytes: u64,
    /// Whether its products are of half precision.
    pub half: bool,
}

impl Executor {
    /// Reads the weights and takes all memory that the plan needs. `model` overrides the path that the plan remembers.
    pub fn new(plan: Plan, threads: usize, model: Option<&Path>) -> Result<Executor> {
        Executor::on(plan, threads, model, None)
    }

    /// As [`Executor::new`], on a device; without one, on the CPU.
    pub fn on(plan: Plan, threads: usize, model: Option<&Path>, device: Option<Box<dyn Device>>) -> Result<Executor> {
        let pool = Pool::new(threads).map_err(|e| Error::Option(format!("no threads could be started: {e}")))?;
        let source = plan.model.source(model);
        let Loaded { at: weight_at, block: weights, values } = load(&plan, &source, &pool)?;
        let maps = memory::maps(&plan, &source)?;
        let mut constants = Block::new(plan.constants.len())?;
        constants.bytes_mut()[..plan.constants.len()].copy_from_slice(&plan.constants);
        // What a device runs lies there.
        let arena = Block::new(if device.is_some() { 0 } else { plan.arena_bytes as usize })?;
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
                let all = s.index.len();
                let [bytes, moment, absmax] = memory::state_bytes(all, plan.use_8bit_adam);
                StateAt {
                    index: take(bytes),
                    param: take(bytes),
                    gradient: take(bytes),
                    moments: [take(moment), take(moment)],
                    absmax: [take(absmax), take(absmax)],
                    end: take(0),
                    count: all,
                    all,
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
            attached: None,
            poison,
        };
        let mut rest: &[f32] = bytemuck::cast_slice(values.bytes());
        for (sparse, at) in executor.plan.sparse.iter().zip(&executor.state_at) {
            let (own, others) = rest.split_at(at.count);
            executor.state.view_mut(at.index, at.count).copy_from_slice(&sparse.index);
            executor.state.view_mut(at.param, at.count).copy_from_slice(own);
            rest = others;
        }
        drop(values);
        match device {
            Some(device) => executor.attach(device)?,
            None => executor.bind(),
        }
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

    /// The device's name, if it does not run on the CPU.
    pub fn device(&self) -> Option<&str> {
        self.attached.as_ref().map(Attached::name)
    }

    /// Elements of a weight that lies in memory in `f32`; none of one that lies in a device's.
    pub fn weight(&self, weight: u32) -> Option<&[f32]> {
        let w = &self.plan.weights[weight as usize];
        let (at, _) = self.weight_at[weight as usize].filter(|at| at.1 == DType::F32 && self.attached.is_none())?;
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
        self.change_weight(at, len, |all: &mut [f32]| index.iter().zip(values).for_each(|(i, v)| all[*i as usize] = *v))
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
        if let Some(attached) = &mut self.attached {
            return attached.write_arena(at, &bytes);
        }
        self.arena.bytes_mut()[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }

    /// An output of a program that ran last.
    pub fn output(&self, program: &str, name: &str) -> Result<Tensor> {
        let port = self.output_port(program, name)?;
        let shape: Vec<usize> = port.shape.iter().map(|d| *d as usize).collect();
        let bytes = &self.bytes(port.buffer)?;
        let dtype = self.plan.buffer(port.buffer).dtype;
        Tensor::from_bytes(dtype, &shape, bytes).ok_or_else(|| Error::tensor(name, "does not fit its buffer"))
    }

    /// An output of one number, of a program that ran last. Allocates nothing.
    pub fn scalar(&self, program: &str, name: &str) -> Result<f64> {
        let port = self.output_port(program, name)?;
        match self.plan.buffer(port.buffer).dtype {
            DType::F64 => Ok(bytemuck::pod_read_unaligned(&self.bytes(port.buffer)?)),
            DType::F32 => Ok(f64::from(bytemuck::pod_read_unaligned::<f32>(&self.bytes(port.buffer)?))),
            other => Err(Error::tensor(name, format!("is {other}, not a real number"))),
        }
    }

    /// Runs a program. Its inputs must have been set since the last run of any program, because all share the arena.
    pub fn run(&mut self, program: &str) -> Result<()> {
        let at = self.position(program)?;
        self.run_at(at)
    }

    /// Runs the low-rank program of sparse weight `s`, if it has one.
    pub fn run_low_rank(&mut self, s: usize) -> Result<()> {
        let Some(name) = &self.plan.sparse[s].low_rank else { return Ok(()) };
        let at = self.position(name)?;
        self.run_at(at)
    }

    /// Runs `update` if every gradient is finite, and tells whether. Otherwise nothing has changed but the norm.
    pub fn update(&mut self) -> Result<bool> {
        let at = self.position("update")?;
        if self.attached.is_some() {
            return self.update_attached(at);
        }
        let finite = |s: usize| self.state(s)[1].iter().all(|g| g.is_finite());
        let all = (0..self.plan.sparse.len()).all(finite);
        if all {
            self.run_at(at)?;
        }
        Ok(all)
    }

    /// Runs a program as [`Executor::run`] does and tells what each of its launches took, in the order of the plan.
    pub fn time(&mut self, program: &str) -> Result<Vec<Timing>> {
        let at = self.position(program)?;
        self.prepare(at)?;
        if self.attached.is_some() {
            return self.time_attached(at);
        }
        let this = &*self;
        let steps = 0..this.plan.programs[at].steps.len();
        let timed = steps.map(|step| {
            let start = Instant::now();
            this.launch(at, step);
            let seconds = start.elapsed().as_secs_f64();
            this.timing(at, step, seconds)
        });
        Ok(timed.collect())
    }

    /// What is told of a launch that took `seconds`.
    fn timing(&self, program: usize, step: usize, seconds: f64) -> Timing {
        let step = &self.plan.programs[program].steps[step];
        let len = |id: &Option<BufferId>| id.map_or(0, |id| self.locate(id).2);
        let lens: Vec<usize> = step.args.iter().map(len).collect();
        let call = Call { kernel: step.kernel, lens: &lens, scalars: &step.scalars };
        let dtypes: Vec<Option<DType>> = step.args.iter().map(|id| Some(self.plan.buffer((*id)?).dtype)).collect();
        let bytes = TypedCall::new(call, &dtypes).bytes();
        let half = dtypes.contains(&Some(DType::Bf16))
            || step.kernel.scalars.iter().zip(&step.scalars).any(|(s, v)| s.0 == "half" && *v == Scalar::Int(1));
        Timing { seconds, flops: (step.kernel.flops)(&call), bytes, half }
    }

    /// Wall-clock seconds of one run of a program, until all of it is done.
    pub fn clock(&mut self, program: &str) -> Result<f64> {
        self.wait()?;
        let start = Instant::now();
        self.run(program)?;
        self.wait()?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn run_at(&mut self, at: usize) -> Result<()> {
        self.prepare(at)?;
        let steps = 0..self.plan.programs[at].steps.len();
        self.run_steps(at, steps)
    }

    /// Runs some steps of a program.
    fn run_steps(&mut self, at: usize, steps: Range<usize>) -> Result<()> {
        if self.attached.is_some() {
            return self.run_attached(at, steps);
        }
        for step in steps {
            self.launch(at, step);
        }
        Ok(())
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
    fn prepare(&mut self, program: usize) -> Result<()> {
        if !self.poison {
            return Ok(());
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
        let end = self.plan.arena_bytes as usize;
        keep.push((end, end));
        keep.sort_unstable();
        let mut at = 0;
        for (from, to) in keep {
            let range = at..from.max(at);
            match &mut self.attached {
                Some(attached) => attached.poison_arena(range)?,
                None => self.arena.bytes_mut()[range].fill(0xff),
            }
            at = at.max(to);
        }
        Ok(())
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

    fn bytes(&self, id: BufferId) -> Result<Cow<'_, [u8]>> {
        if let Some(attached) = &self.attached {
            return attached.bytes(self, id).map(Cow::Owned);
        }
        let (memory, at, len) = self.locate(id);
        let size = self.plan.buffer(id).dtype.size();
        let all = match memory {
            Memory::Block(block) => block.bytes(),
            Memory::File(map) => self.maps[map].1.as_ref(),
        };
        Ok(Cow::Borrowed(&all[at..at + len * size]))
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
            Place::Moment1(s) => (&self.state, sparse(s).moments[0], sparse(s).count),
            Place::Moment2(s) => (&self.state, sparse(s).moments[1], sparse(s).count),
            Place::Absmax1(s) => (&self.state, sparse(s).absmax[0], sparse(s).count.div_ceil(BLOCK)),
            Place::Absmax2(s) => (&self.state, sparse(s).absmax[1], sparse(s).count.div_ceil(BLOCK)),
            Place::Hyper => (&self.state, self.hyper_at, len),
        };
        (Memory::Block(block), at, len)
    }

    /// Points every launch's arguments at this executor's memory, with the current lengths. A device is told when it next runs.
    #[expect(unsafe_code, reason = "pointers into memory that the executor owns")]
    fn bind(&mut self) {
        if let Some(attached) = &mut self.attached {
            attached.unbind();
            return;
        }
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
