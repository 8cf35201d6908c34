//! Colour pictures: from files to [3, height, width] with values in -1..1, and back to PNG.

use std::io::Cursor;
use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use ndarray::{Array3, ArrayView3};

use crate::Error;

/// The largest side of a picture.
const MOST_PIXELS: u32 = 1 << 15;
/// The most memory that reading a picture may take.
const MOST_BYTES: u64 = 1 << 30;

/// A picture as it lies in a file, turned upright, in eight bits a colour.
#[derive(Clone, Debug)]
pub struct Photo {
    image: RgbImage,
}

impl Photo {
    /// Decodes the bytes of a PNG, JPEG, WebP or BMP file called `path`. What is transparent becomes white.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Photo, Error> {
        let failed = |e: image::ImageError| Error::file(path, format!("is no picture that can be read: {e}"));
        let mut reader =
            ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| Error::file(path, e))?;
        let mut limits = Limits::default();
        (limits.max_image_width, limits.max_image_height) = (Some(MOST_PIXELS), Some(MOST_PIXELS));
        limits.max_alloc = Some(MOST_BYTES);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(failed)?;
        let orientation = decoder.orientation().map_err(failed)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(failed)?;
        image.apply_orientation(orientation);
        if image.width() == 0 || image.height() == 0 {
            return Err(Error::file(path, "is a picture of no pixels"));
        }
        Ok(Photo { image: on_white(&image) })
    }

    /// Height and width.
    pub fn size(&self) -> [usize; 2] {
        [self.image.height() as usize, self.image.width() as usize]
    }

    /// The picture resized to height and width `to`, by Lanczos' filter.
    #[must_use]
    pub fn resized(&self, to: [usize; 2]) -> Photo {
        if to == self.size() {
            return self.clone();
        }
        Photo { image: image::imageops::resize(&self.image, to[1] as u32, to[0] as u32, FilterType::Lanczos3) }
    }

    /// The part of height and width `size` whose top left corner is `at`, mirrored left to right if `flip`. It is an error when the
    /// part leaves the picture.
    pub fn cut(&self, at: [usize; 2], size: [usize; 2], flip: bool) -> Result<Array3<f32>, Error> {
        let own = self.size();
        if (0..2).any(|i| size[i] == 0 || at[i].checked_add(size[i]).is_none_or(|end| end > own[i])) {
            return Err(Error::Invalid(format!("a part of {size:?} at {at:?} leaves a picture of {own:?}")));
        }
        Ok(Array3::from_shape_fn((3, size[0], size[1]), |(c, y, x)| {
            let x = if flip { size[1] - 1 - x } else { x };
            let pixel = self.image.get_pixel((at[1] + x) as u32, (at[0] + y) as u32);
            f32::from(pixel.0[c]) / 127.5 - 1.0
        }))
    }
}

/// The picture on white ground.
fn on_white(image: &DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.to_rgb8();
    }
    let with = image.to_rgba8();
    RgbImage::from_fn(with.width(), with.height(), |x, y| {
        let [r, g, b, a] = with.get_pixel(x, y).0.map(u32::from);
        image::Rgb([r, g, b].map(|v| ((v * a + 255 * (255 - a) + 127) / 255) as u8))
    })
}

/// A picture of [3, height, width] as the bytes of a PNG file. Values outside -1..1 are clipped.
pub fn png(picture: ArrayView3<'_, f32>) -> Result<Vec<u8>, Error> {
    let (channels, height, width) = picture.dim();
    if channels != 3 || height == 0 || width == 0 {
        return Err(Error::Invalid(format!("{:?} is not the shape of a colour picture", picture.shape())));
    }
    let level = |v: f32| ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
    let image = RgbImage::from_fn(width as u32, height as u32, |x, y| {
        image::Rgb([0, 1, 2].map(|c| level(picture[[c, y as usize, x as usize]])))
    });
    let mut bytes = Vec::new();
    image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)?;
    Ok(bytes)
}

/// Pictures of one size in rows, on white ground with a gap of `gap` pixels between them: [3, height, width].
pub fn grid(rows: &[Vec<Array3<f32>>], gap: usize) -> Result<Array3<f32>, Error> {
    let first = rows.iter().flatten().next().ok_or_else(|| Error::Invalid("a grid needs a picture".into()))?;
    let (channels, height, width) = first.dim();
    if let Some(other) = rows.iter().flatten().find(|p| p.dim() != first.dim()) {
        return Err(Error::Invalid(format!(
            "pictures of {:?} and {:?} do not make a grid",
            first.shape(),
            other.shape()
        )));
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(1);
    let side = |count: usize, size: usize| count * size + (count - 1) * gap;
    let mut all = Array3::ones((channels, side(rows.len(), height), side(columns, width)));
    for (r, row) in rows.iter().enumerate() {
        for (c, picture) in row.iter().enumerate() {
            let (top, left) = (r * (height + gap), c * (width + gap));
            all.slice_mut(ndarray::s![.., top..top + height, left..left + width]).assign(picture);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
        bytes
    }

    fn photo(image: DynamicImage) -> Photo {
        Photo::decode(Path::new("a.png"), &encoded(&image, ImageFormat::Png)).unwrap()
    }

    #[test]
    fn a_png_comes_back() {
        let picture = Array3::from_shape_fn((3, 4, 5), |(c, y, x)| ((c * 20 + y * 5 + x) as f32 / 30.0 - 1.0).min(1.0));
        let back = Photo::decode(Path::new("a.png"), &png(picture.view()).unwrap()).unwrap();
        assert_eq!(back.size(), [4, 5]);
        let worst = (back.cut([0, 0], [4, 5], false).unwrap() - &picture).iter().fold(0.0f32, |m, d| m.max(d.abs()));
        assert!(worst <= 0.5 / 127.5 + 1e-6, "{worst}");
        assert!(png(Array3::zeros((1, 4, 4)).view()).is_err());
    }

    #[test]
    fn parts_and_mirrors_are_where_they_should_be() {
        let ramp = RgbImage::from_fn(4, 3, |x, y| image::Rgb([(x * 10) as u8, (y * 10) as u8, 0]));
        let photo = photo(DynamicImage::ImageRgb8(ramp));
        let level = |v: f32| ((v + 1.0) * 127.5).round() as i32;
        let part = photo.cut([1, 2], [2, 2], false).unwrap();
        assert_eq!([part[[0, 0, 0]], part[[0, 0, 1]], part[[1, 1, 0]]].map(level), [20, 30, 20]);
        let flipped = photo.cut([1, 2], [2, 2], true).unwrap();
        assert_eq!([flipped[[0, 0, 0]], flipped[[0, 0, 1]]].map(level), [30, 20]);
        assert!(photo.cut([2, 0], [2, 1], false).is_err());
        assert!(photo.cut([usize::MAX, 0], [2, 1], false).is_err());
        assert_eq!(photo.resized([6, 8]).size(), [6, 8]);
    }

    #[test]
    fn what_is_transparent_is_white() {
        let clear = image::RgbaImage::from_pixel(2, 2, image::Rgba([0, 0, 0, 0]));
        let part = photo(DynamicImage::ImageRgba8(clear)).cut([0, 0], [2, 2], false).unwrap();
        assert!(part.iter().all(|v| (*v - 1.0).abs() < 1e-6));
    }

    #[test]
    fn a_picture_on_its_side_is_turned() {
        // A JPEG whose EXIF orientation is 6: the first row is the right-hand side.
        let wide = RgbImage::from_fn(16, 8, |x, _| image::Rgb([if x < 8 { 250 } else { 0 }; 3]));
        let plain = encoded(&DynamicImage::ImageRgb8(wide), ImageFormat::Jpeg);
        let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let turned = [&plain[..2], exif, &plain[2..]].concat();
        let photo = Photo::decode(Path::new("a.jpg"), &turned).unwrap();
        assert_eq!(photo.size(), [16, 8]);
        let part = photo.cut([0, 0], [16, 8], false).unwrap();
        assert!(part[[0, 0, 4]] > 0.8 && part[[0, 15, 4]] < -0.8);
    }

    #[test]
    fn broken_pictures_are_errors_that_name_them() {
        let whole = encoded(&DynamicImage::ImageRgb8(RgbImage::new(64, 64)), ImageFormat::Png);
        for bytes in [&b""[..], b"no picture", &whole[..40], &whole[..whole.len() / 2]] {
            let error = Photo::decode(Path::new("dog_07.png"), bytes).unwrap_err().to_string();
            assert!(error.starts_with("dog_07.png"), "{error}");
        }
        // A header that promises 2^31 pixels on a side.
        let mut bomb = whole;
        bomb[16..24].copy_from_slice(&[0x7f, 255, 255, 255, 0x7f, 255, 255, 255]);
        assert!(Photo::decode(Path::new("dog_07.png"), &bomb).is_err());
    }

    #[test]
    fn a_grid_has_gaps_and_empty_places() {
        let picture = Array3::zeros((3, 2, 2));
        let all = grid(&[vec![picture.clone(), picture.clone()], vec![picture.clone()]], 1).unwrap();
        assert_eq!(all.dim(), (3, 5, 5));
        assert_eq!((all[[0, 0, 0]], all[[0, 0, 2]], all[[0, 4, 4]], all[[0, 4, 1]]), (0.0, 1.0, 1.0, 0.0));
        assert!(grid(&[], 1).is_err() && grid(&[vec![picture, Array3::zeros((3, 2, 3))]], 1).is_err());
    }
}
