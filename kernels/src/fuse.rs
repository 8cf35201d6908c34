//! Several calls as one CUDA kernel, whose source is written here: elementwise ones, after a product, a convolution or a normalisation
//! or by themselves.
//!
//! A call says what it computes of one element, in the functions that its own kernel calls; the first of a group may be one that
//! hands the elements of its result on instead of storing them. The generated kernel loads each operand once, keeps what calls
//! hand to each other in registers, and stores what it is told to. Products and sums are rounded as
//! they are in separate launches, because no compiler may contract them.

use crate::cuda::{Param, Task, Work, whole};
use crate::grid::Grid;
use crate::{
    DType, binary, binary_in_place, cast, conv, copy, fill, gemm, glu, group_norm, layer_norm, rms_norm, select, unary,
    unary_grad,
};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What an elementwise call computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Each {
    /// Elements.
    pub n: usize,
    /// The operands.
    pub reads: Vec<Read>,
    /// The argument that is written, and the first of its elements that are.
    pub write: (usize, usize),
    /// Which element after the first is the element `i`, in C++.
    pub at: String,
    /// An element in C++; `$0`, `$1` stand for the operands.
    pub value: String,
    /// Whether it takes but a few instructions, so that it may be repeated for all results that a thread of a product has.
    pub light: bool,
}

/// A call whose last launch can hand on the elements of its result: a thread has `i` and the element, and each `i` comes once.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Elements.
    pub n: usize,
    /// The argument that is its result.
    pub write: usize,
    /// The header that has it.
    include: &'static str,
    /// The threads of a block and the blocks for which there are registers, in C++.
    pub(crate) threads: &'static str,
    blocks: &'static str,
    /// What the parameters and the call name, in C++: the type `T` of arithmetic, that of an operand `X`, and of a product those of its operands, `A` and `B`,
    /// and its precision `P`.
    names: String,
    /// Its parameters but the result, and the call, which hands on to `put`.
    parameters: &'static str,
    call: String,
    /// Whether it is a product.
    pub product: bool,
}

impl Head {
    /// One whose operand `x` has a type of its own, `X`.
    pub(crate) fn reading(self, t: &Task<'_>) -> Head {
        let names = format!("{}using X = {};\n", self.names, c_type(t.dtype("x")));
        Head { names, ..self }
    }

    /// One for which a multiprocessor need not have the registers of several blocks.
    pub(crate) fn alone(self) -> Head {
        Head { blocks: "1", ..self }
    }

    /// A product of these operands.
    pub(crate) fn product(self, t: &Task<'_>, operands: [&str; 2]) -> Head {
        let [a, b] = operands.map(|name| c_type(t.dtype(name)));
        let (precision, blocks) = match t.products(operands) {
            _ if [a, b].contains(&"bf16") => ("HALF", "HALF_BLOCKS"),
            _ if [a, b].contains(&"f16") => ("TENSOR", "1"),
            "" => ("EXACT", "1"),
            "_split" => ("SPLIT", "1"),
            _ => ("TENSOR", "1"),
        };
        let names = format!("{}using A = {a};\nusing B = {b};\nconstexpr Precision P = {precision};\n", self.names);
        Head { names, blocks, product: true, ..self }
    }
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
    ("glu", glu::cuda::each),
    ("select", select::cuda::each),
    ("unary", unary::cuda::each),
    ("unary_grad", unary_grad::cuda::each),
];

/// What a call computes of each element, if it is an elementwise one.
pub fn each(task: &Task<'_>) -> Option<Each> {
    let (_, form) = FORMS.iter().find(|(name, _)| *name == task.kernel.name)?;
    form(task).filter(|each| each.n > 0 && each.n <= i32::MAX as usize)
}

/// A copy as a call that reads its elements as they lie and puts each where it belongs, if they lie one after the other.
pub fn moved(task: &Task<'_>) -> Option<Each> {
    if task.kernel.name == "copy" { copy::cuda::moved(task).filter(|each| each.n > 0) } else { None }
}

/// The kernels whose results can be handed on.
type Last = fn(&Task<'_>, &Work) -> Option<Head>;
const HEADS: &[(&str, Last)] = &[
    ("conv", conv::cuda::head),
    ("gemm", gemm::cuda::head),
    ("group_norm", group_norm::cuda::head),
    ("layer_norm", layer_norm::cuda::head),
    ("rms_norm", rms_norm::cuda::head),
];

/// The call's last launch as the head of a group, if it can be; that launch is then without its result.
pub fn head(task: &Task<'_>, work: &mut Work) -> Option<Head> {
    let (_, form) = HEADS.iter().find(|(name, _)| *name == task.kernel.name)?;
    let head = form(task, work).filter(|head| head.n > 0)?;
    let last = work.steps.last_mut()?;
    last.params.retain(|param| *param != Param::Arg { arg: head.write, element: 0 });
    Some(head)
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

/// The source of a kernel of these pieces and its entry point, which takes the number of elements, or what the head takes, and pointers
/// of these types. The first piece stands for the result of a head. No two pointers show memory of
/// which one writes what the other touches.
pub fn generate(head: Option<&Head>, pointers: &[DType], pieces: &[Piece]) -> (String, String) {
    let (mut loads, mut body) = (Vec::new(), String::new());
    for (p, piece) in pieces.iter().enumerate().skip(usize::from(head.is_some())) {
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
            let _ = writeln!(body, "        p{pointer}[{}] = v{p};", piece.each.at);
        }
    }
    let mut parameters: Vec<String> =
        pointers.iter().enumerate().map(|(p, dtype)| format!("{}* __restrict__ p{p}", c_type(*dtype))).collect();
    let (include, [threads, blocks], names, around) = match head {
        None => {
            parameters.insert(0, "i64 n".to_owned());
            ("kernel.h", ["THREADS", "1"], "", format!("    each(n, [=](i64 i) {{\n{body}    }});\n"))
        }
        Some(head) => {
            parameters.insert(0, head.parameters.to_owned());
            // The first piece is the head's.
            let first = pieces.first().map_or("T", |piece| c_type(piece.dtype));
            let rounded = format!("        const {first} v0 = stored<{first}>(result);");
            let put =
                format!("    const auto put = [=](i64 i, T result) {{\n{rounded}\n{body}    }};\n    {};\n", head.call);
            (head.include, [head.threads, head.blocks], head.names.as_str(), put)
        }
    };
    let parameters = parameters.join(", ");
    let mut hasher = DefaultHasher::new();
    (include, threads, blocks, names, &parameters, &around).hash(&mut hasher);
    let entry = format!("fused_{:016x}", hasher.finish());
    let headers: String =
        [include, "convert.h", "function.h", "pair.h"].map(|h| format!("#include \"{h}\"\n")).concat();
    let kernel = format!("KERNEL_OF({threads}, {blocks}, {entry}, {parameters}) {{\n{around}}}\n");
    (format!("{headers}\nnamespace of_{entry} {{\n{names}{kernel}}}\n"), entry)
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
        half if half.is_half() => return None,
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
        let (write, at) = ((self.kernel.arg(to), 0), SAME.to_owned());
        Each { n: self.len(to), reads, write, at, value, light: true }
    }

    /// What hands on the argument `to`, by a function of a header.
    pub(crate) fn head(&self, to: &str, include: &'static str, parameters: &'static str, call: &str) -> Head {
        Head {
            n: self.len(to),
            write: self.kernel.arg(to),
            include,
            threads: "THREADS",
            blocks: "1",
            names: format!("using T = {};\n", c_type(self.dtype(to).computed())),
            parameters,
            call: call.to_owned(),
            product: false,
        }
    }
}
