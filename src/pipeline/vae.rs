//! Pictures as latents and back. Pictures are [n, 3, height, width] with values in -1..1, latents [n, channels, height, width],
//! scaled as the denoiser knows them.

use super::network::Network;
use super::{Error, Pipeline};
use ndarray::{Array4, Axis, s};
use sara_models::pipeline::VaeConfig;
use sara_runtime::tensor::{Tensor, Tensors};

/// Limits of the logarithm of a latent's variance.
const LOG_VARIANCE: [f32; 2] = [-30.0, 20.0];

/// The distribution of a picture's latents, before they are scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Mean.
    pub mean: Array4<f32>,
    /// Standard deviation; zero where the VAE gives none.
    pub deviation: Array4<f32>,
}

impl Moments {
    /// Latents for standard normal `noise` of the same shape.
    pub fn latents(&self, noise: &Array4<f32>, vae: &VaeConfig) -> Array4<f32> {
        let mut latents = &self.mean + &(&self.deviation * noise);
        normalise(&mut latents, vae);
        latents
    }
}

fn normalise(latents: &mut Array4<f32>, vae: &VaeConfig) {
    for (channel, mut values) in latents.axis_iter_mut(Axis(1)).enumerate() {
        let (shift, scale) = vae.normalisation(channel);
        values.mapv_inplace(|v| ((f64::from(v) - shift) * scale) as f32);
    }
}

fn array4(tensor: &Tensor, what: &str) -> Result<Array4<f32>, Error> {
    let [n, c, h, w] = *tensor.shape() else {
        return Err(Error::Misfit(format!("{what} has shape {:?}, not four dimensions", tensor.shape())));
    };
    Array4::from_shape_vec((n, c, h, w), tensor.to_f32()).map_err(|e| Error::Misfit(format!("{what}: {e}")))
}

impl Pipeline {
    /// The latents of pictures.
    pub fn encode_pictures(&mut self, pictures: Array4<f32>) -> Result<Moments, Error> {
        let Some(part) = &self.folder.vae_encoder else {
            return Err(Error::Misfit(format!(
                "{}: holds no vae_encoder, which turns pictures into latents; export it with the pipeline",
                self.folder.root.display()
            )));
        };
        let channels = part.config.latent_channels;
        if self.vae_encoder.is_none() {
            self.vae_encoder = Some(Network::open(&part.model, self.threads)?);
        }
        let found = first(self.vae_encoder.as_mut(), pictures)?;
        Ok(if found.shape()[1] == 2 * channels {
            let deviation = found.slice(s![.., channels.., .., ..]);
            let [least, most] = LOG_VARIANCE;
            Moments {
                mean: found.slice(s![.., ..channels, .., ..]).to_owned(),
                deviation: deviation.mapv(|v| (0.5 * v.clamp(least, most)).exp()),
            }
        } else {
            Moments { deviation: Array4::zeros(found.raw_dim()), mean: found }
        })
    }

    /// The pictures of latents.
    pub fn decode_latents(&mut self, mut latents: Array4<f32>) -> Result<Array4<f32>, Error> {
        let Some(part) = &self.folder.vae_decoder else {
            return Err(Error::Misfit(format!(
                "{}: holds no vae_decoder, which turns latents into pictures",
                self.folder.root.display()
            )));
        };
        for (channel, mut values) in latents.axis_iter_mut(Axis(1)).enumerate() {
            let (shift, scale) = part.config.normalisation(channel);
            values.mapv_inplace(|v| (f64::from(v) / scale + shift) as f32);
        }
        if self.vae_decoder.is_none() {
            self.vae_decoder = Some(Network::open(&part.model, self.threads)?);
        }
        first(self.vae_decoder.as_mut(), latents)
    }
}

/// The first output of a model of one input.
fn first(network: Option<&mut Network>, input: Array4<f32>) -> Result<Array4<f32>, Error> {
    let misfit = || Error::Misfit("a VAE has one input and one output".into());
    let network = network.ok_or_else(misfit)?;
    let [port] = network.inputs() else { return Err(misfit()) };
    let inputs = Tensors::from([(port.name.clone(), Tensor::F32(input.into_dyn()))]);
    let outputs = network.run(&inputs)?;
    array4(outputs.first().map(|o| &o.1).ok_or_else(misfit)?, "the VAE's output")
}
