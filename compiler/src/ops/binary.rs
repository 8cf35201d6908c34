//! Binary: elementwise functions of two operands with NumPy broadcasting.
//!
//! The function is a word that the kernel `binary` knows. Serves the ONNX operators in `NAMES`, Pow (versions 7 to 15), Mod
//! (10, 13) and the variadic Max, Min, Mean and Sum (6 to 13).

use super::{Case, Cast, Select, operator};
use crate::autodiff::Grad;
use crate::error::{Error, Result};
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId, broadcast};
use crate::lower::{Lower, dims, reading};
use sara_kernels::{DType, Scalar};

/// ONNX operator and the kernel's word for it.
const NAMES: &[(&str, &str)] = &[
    ("Add", "add"),
    ("And", "and"),
    ("BitwiseAnd", "bit_and"),
    ("BitwiseOr", "bit_or"),
    ("BitwiseXor", "bit_xor"),
    ("Div", "div"),
    ("Equal", "equal"),
    ("Greater", "greater"),
    ("GreaterOrEqual", "greater_equal"),
    ("Less", "less"),
    ("LessOrEqual", "less_equal"),
    ("Mul", "mul"),
    ("Or", "or"),
    ("Sub", "sub"),
    ("Xor", "xor"),
];

const COMPARISONS: &[&str] = &["equal", "greater", "greater_equal", "less", "less_equal"];
const LOGIC: &[&str] = &["and", "or", "xor"];
const BITS: &[&str] = &["bit_and", "bit_or", "bit_xor", "shift_left", "shift_right"];

operator! {
    /// `y = a op b`, elementwise with broadcasting.
    Binary {
        /// The function, by the name the kernel `binary` gives it.
        op: String,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(a), Some(b)] = inputs else { return Err("takes two operands".into()) };
        let op = self.op.as_str();
        if a.dtype != b.dtype {
            return Err("the operands have different element types".into());
        }
        let logic = LOGIC.contains(&op) != (a.dtype == DType::Bool);
        if op != "equal" && (logic || (BITS.contains(&op) && a.dtype.is_float())) {
            return Err(format!("`{op}` of {} is not defined", a.dtype));
        }
        let shape = broadcast(&a.shape, &b.shape).ok_or("the operands do not broadcast")?;
        let dtype = if COMPARISONS.contains(&op) { DType::Bool } else { a.dtype };
        Ok(vec![Type { dtype, shape }])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        let (a, b, dy) = (g.input(0), g.input(1), g.dy());
        let other = if wrt == 0 { b } else { a };
        Ok(Some(match (self.op.as_str(), wrt) {
            ("add", _) | ("sub", 0) | ("fmod" | "mod", 0) => dy,
            ("sub", _) => g.unary("neg", dy)?,
            ("mul", _) => g.binary("mul", dy, other)?,
            ("div", 0) => g.binary("div", dy, b)?,
            ("div", _) => {
                let y = g.output(0);
                let ratio = g.binary("div", y, b)?;
                let product = g.binary("mul", dy, ratio)?;
                g.unary("neg", product)?
            }
            ("pow", 0) => {
                let one = g.scalar(b, 1.0);
                let less = g.binary("sub", b, one)?;
                let power = g.binary("pow", a, less)?;
                let slope = g.binary("mul", power, b)?;
                // A power of exponent 0 is constant, also at base 0, where the formula has no value.
                let slope = unless_zero(g, b, slope)?;
                g.binary("mul", dy, slope)?
            }
            ("pow", _) => {
                let y = g.output(0);
                let log = g.unary("log", a)?;
                let slope = g.binary("mul", y, log)?;
                // A power of base 0 is 0 for all positive exponents.
                let slope = unless_zero(g, a, slope)?;
                g.binary("mul", dy, slope)?
            }
            // The first operand takes the gradient of a tie.
            ("max", 0) => chosen(g, "greater_equal", a, b)?,
            ("max", _) => chosen(g, "less", a, b)?,
            ("min", 0) => chosen(g, "less_equal", a, b)?,
            ("min", _) => chosen(g, "greater", a, b)?,
            (op, _) if [COMPARISONS, LOGIC, BITS].iter().any(|l| l.contains(&op)) => return Ok(None),
            (op, _) => return Err(Error::Option(format!("the gradient of `{op}` in its second operand is not supported"))),
        }))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let shape = l.output_type(0).shape.clone();
        let a = reading(&l.input_type(0).shape, &shape);
        let b = reading(&l.input_type(1).shape, &shape);
        // A sum or product takes the place of an operand that nothing else reads.
        let in_place = ["add", "mul"].contains(&self.op.as_str()) && l.output_type(0).dtype.is_float();
        let replaced = (0..2).find(|&i| in_place && l.dies(i) && l.input_type(i) == l.output_type(0));
        if let Some(i) = replaced {
            l.alias(0, i);
            let scalars = vec![Scalar::Word(self.op.clone()), dims(&shape), if i == 0 { b } else { a }];
            let args = [Some(l.input(1 - i)), Some(l.output(0))];
            return l.launch("binary_in_place", &args, scalars);
        }
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.output(0))];
        l.launch("binary", &args, vec![Scalar::Word(self.op.clone()), dims(&shape), a, b]);
    }

    fn cases() -> Vec<Case> {
        let case = |op: &str, a: &str, b: &str| Case::new(Binary { op: op.to_owned() }, &[a, b]);
        let mut cases: Vec<Case> =
            ["add", "sub", "mul", "max", "min"].map(|op| case(op, "f32[2,3,4]", "f32[3,1]")).to_vec();
        cases.push(case("div", "f32[3]", "f32[2,3]").positive());
        cases.push(case("pow", "f32[2,3]", "f32[]").positive());
        cases.push(case("mod", "i64[4]", "i64[4]").positive());
        cases.push(case("fmod", "f32[2,3]", "f32[3]").positive());
        cases.push(case("mul", "f32[]", "f32[3]"));
        cases.push(case("add", "f32[2,0]", "f32[1]"));
        cases.push(case("pow", "f32[3]", "f32[2,3]").positive());
        cases.extend(["equal", "less", "less_equal", "greater", "greater_equal"].map(|op| case(op, "f32[2,3]", "f32[3]")));
        cases.extend(["add", "mul", "div", "sub"].map(|op| case(op, "i64[3]", "i64[1]").positive()));
        cases.extend(BITS.iter().map(|op| case(op, "i32[2,3]", "i32[3]").positive()));
        cases.extend(["and", "or", "xor", "equal"].map(|op| case(op, "bool[3]", "bool[2,1]")));
        cases
    }
}

/// `y`, and 0 where `x` is 0.
fn unless_zero(g: &mut Grad<'_>, x: ValueId, y: ValueId) -> Result<ValueId> {
    let zero = g.scalar(x, 0.0);
    let is_zero = g.binary("equal", x, zero)?;
    g.emit(Select {}, &[is_zero, zero, y])
}

fn chosen(g: &mut Grad<'_>, comparison: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
    let dy = g.dy();
    let zero = g.scalar(dy, 0.0);
    let mask = g.binary(comparison, a, b)?;
    g.emit(Select {}, &[mask, dy, zero])
}

/// The ONNX operators in `NAMES`.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let name = n.op_type();
    let Some((_, word)) = NAMES.iter().find(|row| row.0 == name) else { return Err(n.fail("is not elementwise")) };
    n.binary(word, a, b).map(|y| vec![y])
}

/// ONNX Pow: the exponent may have another type than the base.
pub(super) fn import_pow(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let base = n.ty(a).dtype;
    if base.is_float() {
        let b = n.cast(b, base)?;
        return n.binary("pow", a, b).map(|y| vec![y]);
    }
    let wide = [n.cast(a, DType::F64)?, n.cast(b, DType::F64)?];
    let y = n.binary("pow", wide[0], wide[1])?;
    n.cast(y, base).map(|y| vec![y])
}

/// ONNX Mod.
pub(super) fn import_mod(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let op = if n.int("fmod", 0)? == 0 { "mod" } else { "fmod" };
    n.binary(op, a, b).map(|y| vec![y])
}

/// ONNX BitShift.
pub(super) fn import_shift(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let op = match n.text("direction", "")?.as_str() {
        "LEFT" => "shift_left",
        "RIGHT" => "shift_right",
        other => return Err(n.fail(format!("direction `{other}` is not known"))),
    };
    n.binary(op, a, b).map(|y| vec![y])
}

/// ONNX Max, Min, Mean and Sum of one or more operands.
pub(super) fn import_variadic(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let inputs = n.all_inputs()?;
    let op = match n.op_type() {
        "Max" => "max",
        "Min" => "min",
        _ => "add",
    };
    let mut y = inputs[0];
    for &x in &inputs[1..] {
        y = n.binary(op, y, x)?;
    }
    if n.op_type() == "Mean" {
        let count = n.add_const(DType::F32, &[], &[inputs.len() as f32]);
        let dtype = n.ty(y).dtype;
        let count = n.emit(Cast { to: dtype }, &[count])?;
        y = n.binary("div", y, count)?;
    }
    Ok(vec![y])
}
