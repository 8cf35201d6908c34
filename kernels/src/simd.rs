//! Compiles a piece of code for the vector units this processor may have and picks one when it runs.

/// A computation whose body is compiled once for each vector width.
///
/// Everything that `run` calls in its inner loops must be `#[inline(always)]`, else it is compiled without the wider
/// instructions.
pub(crate) trait Job {
    /// What it computes.
    type Out;
    /// The computation. `FMA` says whether fused multiply-adds are single instructions.
    fn run<const FMA: bool>(self) -> Self::Out;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Job;

    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,bmi1,bmi2,lzcnt,popcnt"
    )]
    pub(super) fn wide<J: Job>(job: J) -> J::Out {
        job.run::<true>()
    }

    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn middle<J: Job>(job: J) -> J::Out {
        job.run::<true>()
    }

    pub(super) fn has_wide() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512cd")
            && has_middle()
    }

    pub(super) fn has_middle() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    }
}

/// Runs `job` on the widest vector unit there is.
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "calls code compiled for features that were found"
)]
pub(crate) fn dispatch<J: Job>(job: J) -> J::Out {
    if x86::has_wide() {
        // SAFETY: the processor has every feature that `wide` enables.
        unsafe { x86::wide(job) }
    } else if x86::has_middle() {
        // SAFETY: the processor has every feature that `middle` enables.
        unsafe { x86::middle(job) }
    } else {
        job.run::<false>()
    }
}

/// Runs `job` on the widest vector unit there is.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn dispatch<J: Job>(job: J) -> J::Out {
    job.run::<{ cfg!(target_arch = "aarch64") }>()
}

/// Floats with the operations that vector loops need.
pub(crate) trait Real: crate::Float {
    /// `self * a + b`, fused if `FMA`.
    fn madd<const FMA: bool>(self, a: Self, b: Self) -> Self;
    /// The exponential, in a form that compilers can vectorise for `f32`: relative error below 2e-7, zero below -87.
    fn exp_lane<const FMA: bool>(self) -> Self;
    /// Negative infinity.
    const LOWEST: Self;
}

impl Real for f32 {
    const LOWEST: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn madd<const FMA: bool>(self, a: f32, b: f32) -> f32 {
        if FMA {
            self.mul_add(a, b)
        } else {
            self * a + b
        }
    }

    #[inline(always)]
    fn exp_lane<const FMA: bool>(self) -> f32 {
        // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
        const ROUND: f32 = 12_582_912.0;
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        let clamped = if self < -87.0 { -87.0 } else { self };
        let clamped = if clamped > 88.0 { 88.0 } else { clamped };
        let shifted = clamped.madd::<FMA>(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.madd::<FMA>(-LN2_HIGH, clamped);
        let r = n.madd::<FMA>(-LN2_LOW, r);
        let p = 1.987_569_1e-4_f32.madd::<FMA>(r, 1.398_199_9e-3);
        let p = p.madd::<FMA>(r, 8.333_452e-3);
        let p = p.madd::<FMA>(r, 4.166_579_6e-2);
        let p = p.madd::<FMA>(r, 1.666_666_6e-1);
        let p = p.madd::<FMA>(r, 5e-1);
        let p = p.madd::<FMA>(r * r, r + 1.0);
        let y = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
        let y = if self < -87.0 { 0.0 } else { y };
        let y = if self > 88.0 { f32::INFINITY } else { y };
        if self.is_nan() { self } else { y }
    }
}

impl Real for f64 {
    const LOWEST: f64 = f64::NEG_INFINITY;

    #[inline(always)]
    fn madd<const FMA: bool>(self, a: f64, b: f64) -> f64 {
        if FMA {
            self.mul_add(a, b)
        } else {
            self * a + b
        }
    }

    #[inline(always)]
    fn exp_lane<const FMA: bool>(self) -> f64 {
        self.exp()
    }
}

/// Lanes of the accumulators that vector loops keep: a whole cache line of `f32`, which every width divides.
pub(crate) const LANES: usize = 16;

/// `y += a * x`.
#[inline(always)]
pub(crate) fn axpy<T: Real, const FMA: bool>(a: T, x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.madd::<FMA>(x, *y);
    }
}

/// Sums the lanes of an accumulator in a fixed order.
#[inline(always)]
pub(crate) fn total<T: Real>(lanes: [T; LANES]) -> T {
    let mut l = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            l[i] += l[i + width];
        }
        width /= 2;
    }
    l[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a mut [f32]);
    impl Job for Exp<'_> {
        type Out = ();
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            for x in self.0 {
                *x = x.exp_lane::<FMA>();
            }
        }
    }

    #[test]
    fn exponential_is_accurate() {
        let xs: Vec<f32> = (-8700..8800).map(|i| i as f32 * 0.01).collect();
        let mut wide = xs.clone();
        dispatch(Exp(&mut wide));
        let mut narrow = xs.clone();
        Exp(&mut narrow).run::<false>();
        for (i, &x) in xs.iter().enumerate() {
            let want = f64::from(x).exp();
            for got in [wide[i], narrow[i]] {
                assert!(
                    (f64::from(got) - want).abs() <= 3e-7 * want,
                    "exp({x}) = {got}, not {want}"
                );
            }
        }
        let mut ends = [f32::NEG_INFINITY, -1e30, 0.0, f32::INFINITY, f32::NAN];
        dispatch(Exp(&mut ends));
        assert_eq!(&ends[..4], &[0.0, 0.0, 1.0, f32::INFINITY]);
        assert!(ends[4].is_nan());
    }
}
