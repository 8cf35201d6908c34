//! Grey images side by side in one PNG.

use std::io::Cursor;

use image::{GrayImage, ImageFormat, Luma};
use ndarray::{Array4, ArrayView2, Axis};

use crate::{Error, font, same_shape};

/// How a grid is laid out, in pixels of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Height and width of one pixel of an image, at least 1.
    pub scale: u16,
    /// Space around each image.
    pub padding: u16,
    /// Space between two groups, on top of the padding.
    pub gap: u16,
}

impl Default for Grid {
    fn default() -> Grid {
        Grid { scale: 5, padding: 4, gap: 20 }
    }
}

/// Rows of images that belong together, such as those before and those after training.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// Drawn above the rows in capitals of 10x14 pixels (letters, figures and `.,-+:=%/`), cut off at the right
    /// edge; nothing when empty.
    pub title: &'a str,
    /// Each row holds images [n, 1, h, w] in -1..=1 (black to white). All images of a picture have one size.
    pub rows: &'a [Array4<f32>],
}

const PAPER: Luma<u8> = Luma([232]);
const TEXT: Luma<u8> = Luma([48]);
const TEXT_SCALE: usize = 2;
/// The most pixels a picture may have.
const LARGEST: usize = 1 << 26;

impl Grid {
    /// Draws the groups below each other and gives the bytes of a grey PNG of 8 bits. It is an error when there is
    /// no image, when the sizes of images differ, or when the picture has more than 2^26 pixels.
    pub fn png(&self, groups: &[Group]) -> Result<Vec<u8>, Error> {
        let mut picture = self.canvas(groups)?;
        let (padding, scale) = (usize::from(self.padding), usize::from(self.scale));
        let mut top = 0;
        for group in groups {
            for (x, y) in font::pixels(group.title) {
                let at = (padding + TEXT_SCALE * x, top + padding + TEXT_SCALE * y);
                square(&mut picture, at, TEXT_SCALE, TEXT);
            }
            top += self.title_height(group);
            for row in group.rows {
                for (i, image) in row.axis_iter(Axis(0)).enumerate() {
                    let at = (padding + i * self.cell(row.dim().3), top + padding);
                    draw(&mut picture, at, scale, image.index_axis(Axis(0), 0));
                }
                top += self.cell(row.dim().2);
            }
            top += padding + usize::from(self.gap);
        }
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png)?;
        Ok(bytes.into_inner())
    }

    /// An empty picture of the right size.
    fn canvas(&self, groups: &[Group]) -> Result<GrayImage, Error> {
        let rows = || groups.iter().flat_map(|group| group.rows);
        let first = rows().find(|row| !row.is_empty()).filter(|_| self.scale > 0);
        let first = first.ok_or_else(|| Error::Invalid("a picture needs an image and a scale above 0".into()))?;
        for row in rows() {
            same_shape("an image of the picture", &row.shape()[1..], &[1, first.dim().2, first.dim().3])?;
        }
        let columns = rows().map(|row| row.dim().0).max().unwrap_or(0);
        let width = columns * self.cell(first.dim().3) + usize::from(self.padding);
        let between = (groups.len() - 1) * usize::from(self.gap);
        let height = groups.iter().map(|group| self.height(group)).sum::<usize>() + between;
        if width.saturating_mul(height) > LARGEST {
            return Err(Error::Invalid(format!("a picture of {width}x{height} pixels is too large")));
        }
        Ok(GrayImage::from_pixel(width as u32, height as u32, PAPER))
    }

    fn height(&self, group: &Group) -> usize {
        let rows: usize = group.rows.iter().map(|row| self.cell(row.dim().2)).sum();
        self.title_height(group) + rows + usize::from(self.padding)
    }

    fn title_height(&self, group: &Group) -> usize {
        if group.title.is_empty() { 0 } else { TEXT_SCALE * font::HEIGHT + usize::from(self.padding) }
    }

    /// An image of `pixels` pixels along one side, with the padding before it.
    fn cell(&self, pixels: usize) -> usize {
        pixels * usize::from(self.scale) + usize::from(self.padding)
    }
}

fn draw(picture: &mut GrayImage, (left, top): (usize, usize), scale: usize, image: ArrayView2<f32>) {
    for ((y, x), &value) in image.indexed_iter() {
        let grey = ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
        square(picture, (left + x * scale, top + y * scale), scale, Luma([grey]));
    }
}

fn square(picture: &mut GrayImage, (left, top): (usize, usize), side: usize, grey: Luma<u8>) {
    for (y, x) in (top..top + side).flat_map(|y| (left..left + side).map(move |x| (y, x))) {
        if let Some(pixel) = picture.get_pixel_mut_checked(x as u32, y as u32) {
            *pixel = grey;
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    const GRID: Grid = Grid { scale: 3, padding: 2, gap: 10 };

    fn decoded(groups: &[Group]) -> GrayImage {
        image::load_from_memory_with_format(&GRID.png(groups).unwrap(), ImageFormat::Png).unwrap().into_luma8()
    }

    #[test]
    fn images_lie_in_rows_with_space_around() {
        let row = array![[[[-1.0f32, 1.0]]], [[[0.0, 3.0]]]];
        let narrow = array![[[[f32::NAN, 0.2]]]];
        let picture =
            decoded(&[Group { title: "", rows: &[row.clone(), narrow.clone()] }, Group { title: "", rows: &[narrow] }]);
        assert_eq!(picture.dimensions(), (2 + 2 * (6 + 2), (2 + 2 * (3 + 2)) + 10 + (2 + 3 + 2)));
        let grey = |x, y| picture.get_pixel(x, y).0[0];
        assert_eq!([grey(1, 2), grey(2, 1), grey(8, 2), grey(2, 5)], [PAPER.0[0]; 4], "padding");
        assert_eq!([grey(2, 2), grey(4, 4), grey(5, 2), grey(7, 4)], [0, 0, 255, 255], "first image");
        assert_eq!([grey(10, 2), grey(12, 4), grey(13, 2), grey(15, 4)], [128, 128, 255, 255], "second image");
        assert_eq!([grey(2, 7), grey(5, 7)], [0, 153], "second row");
        assert_eq!([grey(10, 7), grey(2, 12), grey(2, 23)], [PAPER.0[0]; 3], "no image");
        assert_eq!([grey(5, 24), grey(7, 26)], [153, 153], "second group");
    }

    #[test]
    fn titles_are_drawn_above_their_group() {
        let rows = [Array4::zeros((1, 1, 16, 16))];
        let (bare, titled) =
            (decoded(&[Group { title: "", rows: &rows }]), decoded(&[Group { title: "L", rows: &rows }]));
        assert_eq!(titled.height(), bare.height() + 16);
        assert_eq!([titled.get_pixel(2, 2), titled.get_pixel(3, 15), titled.get_pixel(11, 15)], [&TEXT; 3]);
        assert_eq!([titled.get_pixel(4, 2), titled.get_pixel(12, 15)], [&PAPER; 2]);
        assert_eq!(titled.get_pixel(2, 18).0, [128]);
        let long = decoded(&[Group { title: "A long title is cut off", rows: &rows }]);
        assert_eq!(long.dimensions(), titled.dimensions());
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let (a, b) = (Array4::zeros((1, 1, 16, 16)), Array4::zeros((1, 1, 16, 8)));
        assert!(matches!(GRID.png(&[]), Err(Error::Invalid(_))));
        assert!(matches!(GRID.png(&[Group { title: "a", rows: &[] }]), Err(Error::Invalid(_))));
        assert!(matches!(GRID.png(&[Group { title: "", rows: &[a.clone(), b] }]), Err(Error::Shape { .. })));
        let group = [Group { title: "", rows: &[a] }];
        assert!(matches!(Grid { scale: 0, ..GRID }.png(&group), Err(Error::Invalid(_))));
        assert!(matches!(Grid { scale: 1000, ..GRID }.png(&group), Err(Error::Invalid(_))));
    }
}
