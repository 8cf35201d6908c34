//! The bundled demo: a small diffusion model of handwritten digits, a reader of digits, and the scans both were
//! trained on. `models/digits/README.md` says where they come from and how they were made.

use ndarray::{Array4, s};
use safetensors::{Dtype, SafeTensors};

use crate::Error;

/// The diffusion model in ONNX: `sample` `f32[n,1,16,16]`, `timestep` `i64[n]` and `class_labels` `i64[n]` to
/// `out_sample`, the predicted epsilon. Its noise schedule is the default [`crate::schedule::NoiseSchedule`].
pub const UNET: &[u8] = include_bytes!("../digits/unet.onnx");
/// The reader of digits in ONNX: `image` `f32[n,1,16,16]` to `features` `f32[n,32]` and `logits` `f32[n,10]`.
pub const FEATURES: &[u8] = include_bytes!("../digits/features.onnx");
/// The class that stands for "no class", for classifier-free guidance.
pub const UNCONDITIONAL: i64 = 10;
/// The number of classes without [`UNCONDITIONAL`].
pub const CLASSES: usize = 10;
/// Height and width of an image.
pub const SIZE: usize = 16;
/// How many scans, from the first, the bundled models were trained on.
pub const TRAIN: usize = 1500;

const SCANS: &[u8] = include_bytes!("../digits/digits.safetensors");
const SCAN_SIZE: usize = SIZE / 2;

/// Images and what they show.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// `f32[n,1,16,16]`: -1 is paper, 1 is stroke.
    pub images: Array4<f32>,
    /// The digit of each image, 0..=9.
    pub labels: Vec<i64>,
}

/// The bundled scans, as the model was trained on them.
#[derive(Clone, Debug, PartialEq)]
pub struct Digits {
    /// The first [`TRAIN`] scans.
    pub train: Labelled,
    /// The other scans.
    pub held_out: Labelled,
}

impl Digits {
    /// Reads the bundled scans. It is an error when the bundled file is not what `make.py` writes.
    pub fn load() -> Result<Digits, Error> {
        read(SCANS)
    }
}

fn read(file: &[u8]) -> Result<Digits, Error> {
    let wrong = |why: String| Error::Digits(why);
    let tensors = SafeTensors::deserialize(file).map_err(|e| wrong(e.to_string()))?;
    let scans = bytes(&tensors, "images")?;
    let labels = bytes(&tensors, "labels")?;
    if scans.len() != labels.len() * SCAN_SIZE * SCAN_SIZE || labels.len() <= TRAIN {
        return Err(wrong(format!("{} bytes of scans do not fit {} labels", scans.len(), labels.len())));
    }
    if scans.iter().any(|&v| v > 16) || labels.iter().any(|&l| usize::from(l) >= CLASSES) {
        return Err(wrong("a grey value is above 16 or a label above 9".into()));
    }
    let images = plain(scans, labels.len());
    let part = |range: std::ops::Range<usize>| Labelled {
        images: images.slice(s![range.clone(), .., .., ..]).to_owned(),
        labels: labels[range].iter().map(|&l| i64::from(l)).collect(),
    };
    Ok(Digits { train: part(0..TRAIN), held_out: part(TRAIN..labels.len()) })
}

fn bytes<'a>(tensors: &SafeTensors<'a>, name: &str) -> Result<&'a [u8], Error> {
    let tensor = tensors.tensor(name).map_err(|e| Error::Digits(e.to_string()))?;
    if tensor.dtype() != Dtype::U8 {
        return Err(Error::Digits(format!("{name} is {:?}, not U8", tensor.dtype())));
    }
    Ok(tensor.data())
}

/// `n` scans of 8x8 with grey values 0..=16 as images of 16x16 in -1..=1: bilinear, half-pixel centres, clamped
/// edges (torch's `interpolate` with `align_corners=False`).
fn plain(scans: &[u8], n: usize) -> Array4<f32> {
    let grey = |i: usize, y: usize, x: usize| f32::from(scans[(i * SCAN_SIZE + y) * SCAN_SIZE + x]) / 8.0 - 1.0;
    Array4::from_shape_fn((n, 1, SIZE, SIZE), |(i, _, y, x)| {
        let ((y0, y1, fy), (x0, x1, fx)) = (neighbours(y), neighbours(x));
        let row = |y| grey(i, y, x0) * (1.0 - fx) + grey(i, y, x1) * fx;
        row(y0) * (1.0 - fy) + row(y1) * fy
    })
}

/// The two scan pixels that pixel `i` of an image lies between, and how far it is from the first to the second.
fn neighbours(i: usize) -> (usize, usize, f32) {
    let at = ((i as f32 + 0.5) / 2.0 - 0.5).max(0.0);
    let low = at as usize;
    (low, (low + 1).min(SCAN_SIZE - 1), at - low as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_those_of_make_py() {
        // plain(scans()[0]) of models/digits/make.py: [0, 0, 5], [1796, 0, 10] and sums
        let first = [
            -1.0, -0.8984375, -0.6953125, -0.25, 0.4375, 0.3828125, -0.4140625, -0.859375, -0.953125, -0.6796875,
            -0.0390625, 0.2109375, 0.0703125, -0.25, -0.75, -1.0,
        ];
        let last = [
            -1.0, -0.90625, -0.71875, -0.25, 0.5, 0.6640625, 0.2421875, -0.015625, -0.109375, 0.1015625, 0.6171875,
            0.546875, -0.109375, -0.578125, -0.859375, -1.0,
        ];
        let digits = Digits::load().unwrap();
        assert_eq!(digits.train.images.slice(s![0, 0, 5, ..]).to_vec(), first);
        assert_eq!(digits.held_out.images.slice(s![296, 0, 10, ..]).to_vec(), last);
        let sum = |part: &Labelled| part.images.iter().map(|&v| f64::from(v)).sum::<f64>();
        assert_eq!((sum(&digits.train) + sum(&digits.held_out), sum(&digits.held_out)), (-179_173.0, -29_495.5));
    }

    #[test]
    fn labels_are_split_with_the_images() {
        let digits = Digits::load().unwrap();
        assert_eq!(digits.train.images.dim(), (1500, 1, 16, 16));
        assert_eq!(digits.held_out.images.dim(), (297, 1, 16, 16));
        assert_eq!((digits.train.labels.len(), digits.held_out.labels.len()), (1500, 297));
        assert_eq!(digits.train.labels[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(digits.held_out.labels[..5], [1, 7, 4, 6, 3]);
    }

    #[test]
    fn bad_bytes_are_an_error() {
        let cut = &SCANS[..SCANS.len() - 1];
        let mut loud = SCANS.to_vec();
        *loud.last_mut().unwrap() = 17;
        for file in [&[][..], cut, &loud] {
            assert!(matches!(read(file), Err(Error::Digits(_))));
        }
    }

    #[test]
    fn the_models_are_there() {
        assert_eq!((UNET.len(), FEATURES.len()), (2_323_183, 132_989));
    }
}
