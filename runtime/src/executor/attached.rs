//! An executor whose plan runs on a device: what lies in its memory, and what of that the host has a copy of.
//!
//! Weights, constants and arena lie there alone. The state of what trains lies on both sides; a run may leave the host's copy
//! behind, until [`Executor::settle`] brings it up.

use super::fuse::{Group, Placed, Target, groups};
use super::memory::too_large;
use super::{Executor, Memory, Site, Timing, memory};
use crate::block::Block;
use crate::device::{Device, Order, Peaks, Span, launches};
use crate::error::{Error, Result};
use crate::plan::{BufferId, Place, Program, Step};
use sara_kernels::hyper;
use std::ops::Range;

/// A device and where things lie in its memory.
pub(super) struct Attached {
    device: Box<dyn Device>,
    weights: u64,
    constants: u64,
    arena: u64,
    state: u64,
    scratch: u64,
    /// Where bytes of files go in turn.
    stages: [u64; 2],
    /// Of each program, the orders of each step; nothing while the device does not know the programs.
    orders: Option<Vec<Vec<Range<usize>>>>,
    /// Whether the steps of a program are to be run one by one.
    single: bool,
    /// Whether the host's copy of the state is behind.
    stale: bool,
    /// Whether the host's hyper-parameters are ahead.
    hyper_ahead: bool,
}

impl Attached {
    pub(super) fn name(&self) -> &str {
        self.device.name()
    }

    pub(super) fn write_arena(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.device.write(self.arena + at, bytes)
    }

    pub(super) fn poison_arena(&mut self, range: Range<usize>) -> Result<()> {
        self.device.fill(self.arena + range.start as u64, range.len(), 0xff)
    }

    /// Sets bytes of the state to zero.
    pub(super) fn clear(&mut self, at: usize, bytes: usize) -> Result<()> {
        self.device.fill(self.state + at as u64, bytes, 0)
    }

    /// Has the device learn the programs anew.
    pub(super) fn unbind(&mut self) {
        self.orders = None;
    }

    /// Whether the steps of programs are run one by one from now on, so that any of them can be.
    pub(super) fn single(&mut self, on: bool) {
        self.single = on;
        self.unbind();
    }

    pub(super) fn hyper_changed(&mut self) {
        self.hyper_ahead = true;
    }

    /// The bytes of a buffer.
    pub(super) fn bytes(&self, executor: &Executor, id: BufferId) -> Result<Vec<u8>> {
        let (at, len) = self.place(executor, id);
        let mut bytes = vec![0; len * executor.plan.buffer(id).dtype.size()];
        match at {
            At::Device(address) => self.device.read(address, &mut bytes)?,
            At::File(map, at) => bytes.copy_from_slice(&executor.maps[map].1.as_ref()[at..at + len]),
        }
        Ok(bytes)
    }

    /// Where a buffer lies, and its current elements.
    fn place(&self, executor: &Executor, id: BufferId) -> (At, usize) {
        let (memory, at, len) = executor.locate(id);
        let base = match executor.plan.buffer(id).place {
            Place::Arena(_) => self.arena,
            Place::Weight(_) => self.weights,
            Place::Constant(_) => self.constants,
            _ => self.state,
        };
        match memory {
            Memory::Block(_) => (At::Device(base + at as u64), len),
            Memory::File(map) => (At::File(map, at), len),
        }
    }
}

#[derive(Clone, Copy)]
enum At {
    Device(u64),
    /// A map, and the byte.
    File(usize, usize),
}

impl Executor {
    /// Moves the plan's memory to a device.
    pub(super) fn attach(&mut self, device: Box<dyn Device>) -> Result<()> {
        let mut attached = Attached {
            device,
            weights: 0,
            constants: 0,
            arena: 0,
            state: 0,
            scratch: 0,
            stages: [0; 2],
            orders: None,
            single: false,
            stale: false,
            hyper_ahead: false,
        };
        let (_, _, scratch) = self.orders(&attached, false)?;
        let files = self.plan.buffers.iter().filter(|b| matches!(b.place, Place::File(_)));
        let stage = files.map(|b| b.len as usize).max().unwrap_or(0);
        let blocks = [&self.weights, &self.constants, &self.state].map(|b| b.bytes().len());
        let arena = self.plan.arena_bytes as usize;
        let needed = memory(&self.plan, Site::Device(attached.device.precision())).total();
        let [free, total] = attached.device.memory()?;
        if needed > free {
            let device = attached.device.name().to_owned();
            return Err(Error::DeviceMemory { device, needed, free, total });
        }
        let device = &mut attached.device;
        let sizes = [blocks[0], blocks[1], blocks[2], arena, scratch, stage, stage];
        let mut addresses = [0; 7];
        for (address, bytes) in addresses.iter_mut().zip(sizes).filter(|(_, bytes)| *bytes > 0) {
            *address = device.take(bytes)?;
        }
        let [weights, constants, state, arena, scratch, first, second] = addresses;
        for (to, block) in [(weights, &self.weights), (constants, &self.constants), (state, &self.state)] {
            device.write(to, block.bytes())?;
        }
        self.attached =
            Some(Attached { weights, constants, state, arena, scratch, stages: [first, second], ..attached });
        self.weights = Block::new(0)?;
        self.constants = Block::new(0)?;
        Ok(())
    }

    /// What the device is to do for each program, the orders of each step, and the bytes that launches take for themselves.
    #[expect(clippy::type_complexity, reason = "three lists that are made in one walk")]
    fn orders(&self, attached: &Attached, fused: bool) -> Result<(Vec<Vec<Order>>, Vec<Vec<Range<usize>>>, usize)> {
        let precision = attached.device.precision();
        let (mut programs, mut ranges, mut most) = (Vec::new(), Vec::new(), 0);
        let mut staged = 0;
        for program in &self.plan.programs {
            let steps: Vec<Placed<'_>> =
                program.steps.iter().map(|step| self.placed(attached, step, &mut staged)).collect();
            let mut groups =
                if fused { self.groups(attached, program, &steps) } else { Vec::new() }.into_iter().peekable();
            let (mut orders, mut own): (Vec<Order>, Vec<Range<usize>>) = (Vec::new(), Vec::new());
            while let Some(placed) = steps.get(own.len()) {
                let first = orders.len();
                if let Some(group) = groups.next_if(|group| group.steps.start == own.len()) {
                    // The last of the steps has the launches of all.
                    own.resize(group.steps.end - 1, first..first);
                    orders.extend(group.launches.into_iter().map(Order::Launch));
                    own.push(first..orders.len());
                    continue;
                }
                let Placed { step, dtypes, spans, stages, .. } = placed;
                orders.extend(stages.iter().cloned());
                let Some((launches, scratch)) =
                    launches(step.kernel, &placed.call(), dtypes, spans, attached.scratch, precision)
                else {
                    return Err(too_large(step));
                };
                most = most.max(scratch);
                orders.extend(launches.into_iter().map(Order::Launch));
                own.push(first..orders.len());
            }
            programs.push(orders);
            ranges.push(own);
        }
        Ok((programs, ranges, most))
    }

    /// A step with the places of its arguments; what lies in files is brought to where bytes of files go in turn.
    fn placed<'a>(&self, attached: &Attached, step: &'a Step, staged: &mut usize) -> Placed<'a> {
        let (lens, dtypes, spans) = Default::default();
        let mut placed = Placed { step, lens, dtypes, spans, stages: Vec::new() };
        for (arg, id) in step.kernel.args.iter().zip(&step.args) {
            let place = id.map(|id| (attached.place(self, id), self.plan.buffer(id).dtype));
            let span = place.map(|((at, len), dtype)| {
                let address = match at {
                    At::Device(address) => address,
                    At::File(map, at) => {
                        let to = attached.stages[*staged % 2];
                        *staged += 1;
                        placed.stages.push(Order::Stage { map, range: at..at + len, to });
                        to
                    }
                };
                Span { address, bytes: len * dtype.size(), grain: dtype.size(), mode: arg.mode, name: arg.name }
            });
            placed.lens.push(place.as_ref().map_or(0, |((_, len), _)| *len));
            placed.dtypes.push(place.map(|(_, dtype)| dtype));
            placed.spans.push(span);
        }
        placed
    }

    fn groups(&self, attached: &Attached, program: &Program, steps: &[Placed<'_>]) -> Vec<Group> {
        let target = Target {
            precision: attached.device.precision(),
            arena: attached.arena..attached.arena + self.plan.arena_bytes,
            scratch: attached.scratch,
        };
        let given = program.outputs.iter().filter_map(|port| match attached.place(self, port.buffer) {
            (At::Device(at), len) => Some(at..at + (len * self.plan.buffer(port.buffer).dtype.size()) as u64),
            _ => None,
        });
        groups(steps, &target, &given.collect::<Vec<_>>())
    }

    /// Makes sure that the device knows the programs with the current lengths, and the hyper-parameters.
    fn ready(&mut self) -> Result<()> {
        let Some(mut attached) = self.attached.take() else { return Ok(()) };
        let mut prepare = || {
            if attached.orders.is_none() {
                let fused = attached.device.fuses() && !attached.single;
                let (programs, ranges, _) = self.orders(&attached, fused)?;
                attached.device.bind(programs)?;
                attached.orders = Some(ranges);
            }
            if attached.hyper_ahead {
                let bytes = bytemuck::cast_slice(self.state.view::<f32>(self.hyper_at, hyper::LEN));
                attached.device.write(attached.state + self.hyper_at as u64, bytes)?;
                attached.hyper_ahead = false;
            }
            Ok(())
        };
        let result = prepare();
        self.attached = Some(attached);
        result
    }

    /// The orders of some steps of a program.
    fn range(attached: &Attached, program: usize, steps: &Range<usize>) -> Range<usize> {
        let own = attached.orders.as_ref().map_or(&[][..], |orders| &orders[program][steps.clone()]);
        own.first().map_or(0, |r| r.start)..own.last().map_or(0, |r| r.end)
    }

    pub(super) fn run_attached(&mut self, program: usize, steps: Range<usize>) -> Result<()> {
        self.ready()?;
        let Some(attached) = &mut self.attached else { return Ok(()) };
        attached.stale = true;
        let range = Executor::range(attached, program, &steps);
        attached.device.run(program, range, &self.maps)
    }

    pub(super) fn time_attached(&mut self, program: usize) -> Result<Vec<Timing>> {
        self.ready()?;
        let Some(attached) = &mut self.attached else { return Ok(Vec::new()) };
        attached.stale = true;
        let steps = 0..self.plan.programs[program].steps.len();
        let range = Executor::range(attached, program, &steps);
        let orders = attached.device.time(program, range, &self.maps)?;
        let ranges = attached.orders.as_ref().map_or(&[][..], |o| &o[program]);
        let launched: Vec<bool> = ranges.iter().map(|r| !r.is_empty()).collect();
        let seconds: Vec<f64> = ranges.iter().map(|r| orders[r.clone()].iter().sum()).collect();
        let timing = |(step, seconds)| self.timing(program, step, seconds);
        let mut timings: Vec<Timing> = seconds.into_iter().enumerate().map(timing).collect();
        // Steps without a launch of their own share that of the next with one, by their bytes.
        let mut first = 0;
        for last in (0..launched.len()).filter(|step| launched[*step]) {
            let group = &mut timings[first..=last];
            let (seconds, bytes) = (group[last - first].seconds, group.iter().map(|t| t.bytes).sum::<u64>());
            group.iter_mut().for_each(|t| t.seconds = seconds * t.bytes as f64 / bytes.max(1) as f64);
            first = last + 1;
        }
        Ok(timings)
    }

    /// The norm first, which tells whether all gradients are finite, and then the rest.
    pub(super) fn update_attached(&mut self, program: usize) -> Result<bool> {
        let steps = &self.plan.programs[program].steps;
        let all = steps.len();
        let first = steps.iter().position(|s| s.kernel.name.starts_with("sparse_adamw")).unwrap_or(all);
        self.prepare(program)?;
        self.run_attached(program, 0..first)?;
        self.read_hyper()?;
        if !self.state.view::<f32>(self.hyper_at, hyper::LEN)[hyper::NORM].is_finite() {
            return Ok(false);
        }
        self.run_attached(program, first..all)?;
        Ok(true)
    }

    /// Waits until a device has done all that was ordered.
    pub(super) fn wait(&self) -> Result<()> {
        self.attached.as_ref().map_or(Ok(()), |a| a.device.wait())
    }

    /// Whose memory the plan takes.
    pub fn site(&self) -> Site {
        match &self.attached {
            Some(attached) => Site::Device(attached.device.precision()),
            None => Site::Cpu { threads: self.pool.threads() },
        }
    }

    /// What the device could do; nothing of a CPU.
    pub fn peaks(&self) -> Option<Peaks> {
        self.attached.as_ref().and_then(|a| a.device.peaks())
    }

    fn read_hyper(&mut self) -> Result<()> {
        let Some(attached) = &mut self.attached else { return Ok(()) };
        let bytes = bytemuck::cast_slice_mut(self.state.view_mut::<f32>(self.hyper_at, hyper::LEN));
        attached.device.read(attached.state + self.hyper_at as u64, bytes)
    }

    /// Waits for the device, and brings the host's copy of the state up to it. What reads the state after a run on a device needs
    /// it; on a CPU it does nothing.
    pub fn settle(&mut self) -> Result<()> {
        if !self.attached.as_ref().is_some_and(|a| a.stale) {
            return Ok(());
        }
        self.ready()?;
        let Some(attached) = &mut self.attached else { return Ok(()) };
        attached.device.read(attached.state, self.state.bytes_mut())?;
        attached.stale = false;
        Ok(())
    }

    /// The host's copy of the state.
    pub(super) fn settled(&self) -> &Block {
        assert!(!self.attached.as_ref().is_some_and(|a| a.stale), "the state is read before it was settled");
        &self.state
    }

    /// Copies what the host changed of the state of sparse weight `s` to the device.
    pub(super) fn state_changed(&mut self, s: usize) -> Result<()> {
        let Some(attached) = &mut self.attached else { return Ok(()) };
        let at = self.state_at[s];
        attached.device.write(attached.state + at.index as u64, &self.state.bytes()[at.index..at.end])
    }

    /// Changes elements of the weight at byte `at`, wherever it lies.
    pub(super) fn change_weight<T: bytemuck::Pod>(
        &mut self,
        at: usize,
        len: usize,
        change: impl FnOnce(&mut [T]),
    ) -> Result<()> {
        let Some(attached) = &mut self.attached else {
            change(self.weights.view_mut(at, len));
            return Ok(());
        };
        let mut elements = vec![T::zeroed(); len];
        attached.device.read(attached.weights + at as u64, bytemuck::cast_slice_mut(&mut elements))?;
        change(&mut elements);
        attached.device.write(attached.weights + at as u64, bytemuck::cast_slice(&elements))
    }
}
