//! The plan's verifier. It runs when a plan is made and when one is loaded, so that executors can trust every offset.
//!
//! - **P01** A launch has one argument for each that its kernel declares, absent only where that is allowed, of an admitted element
//!   type. Its scalars are of the declared kinds. The kernel takes these types together, and has the function that a word names.
//! - **P02** A buffer lies inside its region and is aligned; one of a weight, index or state has the length and type of it.
//! - **P03** An argument that is written overlaps no other argument of its launch.
//! - **P04** Arena buffers of a program that are alive together do not overlap.
//! - **P05** Nothing in the arena is read before it is written, or updated before all of it is. A buffer is written in parts if
//!   the parts have as many elements as it has.
//! - **P06** Weights, values and moments are written only by `update`; gradients also by `train` and the low-rank programs;
//!   hyper-parameters only by `update`; constants and indices by nothing.
//! - **P07** Positions ascend and lie inside their weight; a weight is sparse at most once, with a threshold of 0 or more and the hash
//!   of its base; a low-rank program exists. What a launch takes as positions are those of a sparse weight, and whatever else it takes
//!   of a sparse weight belongs to the same; so does a weight beside positions.
//! - **P08** Program names are unique; a program's inputs and outputs fit their buffers.
//! - **P09** The recorded sizes of the arena and of each program's busiest step are what the steps need.

use super::{ALIGN, Buffer, BufferId, Peak, Place, Plan, Program, Step};
use crate::error::{Error, Result};
use sara_kernels::sparse_adamw_8bit::BLOCK;
use sara_kernels::{Call, DType, Mode, TypedCall, Types, hyper};
use std::collections::{BTreeMap, HashMap, HashSet};

type Check = std::result::Result<(), (&'static str, String)>;

impl Plan {
    /// Checks all rules.
    pub fn verify(&self) -> Result<()> {
        self.check().map_err(|(rule, reason)| Error::Verify { rule, reason })
    }

    fn check(&self) -> Check {
        self.sparse_weights()?;
        for buffer in &self.buffers {
            self.placed(buffer).map_err(|reason| ("P02", format!("buffer `{}` {reason}", buffer.name)))?;
        }
        let mut names = HashSet::new();
        let mut arena = 0;
        for program in &self.programs {
            if !names.insert(program.name.as_str()) {
                return Err(("P08", format!("two programs are called `{}`", program.name)));
            }
            for port in program.inputs.iter().chain(&program.outputs) {
                let len = port.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
                let buffer = self.buffers.get(port.buffer.0 as usize);
                if buffer.is_none_or(|b| Some(b.len) != len) {
                    return Err((
                        "P08",
                        format!("`{}` of program `{}` does not fit its buffer", port.name, program.name),
                    ));
                }
            }
            for (i, step) in program.steps.iter().enumerate() {
                let at = |(rule, reason): (&'static str, String)| {
                    (rule, format!("step {i} of `{}` ({}): {reason}", program.name, step.kernel.name))
                };
                self.launch(step).map_err(at)?;
                self.positions(step).map_err(at)?;
                self.writes(program, step).map_err(at)?;
            }
            self.arena_of(program)?;
            arena = arena.max(program.arena_bytes);
        }
        if arena != self.arena_bytes {
            return Err(("P09", format!("the arena is said to need {} bytes and needs {arena}", self.arena_bytes)));
        }
        Ok(())
    }

    fn sparse_weights(&self) -> Check {
        let mut seen = HashSet::new();
        for sparse in &self.sparse {
            let bad = |reason: &str| ("P07", format!("sparse weight {} {reason}", sparse.weight));
            let weight = self.weights.get(sparse.weight as usize).ok_or_else(|| bad("does not exist"))?;
            let last = sparse.index.last().copied();
            if !sparse.index.is_sorted_by(|a, b| a < b) || last.is_some_and(|i| u64::from(i) >= weight.len()) {
                return Err(bad("has positions that do not ascend inside it"));
            }
            if !seen.insert(sparse.weight) || weight.stored.loaded() != DType::F32 {
                return Err(bad("is listed twice or not of real numbers"));
            }
            if sparse.threshold.is_nan() || sparse.threshold < 0.0 {
                return Err(bad("has a threshold that is no number of 0 or more"));
            }
            let digits = sparse.base_sha256.bytes().filter(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).count();
            if digits != 64 || sparse.base_sha256.len() != 64 {
                return Err(bad("has no SHA-256 of its base"));
            }
            if sparse.low_rank.as_ref().is_some_and(|name| self.program(name).is_none()) {
                return Err(bad("names a low-rank program that is not there"));
            }
        }
        Ok(())
    }

    fn placed(&self, b: &Buffer) -> std::result::Result<(), String> {
        let bytes = b.len.checked_mul(b.dtype.size() as u64).ok_or("is too large")?;
        let inside = |at: u64, region: u64| {
            let ends = at.checked_add(bytes).is_some_and(|end| end <= region);
            if ends && at.is_multiple_of(ALIGN) {
                Ok(())
            } else {
                Err("lies outside its region or is not aligned".into())
            }
        };
        let fits = |len: Option<u64>, dtype: DType| {
            if len == Some(b.len) && dtype == b.dtype {
                Ok(())
            } else {
                Err("has not the length and type of what it is".into())
            }
        };
        let entries = |s: u32| self.sparse.get(s as usize).map(|s| s.index.len() as u64);
        match b.place {
            Place::Arena(at) => inside(at, self.arena_bytes),
            Place::Constant(at) => inside(at, self.constants.len() as u64),
            Place::Weight(w) => {
                let weight = self.weights.get(w as usize);
                let loaded = weight.map_or(b.dtype, |w| w.stored.loaded());
                let narrowed = b.dtype.is_half() && loaded == DType::F32;
                fits(weight.map(super::Weight::len), if narrowed { b.dtype } else { loaded })
            }
            Place::File(w) => fits(self.weights.get(w as usize).map(super::Weight::stored_bytes), DType::U8),
            Place::Index(s) | Place::AllIndex(s) => fits(entries(s), DType::U32),
            Place::Param(s) | Place::AllParam(s) | Place::Gradient(s) => fits(entries(s), DType::F32),
            Place::Moment1(s) | Place::Moment2(s) => fits(entries(s), self.moment()),
            Place::Absmax1(s) | Place::Absmax2(s) => fits(entries(s).map(|n| n.div_ceil(BLOCK as u64)), DType::F32),
            Place::Hyper => fits(Some(hyper::LEN as u64), DType::F32),
        }
    }

    fn launch(&self, step: &Step) -> Check {
        let kernel = step.kernel;
        if step.args.len() != kernel.args.len() || step.scalars.len() != kernel.scalars.len() {
            return Err(("P01", "has another number of arguments or scalars than its kernel".into()));
        }
        let mut buffers = Vec::new();
        for (declared, arg) in kernel.args.iter().zip(&step.args) {
            let Some(id) = arg else {
                if declared.optional {
                    buffers.push(None);
                    continue;
                }
                return Err(("P01", format!("argument `{}` is absent", declared.name)));
            };
            let buffer =
                self.buffers.get(id.0 as usize).ok_or_else(|| ("P01", format!("buffer {} does not exist", id.0)))?;
            if !declared.types.admits(buffer.dtype) {
                return Err(("P01", format!("argument `{}` cannot be {}", declared.name, buffer.dtype)));
            }
            buffers.push(Some(buffer));
        }
        for ((name, kind), value) in kernel.scalars.iter().zip(&step.scalars) {
            if value.kind() != *kind {
                return Err(("P01", format!("scalar `{name}` cannot be {value}")));
            }
        }
        let lens: Vec<usize> = buffers.iter().map(|b| b.map_or(0, |b| b.len as usize)).collect();
        let dtypes: Vec<Option<DType>> = buffers.iter().map(|b| b.map(|b| b.dtype)).collect();
        let typed = TypedCall::new(Call { kernel, lens: &lens, scalars: &step.scalars }, &dtypes);
        if !typed.is_admitted() {
            return Err(("P01", format!("its kernel does not take these together: {typed}")));
        }
        Ok(())
    }

    /// Positions guard what a kernel addresses by them, so they are those of the weight whose entries the launch takes.
    fn positions(&self, step: &Step) -> Check {
        let args =
            || step.kernel.args.iter().zip(&step.args).filter_map(|(a, id)| Some((a, self.buffer((*id)?).place)));
        let sparse = args().find_map(|(_, place)| place.sparse());
        let weight = args().any(|(_, place)| place.is_positions()).then_some(sparse).flatten();
        let weight = weight.map(|s| self.sparse[s as usize].weight);
        for (declared, place) in args() {
            let legal = match place {
                Place::Weight(w) | Place::File(w) => weight.is_none_or(|sparse| sparse == w),
                _ if matches!(declared.types, Types::Only(DType::U32)) => {
                    place.is_positions() && place.sparse() == sparse
                }
                _ => place.sparse().is_none_or(|s| Some(s) == sparse),
            };
            if !legal {
                return Err((
                    "P07",
                    format!("argument `{}` does not belong to the launch's sparse weight", declared.name),
                ));
            }
        }
        Ok(())
    }

    fn writes(&self, program: &Program, step: &Step) -> Check {
        for (i, declared) in step.kernel.args.iter().enumerate() {
            let Some(id) = step.args[i].filter(|_| declared.mode != Mode::Read) else { continue };
            let written = self.buffer(id);
            let update = program.name == "update";
            let legal = match written.place {
                Place::Arena(_) => true,
                Place::Weight(_) | Place::Param(_) | Place::Hyper => update,
                Place::Moment1(_) | Place::Moment2(_) | Place::Absmax1(_) | Place::Absmax2(_) => update,
                Place::Gradient(_) => update || ["train", "lowrank"].contains(&program.kind()),
                Place::Index(_) | Place::Constant(_) | Place::File(_) | Place::AllIndex(_) | Place::AllParam(_) => {
                    false
                }
            };
            if !legal {
                return Err(("P06", format!("writes `{}`", written.name)));
            }
            for (j, other) in step.args.iter().enumerate() {
                if let Some(other) = other.filter(|o| i != j && self.overlap(id, *o)) {
                    return Err((
                        "P03",
                        format!("writes `{}`, which overlaps `{}`", written.name, self.buffer(other).name),
                    ));
                }
            }
        }
        Ok(())
    }

    fn overlap(&self, a: BufferId, b: BufferId) -> bool {
        let (x, y) = (self.buffer(a), self.buffer(b));
        match (x.place, y.place) {
            (Place::Arena(p), Place::Arena(q)) => p < q + bytes(y) && q < p + bytes(x),
            (p, q) => p == q,
        }
    }

    /// Liveness, overlap and size of a program's arena.
    fn arena_of(&self, program: &Program) -> Check {
        let mut lives: HashMap<BufferId, (usize, usize)> = HashMap::new();
        let arena = |id: &BufferId| matches!(self.buffer(*id).place, Place::Arena(_));
        for port in program.inputs.iter().filter(|p| arena(&p.buffer)) {
            lives.insert(port.buffer, (0, 0));
        }
        let mut written: HashMap<BufferId, u64> = lives.keys().map(|id| (*id, self.buffer(*id).len)).collect();
        for (i, step) in program.steps.iter().enumerate() {
            let lens: Vec<usize> = step.args.iter().map(|id| id.map_or(0, |id| self.buffer(id).len as usize)).collect();
            let call = Call { kernel: step.kernel, lens: &lens, scalars: &step.scalars };
            // A launch that writes a buffer for the first time must not read it too: what it writes counts after it.
            let mut fresh = Vec::new();
            for (declared, id) in step.kernel.args.iter().zip(&step.args) {
                let Some(id) = id.filter(arena) else { continue };
                let part = match declared.mode {
                    Mode::Read => None,
                    Mode::Write => Some(self.buffer(id).len),
                    Mode::Update => (declared.fresh)(&call),
                };
                match part {
                    Some(part) => fresh.push((id, part)),
                    None if written.get(&id).is_none_or(|n| *n < self.buffer(id).len) => {
                        let name = &self.buffer(id).name;
                        return Err((
                            "P05",
                            format!(
                                "step {i} of `{}` reads `{name}`, which nothing wrote, or only in part",
                                program.name
                            ),
                        ));
                    }
                    None => {}
                }
                lives.entry(id).or_insert((i, i)).1 = i;
            }
            for (id, part) in fresh {
                let n = written.entry(id).or_default();
                *n = n.saturating_add(part);
            }
        }
        let last = program.steps.len().saturating_sub(1);
        for port in program.outputs.iter().filter(|p| arena(&p.buffer)) {
            let whole = written.get(&port.buffer).is_some_and(|n| *n >= self.buffer(port.buffer).len);
            match lives.get_mut(&port.buffer).filter(|_| whole) {
                Some(life) => life.1 = last,
                None => return Err(("P05", format!("output `{}` of `{}` is never written", port.name, program.name))),
            }
        }
        let mut begins = vec![Vec::new(); last + 2];
        let mut ends = vec![Vec::new(); last + 2];
        let mut size = 0;
        for (id, (first, last)) in lives {
            let buffer = self.buffer(id);
            let Place::Arena(at) = buffer.place else { continue };
            begins[first].push((at, id));
            ends[last].push(at);
            size = size.max(at + bytes(buffer));
        }
        if size != program.arena_bytes {
            let said = program.arena_bytes;
            return Err((
                "P09",
                format!("`{}` is said to need {said} bytes of the arena and needs {size}", program.name),
            ));
        }
        let mut live: BTreeMap<u64, BufferId> = BTreeMap::new();
        let (mut sum, mut peak) = (0, Peak::default());
        for step in 0..=last {
            for (at, id) in &begins[step] {
                let end = at + bytes(self.buffer(*id));
                let before =
                    live.range(..=*at).next_back().filter(|(from, other)| *from + bytes(self.buffer(**other)) > *at);
                let after = live.range(*at..end).next();
                if let Some((_, other)) = before.or(after) {
                    let (a, b) = (&self.buffer(*id).name, &self.buffer(*other).name);
                    return Err(("P04", format!("`{a}` and `{b}` overlap in step {step} of `{}`", program.name)));
                }
                live.insert(*at, *id);
                sum += bytes(self.buffer(*id));
            }
            if sum > peak.live_bytes {
                peak = Peak { step: step as u32, live_bytes: sum };
            }
            for at in &ends[step] {
                if let Some(id) = live.remove(at) {
                    sum -= bytes(self.buffer(id));
                }
            }
        }
        if peak != program.peak {
            return Err(("P09", format!("the busiest step of `{}` is {peak:?}, not {:?}", program.name, program.peak)));
        }
        Ok(())
    }
}

/// Bytes that a buffer takes in the arena.
pub(super) fn bytes(b: &Buffer) -> u64 {
    (b.len * b.dtype.size() as u64).next_multiple_of(ALIGN).max(ALIGN)
}
