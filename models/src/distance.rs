//! How far apart two sets of images are, by their features.

use nalgebra::{DMatrix, DVector, SymmetricEigen};
use ndarray::Array2;

use crate::{Error, same_shape};

/// The Fréchet distance between the Gaussians of two sets of features, one image a row, at least two rows each:
/// `|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1^1/2 C2 C1^1/2)^1/2)` (Heusel et al. 2017, equation 6) with means m
/// and unbiased covariances C in f64. It is an error when there are too few rows, when a feature is not finite,
/// or when the numbers of features differ.
pub fn frechet_distance(a: &Array2<f32>, b: &Array2<f32>) -> Result<f64, Error> {
    same_shape("a row of the second set of features", &b.shape()[1..], &a.shape()[1..])?;
    let ((mean_a, cov_a), (mean_b, cov_b)) = (gaussian(a)?, gaussian(b)?);
    let root = square_root(&cov_a);
    let product = &root * &cov_b * &root;
    let both = SymmetricEigen::new((&product + product.transpose()) * 0.5).eigenvalues;
    let overlap: f64 = both.iter().map(|v| v.max(0.0).sqrt()).sum();
    let distance = (mean_a - mean_b).norm_squared() + cov_a.trace() + cov_b.trace() - 2.0 * overlap;
    Ok(distance.max(0.0))
}

/// Mean and unbiased covariance of the rows.
fn gaussian(rows: &Array2<f32>) -> Result<(DVector<f64>, DMatrix<f64>), Error> {
    let (n, width) = rows.dim();
    if n < 2 || width == 0 {
        return Err(Error::Invalid(format!("{n} rows of {width} features have no covariance")));
    }
    if rows.iter().any(|v| !v.is_finite()) {
        return Err(Error::Invalid("a feature is not finite".into()));
    }
    let mut rows = DMatrix::from_fn(n, width, |i, j| f64::from(rows[[i, j]]));
    let mean = rows.row_mean();
    rows.row_iter_mut().for_each(|mut row| row -= &mean);
    let covariance = rows.tr_mul(&rows) / (n - 1) as f64;
    Ok((mean.transpose(), covariance))
}

/// The symmetric square root of a covariance; eigenvalues that rounding puts below 0 count as 0.
fn square_root(covariance: &DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(covariance.clone());
    let roots = DMatrix::from_diagonal(&eigenvalues.map(|v| v.max(0.0).sqrt()));
    &eigenvectors * roots * eigenvectors.transpose()
}

#[cfg(test)]
mod tests {
    use ndarray::{Axis, array, concatenate};

    use super::*;

    /// Rows with mean `mean` and a diagonal covariance of exactly `sd` squared: one pair of rows per axis.
    fn diagonal(mean: &[f64], sd: &[f64]) -> Array2<f32> {
        let n = 2 * sd.len();
        Array2::from_shape_fn((n, sd.len()), |(i, j)| {
            let side = if i % 2 == 0 { 1.0 } else { -1.0 };
            let away = if i / 2 == j { side * sd[j] * ((n - 1) as f64 / 2.0).sqrt() } else { 0.0 };
            (mean[j] + away) as f32
        })
    }

    #[test]
    fn a_set_is_at_distance_0_from_itself() {
        let a = Array2::from_shape_fn((50, 8), |(i, j)| ((i * 8 + j) as f32 * 1.3).sin() * (1 + j) as f32);
        assert!(frechet_distance(&a, &a).unwrap() < 1e-9);
        let degenerate = concatenate![Axis(1), a, a];
        assert!(frechet_distance(&degenerate, &degenerate).unwrap() < 1e-5, "singular covariances are allowed");
    }

    #[test]
    fn diagonal_gaussians_have_a_closed_form() {
        let (m1, s1) = ([1.0f64, -2.0, 0.5], [1.0f64, 3.0, 0.25]);
        let (m2, s2) = ([0.0, -1.5, 2.5], [2.0, 0.5, 0.25]);
        let expected: f64 = (0..3).map(|i: usize| (m1[i] - m2[i]).powi(2) + (s1[i] - s2[i]).powi(2)).sum();
        let (a, b) = (diagonal(&m1, &s1), diagonal(&m2, &s2));
        assert!((frechet_distance(&a, &b).unwrap() - expected).abs() < 1e-5);
        assert!((frechet_distance(&b, &a).unwrap() - expected).abs() < 1e-5);
    }

    #[test]
    fn covariances_that_do_not_commute() {
        // numpy and scipy.linalg.sqrtm in f64, on the same rows
        let a = array![[0.0f32, 0.0], [1.0, 2.0], [3.0, 1.0], [2.0, 5.0]];
        let b = array![[1.0f32, 0.0], [0.0, 2.0], [4.0, -1.0], [2.0, 2.0], [0.0, 0.0]];
        assert!((frechet_distance(&a, &b).unwrap() - 3.673_239_980_272_905).abs() < 1e-9);
    }

    #[test]
    fn what_has_no_covariance_is_an_error() {
        let a = Array2::zeros((4, 2));
        assert!(matches!(frechet_distance(&a, &Array2::zeros((4, 3))), Err(Error::Shape { .. })));
        assert!(matches!(frechet_distance(&a, &Array2::zeros((1, 2))), Err(Error::Invalid(_))));
        assert!(matches!(frechet_distance(&a, &Array2::from_elem((4, 2), f32::NAN)), Err(Error::Invalid(_))));
    }
}
