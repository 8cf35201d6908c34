//! Threads that kernels run on.
//!
//! Sums are divided by the shapes of the operands, never by the number of threads, so results do not depend on it.

use crate::Element;
use rayon::prelude::*;
use std::cell::UnsafeCell;
use std::marker::PhantomData;

/// Scratch memory of one thread in bytes.
pub const SCRATCH_BYTES: usize = 4 << 20;

/// A fixed set of threads, each with scratch memory that lives as long as the pool.
pub struct Pool {
    threads: rayon::ThreadPool,
    scratch: Vec<Scratch>,
}

/// Scratch memory of one thread, 64-byte aligned.
struct Scratch(UnsafeCell<Box<[Line]>>);

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read as bytes")] [u8; 64]);

// SAFETY: a scratch is reached only through `Pool::run`, by the one worker whose index it carries, and a worker runs one
// task at a time because tasks never wait for other tasks of the pool.
#[expect(unsafe_code, reason = "scratch memory is private to its worker")]
unsafe impl Sync for Scratch {}

impl Pool {
    /// A pool of `threads` threads (at least one).
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let threads = threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(8 << 20)
            .thread_name(|i| format!("sara-{i}"))
            .build()
            .map_err(std::io::Error::other)?;
        let lines = SCRATCH_BYTES / size_of::<Line>();
        let scratch =
            (0..threads).map(|_| Scratch(UnsafeCell::new(vec![Line([0; 64]); lines].into_boxed_slice()))).collect();
        Ok(Pool { threads: pool, scratch })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Runs `f` with this pool's workers as the current ones; kernels launched inside start their tasks without a hand-over.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.threads.install(f)
    }

    /// Calls `task(i, scratch)` for every `i < tasks`, in any order, on all threads. `scratch` holds
    /// [`SCRATCH_BYTES`] bytes of unspecified content. A task must not start tasks of its own.
    #[expect(unsafe_code, reason = "hands each worker its own scratch")]
    pub fn run(&self, tasks: usize, task: impl Fn(usize, &mut [u8]) + Sync) {
        let one = |i: usize| {
            let worker = rayon::current_thread_index().unwrap_or(0);
            // SAFETY: see `Sync for Scratch`; `Line` has no padding and every byte of it is initialised.
            let lines: &mut [Line] = unsafe { &mut *self.scratch[worker].0.get() };
            // SAFETY: the same memory seen as bytes, with the same lifetime.
            let bytes = unsafe {
                std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), std::mem::size_of_val(lines))
            };
            task(i, bytes);
        };
        self.threads.install(|| {
            if tasks == 1 {
                one(0);
            } else {
                (0..tasks).into_par_iter().with_max_len(1).for_each(one);
            }
        });
    }

    /// Splits `out` into chunks of `chunk` elements (the last may be shorter) and calls `task(i, chunk)` for each.
    pub fn chunks<T: Element>(&self, out: &mut [T], chunk: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        if out.len() <= chunk {
            if !out.is_empty() {
                task(0, out);
            }
            return;
        }
        self.threads.install(|| out.par_chunks_mut(chunk).enumerate().for_each(|(i, c)| task(i, c)));
    }
}

/// Views the first `len` elements of scratch memory.
pub fn scratch<T: Element>(bytes: &mut [u8], len: usize) -> &mut [T] {
    bytemuck::cast_slice_mut(&mut bytes[..len * size_of::<T>()])
}

/// Views scratch memory as parts of `lens` elements, one after the other.
pub(crate) fn scratch_parts<T: Element, const N: usize>(bytes: &mut [u8], lens: [usize; N]) -> [&mut [T]; N] {
    let mut rest = scratch::<T>(bytes, lens.iter().sum());
    lens.map(|len| rest.split_off_mut(..len).unwrap_or_default())
}

/// An output that several tasks write at disjoint places.
#[derive(Clone, Copy)]
pub struct Shared<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `Shared::range`, whose callers promise disjointness.
#[expect(unsafe_code, reason = "tasks write disjoint ranges")]
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as for `Send`.
#[expect(unsafe_code, reason = "tasks write disjoint ranges")]
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares `slice` among tasks.
    pub fn new(slice: &'a mut [T]) -> Self {
        Shared { ptr: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pointer to the first element, for libraries that take pointers and strides.
    pub const fn ptr(&self) -> *mut T {
        self.ptr
    }

    /// The same memory as elements of a type of the same size.
    pub(crate) fn cast<U: Element>(&self) -> Shared<'a, U>
    where
        T: Element,
    {
        assert!(size_of::<T>() == size_of::<U>() && align_of::<T>() == align_of::<U>(), "elements differ in size");
        Shared { ptr: self.ptr.cast(), len: self.len, life: PhantomData }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// No other task may access any of these elements while the slice is alive.
    #[expect(unsafe_code, reason = "tasks write disjoint ranges")]
    pub unsafe fn range(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start + len <= self.len, "range {start}+{len} exceeds {}", self.len);
        // SAFETY: in bounds by the assertion, unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}
