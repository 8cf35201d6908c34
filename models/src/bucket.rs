//! Sizes of pictures of many aspect ratios: each is resized and cut to the one of a few sizes that is nearest to its own ratio.

use crate::Error;

/// The longest side of a picture.
const LONGEST: usize = 1 << 15;

/// The sizes, height and width in pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    sizes: Vec<[usize; 2]>,
    no_upscale: bool,
}

/// How a picture is brought to a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Height and width to which it is resized.
    pub resized: [usize; 2],
    /// Top left corner of what is cut from it, in the middle.
    pub crop: [usize; 2],
    /// Height and width of what is cut.
    pub size: [usize; 2],
    /// Whether it is enlarged.
    pub enlarged: bool,
}

impl Buckets {
    /// These sizes.
    pub fn fixed(sizes: Vec<[usize; 2]>) -> Result<Buckets, Error> {
        if sizes.is_empty() || sizes.iter().flatten().any(|side| !(1..=LONGEST).contains(side)) {
            return Err(Error::Invalid(format!("{sizes:?} are no sizes of pictures")));
        }
        Ok(Buckets { sizes, no_upscale: false })
    }

    /// All sizes with sides that are multiples of `step` between `least` and `most`, and no more pixels than `around`: for each width
    /// the greatest height, and the other way round.
    pub fn around(
        around: [usize; 2],
        least: usize,
        most: usize,
        step: usize,
        no_upscale: bool,
    ) -> Result<Buckets, Error> {
        let fits = |side: &usize| (least..=LONGEST).contains(side);
        if step == 0 || least < step || ![most, around[0], around[1]].iter().all(fits) {
            return Err(Error::Invalid(format!(
                "sides from {least} to {most} in steps of {step} give no buckets around {}x{}",
                around[1], around[0]
            )));
        }
        let pixels = around[0] * around[1];
        let mut sizes = vec![around.map(|side| side / step * step)];
        for side in (least.div_ceil(step)..=most / step).map(|n| n * step) {
            let other = (pixels / side / step * step).min(most / step * step);
            if other >= least {
                sizes.extend([[side, other], [other, side]]);
            }
        }
        sizes.sort_unstable();
        sizes.dedup();
        Ok(Buckets { sizes, no_upscale })
    }

    /// The sizes.
    pub fn sizes(&self) -> &[[usize; 2]] {
        &self.sizes
    }

    /// How a picture of this height and width is brought to the nearest size. Nothing if it would have to be enlarged and may not, or
    /// if it is so long that little of it would be left.
    pub fn fit(&self, own: [usize; 2]) -> Option<Fit> {
        let ratio = |size: [usize; 2]| (size[1] as f64 / size[0] as f64).ln();
        let distance = |size: &[usize; 2]| (ratio(*size) - ratio(own)).abs();
        // Of sizes of the same ratio the greatest counts.
        let better = |a: &&[usize; 2], b: &&[usize; 2]| distance(a).total_cmp(&distance(b)).then(b.cmp(a));
        let size = *self.sizes.iter().min_by(better)?;
        let scale = f64::max(size[0] as f64 / own[0] as f64, size[1] as f64 / own[1] as f64);
        let side = |i: usize| ((own[i] as f64 * scale).round() as usize).max(size[i]);
        let resized = [side(0), side(1)];
        let crop = [(resized[0] - size[0]) / 2, (resized[1] - size[1]) / 2];
        let enlarged = scale > 1.0;
        let possible = resized.iter().all(|side| *side <= LONGEST) && !(enlarged && self.no_upscale);
        possible.then_some(Fit { resized, crop, size, enlarged })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_about_as_many_pixels() {
        let buckets = Buckets::around([512, 512], 256, 1024, 64, false).unwrap();
        assert!(buckets.sizes().contains(&[512, 512]) && buckets.sizes().contains(&[640, 384]));
        for size in buckets.sizes() {
            assert!(size.iter().all(|s| s % 64 == 0 && (256..=1024).contains(s)) && size[0] * size[1] <= 512 * 512);
            assert!(buckets.sizes().contains(&[size[1], size[0]]));
        }
        for (around, least, most, step) in
            [([512, 512], 0, 1024, 64), ([128, 128], 256, 1024, 64), ([512, 512], 256, 128, 64)]
        {
            assert!(Buckets::around(around, least, most, step, false).is_err());
        }
        assert!(Buckets::fixed(vec![]).is_err() && Buckets::fixed(vec![[0, 1]]).is_err());
        assert!(Buckets::around([512, 512], 256, usize::MAX, 64, false).is_err());
        assert!(Buckets::around([usize::MAX, usize::MAX], 256, 1024, 64, false).is_err());
    }

    #[test]
    fn pictures_are_cut_in_the_middle_of_their_bucket() {
        let buckets = Buckets::around([512, 512], 256, 1024, 64, false).unwrap();
        let fit = buckets.fit([1000, 1000]).unwrap();
        assert_eq!(fit, Fit { resized: [512, 512], crop: [0, 0], size: [512, 512], enlarged: false });
        let fit = buckets.fit([1200, 800]).unwrap();
        assert_eq!((fit.size, fit.resized, fit.crop), ([640, 384], [640, 427], [0, 21]));
        assert!(buckets.fit([100, 100]).unwrap().enlarged);
        let strict = Buckets::around([512, 512], 256, 1024, 64, true).unwrap();
        assert!(strict.fit([100, 100]).is_none() && strict.fit([1000, 1000]).is_some());
        assert!(buckets.fit([1, 30_000]).is_none());
        let square = Buckets::fixed(vec![[32, 32]]).unwrap();
        assert_eq!(square.fit([64, 128]).unwrap().crop, [0, 16]);
    }
}
