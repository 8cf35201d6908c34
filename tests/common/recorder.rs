//! A device that runs nothing and keeps what it was told.

use sara_kernels::cuda::MatmulPrecision;
use sara_runtime::Result;
use sara_runtime::device::{Device, Launch, Order, Peaks, Source};
use sara_runtime::map::Map;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device that runs nothing and keeps what it was told.
#[derive(Default)]
pub(crate) struct Recorder {
    fuses: bool,
    taken: u64,
    told: Arc<Mutex<Told>>,
}

/// What a device was told.
#[derive(Default)]
pub(crate) struct Told {
    /// The launches of each program.
    pub(crate) launches: Vec<usize>,
    /// The sources that were made for them.
    pub(crate) sources: BTreeMap<String, Source>,
    /// Bytes that were taken.
    pub(crate) taken: u64,
    /// Each run of a program, and each wait for all of them.
    pub(crate) acts: Vec<Act>,
}

/// What concerns the order of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Runs orders of a program.
    Run(usize),
    /// Waits until all is done.
    Wait,
}

impl Recorder {
    pub(crate) fn new(fuses: bool) -> Recorder {
        Recorder { fuses, ..Recorder::default() }
    }

    /// What it is told from now on, too.
    pub(crate) fn told(&self) -> Arc<Mutex<Told>> {
        self.told.clone()
    }

    fn now(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, act: Act) {
        self.now().acts.push(act);
    }
}

impl Device for Recorder {
    fn name(&self) -> &str {
        "a recorder"
    }
    fn precision(&self) -> MatmulPrecision {
        MatmulPrecision::Highest
    }
    fn fuses(&self) -> bool {
        self.fuses
    }
    fn peaks(&self) -> Option<Peaks> {
        None
    }
    fn wait(&self) -> Result<()> {
        self.act(Act::Wait);
        Ok(())
    }
    fn memory(&self) -> Result<[u64; 2]> {
        Ok([u64::MAX; 2])
    }
    fn take(&mut self, bytes: usize) -> Result<u64> {
        self.now().taken += bytes as u64;
        let at = self.taken + 256;
        self.taken = (at + bytes as u64).next_multiple_of(256);
        Ok(at)
    }
    fn release(&mut self) -> Result<()> {
        Ok(())
    }
    fn write(&mut self, _: u64, _: &[u8]) -> Result<()> {
        self.wait()
    }
    fn read(&self, _: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        self.wait()
    }
    fn fill(&mut self, _: u64, _: usize, _: u8) -> Result<()> {
        Ok(())
    }
    fn bind(&mut self, programs: Vec<Vec<Order>>) -> Result<()> {
        let mut told = self.now();
        told.launches = programs.iter().map(Vec::len).collect();
        for order in programs.into_iter().flatten() {
            if let Order::Launch(Launch { source: source @ Source::Fused { .. }, .. }) = order {
                told.sources.insert(source.name().to_owned(), source);
            }
        }
        Ok(())
    }
    fn run(&mut self, program: usize, _: Range<usize>, _: &[(String, Map)]) -> Result<()> {
        self.act(Act::Run(program));
        Ok(())
    }
    fn time(&mut self, _: usize, orders: Range<usize>, _: &[(String, Map)]) -> Result<Vec<f64>> {
        Ok(vec![1.0; orders.len()])
    }
}
