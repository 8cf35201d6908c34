//! How much noise an image has at a timestep (Ho et al. 2020, "Denoising Diffusion Probabilistic Models").

use ndarray::{Array4, Axis, Zip};

use crate::{Error, same_shape};

/// The share of the image in the variance, for each timestep.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f64>,
}

impl Default for NoiseSchedule {
    /// The schedule of Ho et al. section 4 and of the bundled model: 1000 timesteps, betas from 1e-4 to 0.02.
    fn default() -> NoiseSchedule {
        let step = (0.02 - 1e-4) / 999.0;
        NoiseSchedule { alphas_cumprod: cumprod((0..1000).map(|i| 1e-4 + step * f64::from(i))) }
    }
}

impl NoiseSchedule {
    /// The schedule of these betas. It is an error when there are none, or when one is outside 0..1.
    pub fn from_betas(betas: &[f64]) -> Result<NoiseSchedule, Error> {
        if betas.is_empty() {
            return Err(Error::Invalid("a noise schedule needs at least one timestep".into()));
        }
        if let Some(beta) = betas.iter().find(|b| !(**b > 0.0 && **b < 1.0)) {
            return Err(Error::Invalid(format!("a beta of {beta} is not between 0 and 1")));
        }
        Ok(NoiseSchedule { alphas_cumprod: cumprod(betas.iter().copied()) })
    }

    /// The schedule stretched so that the last timestep holds noise alone (Lin et al. 2024, algorithm 1).
    #[must_use]
    pub fn zero_terminal_snr(self) -> NoiseSchedule {
        let (first, last) = (self.alphas_cumprod[0].sqrt(), self.alphas_cumprod[self.alphas_cumprod.len() - 1].sqrt());
        let stretched = |a: &f64| (a.sqrt() - last) * first / (first - last).max(f64::MIN_POSITIVE);
        NoiseSchedule { alphas_cumprod: self.alphas_cumprod.iter().map(|a| stretched(a).powi(2)).collect() }
    }

    /// The number of timesteps.
    pub fn num_train_timesteps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// The share of the image in the variance at `t`: the product of `1 - beta` over 0..=t.
    pub fn alphas_cumprod(&self, t: i64) -> Result<f64, Error> {
        let outside = Error::Timestep { t, count: self.alphas_cumprod.len() };
        usize::try_from(t).ok().and_then(|t| self.alphas_cumprod.get(t).copied()).ok_or(outside)
    }

    /// Each image of `x` mixed with its noise `eps` for its own timestep of `t`: `sqrt(a) x + sqrt(1 - a) eps`
    /// with `a` of [`NoiseSchedule::alphas_cumprod`] (Ho et al. equation 4). `x` and `eps` are [n, c, h, w].
    pub fn add_noise(&self, x: &Array4<f32>, eps: &Array4<f32>, t: &[i64]) -> Result<Array4<f32>, Error> {
        same_shape("the noise", eps.shape(), x.shape())?;
        same_shape("the list of timesteps", &[t.len()], &x.shape()[..1])?;
        let mut noisy = x.clone();
        for ((mut image, eps), &t) in noisy.axis_iter_mut(Axis(0)).zip(eps.axis_iter(Axis(0))).zip(t) {
            let (signal, noise) = rates(self.alphas_cumprod(t)?);
            Zip::from(&mut image).and(&eps).for_each(|x, &e| *x = signal * *x + noise * e);
        }
        Ok(noisy)
    }
}

/// The factors of image and noise, for a share `a` of the image in the variance.
pub(crate) fn rates(a: f64) -> (f32, f32) {
    (a.sqrt() as f32, (1.0 - a).sqrt() as f32)
}

fn cumprod(betas: impl Iterator<Item = f64>) -> Vec<f64> {
    betas.scan(1.0, |product, beta| Some(*product * (1.0 - beta)).inspect(|p| *product = *p)).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn alphas_cumprod_are_those_of_torch() {
        // torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        let schedule = NoiseSchedule::default();
        let expected = [
            (0, 0.9999),
            (1, 0.9997800920720721),
            (19, 0.9942309516861578),
            (500, 0.07779665836502389),
            (979, 6.0219104156752234e-05),
            (999, 4.0358297653756754e-05),
        ];
        for (t, a) in expected {
            let found = schedule.alphas_cumprod(t).unwrap();
            assert!((found - a).abs() < 1e-12 * a, "{t}: {found} {a}");
        }
        assert_eq!(schedule.num_train_timesteps(), 1000);
    }

    #[test]
    fn noise_is_added_per_image() {
        let schedule = NoiseSchedule::default();
        let x = array![[[[1.0f32, -1.0]]], [[[1.0, -1.0]]]];
        let eps = array![[[[0.5f32, 0.5]]], [[[0.5, 0.5]]]];
        let noisy = schedule.add_noise(&x, &eps, &[500, 0]).unwrap();
        for (i, t) in [500, 0].into_iter().enumerate() {
            let a = schedule.alphas_cumprod(t).unwrap();
            for (j, x) in [1.0, -1.0].into_iter().enumerate() {
                let expected = a.sqrt() * x + (1.0 - a).sqrt() * 0.5;
                assert!((f64::from(noisy[[i, 0, 0, j]]) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let schedule = NoiseSchedule::default();
        let x = Array4::zeros((2, 1, 4, 4));
        assert!(matches!(schedule.add_noise(&x, &x, &[0]), Err(Error::Shape { .. })));
        assert!(matches!(schedule.add_noise(&x, &Array4::zeros((2, 1, 4, 3)), &[0, 0]), Err(Error::Shape { .. })));
        assert!(matches!(schedule.add_noise(&x, &x, &[0, 1000]), Err(Error::Timestep { t: 1000, count: 1000 })));
        assert!(matches!(schedule.alphas_cumprod(-1), Err(Error::Timestep { t: -1, .. })));
        for betas in [&[][..], &[0.1, 1.0], &[0.0], &[f64::NAN]] {
            assert!(NoiseSchedule::from_betas(betas).is_err(), "{betas:?}");
        }
    }
}
