//! From noise to images: DDIM (Song et al. 2021, "Denoising Diffusion Implicit Models") and classifier-free
//! guidance (Ho and Salimans 2022).

use ndarray::{Array4, Zip};

use crate::schedule::{NoiseSchedule, rates};
use crate::{Error, same_shape};

/// The timesteps of `steps` evenly spread steps out of `num_train_timesteps`, from the noisiest down: 999, 979,
/// ..., 19 for 50 of 1000. `steps` is in 1..=num_train_timesteps.
pub fn timesteps(num_train_timesteps: usize, steps: usize) -> Result<Vec<i64>, Error> {
    if steps == 0 || steps > num_train_timesteps {
        return Err(Error::Invalid(format!("{steps} sampling steps are not in 1..={num_train_timesteps}")));
    }
    Ok((1..=steps).rev().map(|i| (num_train_timesteps * i / steps) as i64 - 1).collect())
}

/// Samples from `noise` (standard normal, [n, c, h, w]) in `steps` steps by DDIM, equation 12 with sigma (eta) 0,
/// with the predicted images clipped to -1..1. `predict` gives epsilon for noisy images that are all at one
/// timestep; its errors, and those of a step count or an epsilon that does not fit, are returned.
pub fn ddim<E: From<Error>>(
    schedule: &NoiseSchedule,
    steps: usize,
    noise: Array4<f32>,
    mut predict: impl FnMut(&Array4<f32>, i64) -> Result<Array4<f32>, E>,
) -> Result<Array4<f32>, E> {
    let timesteps = timesteps(schedule.num_train_timesteps(), steps)?;
    let mut x = noise;
    for (i, &t) in timesteps.iter().enumerate() {
        let eps = predict(&x, t)?;
        same_shape("the predicted noise", eps.shape(), x.shape())?;
        let a = schedule.alphas_cumprod(t)?;
        let previous = timesteps.get(i + 1).map_or(Ok(1.0), |&t| schedule.alphas_cumprod(t))?;
        step(&mut x, &eps, a, previous);
    }
    Ok(x)
}

/// One step of DDIM, from the share `a` of the image in the variance to the share `previous`. Epsilon is taken
/// anew from the clipped image, so that image and noise still make up `x`.
fn step(x: &mut Array4<f32>, eps: &Array4<f32>, a: f64, previous: f64) {
    let (signal, noise) = rates(a);
    let (next_signal, next_noise) = rates(previous);
    Zip::from(x).and(eps).for_each(|x, &eps| {
        let x0 = ((*x - noise * eps) / signal).clamp(-1.0, 1.0);
        let eps = (*x - signal * x0) / noise;
        *x = next_signal * x0 + next_noise * eps;
    });
}

/// Classifier-free guidance: `u + guidance (e - u)` for epsilon `e` with and `u` without the class. A guidance
/// of 1 is `e` alone. It is an error when the shapes differ.
pub fn guided(conditional: &Array4<f32>, unconditional: &Array4<f32>, guidance: f32) -> Result<Array4<f32>, Error> {
    same_shape("the unconditional prediction", unconditional.shape(), conditional.shape())?;
    Ok(Zip::from(conditional).and(unconditional).map_collect(|&e, &u| u + guidance * (e - u)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    enum Failed {
        Model,
        Ours,
    }

    impl From<Error> for Failed {
        fn from(_: Error) -> Failed {
            Failed::Ours
        }
    }

    fn pattern(n: usize, factor: f32) -> Array4<f32> {
        Array4::from_shape_fn((n, 1, 4, 4), |(i, _, y, x)| factor * ((i * 16 + y * 4 + x) as f32 * 0.7).sin())
    }

    #[test]
    fn timesteps_go_down_to_the_end_of_the_first_part() {
        let spread = timesteps(1000, 50).unwrap();
        assert_eq!((spread.len(), &spread[..3], spread[49]), (50, &[999, 979, 959][..], 19));
        assert_eq!(timesteps(1000, 3).unwrap(), [999, 665, 332]);
        assert_eq!(timesteps(5, 5).unwrap(), [4, 3, 2, 1, 0]);
        assert!(timesteps(1000, 0).is_err() && timesteps(5, 6).is_err());
    }

    #[test]
    fn an_oracle_leads_to_its_image() {
        let schedule = NoiseSchedule::default();
        let target = pattern(2, 0.9);
        for steps in [1, 7, 50, 1000] {
            let found = ddim(&schedule, steps, pattern(2, 1.5), |x, t| {
                let a = schedule.alphas_cumprod(t)?;
                let (signal, noise) = rates(a);
                Ok::<_, Error>(Zip::from(x).and(&target).map_collect(|x, x0| (x - signal * x0) / noise))
            });
            let worst = (found.unwrap() - &target).iter().fold(0.0f32, |m, d| m.max(d.abs()));
            assert!(worst < 1e-4, "{steps} steps: {worst}");
        }
    }

    #[test]
    fn samples_are_those_of_make_py() {
        // ddim of models/digits/make.py with 10 steps, this noise and this model
        let noise = ndarray::array![[[[0.3f32, -1.2, 2.0, 0.0]]]];
        let model = |x: &Array4<f32>, t: i64| Ok::<_, Error>(x * 0.9 + 0.05 * (t as f32 / 1000.0));
        let found = ddim(&NoiseSchedule::default(), 10, noise, model).unwrap();
        for (found, expected) in found.iter().zip([0.111_308_046, -0.842_525_54, 1.0, -0.106_707_14]) {
            assert!((found - expected).abs() < 2e-5, "{found} {expected}");
        }
    }

    #[test]
    fn images_are_clipped() {
        let found = ddim(&NoiseSchedule::default(), 10, pattern(1, 1.0), |x, _| Ok::<_, Error>(x * -9.0)).unwrap();
        assert!(found.iter().all(|v| v.abs() <= 1.0));
    }

    #[test]
    fn errors_of_the_model_are_handed_on() {
        let schedule = NoiseSchedule::default();
        let failed = ddim(&schedule, 10, pattern(1, 1.0), |_, _| Err(Failed::Model));
        assert!(matches!(failed, Err(Failed::Model)));
        let failed = ddim(&schedule, 10, pattern(1, 1.0), |_, _| Ok::<_, Failed>(pattern(2, 1.0)));
        assert!(matches!(failed, Err(Failed::Ours)));
    }

    #[test]
    fn guidance_goes_from_unconditional_to_conditional_and_beyond() {
        let (e, u) = (pattern(1, 1.0), pattern(1, 0.25));
        let close = |a: Array4<f32>, b: Array4<f32>| (a - b).iter().all(|d| d.abs() < 1e-6);
        assert!(close(guided(&e, &u, 0.0).unwrap(), u.clone()));
        assert!(close(guided(&e, &u, 1.0).unwrap(), e.clone()));
        assert!(close(guided(&e, &u, 2.0).unwrap(), pattern(1, 1.75)));
        assert!(guided(&e, &pattern(2, 1.0), 1.0).is_err());
    }
}
