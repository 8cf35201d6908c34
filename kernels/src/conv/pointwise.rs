//! Convolutions of one tap with weights in bfloat16: matrix products of half precision, one for each image.

use super::geometry::Geometry;
use crate::gemm::bias::Bias;
use crate::gemm::cpu::Batch;
use crate::gemm::half::Products;
use crate::product::{Dims, Mat};
use crate::{Pool, Shared, Stored};
use half::bf16;

/// Whether each point of the result is made of the same point of the input alone.
pub(crate) fn is_pointwise(g: &Geometry) -> bool {
    g.taps() == 1 && g.groups == 1 && g.strides == [1; 3] && g.pads == [0; 3] && g.input == g.output
}

/// Computes `result = bias + weights * source`, or for the input gradient the product with the transposed weights.
pub(crate) fn run<S: Stored<f32>>(
    pool: &Pool,
    (g, backward): (&Geometry, bool),
    source: &[S],
    weights: &[bf16],
    bias: Option<&[f32]>,
    result: &Shared<'_, f32>,
) {
    let points = g.output_len();
    let (m, k, weights) =
        if backward { (g.ci, g.co, Mat::new(weights, 1, g.ci)) } else { (g.co, g.ci, Mat::new(weights, g.ci, 1)) };
    let (sizes, sources, results) = ([g.n as i64], [(k * points) as i64], [(m * points) as i64]);
    let products = Products {
        dims: Dims { m, n: points, k },
        batch: Batch { sizes: &sizes, strides: [&[0], &sources, &results] },
        alpha: 1.0,
        beta: 0.0,
        bias: bias.map_or(Bias::None, Bias::Rows),
    };
    products.run(pool, weights, Mat::new(source, points, 1), result, [points, 1]);
}
