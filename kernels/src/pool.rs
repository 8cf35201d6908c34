//! Threads that kernels run on.
//!
//! Sums are divided by the shapes of the operands, never by the number of threads, so results do not depend on it.

use crate::Element;
use crate::crew::Crew;
use memmap2::MmapMut;
use std::cell::UnsafeCell;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Scratch memory of one thread in bytes.
pub const SCRATCH_BYTES: usize = 4 << 20;

/// A fixed set of threads, each with scratch memory that lives as long as the pool. The thread that starts tasks is one of them.
pub struct Pool {
    crew: Crew,
    scratch: Vec<Scratch>,
}

/// Shares that tasks are dealt out in at most.
const SHARES: usize = 64;
/// Bytes of a large page, to which scratch memory is aligned.
const LARGE: usize = 2 << 20;

/// Scratch memory of one thread, from the byte `start` of its mapping on.
struct Scratch {
    map: UnsafeCell<MmapMut>,
    start: usize,
}

impl Scratch {
    fn new() -> io::Result<Scratch> {
        let map = MmapMut::map_anon(SCRATCH_BYTES + LARGE)?;
        // Blocks that a near cache would hold stay there only where neighbours in a page are neighbours in memory. Without large pages
        // it is only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = map.as_ptr().align_offset(LARGE).min(LARGE);
        Ok(Scratch { map: UnsafeCell::new(map), start })
    }
}

// SAFETY: a scratch is reached only through `Pool::run`, by whoever has its number in the job of the crew, which is one thread at a time,
// and that runs one task at a time because tasks never start others.
#[expect(unsafe_code, reason = "scratch memory is private to its thread")]
unsafe impl Sync for Scratch {}

impl Pool {
    /// A pool of `threads` threads (at least one).
    pub fn new(threads: usize) -> io::Result<Pool> {
        let crew = Crew::new(threads.max(1))?;
        let scratch = (0..crew.len()).map(|_| Scratch::new()).collect::<io::Result<_>>()?;
        Ok(Pool { crew, scratch })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.crew.len()
    }

    /// Calls `task(i, scratch)` for every `i < tasks`, in any order, on all threads. `scratch` holds
    /// [`SCRATCH_BYTES`] bytes of unspecified content. A task must not start tasks of its own.
    #[expect(unsafe_code, reason = "hands each thread its own scratch")]
    pub fn run(&self, tasks: usize, task: impl Fn(usize, &mut [u8]) + Sync) {
        // A thread takes neighbouring tasks, whose operands its cache may hold, and then those that others have left.
        let shares = self.threads().min(SHARES);
        let first = |share: usize| share * tasks / shares;
        let next: [AtomicUsize; SHARES] = std::array::from_fn(|share| AtomicUsize::new(first(share.min(shares))));
        self.crew.run(tasks <= 1, &|thread| {
            let Scratch { map, start } = &self.scratch[thread];
            // SAFETY: see `Sync for Scratch`.
            let map = unsafe { &mut *map.get() };
            for share in (0..shares).map(|i| (thread + i) % shares) {
                loop {
                    let i = next[share].fetch_add(1, Ordering::Relaxed);
                    if i >= first(share + 1) {
                        break;
                    }
                    task(i, &mut map[*start..][..SCRATCH_BYTES]);
                }
            }
        });
    }

    /// Splits `out` into chunks of `chunk` elements (the last may be shorter) and calls `task(i, chunk)` for each.
    #[expect(unsafe_code, reason = "tasks write disjoint chunks")]
    pub fn chunks<T: Element>(&self, out: &mut [T], chunk: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        if out.len() <= chunk {
            if !out.is_empty() {
                task(0, out);
            }
            return;
        }
        let out = Shared::new(out);
        self.run(out.len().div_ceil(chunk), |i, _| {
            // SAFETY: each chunk is one task's.
            task(i, unsafe { out.range(i * chunk, chunk.min(out.len() - i * chunk)) });
        });
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
