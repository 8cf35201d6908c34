//! What is added to the results of a product.

use crate::Shared;
use crate::simd::{Job, Real};

/// What is added to the results.
#[derive(Clone, Copy)]
pub(crate) enum Bias<'a, T> {
    /// Nothing.
    None,
    /// A number to each row.
    Rows(&'a [T]),
    /// A number to each column.
    Columns(&'a [T]),
}

impl<'a, T> Bias<'a, T> {
    /// Whether there is something.
    pub(crate) fn is_some(&self) -> bool {
        !matches!(self, Bias::None)
    }

    /// What is added to the rows and columns from `row` and `column` on.
    pub(crate) fn from(self, row: usize, column: usize) -> Bias<'a, T> {
        match self {
            Bias::None => Bias::None,
            Bias::Rows(bias) => Bias::Rows(&bias[row..]),
            Bias::Columns(bias) => Bias::Columns(&bias[column..]),
        }
    }
}

/// Adds it to a block of `out`, whose element `(i, j)` is `start + i * strides[0] + j * strides[1]`; no other task may access those
/// elements meanwhile.
pub(super) struct AddBias<'a, T> {
    pub(super) bias: Bias<'a, T>,
    pub(super) extents: [usize; 2],
    pub(super) out: &'a Shared<'a, T>,
    pub(super) start: usize,
    pub(super) strides: [usize; 2],
}

impl<T: Real> Job for AddBias<'_, T> {
    type Out = ();
    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint blocks of the result")]
    fn run<const FMA: bool>(self) {
        let AddBias { bias, extents: [rows, columns], out, start, strides } = self;
        for i in 0..rows {
            let start = start + i * strides[0];
            // SAFETY: blocks are disjoint, and so are the results of a batch.
            let element = |j: usize| unsafe { out.range(start + j * strides[1], 1) };
            match bias {
                Bias::None => {}
                Bias::Columns(bias) if strides[1] == 1 => {
                    // SAFETY: as above.
                    let out = unsafe { out.range(start, columns) };
                    out.iter_mut().zip(bias).for_each(|(out, bias)| *out += *bias);
                }
                Bias::Columns(bias) => (0..columns).for_each(|j| element(j)[0] += bias[j]),
                Bias::Rows(bias) => (0..columns).for_each(|j| element(j)[0] += bias[i]),
            }
        }
    }
}
