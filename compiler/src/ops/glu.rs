//! Glu: gated linear units, which multiply one half of a tensor by a function of the other (Dauphin et al. 2017, arXiv 1612.08083;
//! GEGLU, SwiGLU and others: Shazeer 2020, arXiv 2002.05202). Exporters write Split, an activation and Mul.
//!
//! `y = a * op(b)`; its gradient is `dy * op(b)` for `a` and `dy * a * op'(b)` for `b`.

use super::unary::second_order;
use super::{Case, Rounded, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::ir::{Type, ValueId, strides};
use crate::lower::{Lower, int};
use sara_kernels::Scalar;

operator! {
    /// `y = a * op(b)`, where `a` and `b` are the halves of `x` along `axis`.
    Glu {
        /// The function, by the name the kernel `unary` gives it.
        op: String,
        /// First parameter of the function, if it has one.
        alpha: f64,
        /// Second parameter of the function, if it has one.
        beta: f64,
        /// The axis.
        axis: usize,
        /// Which half is `b`: 0 or 1.
        gate: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x)] = inputs else { return Err("takes one operand".into()) };
        check(x, self.axis, self.gate).map(|y| vec![y])
    }

    fn grad(&self, g: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        let Glu { op, alpha, beta, axis, gate } = self.clone();
        let (x, dy) = (g.input(0), g.dy());
        g.emit(GluGrad { op, alpha, beta, axis, gate }, &[x, dy]).map(Some)
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { operands: &[0], results: &[0], ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.output(0))];
        let Glu { op, alpha, beta, axis, gate } = self;
        let scalars = scalars(op, [*alpha, *beta], &l.output_type(0).shape[*axis..], *gate);
        l.launch("glu", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        let glu = |op: &str, axis, gate| Glu { op: op.to_owned(), alpha: 1.5, beta: 0.0, axis, gate };
        vec![
            Case::new(glu("gelu", 1, 1), &["f32[3,4]"]),
            Case::new(glu("silu", 1, 0), &["f32[2,6,3]"]),
            Case::new(glu("quick_gelu", 0, 1), &["f32[2,3]"]),
        ]
    }
}

operator! {
    /// The gradient with respect to `x`. Operands: `x`, `dy`. It takes the place of `x` if nothing else reads that.
    GluGrad {
        /// The function, by the name the kernel `unary` gives it.
        op: String,
        /// First parameter of the function, if it has one.
        alpha: f64,
        /// Second parameter of the function, if it has one.
        beta: f64,
        /// The axis.
        axis: usize,
        /// Which half is `b`: 0 or 1.
        gate: usize,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(dy)] = inputs else { return Err("takes two operands".into()) };
        if check(x, self.axis, self.gate)?.with_dtype(x.dtype.computed()) != **dy {
            return Err(format!("the gradient of half of {x} cannot be {dy}"));
        }
        Ok(vec![(*x).clone()])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded { operands: &[1], same: true, ..Rounded::default() }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let shape = l.input_type(0).shape.clone();
        if l.dies(0) {
            l.alias(0, 0);
        } else {
            let (x, dx, each) = (l.input(0), l.output(0), strides(&shape));
            l.copy(x, (0, &each), dx, (0, &each), &shape);
        }
        let args = [Some(l.input(1)), Some(l.output(0))];
        let GluGrad { op, alpha, beta, axis, gate } = self;
        let scalars = scalars(op, [*alpha, *beta], &l.input_type(1).shape[*axis..], *gate);
        l.launch("glu_grad", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        let op = GluGrad { op: "gelu".into(), alpha: 0.0, beta: 0.0, axis: 1, gate: 1 };
        vec![Case::new(op, &["f32[3,4]", "f32[3,2]"])]
    }
}

/// The type of half of `x`.
fn check(x: &Type, axis: usize, gate: usize) -> Result<Type, String> {
    if axis >= x.rank() || !x.shape[axis].is_multiple_of(2) || gate > 1 || !x.dtype.computed().is_float() {
        return Err(format!("{x} has no half {gate} along axis {axis}"));
    }
    let mut shape = x.shape.clone();
    shape[axis] /= 2;
    Ok(x.with_shape(&shape))
}

/// The scalars of the kernels, for the dimensions of a half from the axis on.
fn scalars(op: &str, parameters: [f64; 2], half: &[usize], gate: usize) -> Vec<Scalar> {
    let [alpha, beta] = parameters.map(Scalar::Float);
    vec![Scalar::Word(op.to_owned()), alpha, beta, int(half.iter().product()), int(gate)]
}
