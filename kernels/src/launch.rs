//! What a kernel declares about itself, and what it is given when it runs.

use crate::{DType, Element, Pool, Shared, TypedCall, Types};
use std::fmt;

/// How a kernel uses one of its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only read.
    Read,
    /// Wholly written; what was there before does not matter.
    Write,
    /// Read and written, or written in part.
    Update,
}

/// One buffer argument in a [`Kernel`]'s declaration.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// Name, as the kernel and the text form of a plan use it.
    pub name: &'static str,
    /// How it is used.
    pub mode: Mode,
    /// Element types it may have.
    pub types: Types,
    /// Whether it may be absent.
    pub optional: bool,
    /// Of a buffer that is updated: how many elements a launch writes without regard to what was there; nothing if it reads them.
    pub fresh: fn(&Call<'_>) -> Option<u64>,
    /// How many elements a launch reads or writes, if those are not all of them.
    pub accessed: Option<fn(&Call<'_>) -> u64>,
}

impl Arg {
    /// A buffer that is only read.
    pub const fn read(name: &'static str, types: Types) -> Arg {
        Arg { name, mode: Mode::Read, types, optional: false, fresh: |_| None, accessed: None }
    }
    /// A buffer that is wholly written.
    pub const fn write(name: &'static str, types: Types) -> Arg {
        Arg { name, mode: Mode::Write, types, optional: false, fresh: |_| None, accessed: None }
    }
    /// A buffer that is read and written, or written in part.
    pub const fn update(name: &'static str, types: Types) -> Arg {
        Arg { name, mode: Mode::Update, types, optional: false, fresh: |_| None, accessed: None }
    }
    /// The same argument, of which some launches do not read what they write.
    pub const fn fresh(self, fresh: fn(&Call<'_>) -> Option<u64>) -> Arg {
        Arg { fresh, ..self }
    }
    /// The same argument, of which a launch accesses so many elements.
    pub const fn accessed(self, elements: fn(&Call<'_>) -> u64) -> Arg {
        Arg { accessed: Some(elements), ..self }
    }
    /// The same argument, which may be absent.
    pub const fn or_none(self) -> Arg {
        Arg { optional: true, ..self }
    }
}

/// Kind of a scalar parameter in a [`Kernel`]'s declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarKind {
    /// An integer.
    Int,
    /// A real number.
    Float,
    /// A list of integers.
    Ints,
    /// A word, such as the name of an elementwise function.
    Word,
}

/// Value of a scalar parameter in a launch.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// An integer.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A word.
    Word(String),
}

impl Scalar {
    /// The kind of this value.
    pub fn kind(&self) -> ScalarKind {
        match self {
            Scalar::Int(_) => ScalarKind::Int,
            Scalar::Float(_) => ScalarKind::Float,
            Scalar::Ints(_) => ScalarKind::Ints,
            Scalar::Word(_) => ScalarKind::Word,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Int(v) => write!(f, "{v}"),
            Scalar::Float(v) => write!(f, "{v:?}"),
            Scalar::Ints(v) => {
                let items: Vec<String> = v.iter().map(i64::to_string).collect();
                write!(f, "[{}]", items.join(","))
            }
            Scalar::Word(v) => f.write_str(v),
        }
    }
}

/// Declaration of a kernel: what it takes, what it costs, how it runs.
///
/// The table [`crate::KERNELS`] holds all of them; lowering, the plan's verifier, the executors and the benchmarks read
/// nothing else.
pub struct Kernel {
    /// Name in plans.
    pub name: &'static str,
    /// Buffers, in order.
    pub args: &'static [Arg],
    /// Scalars, in order.
    pub scalars: &'static [(&'static str, ScalarKind)],
    /// Whether it takes arguments of these types together; each is of its admitted types. Most kernels ask that they
    /// [agree](TypedCall::agree).
    pub admits: fn(&TypedCall<'_>) -> bool,
    /// Floating-point operations of a launch (a fused multiply-add counts two).
    pub flops: fn(&Call<'_>) -> u64,
    /// The kernel on a CPU.
    pub cpu: fn(&Launch<'_>),
    /// The kernel on a GPU, if it has such a form.
    pub cuda: Option<crate::cuda::Cuda>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({})", self.name)
    }
}

impl Kernel {
    pub(crate) fn arg(&self, name: &str) -> usize {
        match self.args.iter().position(|a| a.name == name) {
            Some(i) => i,
            None => unreachable!("kernel {} declares no argument `{name}`", self.name),
        }
    }

    fn scalar(&self, name: &str) -> usize {
        match self.scalars.iter().position(|s| s.0 == name) {
            Some(i) => i,
            None => unreachable!("kernel {} declares no scalar `{name}`", self.name),
        }
    }
}

/// A launch without its data: what cost functions see.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Elements of each argument, 0 where absent.
    pub lens: &'a [usize],
    /// Values of the scalars, in the order of the declaration.
    pub scalars: &'a [Scalar],
}

impl<'a> Call<'a> {
    /// Elements of the argument `name`.
    pub fn len(&self, name: &str) -> usize {
        self.lens[self.kernel.arg(name)]
    }

    /// The integer `name`.
    pub fn int(&self, name: &str) -> usize {
        match self.scalars[self.kernel.scalar(name)] {
            Scalar::Int(v) => v as usize,
            ref other => unreachable!("scalar `{name}` is {other}, not an integer"),
        }
    }

    /// The real number `name`.
    pub fn float(&self, name: &str) -> f64 {
        match self.scalars[self.kernel.scalar(name)] {
            Scalar::Float(v) => v,
            ref other => unreachable!("scalar `{name}` is {other}, not a real number"),
        }
    }

    /// The list of integers `name`.
    pub fn ints(&self, name: &str) -> &'a [i64] {
        match &self.scalars[self.kernel.scalar(name)] {
            Scalar::Ints(v) => v,
            other => unreachable!("scalar `{name}` is {other}, not a list"),
        }
    }

    /// Elements that the indices of the list `shape` reach by the list `strides`; a stride of 0 stays where it is.
    pub fn reached(&self, shape: &str, strides: &str) -> u64 {
        let dims = self.ints(shape).iter().zip(self.ints(strides));
        dims.filter(|(_, stride)| **stride != 0).fold(1, |n, (dim, _)| n.saturating_mul((*dim).max(0) as u64))
    }

    /// The word `name`.
    pub fn word(&self, name: &str) -> &'a str {
        match &self.scalars[self.kernel.scalar(name)] {
            Scalar::Word(v) => v,
            other => unreachable!("scalar `{name}` is {other}, not a word"),
        }
    }
}

/// Memory of one argument of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    ptr: *mut u8,
    len: usize,
    dtype: DType,
}

impl Buffer {
    /// An absent optional argument.
    pub const NONE: Buffer = Buffer { ptr: std::ptr::null_mut(), len: 0, dtype: DType::U8 };

    /// Memory of `len` elements of type `dtype` at `ptr`.
    ///
    /// # Safety
    /// `ptr` must be aligned for `dtype`, valid for reads and writes of `len` elements while the buffer is used (for reads
    /// alone if no kernel it is passed to writes the argument), and those bytes must be initialised.
    #[expect(unsafe_code, reason = "states the contract under which kernels touch memory")]
    pub const unsafe fn new(ptr: *mut u8, len: usize, dtype: DType) -> Buffer {
        Buffer { ptr, len, dtype }
    }

    /// Elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// One run of a kernel: its buffers, scalars and the threads it may use.
pub struct Launch<'a> {
    call: Call<'a>,
    buffers: &'a [Buffer],
    /// The threads to run on, with their scratch memory.
    pub pool: &'a Pool,
}

impl<'a> std::ops::Deref for Launch<'a> {
    type Target = Call<'a>;
    fn deref(&self) -> &Call<'a> {
        &self.call
    }
}

impl<'a> Launch<'a> {
    /// A launch of `call.kernel` on `buffers`, one for each declared argument.
    ///
    /// # Safety
    /// No argument that the kernel writes may overlap another argument, and the buffers must stay valid and untouched by
    /// others while the launch exists.
    #[expect(unsafe_code, reason = "states the contract under which kernels touch memory")]
    pub unsafe fn new(call: Call<'a>, buffers: &'a [Buffer], pool: &'a Pool) -> Launch<'a> {
        Launch { call, buffers, pool }
    }

    /// Runs the kernel's CPU form.
    pub fn run(&self) {
        (self.kernel.cpu)(self);
    }

    /// Whether the optional argument `name` is present.
    pub fn has(&self, name: &str) -> bool {
        !self.buffers[self.kernel.arg(name)].ptr.is_null()
    }

    /// Element type of the argument `name`.
    pub fn dtype(&self, name: &str) -> DType {
        self.buffers[self.kernel.arg(name)].dtype
    }

    fn view<T: Element>(&self, name: &str) -> Buffer {
        let buffer = self.buffers[self.kernel.arg(name)];
        assert!(
            T::views(buffer.dtype) && !buffer.ptr.is_null(),
            "argument `{name}` of {} is {}",
            self.kernel.name,
            buffer.dtype
        );
        buffer
    }

    /// The argument `name`, to be read.
    #[expect(unsafe_code, reason = "turns verified plan memory into slices")]
    pub fn read<T: Element>(&self, name: &str) -> &'a [T] {
        let b = self.view::<T>(name);
        // SAFETY: `Buffer::new` vouches for pointer, length and alignment, `view` for the type, and `Launch::new` for the
        // absence of overlapping writes.
        unsafe { std::slice::from_raw_parts(b.ptr.cast(), b.len) }
    }

    /// The optional argument `name`, to be read.
    pub fn read_if<T: Element>(&self, name: &str) -> Option<&'a [T]> {
        self.has(name).then(|| self.read(name))
    }

    /// The argument `name`, to be written. Ask for each argument once in a launch.
    #[expect(unsafe_code, reason = "turns verified plan memory into slices")]
    pub fn write<T: Element>(&self, name: &str) -> &'a mut [T] {
        debug_assert!(self.kernel.args[self.kernel.arg(name)].mode != Mode::Read, "`{name}` is only read");
        let b = self.view::<T>(name);
        // SAFETY: as in `read`; that each argument is asked for once makes the slice unique.
        unsafe { std::slice::from_raw_parts_mut(b.ptr.cast(), b.len) }
    }

    /// The argument `name`, to be written by several tasks at disjoint places.
    pub fn shared<T: Element>(&self, name: &str) -> Shared<'a, T> {
        Shared::new(self.write(name))
    }
}
