//! Other looks of the scans: what the bundled model has not seen and can be fine-tuned on.

use ndarray::Array4;

/// How many columns a slanted image moves per row.
pub const SLANT: f32 = 0.3;

/// A look of images in -1..=1, where -1 is paper and 1 is stroke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Look {
    /// The look the bundled model is trained on.
    Plain,
    /// The slanted outline of the stroke, dark on white.
    Ink,
    /// The slanted outline of the stroke, bright on black.
    Neon,
    /// The slanted stroke, dark on white.
    Negative,
}

impl Look {
    /// All looks.
    pub const ALL: [Look; 4] = [Look::Plain, Look::Ink, Look::Neon, Look::Negative];

    /// The look of that name.
    pub fn from_name(name: &str) -> Option<Look> {
        Look::ALL.into_iter().find(|look| look.name() == name)
    }

    /// One word in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Look::Plain => "plain",
            Look::Ink => "ink",
            Look::Neon => "neon",
            Look::Negative => "negative",
        }
    }

    /// What the images show, as one line without a full stop.
    pub fn description(self) -> &'static str {
        match self {
            Look::Plain => "bright strokes on black, as scanned",
            Look::Ink => "slanted dark outlines on white",
            Look::Neon => "slanted bright outlines on black",
            Look::Negative => "slanted dark strokes on white",
        }
    }

    /// Plain images [n, c, h, w] in this look. An outline is where the grey value is half-way between paper and
    /// stroke.
    pub fn apply(self, images: &Array4<f32>) -> Array4<f32> {
        match self {
            Look::Plain => images.clone(),
            Look::Ink => slanted(images, SLANT).mapv_into(|v| 2.0 * v.abs() - 1.0),
            Look::Neon => slanted(images, SLANT).mapv_into(|v| 1.0 - 2.0 * v.abs()),
            Look::Negative => slanted(images, SLANT).mapv_into(|v| -v),
        }
    }
}

/// Images [n, c, h, w] with row y moved right by `k ((h-1)/2 - y)` columns, linearly interpolated; what comes
/// from outside an image is paper, -1.
pub fn slanted(images: &Array4<f32>, k: f32) -> Array4<f32> {
    let (_, _, height, width) = images.dim();
    let middle = (height.max(1) - 1) as f32 / 2.0;
    Array4::from_shape_fn(images.dim(), |(i, c, y, x)| {
        let from = x as f32 - k * (middle - y as f32);
        let low = from.floor();
        let at = |x: f32| if (0.0..width as f32).contains(&x) { images[[i, c, y, x as usize]] } else { -1.0 };
        at(low) * (1.0 - (from - low)) + at(low + 1.0) * (from - low)
    })
}

#[cfg(test)]
mod tests {
    use ndarray::s;

    use super::*;
    use crate::digits::Digits;

    fn close(a: f32, b: f32) -> bool {
        (a - b).abs() < 2e-6
    }

    #[test]
    fn slanted_images_are_those_of_make_py() {
        // slant(plain(scans()[0]))[0, 0] of models/digits/make.py, rows 2 and 13
        let expected = [
            (2, [-1.0, -1.0, -1.0, -1.0, -0.87968755, -0.41562504, 0.1898437, 0.5609375, 0.6894531, 0.5601563]),
            (
                13,
                [
                    -0.8921875,
                    -0.61562496,
                    -0.05781243,
                    0.28359377,
                    0.14062497,
                    -0.009375006,
                    0.09062502,
                    0.19687498,
                    0.17812502,
                    -0.04687488,
                ],
            ),
        ];
        let digits = Digits::load().unwrap();
        let found = slanted(&digits.train.images, SLANT);
        for (y, row) in expected {
            for (x, expected) in row.into_iter().enumerate() {
                assert!(close(found[[0, 0, y, x]], expected), "{y} {x}: {} {expected}", found[[0, 0, y, x]]);
            }
        }
        // the sums of slant and ink over all scans
        let all = ndarray::concatenate![ndarray::Axis(0), digits.train.images, digits.held_out.images];
        let sum = |images: Array4<f32>| images.iter().map(|&v| f64::from(v)).sum::<f64>();
        assert!((sum(slanted(&all, SLANT)) - -179_778.295_423).abs() < 0.01);
        assert!((sum(Look::Ink.apply(&all)) - 148_915.289_301).abs() < 0.01);
    }

    #[test]
    fn looks_stay_in_range_and_go_together() {
        let images = Digits::load().unwrap().held_out.images;
        for look in Look::ALL {
            let found = look.apply(&images);
            assert!(found.iter().all(|v| (-1.0..=1.0).contains(v)), "{}", look.name());
            assert_eq!(found.dim(), images.dim());
        }
        assert_eq!(Look::Plain.apply(&images), images);
        assert_eq!(Look::Neon.apply(&images), -Look::Ink.apply(&images));
        assert_eq!(Look::Negative.apply(&images), -slanted(&images, SLANT));
        assert_eq!(Look::Neon.apply(&images).slice(s![0, 0, 0, 0]).into_scalar(), &-1.0);
    }

    #[test]
    fn looks_have_names_of_their_own() {
        for look in Look::ALL {
            assert_eq!(Look::from_name(look.name()), Some(look));
            assert!(!look.description().is_empty());
        }
        assert_eq!(Look::from_name("Plain"), None);
    }
}
