//! The shapes of the denoiser's inputs, for pictures of given sizes.

use super::denoiser::{DISTILLED_GUIDANCE, Denoiser, Geometry, Sample};
use super::{Error, Pipeline};
use ndarray::Array4;
use sara_compiler::import::{Binding, Model};

/// Height and width in pixels.
pub type Size = [usize; 2];

/// The name of a size: width, then height, as people write resolutions.
pub fn name([height, width]: Size) -> String {
    format!("{width}x{height}")
}

impl Pipeline {
    /// Pixels of a picture for one latent, along a side.
    pub fn downscale(&self) -> Result<usize, Error> {
        let missing = || Error::Misfit(format!("{}: the pipeline has no VAE", self.folder.root.display()));
        self.folder.vae().map(sara_models::pipeline::VaeConfig::downscale).ok_or_else(missing)
    }

    /// Channels of latents.
    pub fn latent_channels(&self) -> usize {
        self.folder.vae().map_or(4, |vae| vae.latent_channels)
    }

    /// The size that the denoiser was made for.
    pub fn own_size(&self) -> Result<Size, Error> {
        let scale = self.downscale()?;
        let latents = self.folder.denoiser.config.sample_size.map_or([64, 64], |size| size.sides());
        Ok(latents.map(|side| side * scale))
    }

    /// Shapes of the denoiser's inputs for a batch of pictures, for each size. Texts are as long as an empty one, which the text
    /// encoders pad.
    pub fn bindings(&mut self, model: &Model, sizes: &[Size], batch: usize) -> Result<Vec<Binding>, Error> {
        let scale = self.downscale()?;
        let conditions = self.conditions(Some(""))?;
        let denoiser = Denoiser::new(&self.folder, &model.inputs(), DISTILLED_GUIDANCE);
        let channels = self.latent_channels();
        let binding = |size: &Size| {
            if let Some(side) = size.iter().find(|side| **side == 0 || **side % scale > 0) {
                return Err(Error::Misfit(format!("pictures of {}: {side} is no multiple of {scale}", name(*size))));
            }
            let [height, width] = size.map(|side| side / scale);
            let latents = Array4::zeros((batch, channels, height, width));
            let sample = || Sample { conditions: &conditions, geometry: Geometry::whole(size[0], size[1]) };
            let samples: Vec<Sample<'_>> = (0..batch).map(|_| sample()).collect();
            let inputs = denoiser.inputs(&latents, &vec![0.0; batch], &samples)?;
            let shapes = inputs.into_iter().map(|(name, tensor)| (name, tensor.shape().to_vec())).collect();
            Ok(Binding { shapes, ..Binding::default() })
        };
        sizes.iter().map(binding).collect()
    }
}
