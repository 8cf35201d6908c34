//! MatMul: matrix products with NumPy broadcasting over the leading dimensions, either operand transposed (ONNX MatMul,
//! versions 1 to 13, and Gemm, versions 7 to 13).

use super::{Case, Rounded, operator};
use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Type, ValueId, broadcast, broadcast_strides, strides};
use crate::lower::{Lower, dims, int};
use sara_kernels::{DType, Scalar};

operator! {
    /// `y = a' b' + bias + c`, where `a'` is `a` or `a` with its last two dimensions swapped. Operands: `a`, `b`, optional `bias` with
    /// an element for each column of the result, optional `c` of the result's type, whose place that takes if nothing else reads it. An
    /// operand in bfloat16 makes the product one of half precision, summed in single precision; one in fp16 is widened.
    MatMul {
        /// Whether the first operand is transposed.
        trans_a: bool,
        /// Whether the second operand is transposed.
        trans_b: bool,
    }

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(a), Some(b), rest @ ..] = inputs else { return Err("takes two to four operands".into()) };
        if a.rank() < 2 || b.rank() < 2 || a.dtype.computed() != b.dtype.computed() || !a.dtype.computed().is_float() {
            return Err("takes two float operands of rank 2 or more".into());
        }
        let (batch_a, [m, k]) = split(&a.shape, self.trans_a);
        let (batch_b, [k2, n]) = split(&b.shape, self.trans_b);
        if k != k2 {
            return Err(format!("inner dimensions {k} and {k2} differ"));
        }
        let mut shape = broadcast(batch_a, batch_b).ok_or("the leading dimensions do not broadcast")?;
        shape.extend([m, n]);
        let y = Type::new(a.dtype.computed(), &shape);
        let added = [y.with_shape(&[n]), y.clone()];
        if rest.len() > 2 || rest.iter().zip(&added).any(|(t, wanted)| t.is_some_and(|t| t != wanted)) {
            return Err(format!("what is added must be {} and {y}", added[0]));
        }
        Ok(vec![y])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        let (mut a, mut b, mut dy) = (g.input(0), g.input(1), g.dy());
        if wrt > 1 {
            // The caller sums over all but the columns for a bias.
            return Ok(Some(dy));
        }
        if wrt == 1 && !self.trans_a && g.ty(b).rank() == 2 {
            // One product over all rows: the gradient of a weight has no batch to be summed over.
            for v in [&mut a, &mut dy] {
                let shape = g.ty(*v).shape;
                let cols = shape[shape.len() - 1];
                *v = g.reshape(*v, &[shape[..shape.len() - 1].iter().product(), cols])?;
            }
        }
        // The sum over the batch of what multiplies a matrix runs over one dimension.
        let batched = match wrt {
            0 if g.ty(a).rank() == 2 && g.ty(b).rank() > 3 => Some(&mut b),
            1 if self.trans_a && g.ty(b).rank() == 2 && g.ty(a).rank() > 3 => Some(&mut a),
            _ => None,
        };
        if let Some(other) = batched {
            for v in [other, &mut dy] {
                let shape = g.ty(*v).shape;
                let [.., rows, cols] = shape[..] else { continue };
                *v = g.reshape(*v, &[shape[..shape.len() - 2].iter().product(), rows, cols])?;
            }
        }
        let (op, left, right) = match (wrt, self.trans_a, self.trans_b) {
            (0, false, tb) => (MatMul { trans_a: false, trans_b: !tb }, dy, b),
            (0, true, tb) => (MatMul { trans_a: tb, trans_b: true }, b, dy),
            (_, ta, false) => (MatMul { trans_a: !ta, trans_b: false }, a, dy),
            (_, ta, true) => (MatMul { trans_a: true, trans_b: ta }, dy, a),
        };
        g.emit(op, &[left, right]).map(Some)
    }

    fn rounded(&self, inputs: &[Option<&Type>]) -> Rounded {
        // With both in single precision the product is not one of half precision.
        match inputs {
            [Some(a), Some(b), ..] if ![a.dtype, b.dtype].contains(&DType::Bf16) => Rounded::default(),
            // The result may take the place of what is added.
            [_, _, _, Some(_)] => Rounded { operands: &[0, 1], ..Rounded::default() },
            _ => Rounded { operands: &[0, 1], results: &[0], ..Rounded::default() },
        }
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let (a, b, y) = (l.input_type(0).clone(), l.input_type(1).clone(), l.output_type(0).clone());
        let (batch_a, [m, k]) = split(&a.shape, self.trans_a);
        let (batch_b, [_, n]) = split(&b.shape, self.trans_b);
        let (mut batch, _) = y.shape.split_at(y.rank() - 2);
        let mut m = m;
        let along = |own: &[usize], matrix: usize, batch: &[usize]| -> Scalar {
            Scalar::Ints(broadcast_strides(own, batch).iter().map(|s| s * matrix as i64).collect())
        };
        let mut batches = [along(batch_a, m * k, batch), along(batch_b, k * n, batch), along(batch, m * n, batch)];
        if batch_b.iter().all(|d| *d == 1) && batch_a == batch && !self.trans_a {
            // Rows of all batches multiply by the same matrix: one product.
            m *= batch.iter().product::<usize>();
            batch = &[];
            batches = [(); 3].map(|()| Scalar::Ints(vec![]));
        }
        let order = |transposed: bool, rows: usize, cols: usize| {
            Scalar::Ints(if transposed { vec![1, rows as i64] } else { vec![cols as i64, 1] })
        };
        let [batch_a, batch_b, batch_y] = batches;
        let scalars = vec![
            int(m), int(n), int(k), dims(batch), batch_a, batch_b, batch_y,
            order(self.trans_a, m, k), order(self.trans_b, k, n), Scalar::Ints(strides(&[m, n])),
            Scalar::Float(1.0), Scalar::Float(if l.try_input(3).is_some() { 1.0 } else { 0.0 }),
        ];
        if let Some(c) = l.try_input(3) {
            if l.dies(3) {
                l.alias(0, 3);
            } else {
                let (to, each) = (l.output(0), strides(&y.shape));
                l.copy(c, (0, &each), to, (0, &each), &y.shape);
            }
        }
        let args = [Some(l.input(0)), Some(l.input(1)), l.try_input(2), Some(l.output(0))];
        l.launch("gemm", &args, scalars);
    }

    fn cases() -> Vec<Case> {
        let case = |trans_a, trans_b, a: &str, b: &str| Case::new(MatMul { trans_a, trans_b }, &[a, b]);
        vec![
            case(false, false, "f32[2,3]", "f32[3,4]"),
            case(true, false, "f32[3,2]", "f32[3,4]"),
            case(false, true, "f32[2,3]", "f32[4,3]"),
            case(true, true, "f32[3,2]", "f32[4,3]"),
            case(false, false, "f32[2,5,3]", "f32[3,4]"),
            case(false, true, "f32[2,5,3]", "f32[4,3]"),
            case(false, false, "f32[2,3]", "f32[4,3,2]"),
            case(false, true, "f32[2,1,3,4]", "f32[3,2,4]"),
            case(true, true, "f32[2,4,3]", "f32[2,5,4]"),
            Case::new(MatMul { trans_a: false, trans_b: true }, &["f32[2,5,3]", "f32[4,3]", "f32[4]"]),
            Case::new(MatMul { trans_a: false, trans_b: false }, &["f32[2,5,3]", "f32[3,4]", "_", "f32[2,5,4]"]),
            Case::new(MatMul { trans_a: true, trans_b: false }, &["f32[3,5]", "f32[3,4]", "f32[4]", "f32[5,4]"]),
        ]
    }
}

/// Leading dimensions of an operand, and its rows and columns after transposition.
fn split(shape: &[usize], transposed: bool) -> (&[usize], [usize; 2]) {
    let (batch, matrix) = shape.split_at(shape.len() - 2);
    (batch, if transposed { [matrix[1], matrix[0]] } else { [matrix[0], matrix[1]] })
}

/// ONNX MatMul. A vector is a row on the left and a column on the right.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (mut a, mut b) = (n.input(0)?, n.input(1)?);
    let (shape_a, shape_b) = (n.ty(a).shape.clone(), n.ty(b).shape.clone());
    if shape_a.is_empty() || shape_b.is_empty() {
        return Err(n.fail("a scalar is not a matrix"));
    }
    if shape_a.len() == 1 {
        a = n.reshape(a, &[1, shape_a[0]])?;
    }
    if shape_b.len() == 1 {
        b = n.reshape(b, &[shape_b[0], 1])?;
    }
    let mut y = n.emit(MatMul { trans_a: false, trans_b: false }, &[a, b])?;
    let mut shape = n.ty(y).shape.clone();
    let rank = shape.len();
    if shape_b.len() == 1 {
        shape.remove(rank - 1);
    }
    if shape_a.len() == 1 {
        shape.remove(rank - 2);
    }
    y = n.reshape(y, &shape)?;
    Ok(vec![y])
}

/// ONNX Gemm: `alpha * a' b' + beta * c`.
pub(super) fn import_gemm(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let (trans_a, trans_b) = (n.int("transA", 0)? != 0, n.int("transB", 0)? != 0);
    let (alpha, beta) = (n.float("alpha", 1.0)?, n.float("beta", 1.0)?);
    n.int("broadcast", 1)?;
    let mut y = n.emit(MatMul { trans_a, trans_b }, &[a, b])?;
    if alpha != 1.0 {
        let alpha = n.scalar_like(y, alpha)?;
        y = n.binary("mul", y, alpha)?;
    }
    if let Some(mut c) = n.optional(2) {
        if beta != 1.0 {
            let beta = n.scalar_like(c, beta)?;
            c = n.binary("mul", c, beta)?;
        }
        y = n.binary("add", y, c)?;
    }
    Ok(vec![y])
}
