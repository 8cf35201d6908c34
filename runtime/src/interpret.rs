//! Runs launches with every buffer in memory of its own: the reference against which placement is tested, and the way the
//! compiler computes constants.

use crate::device::{Device, Order, Span, launches};
use crate::error::{Error, Result};
use crate::plan::{Buffer, BufferId, Place, Step};
use sara_kernels::{Call, Launch, Pool};

/// The memory of an interpreted program.
pub struct Memory {
    data: Vec<Vec<u64>>,
    bytes: Vec<usize>,
}

impl Memory {
    /// Memory for `buffers`. Constants hold their data, everything else is poisoned: all bits set, which is NaN in floats.
    pub fn new(buffers: &[Buffer], constants: &[u8]) -> Memory {
        let bytes: Vec<usize> = buffers.iter().map(|b| b.len as usize * b.dtype.size()).collect();
        let data = bytes.iter().map(|b| vec![u64::MAX; b.div_ceil(8)]).collect();
        let mut memory = Memory { data, bytes };
        for (i, buffer) in buffers.iter().enumerate() {
            if let Place::Constant(at) = buffer.place {
                let at = at as usize;
                memory.set(BufferId(i as u32), &constants[at..at + memory.bytes[i]]);
            }
        }
        memory
    }

    /// The bytes of a buffer.
    pub fn get(&self, id: BufferId) -> &[u8] {
        let i = id.0 as usize;
        &bytemuck::cast_slice(&self.data[i])[..self.bytes[i]]
    }

    /// Fills a buffer. `bytes` must be as long as the buffer.
    pub fn set(&mut self, id: BufferId, bytes: &[u8]) {
        let i = id.0 as usize;
        bytemuck::cast_slice_mut(&mut self.data[i])[..self.bytes[i]].copy_from_slice(bytes);
    }

    /// Runs launches. They must match their kernels' declarations, and no launch may write what it also reads by another
    /// argument.
    #[expect(unsafe_code, reason = "hands buffers to kernels")]
    pub fn run(&mut self, buffers: &[Buffer], steps: &[Step], pool: &Pool) {
        for step in steps {
            let bound: Vec<sara_kernels::Buffer> = step
                .args
                .iter()
                .map(|arg| match arg {
                    None => sara_kernels::Buffer::NONE,
                    Some(id) => {
                        let buffer = &buffers[id.0 as usize];
                        let ptr = self.data[id.0 as usize].as_mut_ptr().cast::<u8>();
                        // SAFETY: the vector has the buffer's bytes, aligned to 8 and initialised, and outlives the launch.
                        unsafe { sara_kernels::Buffer::new(ptr, buffer.len as usize, buffer.dtype) }
                    }
                })
                .collect();
            let lens: Vec<usize> = bound.iter().map(sara_kernels::Buffer::len).collect();
            let call = Call { kernel: step.kernel, lens: &lens, scalars: &step.scalars };
            // SAFETY: buffers lie in vectors of their own, so distinct buffers do not overlap; that a launch does not write a
            // buffer it also reads is the caller's promise and the verifier's rule.
            unsafe { Launch::new(call, &bound, pool) }.run();
        }
    }
    /// The same on a device, which is told one program.
    pub fn run_on(&mut self, buffers: &[Buffer], steps: &[Step], device: &mut dyn Device) -> Result<()> {
        let precision = device.precision();
        let mut addresses = Vec::new();
        for bytes in &self.bytes {
            addresses.push(device.take((*bytes).max(1))?);
        }
        let mut programs = [0, 1].map(|_| Vec::new());
        let mut scratch = (0, 0);
        // The second time the launches know where memory of their own lies.
        for program in &mut programs {
            for step in steps {
                let (mut lens, mut dtypes, mut spans) = (Vec::new(), Vec::new(), Vec::new());
                for (arg, id) in step.kernel.args.iter().zip(&step.args) {
                    let buffer = id.map(|id| (&buffers[id.0 as usize], addresses[id.0 as usize]));
                    lens.push(buffer.map_or(0, |(b, _)| b.len as usize));
                    dtypes.push(buffer.map(|(b, _)| b.dtype));
                    spans.push(buffer.map(|(b, address)| Span {
                        address,
                        bytes: b.len as usize * b.dtype.size(),
                        grain: b.dtype.size(),
                        mode: arg.mode,
                        name: arg.name,
                    }));
                }
                let call = Call { kernel: step.kernel, lens: &lens, scalars: &step.scalars };
                let (own, bytes) =
                    launches(step.kernel, &call, &dtypes, &spans, scratch.0, precision).ok_or_else(|| {
                        Error::Option(format!(
                            "`{}` is too large for a device, or runs on the CPU only; use --device cpu",
                            step.kernel.name
                        ))
                    })?;
                scratch.1 = scratch.1.max(bytes);
                program.extend(own.into_iter().map(Order::Launch));
            }
            scratch.0 = device.take(scratch.1.max(1))?;
        }
        let [_, program] = programs;
        let orders = 0..program.len();
        device.bind(vec![program])?;
        let mut once = || -> Result<Vec<Vec<u8>>> {
            for ((data, bytes), address) in self.data.iter().zip(&self.bytes).zip(&addresses) {
                device.write(*address, &bytemuck::cast_slice(data)[..*bytes])?;
            }
            device.run(0, orders.clone(), &[])?;
            let read = |(bytes, address): (&usize, &u64)| {
                let mut found = vec![0; *bytes];
                device.read(*address, &mut found).map(|()| found)
            };
            self.bytes.iter().zip(&addresses).map(read).collect()
        };
        // The second time a device may do them as one.
        let (first, second) = (once()?, once()?);
        if first != second {
            let names: Vec<&str> = steps.iter().map(|step| step.kernel.name).collect();
            let reason = format!("{names:?} give other bits the second time, which is a defect; please report it");
            return Err(Error::Device(format!("{}: {reason}", device.name())));
        }
        for (data, found) in self.data.iter_mut().zip(second) {
            bytemuck::cast_slice_mut(data)[..found.len()].copy_from_slice(&found);
        }
        device.release()
    }
}
