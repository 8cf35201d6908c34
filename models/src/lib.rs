//! What a diffusion model is: how noise is added and taken away, which pictures it learns from, and how its
//! pictures are judged and shown. Nothing here knows how a model is stored or run: a model is a function
//! that is handed in.
//!
//! | module       | holds                                                          |
//! |--------------|----------------------------------------------------------------|
//! | [`schedule`] | how much noise a timestep has                                  |
//! | [`scheduler`] | what a pipeline says of its noise and predictions             |
//! | [`objective`] | noise, targets and weights of training                         |
//! | [`sampler`]  | samplers and classifier-free guidance                          |
//! | [`dataset`]   | pictures and captions, in the forms in which people keep them  |
//! | [`bucket`]    | sizes of pictures of many aspect ratios                        |
//! | [`photo`]     | colour pictures, from files and to files                       |
//! | [`pipeline`]  | the folder of a pipeline                                       |
//! | [`tokenizer`] | texts as the token ids of a pipeline's text encoders          |
//! | [`digits`]   | the bundled model of handwritten digits and its scans          |
//! | [`look`]     | other looks of the scans, to fine-tune on                      |
//! | [`distance`] | the Fréchet distance between two sets of features              |
//! | [`picture`]  | a grid of grey images as a PNG                                 |
//! | [`page`]     | one HTML file that holds everything it shows                   |
//! | [`events`]   | event files that TensorBoard reads                             |
//! | [`layers`]   | weights of each layer below thresholds, as an SVG              |
//! | [`lines`]    | series over steps as an SVG                                    |
//! | [`curve`]    | a loss curve as an SVG                                         |
//!
//! Images are `Array4<f32>` of shape [n, 1, height, width] with values in -1..1, and timesteps are `i64`, as
//! the models take them.

mod axis;
pub mod bucket;
pub mod curve;
pub mod dataset;
pub mod digits;
pub mod distance;
pub mod events;
mod font;
mod json;
pub mod layers;
pub mod lines;
pub mod look;
pub mod objective;
pub mod page;
pub mod photo;
pub mod picture;
pub mod pipeline;
pub mod sampler;
pub mod schedule;
pub mod scheduler;
pub mod tokenizer;

/// Why something cannot be computed or drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bundled scans are not what this crate expects.
    #[error("the bundled digits cannot be read: {0}")]
    Digits(String),
    /// Two arrays that belong together have different shapes.
    #[error("{what} has shape {found:?} where {wanted:?} is needed")]
    Shape {
        /// The array at fault.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it must have.
        wanted: Vec<usize>,
    },
    /// A timestep outside the schedule.
    #[error("timestep {t} is outside 0..{count}")]
    Timestep {
        /// The timestep asked for.
        t: i64,
        /// How many timesteps the schedule has.
        count: usize,
    },
    /// A number of the caller that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A file that cannot be read or is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The image library cannot write the picture.
    #[error("the picture cannot be encoded")]
    Picture(#[from] image::ImageError),
    /// The plotting library cannot draw the curve.
    #[error("the curve cannot be drawn: {0}")]
    Curve(String),
}

impl Error {
    /// An error in a file.
    pub(crate) fn file(path: &std::path::Path, reason: impl std::fmt::Display) -> Error {
        Error::File { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// That `found` is `wanted`, for the array called `what`.
pub(crate) fn same_shape(what: &'static str, found: &[usize], wanted: &[usize]) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Shape { what, found: found.to_vec(), wanted: wanted.to_vec() })
}
