//! Several elementwise calls as one CUDA kernel, whose source is written here.
//!
//! A call says what it computes of one element, in the functions that its own kernel calls. The generated kernel loads each
//! operand once, keeps what calls hand to each other in registers, and stores what it is told to. Products and sums are rounded as
//! they are in separate launches, because no compiler may contract them.

use crate::cuda::{Param, Step, THREADS, Task, Work, whole};
use crate::grid::Grid;
use crate::{DType, binary, binary_in_place, cast, copy, fill, select, unary, unary_grad};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What an elementwise call computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Each {
    /// Elements.
    pub n: usize,
    /// The operands.
    pub reads: Vec<Read>,
    /// The argument that is written, and the first of its elements that are, one after the other.
    pub write: (usize, usize),
    /// An element in C++; `$0`, `$1` stand for the operands.
    pub value: String,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The argument.
    pub arg: usize,
    /// Its first element.
    pub first: usize,
    /// Which element after the first belongs to the element `i`, in C++.
    pub index: String,
}

/// The index of an operand whose elements are those of the result.
pub const SAME: &str = "i";

/// The kernels whose calls can be fused.
type Form = fn(&Task<'_>) -> Option<Each>;
const FORMS: &[(&str, Form)] = &[
    ("binary", binary::cuda::each),
    ("binary_in_place", binary_in_place::cuda::each),
    ("cast", cast::cuda::each),
    ("copy", copy::cuda::each),
    ("fill", fill::cuda::each),
    ("select", select::cuda::each),
    ("unary", unary::cuda::each),
    ("unary_grad", unary_grad::cuda::each),
];

/// What a call computes of each element, if it is an elementwise one.
pub fn each(task: &Task<'_>) -> Option<Each> {
    let (_, form) = FORMS.iter().find(|(name, _)| *name == task.kernel.name)?;
    form(task).filter(|each| each.n > 0 && each.n <= i32::MAX as usize)
}

/// A call in a fused kernel.
#[derive(Clone, Debug)]
pub struct Piece {
    /// What it computes.
    pub each: Each,
    /// Where it finds its operands.
    pub operands: Vec<Operand>,
    /// The type of its result.
    pub dtype: DType,
    /// The pointer by which the result is stored, if it is.
    pub stored: Option<usize>,
}

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand {
    /// The result of an earlier piece.
    Piece(usize),
    /// What a pointer shows.
    Memory(usize),
}

/// The source of a kernel of these pieces, and its launch, whose parameters are the pointers, of these types, and the number of
/// elements. No two pointers show memory of which one writes what the other touches.
pub fn generate(pointers: &[DType], pieces: &[Piece]) -> (String, Step) {
    let (mut loads, mut body) = (Vec::new(), String::new());
    for (p, piece) in pieces.iter().enumerate() {
        let mut value = piece.each.value.clone();
        // From the last on, since `$1` begins `$10`.
        for (k, operand) in piece.operands.iter().enumerate().rev() {
            let name = match operand {
                Operand::Piece(earlier) => format!("v{earlier}"),
                Operand::Memory(pointer) => {
                    let load = (*pointer, &piece.each.reads[k].index);
                    let known = loads.iter().position(|l| *l == load).unwrap_or_else(|| {
                        let _ = writeln!(body, "        const auto x{} = p{pointer}[{}];", loads.len(), load.1);
                        loads.push(load);
                        loads.len() - 1
                    });
                    format!("x{known}")
                }
            };
            value = value.replace(&format!("${k}"), &name);
        }
        let _ = writeln!(body, "        const {} v{p} = {value};", c_type(piece.dtype));
    }
    for (p, piece) in pieces.iter().enumerate() {
        if let Some(pointer) = piece.stored {
            let _ = writeln!(body, "        p{pointer}[i] = v{p};");
        }
    }
    let parameters: String =
        pointers.iter().enumerate().map(|(p, dtype)| format!("{}* __restrict__ p{p}, ", c_type(*dtype))).collect();
    let mut hasher = DefaultHasher::new();
    (&parameters, &body).hash(&mut hasher);
    let entry = format!("fused_{:016x}", hasher.finish());
    let source = format!(
        "#include \"convert.h\"\n#include \"function.h\"\n#include \"pair.h\"\n\n\
         KERNEL(THREADS, {entry}, {parameters}i64 n) {{\n    each(n, [=](i64 i) {{\n{body}    }});\n}}\n"
    );
    let n = pieces.first().map_or(0, |p| p.each.n);
    let mut work = Work::default();
    work.each(
        entry,
        n,
        (0..pointers.len()).map(|arg| Param::Arg { arg, element: 0 }).chain([Param::long(n)]).collect(),
    );
    let step = work.steps.pop().unwrap_or(Step {
        entry: String::new(),
        grid: [0; 3],
        threads: THREADS,
        dynamic: 0,
        params: Vec::new(),
    });
    (source, step)
}

/// The type of elements in the kernels.
pub(crate) fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "u8",
        other => other.name(),
    }
}

/// A number of a type, to the bit; none of what is no number, whose bits are many.
pub(crate) fn literal(value: f64, dtype: DType) -> Option<String> {
    let name = c_type(dtype);
    Some(match dtype {
        _ if value.is_nan() => return None,
        DType::Bf16 => return None,
        DType::Bool => format!("u8({})", u8::from(value != 0.0)),
        DType::F32 if (value as f32).is_infinite() => format!("f32({}INFINITY)", if value < 0.0 { "-" } else { "" }),
        DType::F64 if value.is_infinite() => format!("f64({}INFINITY)", if value < 0.0 { "-" } else { "" }),
        DType::F32 => format!("{:?}f", value as f32),
        DType::F64 => format!("{value:?}"),
        other => format!("{name}({:#x}ull)", whole(value, other)),
    })
}

/// Which element of an operand with these strides belongs to the element `i` of the shape.
pub(crate) fn index(shape: &[i64], strides: &[i64]) -> String {
    let grid = Grid::of(shape, [strides]);
    if grid.len() == 1 {
        return SAME.to_owned();
    }
    let (mut inner, mut terms) = (1, Vec::new());
    for (d, dim) in grid.dims().iter().enumerate().rev() {
        let outer = if inner == 1 { SAME.to_owned() } else { format!("over(i, {inner})") };
        let place = if d == 0 { outer } else { format!("rest({outer}, {})", dim.size) };
        inner *= dim.size;
        match dim.strides[0] {
            0 => {}
            1 => terms.push(place),
            stride => terms.push(format!("{place} * {stride}")),
        }
    }
    if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") }
}

impl Task<'_> {
    /// The argument `name` as an operand whose elements are those of the result.
    pub(crate) fn read(&self, name: &str) -> Read {
        Read { arg: self.kernel.arg(name), first: 0, index: SAME.to_owned() }
    }

    /// The argument `name` as an operand that is walked over with the list of strides.
    pub(crate) fn read_over(&self, name: &str, strides: &str) -> Read {
        Read { index: index(self.ints("shape"), self.ints(strides)), ..self.read(name) }
    }

    /// What computes `value` of the operands and writes it to all elements of the argument `to`.
    pub(crate) fn each(&self, reads: Vec<Read>, to: &str, value: String) -> Each {
        Each { n: self.len(to), reads, write: (self.kernel.arg(to), 0), value }
    }
}
