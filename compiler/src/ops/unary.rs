//! Unary: elementwise functions of one operand, and their gradient.
//!
//! The function is a word that the kernel `unary` knows. Serves the ONNX operators in `NAMES` and Clip (versions 6 to 13),
//! Gelu (20), HardSigmoid (6 to 22).

use super::{Case, Data, Rounded, Select, operator};
use crate::autodiff::Grad;
use crate::error::{Error, Result};
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId};
use crate::lower::Lower;
use sara_kernels::{DType, Scalar};

/// ONNX operator, the kernel's word for it, and the default of its `alpha`, if it has that attribute.
const NAMES: &[(&str, &str, Option<f64>)] = &[
    ("Abs", "abs", None),
    ("Acos", "acos", None),
    ("Acosh", "acosh", None),
    ("Asin", "asin", None),
    ("Asinh", "asinh", None),
    ("Atan", "atan", None),
    ("Atanh", "atanh", None),
    ("BitwiseNot", "bit_not", None),
    ("Ceil", "ceil", None),
    ("Celu", "celu", Some(1.0)),
    ("Cos", "cos", None),
    ("Cosh", "cosh", None),
    ("Elu", "elu", Some(1.0)),
    ("Erf", "erf", None),
    ("Exp", "exp", None),
    ("Floor", "floor", None),
    ("HardSwish", "hard_swish", None),
    ("LeakyRelu", "leaky_relu", Some(0.01)),
    ("Log", "log", None),
    ("Mish", "mish", None),
    ("Neg", "neg", None),
    ("Not", "not", None),
    ("Reciprocal", "reciprocal", None),
    ("Relu", "relu", None),
    ("Round", "round", None),
    ("Sigmoid", "sigmoid", None),
    ("Sign", "sign", None),
    ("Sin", "sin", None),
    ("Sinh", "sinh", None),
    ("Softplus", "softplus", None),
    ("Softsign", "softsign", None),
    ("Sqrt", "sqrt", None),
    ("Swish", "quick_gelu", Some(1.0)),
    ("Tan", "tan", None),
    ("Tanh", "tanh", None),
];

/// Functions that are constant between jumps: their gradient is zero.
const STEPS: &[&str] = &["bit_not", "ceil", "floor", "not", "round", "sign"];

operator! {
    /// `y = op(x)`, elementwise.
    Unary {
        /// The function, by the name the kernel `unary` gives it.
        op: String,
        /// First parameter of the function, if it has one.
        alpha: f64,
        /// Second parameter of the function, if it has one.
        beta: f64,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x)] = inputs else { return Err("takes one operand".into()) };
        let op = self.op.as_str();
        let integers = ["abs", "neg", "sign", "clip", "relu", "not", "bit_not"].contains(&op);
        let real = x.dtype.is_float();
        if (op == "not") != (x.dtype == DType::Bool) || !(integers || real) || (op == "bit_not" && real) {
            return Err(format!("`{}` of {} is not defined", self.op, x.dtype));
        }
        Ok(vec![(*x).clone()])
    }

    fn grad(&self, g: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        if STEPS.contains(&self.op.as_str()) {
            return Ok(None);
        }
        let (x, dy) = (g.input(0), g.dy());
        match self.op.as_str() {
            "neg" => g.unary("neg", dy).map(Some),
            op => g.emit(UnaryGrad { op: op.to_owned(), alpha: self.alpha, beta: self.beta }, &[x, dy]).map(Some),
        }
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { widened: &[0], results: &[0], ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.output(0))];
        l.launch("unary", &args, scalars(&self.op, self.alpha, self.beta));
    }

    fn cases() -> Vec<Case> {
        // The inverse hyperbolic cosine begins at 1, and no operand of these cases is all above it.
        let plain = NAMES.iter().filter(|n| !n.1.ends_with("not") && n.1 != "acosh").map(|(_, word, alpha)| Case {
            op: Unary { op: (*word).to_owned(), alpha: alpha.unwrap_or(0.0), beta: 0.0 }.into(),
            inputs: vec![Some(Type::new(DType::F32, &[2, 5]))],
            data: if matches!(*word, "log" | "sqrt" | "reciprocal") { Data::Positive } else { Data::Signed },
        });
        let more = [("clip", -0.5, 0.5), ("gelu", 0.0, 0.0), ("gelu_tanh", 0.0, 0.0), ("silu", 0.0, 0.0), ("hard_sigmoid", 0.2, 0.5)];
        let other = [("not", "bool[3]"), ("bit_not", "u16[3]"), ("clip", "i8[3]"), ("abs", "i64[3]"), ("neg", "i64[3]"), ("sign", "i64[3]"), ("relu", "i64[3]")];
        plain
            .chain(more.map(|(op, alpha, beta)| Case::new(Unary { op: op.to_owned(), alpha, beta }, &["f32[2,5]"])))
            .chain(other.map(|(op, ty)| Case::new(Unary { op: op.to_owned(), alpha: 0.0, beta: 0.0 }, &[ty])))
            .collect()
    }
}

operator! {
    /// `dx = dy * op'(x)`, elementwise. Operands: `x`, `dy`.
    UnaryGrad {
        /// The function, by the name the kernel `unary` gives it.
        op: String,
        /// First parameter of the function, if it has one.
        alpha: f64,
        /// Second parameter of the function, if it has one.
        beta: f64,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(dy)] = inputs else { return Err("takes two operands".into()) };
        if x != dy {
            return Err("the operands have different types".into());
        }
        Ok(vec![(*x).clone()])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { widened: &[0], ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.output(0))];
        l.launch("unary_grad", &args, scalars(&self.op, self.alpha, self.beta));
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(UnaryGrad { op: "silu".into(), alpha: 0.0, beta: 0.0 }, &["f32[7]", "f32[7]"])]
    }
}

/// The error of operators that appear only in backward blocks.
pub(super) fn second_order(name: &str) -> Error {
    Error::Option(format!("{name} has no gradient: second derivatives are not supported"))
}

fn scalars(op: &str, alpha: f64, beta: f64) -> Vec<Scalar> {
    vec![Scalar::Word(op.to_owned()), Scalar::Float(alpha), Scalar::Float(beta)]
}

/// The ONNX operators in `NAMES`.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let name = n.op_type();
    let Some((_, word, alpha)) = NAMES.iter().find(|row| row.0 == name) else {
        return Err(n.fail("is not elementwise"));
    };
    let alpha = match alpha {
        Some(default) => n.float("alpha", *default)?,
        None => 0.0,
    };
    n.emit(Unary { op: (*word).to_owned(), alpha, beta: 0.0 }, &[x]).map(|y| vec![y])
}

/// ONNX Clip.
pub(super) fn import_clip(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let known = |n: &OnnxNode<'_, '_>, i| n.optional(i).is_none() || n.optional_scalar(i).is_ok();
    let (low, high) = if n.opset() < 11 {
        (n.float("min", f64::NEG_INFINITY)?, n.float("max", f64::INFINITY)?)
    } else if known(n, 1) && known(n, 2) {
        (n.optional_scalar(1)?.unwrap_or(f64::NEG_INFINITY), n.optional_scalar(2)?.unwrap_or(f64::INFINITY))
    } else {
        // Bounds that depend on the data.
        let raised = n.optional(1).map_or(Ok(x), |low| n.binary("max", x, low))?;
        let y = n.optional(2).map_or(Ok(raised), |high| n.binary("min", raised, high))?;
        return Ok(vec![y]);
    };
    n.emit(Unary { op: "clip".into(), alpha: low, beta: high }, &[x]).map(|y| vec![y])
}

/// ONNX Gelu.
pub(super) fn import_gelu(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let op = match n.text("approximate", "none")?.as_str() {
        "none" => "gelu",
        "tanh" => "gelu_tanh",
        other => return Err(n.fail(format!("approximation `{other}` is not known"))),
    };
    n.emit(Unary { op: op.into(), alpha: 0.0, beta: 0.0 }, &[x]).map(|y| vec![y])
}

/// ONNX Selu.
pub(super) fn import_selu(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let (alpha, beta) = (n.float("alpha", 1.673_263_192_176_818_8)?, n.float("gamma", 1.050_701_022_148_132_3)?);
    n.emit(Unary { op: "selu".into(), alpha, beta }, &[x]).map(|y| vec![y])
}

/// ONNX SwiGLU: `a * sigmoid(alpha * a) * b`.
pub(super) fn import_swiglu(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let alpha = n.float("alpha", 1.0)?;
    let gate = n.emit(Unary { op: "quick_gelu".into(), alpha, beta: 0.0 }, &[a])?;
    n.binary("mul", gate, b).map(|y| vec![y])
}

/// ONNX PRelu: `x` where it is not negative, else `slope * x`.
pub(super) fn import_prelu(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (x, slope) = (n.input(0)?, n.input(1)?);
    let (zero, scaled) = (n.scalar_like(x, 0.0)?, n.binary("mul", x, slope)?);
    let negative = n.binary("less", x, zero)?;
    n.emit(Select {}, &[negative, scaled, x]).map(|y| vec![y])
}

/// ONNX ThresholdedRelu: `x` where it is above `alpha`, else 0.
pub(super) fn import_thresholded(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let alpha = n.float("alpha", 1.0)?;
    let (zero, alpha) = (n.scalar_like(x, 0.0)?, n.scalar_like(x, alpha)?);
    let above = n.binary("greater", x, alpha)?;
    n.emit(Select {}, &[above, x, zero]).map(|y| vec![y])
}

/// ONNX Shrink: what is within `-lambd..=lambd` becomes 0, the rest moves towards 0 by `bias`.
pub(super) fn import_shrink(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let (bias, lambd) = (n.float("bias", 0.0)?, n.float("lambd", 0.5)?);
    let (zero, bias) = (n.scalar_like(x, 0.0)?, n.scalar_like(x, bias)?);
    let (low, high) = (n.scalar_like(x, -lambd)?, n.scalar_like(x, lambd)?);
    let (below, above) = (n.binary("less", x, low)?, n.binary("greater", x, high)?);
    let (up, down) = (n.binary("add", x, bias)?, n.binary("sub", x, bias)?);
    let y = n.emit(Select {}, &[above, down, zero])?;
    n.emit(Select {}, &[below, up, y]).map(|y| vec![y])
}

/// ONNX IsNaN: no number equals itself only where there is none.
pub(super) fn import_is_nan(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let number = n.binary("equal", x, x)?;
    n.unary("not", number).map(|y| vec![y])
}

/// ONNX IsInf.
pub(super) fn import_is_inf(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let signs = [(n.int("detect_negative", 1)?, f64::NEG_INFINITY), (n.int("detect_positive", 1)?, f64::INFINITY)];
    let mut found = n.binary("less", x, x)?;
    for (_, infinity) in signs.into_iter().filter(|s| s.0 != 0) {
        let infinity = n.scalar_like(x, infinity)?;
        let equal = n.binary("equal", x, infinity)?;
        found = n.binary("or", found, equal)?;
    }
    Ok(vec![found])
}

/// ONNX HardSigmoid.
pub(super) fn import_hard_sigmoid(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let x = n.input(0)?;
    let (alpha, beta) = (n.float("alpha", 0.2)?, n.float("beta", 0.5)?);
    n.emit(Unary { op: "hard_sigmoid".into(), alpha, beta }, &[x]).map(|y| vec![y])
}
