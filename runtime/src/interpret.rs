//! Runs launches with every buffer in memory of its own: the reference against which placement is tested, and the way the
//! compiler computes constants.

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
}
