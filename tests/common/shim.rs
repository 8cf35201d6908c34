//! A device whose launches run on a processor, each access to memory being checked.

use sara_kernels::cuda::MatmulPrecision;
use sara_runtime::device::cuda::Cuda;
use sara_runtime::device::{Device, Launch, Order, Peaks, Source};
use sara_runtime::map::Map;
use sara_runtime::{Error, Result};
use sara_shim::{Entries, Mode, Region};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The device on which the CUDA kernels are tested: that which `SARA_TEST_DEVICE` names, such as `cuda:0`, or else one of fibers,
/// whose order the seed chooses. Its products in single precision are as `SARA_TEST_PRECISION` says: highest, high or tf32.
pub(crate) fn device(seed: u64) -> Box<dyn Device> {
    make(seed, false)
}

/// The same, on which elementwise steps are launches of their own.
pub(crate) fn device_apart(seed: u64) -> Box<dyn Device> {
    make(seed, true)
}

fn make(seed: u64, apart: bool) -> Box<dyn Device> {
    match std::env::var("SARA_TEST_DEVICE").ok().as_deref().and_then(|name| name.strip_prefix("cuda")) {
        None => Box::new(Shim { apart, ..Shim::new(seed) }),
        Some(ordinal) => {
            let ordinal = ordinal.trim_start_matches(':').parse().unwrap_or(0);
            let open = || Cuda::open(ordinal, precision()).unwrap_or_else(|e| panic!("{e}"));
            // A device's context is made anew once nobody has it.
            static KEPT: OnceLock<Cuda> = OnceLock::new();
            KEPT.get_or_init(open);
            let mut cuda = open();
            cuda.fuses = !apart;
            Box::new(cuda)
        }
    }
}

/// The precision of products in single precision on the device.
pub(crate) fn precision() -> MatmulPrecision {
    match std::env::var("SARA_TEST_PRECISION").as_deref() {
        Err(_) | Ok("highest") => MatmulPrecision::Highest,
        Ok("high") => MatmulPrecision::High,
        Ok("tf32") => MatmulPrecision::Tf32,
        Ok(other) => panic!("SARA_TEST_PRECISION is `{other}`, not highest, high or tf32"),
    }
}

/// A device of fibers. Its memory is the process's own.
#[derive(Default)]
pub(crate) struct Shim {
    /// Chooses the order of blocks and threads; counts up with the launches.
    seed: u64,
    memory: Vec<Vec<u64>>,
    programs: Vec<Vec<Order>>,
    /// Runs every step by itself.
    pub(crate) apart: bool,
    /// Counts launches.
    pub(crate) launches: Arc<AtomicUsize>,
    /// Entry points of fused steps; none if there are none.
    fused: Option<Entries>,
    /// The bytes that are said to be free; all there are if zero.
    free: u64,
}

impl Shim {
    pub(crate) fn new(seed: u64) -> Shim {
        Shim { seed, ..Shim::default() }
    }

    /// A device that says that it has so many bytes.
    pub(crate) fn small(free: u64) -> Shim {
        Shim { free, ..Shim::default() }
    }

    /// Fails unless the bytes lie in one piece that was taken.
    fn checked(&self, address: u64, bytes: usize) -> usize {
        let inside = |block: &Vec<u64>| {
            let start = block.as_ptr().addr() as u64;
            address >= start && address + bytes as u64 <= start + block.len() as u64 * 8
        };
        assert!(bytes == 0 || self.memory.iter().any(inside), "bytes outside the device's memory");
        address as usize
    }

    #[expect(unsafe_code, reason = "hands its memory to the kernels")]
    fn launch(&mut self, launch: &Launch) -> Result<()> {
        self.seed += 1;
        self.launches.fetch_add(1, Ordering::Relaxed);
        let regions: Vec<Region<'_>> = launch
            .spans
            .iter()
            .map(|s| Region {
                start: std::ptr::with_exposed_provenance_mut(self.checked(s.address, s.bytes)),
                bytes: s.bytes,
                grain: s.grain,
                mode: match s.mode {
                    sara_kernels::Mode::Read => Mode::Read,
                    sara_kernels::Mode::Write => Mode::Write,
                    sara_kernels::Mode::Update => Mode::Update,
                },
                name: s.name,
            })
            .collect();
        let params: Vec<&[u8]> = launch.params.iter().map(Vec::as_slice).collect();
        let shim = sara_shim::Launch {
            entry: &launch.entry,
            grid: launch.grid,
            threads: launch.threads,
            dynamic: launch.dynamic as usize,
            kinds: &launch.kinds,
            params: &params,
            regions: &regions,
            seed: self.seed,
        };
        let entries = match (&launch.source, &self.fused) {
            (Source::Fused { .. }, Some(fused)) => fused,
            _ => &sara_shim::KERNELS,
        };
        // SAFETY: the regions lie in memory that was taken, and nobody else uses it meanwhile.
        unsafe { entries.launch(&shim) }.map_err(Error::Device)
    }

    #[expect(unsafe_code, reason = "views its memory")]
    fn bytes(&mut self, address: u64, bytes: usize) -> &mut [u8] {
        let start = self.checked(address, bytes);
        // SAFETY: the bytes lie in memory that was taken and is initialised, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(start), bytes) }
    }
}

impl Device for Shim {
    fn name(&self) -> &str {
        "the shim"
    }

    fn precision(&self) -> MatmulPrecision {
        precision()
    }

    fn fuses(&self) -> bool {
        !self.apart
    }

    fn peaks(&self) -> Option<Peaks> {
        None
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> Result<[u64; 2]> {
        let free = if self.free == 0 { u64::MAX } else { self.free };
        Ok([free, free])
    }

    fn take(&mut self, bytes: usize) -> Result<u64> {
        let mut block = vec![0_u64; bytes.div_ceil(8) + 32];
        let start = block.as_mut_ptr().expose_provenance();
        self.memory.push(block);
        Ok(start.next_multiple_of(256) as u64)
    }

    fn release(&mut self) -> Result<()> {
        self.memory.clear();
        self.programs.clear();
        Ok(())
    }

    fn write(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        self.bytes(to, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    #[expect(unsafe_code, reason = "views its memory")]
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        let start = self.checked(from, bytes.len());
        // SAFETY: the bytes lie in memory that was taken and is initialised, and nothing writes to it meanwhile.
        bytes.copy_from_slice(unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), bytes.len())
        });
        Ok(())
    }

    fn fill(&mut self, at: u64, bytes: usize, value: u8) -> Result<()> {
        self.bytes(at, bytes).fill(value);
        Ok(())
    }

    fn bind(&mut self, programs: Vec<Vec<Order>>) -> Result<()> {
        let fused = programs.iter().flatten().filter_map(|order| match order {
            Order::Launch(Launch { source: Source::Fused { text, .. }, .. }) => Some(&**text),
            _ => None,
        });
        let sources: BTreeSet<&str> = fused.collect();
        let all: String = sources.into_iter().collect();
        self.fused = (!all.is_empty()).then(|| Entries::compile(&all)).transpose().map_err(Error::Device)?;
        self.programs = programs;
        Ok(())
    }

    fn run(&mut self, program: usize, orders: Range<usize>, maps: &[(String, Map)]) -> Result<()> {
        for at in orders {
            let order = self.programs[program][at].clone();
            match order {
                Order::Launch(launch) => self.launch(&launch)?,
                Order::Stage { map, range, to } => self.write(to, &maps[map].1.as_ref()[range])?,
            }
        }
        Ok(())
    }

    fn time(&mut self, program: usize, orders: Range<usize>, maps: &[(String, Map)]) -> Result<Vec<f64>> {
        orders.map(|at| self.run(program, at..at + 1, maps).map(|()| 1.0)).collect()
    }
}
