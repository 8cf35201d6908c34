//! Dense matrix products of one thread, on slices with strides.

use crate::{Float, Shared};

/// A matrix that is read: element `(i, j)` is `data[i * rs + j * cs]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    /// The elements, from the first on.
    pub(crate) data: &'a [T],
    /// Distance of rows.
    pub(crate) rs: usize,
    /// Distance of columns.
    pub(crate) cs: usize,
}

impl<'a, T: Copy> Mat<'a, T> {
    /// The matrix that starts at `data[0]`.
    pub(crate) fn new(data: &'a [T], rs: usize, cs: usize) -> Self {
        Mat { data, rs, cs }
    }

    /// The matrix that starts `elements` later.
    pub(crate) fn skip(self, elements: usize) -> Self {
        Mat { data: &self.data[elements.min(self.data.len())..], ..self }
    }

    /// The matrix from a row and a column on.
    pub(crate) fn from(self, row: usize, column: usize) -> Self {
        self.skip(row * self.rs + column * self.cs)
    }
}

/// Whether a `rows` x `cols` matrix with these strides lies within `len` elements.
fn fits(len: usize, rows: usize, cols: usize, rs: usize, cs: usize) -> bool {
    rows == 0 || cols == 0 || (rows - 1) * rs + (cols - 1) * cs < len
}

/// Extents of a product: `m` x `k` times `k` x `n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dims {
    /// Rows of the result.
    pub(crate) m: usize,
    /// Columns of the result.
    pub(crate) n: usize,
    /// Terms of each sum.
    pub(crate) k: usize,
}

/// `c = alpha * a @ b + beta * c`, where element `(i, j)` of `c` is `c[i * strides[0] + j * strides[1]]`. With `beta` zero
/// `c` is not read.
#[expect(unsafe_code, reason = "the product takes pointers")]
pub(crate) fn product<T: Float>(
    dims: Dims,
    alpha: T,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    beta: T,
    c: &mut [T],
    strides: [usize; 2],
) {
    assert!(fits(c.len(), dims.m, dims.n, strides[0], strides[1]), "result exceeds its memory");
    // SAFETY: the elements of `c` lie within a slice that is borrowed mutably.
    unsafe { raw(dims, alpha, a, b, beta, c.as_mut_ptr(), strides) }
}

/// As [`product`], with the result in memory that several tasks write; it starts at element `start`.
///
/// # Safety
/// No other task may access the elements of the result meanwhile.
#[expect(unsafe_code, reason = "the product takes pointers")]
#[expect(clippy::too_many_arguments, reason = "the operands of a product")]
pub(crate) unsafe fn product_shared<T: Float>(
    dims: Dims,
    alpha: T,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    beta: T,
    c: &Shared<'_, T>,
    start: usize,
    strides: [usize; 2],
) {
    if dims.m == 0 || dims.n == 0 {
        return;
    }
    assert!(
        start <= c.len() && fits(c.len() - start, dims.m, dims.n, strides[0], strides[1]),
        "result exceeds its memory"
    );
    // SAFETY: in bounds by the assertion, unique by the caller's promise.
    unsafe { raw(dims, alpha, a, b, beta, c.ptr().add(start), strides) }
}

/// # Safety
/// The elements of `c` must be valid for reads and writes, and nobody else may access them meanwhile.
#[expect(unsafe_code, reason = "the product takes pointers")]
unsafe fn raw<T: Float>(dims: Dims, alpha: T, a: Mat<'_, T>, b: Mat<'_, T>, beta: T, c: *mut T, strides: [usize; 2]) {
    let Dims { m, n, k } = dims;
    assert!(fits(a.data.len(), m, k, a.rs, a.cs), "left operand exceeds its memory");
    assert!(fits(b.data.len(), k, n, b.rs, b.cs), "right operand exceeds its memory");
    // SAFETY: the operands lie within their slices by the assertions, the result by the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            strides[1] as isize,
            strides[0] as isize,
            beta != T::of(0.0),
            a.data.as_ptr(),
            a.cs as isize,
            a.rs as isize,
            b.data.as_ptr(),
            b.cs as isize,
            b.rs as isize,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
