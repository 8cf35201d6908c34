//! A CUDA device, by the driver's own interface, which is loaded when it is first needed.

use super::driver::{Info, OLDEST, devices};
use super::nvrtc::{Nvrtc, Target};
use super::{Device, Launch, Order, Peaks, Source};
use crate::error::{Error, Result};
use crate::map::Map;
use cudarc::driver::{DriverError, result, sys};
use sara_kernels::cuda::MatmulPrecision;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_void};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// A launch that is ready: its function, and its parameters each in whole words.
struct Ready {
    function: sys::CUfunction,
    launch: Launch,
    params: Vec<Vec<u64>>,
}

enum Prepared {
    Launch(Ready),
    Stage { map: usize, range: Range<usize>, to: u64 },
}

impl Prepared {
    /// The map that it copies from, and the bytes.
    fn stage(&self) -> Option<(usize, &Range<usize>)> {
        match self {
            Prepared::Stage { map, range, .. } => Some((*map, range)),
            Prepared::Launch(_) => None,
        }
    }
}

/// A program, and of parts that were run before, by first and last order, the graphs; none if a part ran only once.
#[derive(Default)]
struct Program {
    orders: Vec<Prepared>,
    graphs: HashMap<(usize, usize), Option<sys::CUgraphExec>>,
}

/// Host memory from which bytes of files are copied to one address, and when it and that address are free again.
struct Slot {
    memory: *mut c_void,
    bytes: usize,
    copied: sys::CUevent,
    consumed: sys::CUevent,
}

/// A CUDA device with one stream of launches and one of copies.
pub struct Cuda {
    /// Whether elementwise steps that follow each other are one launch; they are, at first.
    pub fuses: bool,
    info: Info,
    precision: MatmulPrecision,
    nvrtc: Nvrtc,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    copies: sys::CUstream,
    taken: Vec<u64>,
    functions: HashMap<String, sys::CUfunction>,
    modules: BTreeMap<String, sys::CUmodule>,
    programs: Vec<Program>,
    /// By the addresses that are copied to.
    slots: HashMap<u64, Slot>,
}

// SAFETY: handles of the driver may be used from any thread, and the memory behind them belongs to this device alone.
#[expect(unsafe_code, reason = "handles of the driver")]
unsafe impl Send for Cuda {}
// SAFETY: a shared device only reads memory and waits, which the driver allows from several threads.
#[expect(unsafe_code, reason = "handles of the driver")]
unsafe impl Sync for Cuda {}

impl Cuda {
    /// Opens the device `ordinal`, whose products in single precision are to be so exact. Before compute capability 8.0 there are no
    /// tensor cores for them, so there they are as exact as can be.
    #[expect(unsafe_code, reason = "calls the driver")]
    pub fn open(ordinal: usize, precision: MatmulPrecision) -> Result<Cuda> {
        let (devices, driver) = devices()?;
        let count = devices.len();
        let Some(info) = devices.into_iter().nth(ordinal) else {
            return Err(Error::Device(match count {
                0 => "the CUDA driver finds no device on this machine (CUDA_VISIBLE_DEVICES may hide it); use --device cpu"
                    .to_owned(),
                _ => format!("there is no device cuda:{ordinal}; there are {count}, counted from 0"),
            }));
        };
        let (major, minor) = info.capability;
        if info.capability < OLDEST {
            return Err(Error::Device(format!(
                "{} has compute capability {major}.{minor}, and {}.{} is needed; use --device cpu",
                info.name, OLDEST.0, OLDEST.1
            )));
        }
        let nvrtc = Nvrtc::open(Some(Target { capability: info.capability, driver }))?;
        let precision = if info.capability < (8, 0) { MatmulPrecision::Highest } else { precision };
        let failed = |e: DriverError| Error::Device(format!("{} cannot be opened: {e}", info.name));
        let device = result::device::get(info.ordinal).map_err(failed)?;
        // SAFETY: the device exists; its context is released when this is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(failed)?;
        let stream = || result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed);
        Ok(Cuda {
            fuses: true,
            precision,
            nvrtc,
            device,
            context,
            stream: stream()?,
            copies: stream()?,
            taken: Vec::new(),
            functions: HashMap::new(),
            modules: BTreeMap::new(),
            programs: Vec::new(),
            slots: HashMap::new(),
            info,
        })
    }

    fn failed(&self, what: &str, error: DriverError) -> Error {
        Error::Device(format!("{}: {what}: {error}", self.info.name))
    }

    /// Makes the context that of this thread.
    #[expect(unsafe_code, reason = "calls the driver")]
    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as this.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| self.failed("its context is lost", e))
    }

    /// Loads the code of sources that were not needed before, compiling it if it is not in the cache.
    #[expect(unsafe_code, reason = "loads code onto the device")]
    fn load(&mut self, sources: impl Iterator<Item = Source>) -> Result<()> {
        let missing: Vec<Source> = sources.filter(|s| !self.modules.contains_key(s.name())).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let nvrtc = &self.nvrtc;
        let (major, minor) = self.info.capability;
        let arch = format!("sm_{major}{minor}");
        let results = Mutex::new(Vec::new());
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(missing.len()) {
                scope.spawn(|| {
                    while let Some(source) = missing.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                        let compiled = nvrtc.cached(source, &arch);
                        results
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((source.name().to_owned(), compiled));
                    }
                });
            }
        });
        for (name, compiled) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let cubin = compiled?.cubin;
            // SAFETY: the bytes are a whole cubin, which the driver copies.
            let module = unsafe { result::module::load_data(cubin.as_ptr().cast()) }.map_err(|e| {
                let (major, minor) = nvrtc.version;
                self.failed(&format!("the driver cannot load code of NVRTC {major}.{minor}; update the driver, or set CUDA_HOME to an older CUDA toolkit"), e)
            })?;
            self.modules.insert(name, module);
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "calls the driver")]
    fn function(&mut self, launch: &Launch) -> Result<sys::CUfunction> {
        if let Some(function) = self.functions.get(&launch.entry) {
            return Ok(*function);
        }
        let module = self.modules[launch.source.name()];
        let name = CString::new(launch.entry.as_str()).map_err(|e| Error::Device(e.to_string()))?;
        // SAFETY: modules are unloaded only when this is dropped.
        let function = unsafe { result::module::get_function(module, name) }.map_err(|e| {
            self.failed(&format!("`{}` has no entry point `{}`", launch.source.name(), launch.entry), e)
        })?;
        self.functions.insert(launch.entry.clone(), function);
        Ok(function)
    }

    #[expect(unsafe_code, reason = "calls the driver")]
    fn launch(&self, ready: &Ready) -> Result<()> {
        let mut params: Vec<*mut c_void> = ready.params.iter().map(|p| p.as_ptr().cast_mut().cast()).collect();
        let [x, y, z] = ready.launch.grid;
        let threads = (ready.launch.threads, 1, 1);
        // SAFETY: the parameters have the kinds of the entry point's, which the tests compare for every kernel; their addresses are
        // those of the plan's buffers, which the verifier has checked, in memory that lives as long as this.
        unsafe {
            result::launch_kernel(ready.function, (x, y, z), threads, ready.launch.dynamic, self.stream, &mut params)
        }
        .map_err(|e| self.failed(&format!("`{}` cannot be launched", ready.launch.entry), e))
    }

    /// Copies bytes of a file while launches go on.
    #[expect(unsafe_code, reason = "copies to the device")]
    fn stage(&self, slot: &Slot, bytes: &[u8], to: u64) -> Result<()> {
        let failed = |e| self.failed("a weight cannot be copied", e);
        debug_assert!(bytes.len() <= slot.bytes);
        // SAFETY: events, streams and memory live as long as this; the host's memory is written only after the copy from it ended,
        // and the device's only after what read it.
        unsafe {
            result::event::synchronize(slot.copied).map_err(failed)?;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), slot.memory.cast(), bytes.len());
            result::stream::wait_event(self.copies, slot.consumed, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
                .map_err(failed)?;
            let pinned = std::slice::from_raw_parts(slot.memory.cast::<u8>(), bytes.len());
            result::memcpy_htod_async(to, pinned, self.copies).map_err(failed)?;
            result::event::record(slot.copied, self.copies).map_err(failed)?;
            result::stream::wait_event(self.stream, slot.copied, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
                .map_err(failed)
        }
    }

    /// Gives orders one by one; `before` is called before each and after the last.
    #[expect(unsafe_code, reason = "calls the driver")]
    fn give(
        &self,
        program: usize,
        orders: Range<usize>,
        maps: &[(String, Map)],
        mut before: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut open: Vec<&Slot> = Vec::new();
        let orders = &self.programs[program].orders[orders];
        for (i, order) in orders.iter().enumerate() {
            before()?;
            match order {
                Prepared::Launch(ready) => {
                    self.launch(ready)?;
                    for slot in open.drain(..) {
                        // SAFETY: event and stream live as long as this.
                        unsafe { result::event::record(slot.consumed, self.stream) }
                            .map_err(|e| self.failed("an event cannot be recorded", e))?;
                    }
                }
                Prepared::Stage { map, range, to } => {
                    let slot = &self.slots[to];
                    if let Some((map, range)) = orders[i + 1..].iter().find_map(Prepared::stage) {
                        maps[map].1.will_need(range);
                    }
                    self.stage(slot, &maps[*map].1.as_ref()[range.clone()], *to)?;
                    maps[*map].1.give_back(range);
                    open.push(slot);
                }
            }
        }
        before()
    }

    /// A graph of orders without copies.
    #[expect(unsafe_code, reason = "calls the driver")]
    fn capture(&self, program: usize, orders: Range<usize>) -> Result<sys::CUgraphExec> {
        let failed = |e| self.failed("a step cannot be captured", e);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this, and the graph until it is destroyed here.
        unsafe {
            result::stream::begin_capture(self.stream, mode).map_err(failed)?;
            let given = self.give(program, orders, &[], || Ok(()));
            let graph = result::stream::end_capture(self.stream);
            let mut executable = std::mem::MaybeUninit::uninit();
            // What a launch says is told first, since it also ends the capture.
            let made = given.and_then(|()| {
                let graph = graph.map_err(failed)?;
                sys::cuGraphInstantiateWithFlags(executable.as_mut_ptr(), graph, 0).result().map_err(failed)
            });
            let _ = graph.map(|graph| result::graph::destroy(graph));
            made?;
            Ok(executable.assume_init())
        }
    }

    #[expect(unsafe_code, reason = "calls the driver")]
    fn forget_programs(&mut self) {
        for program in std::mem::take(&mut self.programs) {
            for graph in program.graphs.into_values().flatten() {
                // SAFETY: the graph was instantiated by `capture` and is not used again.
                let _ = unsafe { result::graph::exec_destroy(graph) };
            }
        }
    }

    /// Makes sure that there is a slot for an address to which at most so many bytes are copied.
    #[expect(unsafe_code, reason = "takes pinned memory")]
    fn slot(&mut self, to: u64, bytes: usize) -> Result<()> {
        if self.slots.get(&to).is_some_and(|slot| slot.bytes >= bytes) {
            return Ok(());
        }
        self.drop_slot(to);
        let event = || {
            result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
                .map_err(|e| self.failed("an event cannot be made", e))
        };
        // SAFETY: freed when the slot is dropped.
        let memory = unsafe { result::malloc_host(bytes, 0) }
            .map_err(|e| self.failed(&format!("{bytes} bytes of pinned memory are not available"), e))?;
        let slot = Slot { memory, bytes, copied: event()?, consumed: event()? };
        self.slots.insert(to, slot);
        Ok(())
    }

    #[expect(unsafe_code, reason = "gives back pinned memory")]
    fn drop_slot(&mut self, to: u64) {
        let Some(slot) = self.slots.remove(&to) else { return };
        // SAFETY: made by `slot` and not used again; nothing runs, because programs are only bound after waiting. Errors could not be
        // told to anybody.
        unsafe {
            let _ = result::event::destroy(slot.copied);
            let _ = result::event::destroy(slot.consumed);
            let _ = result::free_host(slot.memory);
        }
    }
}

impl Device for Cuda {
    fn name(&self) -> &str {
        &self.info.name
    }

    fn precision(&self) -> MatmulPrecision {
        self.precision
    }

    fn fuses(&self) -> bool {
        self.fuses
    }

    #[expect(unsafe_code, reason = "calls the driver")]
    fn peaks(&self) -> Option<Peaks> {
        use sys::CUdevice_attribute as A;
        let attribute = |a| {
            // SAFETY: the device exists.
            unsafe { result::device::get_attribute(self.device, a) }.ok().map(f64::from)
        };
        let [clock, processors, memory_clock, width] = [
            attribute(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
        ];
        // Fused multiply-adds of a multiprocessor in a clock: in single precision, and of products in half precision (CUDA C++
        // Programming Guide, arithmetic instructions; NVIDIA's architecture papers for tensor cores).
        let (single, half) = match self.info.capability {
            (7, _) => (64.0, 512.0),
            (8, 0) => (64.0, 1024.0),
            (8, _) | (12, _) => (128.0, 512.0),
            (9, _) => (128.0, 2048.0),
            (10, _) => (128.0, 4096.0),
            _ => return None,
        };
        // Clocks are in kHz, and memory transfers twice in one.
        let rate = |each: f64| 2.0 * each * processors * clock * 1e3;
        Some(Peaks { flops: rate(single), half_flops: rate(half), bytes: 2.0 * memory_clock * 1e3 * width / 8.0 })
    }

    #[expect(unsafe_code, reason = "calls the driver")]
    fn wait(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as this.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| self.failed("a launch failed", e))
    }

    fn memory(&self) -> Result<[u64; 2]> {
        self.enter()?;
        let (free, total) = result::mem_get_info().map_err(|e| self.failed("its memory is not known", e))?;
        Ok([free as u64, total as u64])
    }

    #[expect(unsafe_code, reason = "takes memory of the device")]
    fn take(&mut self, bytes: usize) -> Result<u64> {
        self.enter()?;
        // SAFETY: freed when this is dropped.
        let address = match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => address,
            // What others took meanwhile, or what is free in pieces.
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let ([free, total], needed, device) = (self.memory()?, bytes as u64, self.info.name.clone());
                return Err(match needed <= free {
                    true => Error::DevicePieces { device, needed, free },
                    false => Error::DeviceMemory { device, needed, free, total },
                });
            }
            Err(e) => return Err(self.failed("its memory cannot be taken", e)),
        };
        self.taken.push(address);
        self.fill(address, bytes, 0)?;
        // The stream of copies does not wait for this one.
        self.wait()?;
        Ok(address)
    }

    #[expect(unsafe_code, reason = "gives back memory of the device")]
    fn release(&mut self) -> Result<()> {
        self.enter()?;
        self.wait()?;
        self.forget_programs();
        for to in self.slots.keys().copied().collect::<Vec<_>>() {
            self.drop_slot(to);
        }
        for address in std::mem::take(&mut self.taken) {
            // SAFETY: taken by this device, and no program that uses it is left.
            unsafe { result::free_sync(address) }.map_err(|e| self.failed("memory cannot be given back", e))?;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "copies to the device")]
    fn write(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the address lies in memory that was taken, with room for the bytes, which stay until the copy has ended.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream) }
            .map_err(|e| self.failed("bytes cannot be copied to it", e))?;
        self.wait()
    }

    #[expect(unsafe_code, reason = "copies from the device")]
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the address lies in memory that was taken, and there are as many bytes, which stay until the copy has ended.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream) }
            .map_err(|e| self.failed("bytes cannot be copied from it", e))?;
        self.wait()
    }

    #[expect(unsafe_code, reason = "writes memory of the device")]
    fn fill(&mut self, at: u64, bytes: usize, value: u8) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: the bytes lie in memory that was taken; the stream puts them after what was ordered before.
        unsafe { result::memset_d8_async(at, value, bytes, self.stream) }
            .map_err(|e| self.failed("its memory cannot be set", e))
    }

    fn bind(&mut self, programs: Vec<Vec<Order>>) -> Result<()> {
        self.enter()?;
        self.wait()?;
        self.forget_programs();
        let mut sources: BTreeMap<String, Source> = BTreeMap::new();
        let mut staged: HashMap<u64, usize> = HashMap::new();
        for order in programs.iter().flatten() {
            match order {
                Order::Launch(launch) => drop(sources.insert(launch.source.name().to_owned(), launch.source.clone())),
                Order::Stage { range, to, .. } => {
                    let most = staged.entry(*to).or_default();
                    *most = range.len().max(*most);
                }
            }
        }
        self.load(sources.into_values())?;
        for (to, bytes) in staged {
            self.slot(to, bytes)?;
        }
        for orders in programs {
            let mut program = Program::default();
            for order in orders {
                program.orders.push(match order {
                    Order::Stage { map, range, to } => Prepared::Stage { map, range, to },
                    Order::Launch(launch) => {
                        let words = |bytes: &Vec<u8>| {
                            let mut words = vec![0_u64; bytes.len().div_ceil(8)];
                            bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
                            words
                        };
                        let params = launch.params.iter().map(words).collect();
                        Prepared::Launch(Ready { function: self.function(&launch)?, params, launch })
                    }
                });
            }
            self.programs.push(program);
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "calls the driver")]
    fn run(&mut self, program: usize, orders: Range<usize>, maps: &[(String, Map)]) -> Result<()> {
        self.enter()?;
        let own = &self.programs[program];
        let copies = own.orders[orders.clone()].iter().any(|o| matches!(o, Prepared::Stage { .. }));
        if copies || orders.len() < 2 {
            return self.give(program, orders, maps, || Ok(()));
        }
        let key = (orders.start, orders.end);
        let graph = match own.graphs.get(&key) {
            Some(Some(graph)) => *graph,
            Some(None) => {
                let graph = self.capture(program, orders)?;
                self.programs[program].graphs.insert(key, Some(graph));
                graph
            }
            None => {
                // Drivers may load code at its first launch, which must not happen while a graph is captured.
                self.give(program, orders, maps, || Ok(()))?;
                self.programs[program].graphs.insert(key, None);
                return Ok(());
            }
        };
        // SAFETY: the graph lives until the programs are forgotten.
        unsafe { result::graph::launch(graph, self.stream) }.map_err(|e| self.failed("a step cannot be launched", e))
    }

    #[expect(unsafe_code, reason = "calls the driver")]
    fn time(&mut self, program: usize, orders: Range<usize>, maps: &[(String, Map)]) -> Result<Vec<f64>> {
        self.enter()?;
        let failed = |e| self.failed("time cannot be taken", e);
        let mut events = Vec::with_capacity(orders.len() + 1);
        let given = self.give(program, orders, maps, || {
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed)?;
            events.push(event);
            // SAFETY: event and stream live.
            unsafe { result::event::record(event, self.stream) }.map_err(failed)
        });
        let waited = given.and_then(|()| self.wait());
        let seconds = events.windows(2).map(|pair| {
            // SAFETY: both were recorded, and the stream has passed them.
            unsafe { result::event::elapsed(pair[0], pair[1]) }.map(|ms| f64::from(ms) / 1e3).map_err(failed)
        });
        let seconds = waited.and_then(|()| seconds.collect());
        for event in events {
            // SAFETY: not used again.
            let _ = unsafe { result::event::destroy(event) };
        }
        seconds
    }
}

impl Drop for Cuda {
    #[expect(unsafe_code, reason = "gives back what it took")]
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        let _ = self.wait();
        self.forget_programs();
        for to in self.slots.keys().copied().collect::<Vec<_>>() {
            self.drop_slot(to);
        }
        // SAFETY: all of these were made by this device and are not used again; errors could not be told to anybody.
        unsafe {
            for module in self.modules.values() {
                let _ = result::module::unload(*module);
            }
            for address in &self.taken {
                let _ = result::free_sync(*address);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::stream::destroy(self.copies);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
