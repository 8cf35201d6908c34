//! How much memory an executor takes, and which files it reads from.

use crate::error::{Error, Result};
use crate::load::{resident, room};
use crate::map::Map;
use crate::plan::{self, ALIGN, Place, Plan, Program, Weight};
use crate::source::Source;
use sara_kernels::cuda::{MatmulPrecision, Work};
use sara_kernels::hyper;
use sara_kernels::sparse_adamw_8bit::BLOCK;
use std::collections::BTreeSet;

/// Maps the files from which launches read weights.
pub(super) fn maps(plan: &Plan, source: &Source) -> Result<Vec<(String, Map)>> {
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

/// Whose memory a plan takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// This machine's, where so many threads compute.
    Cpu {
        /// Threads.
        threads: usize,
    },
    /// A device's, whose products in single precision are so exact.
    Device(MatmulPrecision),
}

/// Bytes that an executor takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// For weights.
    pub weights: u64,
    /// For pages of the files from which weights are read, or for what those are copied to.
    pub pages: u64,
    /// For positions, values, gradients and moments of what trains.
    pub state: u64,
    /// For constants.
    pub constants: u64,
    /// For the arena.
    pub arena: u64,
    /// For scratch memory of threads, or of launches.
    pub scratch: u64,
}

impl Taken {
    /// All of them.
    pub fn total(self) -> u64 {
        let Taken { weights, pages, state, constants, arena, scratch } = self;
        weights + pages + state + constants + arena + scratch
    }
}

/// What an executor of this plan takes.
pub fn memory(plan: &Plan, site: Site) -> Taken {
    let trained = plan.sparse.iter().map(|s| s.index.len());
    let constants = plan.constants.len();
    memory_of(&plan.weights, &plan.buffers, &plan.programs, constants, trained, plan.use_8bit_adam, site)
}

/// Bytes that one weight's positions, values or gradients, one of its moments, and the scales of that take.
pub(super) fn state_bytes(trained: usize, use_8bit_adam: bool) -> [usize; 3] {
    match use_8bit_adam {
        true => [trained * 4, trained, trained.div_ceil(BLOCK) * 4],
        false => [trained * 4, trained * 4, 0],
    }
}

/// The same for a plan with these weights, buffers, programs, bytes of constants and numbers of trained entries.
pub fn memory_of(
    table: &[Weight],
    buffers: &[plan::Buffer],
    programs: &[Program],
    constants: usize,
    trained: impl Iterator<Item = usize>,
    use_8bit_adam: bool,
    site: Site,
) -> Taken {
    let aligned = |bytes: usize| (bytes as u64).next_multiple_of(ALIGN);
    let weights: u64 = resident(buffers).into_iter().map(|(w, dtype)| room(&table[w], dtype) as u64).sum();
    let files = buffers.iter().filter(|b| matches!(b.place, Place::File(_)));
    let pages = files.map(|b| b.len).max().unwrap_or(0);
    let (mut state, mut index) = (aligned(hyper::LEN * 4), 0);
    for n in trained {
        let [bytes, moment, absmax] = state_bytes(n, use_8bit_adam);
        state += 3 * aligned(bytes) + 2 * (aligned(moment) + aligned(absmax));
        index += bytes as u64;
    }
    let arena = arena_bytes(programs);
    match site {
        Site::Cpu { threads } => {
            let scratch = (threads.max(1) * sara_kernels::SCRATCH_BYTES) as u64;
            // The plan keeps its constants and the initial index besides.
            Taken { weights, pages, state: state + index, constants: 2 * constants as u64, arena, scratch }
        }
        Site::Device(precision) => Taken {
            // A block that holds nothing takes as much as the least.
            weights: weights.max(ALIGN),
            // Weights are copied to one place while they are read from another.
            pages: 2 * pages,
            state,
            constants: aligned(constants).max(ALIGN),
            arena,
            scratch: scratch(buffers, programs, precision) as u64,
        },
    }
}

/// Bytes of the arena, which programs share because one runs at a time.
pub fn arena_bytes(programs: &[Program]) -> u64 {
    programs.iter().map(|p| p.arena_bytes).max().unwrap_or(0)
}

/// Refuses a plan with a launch that no device can run.
pub fn check_device(plan: &Plan, precision: MatmulPrecision) -> Result<()> {
    let refused = |step: &&plan::Step| work(&plan.buffers, step, precision).is_none();
    match plan.programs.iter().flat_map(|p| &p.steps).find(refused) {
        Some(step) => Err(too_large(step)),
        None => Ok(()),
    }
}

/// That no device can run a step.
pub(super) fn too_large(step: &plan::Step) -> Error {
    let name = step.kernel.name;
    Error::Option(format!(
        "`{name}` (node `{}`) is too large for a device, or runs on the CPU only; use --device cpu",
        step.origin
    ))
}

/// The launches of a step on a device, if it can run there.
fn work(buffers: &[plan::Buffer], step: &plan::Step, precision: MatmulPrecision) -> Option<Work> {
    let args: Vec<_> = step.args.iter().map(|id| id.map(|id| &buffers[id.0 as usize])).collect();
    let lens: Vec<usize> = args.iter().map(|b| b.map_or(0, |b| b.len as usize)).collect();
    let dtypes: Vec<_> = args.iter().map(|b| b.map(|b| b.dtype)).collect();
    step.kernel.work(&lens, &step.scalars, &dtypes, precision)
}

/// Bytes that launches on a device take for themselves, one at a time.
fn scratch(buffers: &[plan::Buffer], programs: &[Program], precision: MatmulPrecision) -> usize {
    let of_step = |step| work(buffers, step, precision).map_or(0, |work| work.scratch);
    programs.iter().flat_map(|p| &p.steps).map(of_step).max().unwrap_or(0)
}
