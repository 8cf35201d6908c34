//! Learning rates over time, with the names and formulas of diffusers' `get_scheduler`.

use serde::{Deserialize, Serialize};

/// A learning-rate schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Always the same, without warm-up.
    Constant,
    /// The same after a linear warm-up.
    ConstantWithWarmup,
    /// Falls linearly to 0.
    Linear,
    /// Falls to 0 along half a cosine.
    #[default]
    Cosine,
    /// One cosine from 1 to 0, restarted for each cycle; diffusers' default is one cycle.
    CosineWithRestarts,
    /// Falls to 1e-7 linearly (a polynomial of power 1, diffusers' default).
    Polynomial,
}

impl Schedule {
    /// All schedules, by name.
    pub const NAMES: [(&str, Schedule); 6] = [
        ("constant", Schedule::Constant),
        ("constant_with_warmup", Schedule::ConstantWithWarmup),
        ("linear", Schedule::Linear),
        ("cosine", Schedule::Cosine),
        ("cosine_with_restarts", Schedule::CosineWithRestarts),
        ("polynomial", Schedule::Polynomial),
    ];

    /// The learning rate of `step` (from 0) of `total`, of which `warmup` are warm-up.
    pub fn rate(self, base: f64, step: u64, warmup: u64, total: u64) -> f64 {
        let (s, w, t) = (step as f64, warmup as f64, total as f64);
        if self != Schedule::Constant && step < warmup {
            return base * s / w.max(1.0);
        }
        let progress = (s - w) / (t - w).max(1.0);
        match self {
            Schedule::Constant | Schedule::ConstantWithWarmup => base,
            Schedule::Linear => base * ((t - s) / (t - w).max(1.0)).max(0.0),
            Schedule::Cosine => base * (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0),
            Schedule::CosineWithRestarts if progress >= 1.0 => 0.0,
            Schedule::CosineWithRestarts => {
                base * (0.5 * (1.0 + (std::f64::consts::PI * progress.fract()).cos())).max(0.0)
            }
            Schedule::Polynomial => {
                const END: f64 = 1e-7;
                if step > total { END } else { (base - END) * (1.0 - progress) + END }
            }
        }
    }
}

/// The paper's learning rate for a threshold: `1e-3 exp(-350 T)` (SaRA, arXiv 2409.06633, equation 12).
pub fn auto_learning_rate(threshold: f64) -> f64 {
    1e-3 * (-350.0 * threshold).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_those_of_diffusers() {
        // diffusers.optimization.get_scheduler(name, AdamW(lr=1), num_warmup_steps=10, num_training_steps=110)
        let at = |schedule: Schedule, step| schedule.rate(1.0, step, 10, 110);
        for schedule in [Schedule::Linear, Schedule::Cosine, Schedule::CosineWithRestarts, Schedule::Polynomial] {
            assert_eq!(at(schedule, 5), 0.5, "{schedule:?} warms up linearly");
            assert_eq!(at(schedule, 10), 1.0);
        }
        assert_eq!(at(Schedule::Constant, 0), 1.0);
        assert_eq!(at(Schedule::ConstantWithWarmup, 4), 0.4);
        assert!((at(Schedule::Linear, 60) - 0.5).abs() < 1e-12);
        assert!((at(Schedule::Cosine, 35) - 0.853_553_390_593_273_8).abs() < 1e-12);
        assert!(at(Schedule::Cosine, 110).abs() < 1e-12);
        assert_eq!(at(Schedule::CosineWithRestarts, 110), 0.0);
        assert!((at(Schedule::Polynomial, 60) - 0.500_000_05).abs() < 1e-9);
    }

    #[test]
    fn the_papers_rates() {
        for (threshold, rate) in [(2e-4, 9.3e-4), (8e-4, 7.6e-4), (2e-3, 5.0e-4)] {
            assert!((auto_learning_rate(threshold) - rate).abs() < 1e-5);
        }
    }
}
