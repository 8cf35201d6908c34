//! The denoiser's inputs by their names, and its output as latents.

use super::Error;
use super::conditions::Conditions;
use ndarray::{Array4, ArrayD, Axis, IxDyn, concatenate, s, stack};
use sara_compiler::import::Input;
use sara_models::pipeline::Pipeline as Folder;
use sara_runtime::tensor::{Tensor, Tensors};

/// Names that exporters give the latents.
const LATENTS: [&str; 2] = ["sample", "hidden_states"];
/// Guidance that distilled models are told of in training, unless it is said.
pub const DISTILLED_GUIDANCE: f32 = 3.5;

/// Where a picture was cut from, in pixels: what SDXL is told beside the text (Podell et al. 2024, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Geometry {
    /// Height and width before the cut.
    pub original: [usize; 2],
    /// Top and left of the cut.
    pub crop: [usize; 2],
    /// Height and width after it.
    pub target: [usize; 2],
}

impl Geometry {
    /// A picture that was not cut.
    pub fn whole(height: usize, width: usize) -> Geometry {
        Geometry { original: [height, width], crop: [0, 0], target: [height, width] }
    }
}

/// One sample of a batch.
pub struct Sample<'a> {
    /// Its text.
    pub conditions: &'a Conditions,
    /// Its picture.
    pub geometry: Geometry,
}

/// How a denoiser takes what a pipeline knows.
#[derive(Clone, Debug)]
pub struct Denoiser {
    inputs: Vec<Input>,
    /// Whether latents are handed over as a list of 2x2 patches.
    packed: bool,
    /// What timesteps are divided by: flows of some families take noise levels.
    timestep_scale: f64,
    /// What distilled models are told.
    guidance: f32,
}

impl Denoiser {
    /// For a denoiser with these inputs.
    pub fn new(folder: &Folder, inputs: &[Input], guidance: f32) -> Denoiser {
        let packed = folder.class_name.starts_with("Flux");
        let timestep_scale = if packed { folder.scheduler.num_train_timesteps as f64 } else { 1.0 };
        Denoiser { inputs: inputs.to_vec(), packed, timestep_scale, guidance }
    }

    /// Whether one evaluation is enough: the guidance is an input, or the family was distilled to need none.
    pub fn distilled(&self) -> bool {
        self.packed || self.inputs.iter().any(|i| ["guidance", "timestep_cond"].contains(&i.name.as_str()))
    }

    /// Image tokens of latents, on which the noise levels of some flows depend.
    pub fn tokens(&self, height: usize, width: usize) -> usize {
        (height / 2) * (width / 2)
    }

    /// The inputs for noisy latents at their timesteps.
    pub fn inputs(&self, latents: &Array4<f32>, timesteps: &[f64], samples: &[Sample<'_>]) -> Result<Tensors, Error> {
        let mut found = Tensors::new();
        for input in &self.inputs {
            let name = input.name.as_str();
            let tensor = match name {
                _ if LATENTS.contains(&name) => Some(self.pack(latents)?),
                "timestep" => {
                    let scaled = timesteps.iter().map(|t| (t / self.timestep_scale) as f32);
                    Some(ArrayD::from_shape_vec(IxDyn(&[timesteps.len()]), scaled.collect()).map_err(misfit)?)
                }
                "time_ids" => Some(time_ids(samples, input)?),
                "resolution" => Some(rows(samples, |g| g.target.map(|side| side as f32))?),
                "aspect_ratio" => Some(rows(samples, |g| [g.target[0] as f32 / g.target[1] as f32])?),
                "guidance" => Some(ArrayD::from_elem(IxDyn(&[samples.len()]), self.guidance)),
                "timestep_cond" => Some(guidance_embedding(self.guidance, samples.len(), input)),
                "img_ids" => Some(self.image_ids(latents, input)?),
                _ => None,
            };
            let tensor = match tensor {
                Some(tensor) => tensor,
                None => self.stacked(input, samples)?,
            };
            found.insert(name.to_owned(), super::network::converted(&Tensor::F32(tensor), input.dtype));
        }
        Ok(found)
    }

    /// The output as latents of this height and width. Channels beyond `channels` are what models say of their variance.
    pub fn latents(&self, output: &Tensor, channels: usize, height: usize, width: usize) -> Result<Array4<f32>, Error> {
        let values = output.to_f32();
        if self.packed {
            let batch = output.shape().first().copied().unwrap_or(0);
            let shape = (batch, height / 2, width / 2, channels, 2, 2);
            let patches = ndarray::Array::from_shape_vec(shape, values).map_err(misfit)?;
            let rows = patches.permuted_axes([0, 3, 1, 4, 2, 5]).as_standard_layout().into_owned();
            return rows.into_shape_with_order((batch, channels, height, width)).map_err(misfit);
        }
        let [n, c, h, w] = *output.shape() else {
            return Err(Error::Misfit(format!(
                "the denoiser's output has shape {:?}, not four dimensions",
                output.shape()
            )));
        };
        let all = Array4::from_shape_vec((n, c, h, w), values).map_err(misfit)?;
        Ok(if c > channels { all.slice(s![.., ..channels, .., ..]).to_owned() } else { all })
    }

    /// Latents as the denoiser takes them, and what it is compared with.
    pub fn pack(&self, latents: &Array4<f32>) -> Result<ArrayD<f32>, Error> {
        if !self.packed {
            return Ok(latents.clone().into_dyn());
        }
        let (n, c, h, w) = latents.dim();
        if h % 2 + w % 2 > 0 {
            return Err(Error::Misfit(format!("latents of {h}x{w} cannot be cut into patches of 2x2")));
        }
        let rows = latents.to_shape((n, c, h / 2, 2, w / 2, 2)).map_err(misfit)?;
        let patches = rows.permuted_axes([0, 2, 4, 1, 3, 5]).as_standard_layout().into_owned();
        Ok(patches.into_shape_with_order((n, (h / 2) * (w / 2), c * 4)).map_err(misfit)?.into_dyn())
    }

    /// A condition of all samples. A table of positions without a batch dimension is the same for all.
    fn stacked(&self, input: &Input, samples: &[Sample<'_>]) -> Result<ArrayD<f32>, Error> {
        let own = |sample: &Sample<'_>| sample.conditions.get(&input.name).cloned();
        let all: Option<Vec<ArrayD<f32>>> = samples.iter().map(own).collect();
        let all = all.filter(|all| !all.is_empty()).ok_or_else(|| {
            let known: Vec<&str> = samples.iter().take(1).flat_map(|s| s.conditions.keys().map(String::as_str)).collect();
            Error::Misfit(format!(
                "the denoiser's input `{}` is not known of this family of pipelines (known are the latents, the timestep, {})",
                input.name,
                known.join(", ")
            ))
        })?;
        if all[0].ndim() == input.shape.len() {
            return Ok(all[0].clone());
        }
        let views: Vec<_> = all.iter().map(|part| part.view()).collect();
        stack(Axis(0), &views).map_err(misfit)
    }

    /// Rows and columns of the patches (Flux).
    fn image_ids(&self, latents: &Array4<f32>, input: &Input) -> Result<ArrayD<f32>, Error> {
        let (n, _, h, w) = latents.dim();
        let (h, w) = (h / 2, w / 2);
        let ids = ArrayD::from_shape_fn(IxDyn(&[h * w, 3]), |at| match at[1] {
            1 => (at[0] / w) as f32,
            2 => (at[0] % w) as f32,
            _ => 0.0,
        });
        if input.shape.len() == 2 {
            return Ok(ids);
        }
        let view = ids.view().insert_axis(Axis(0));
        concatenate(Axis(0), &vec![view; n]).map_err(misfit)
    }
}

fn misfit(e: ndarray::ShapeError) -> Error {
    Error::Misfit(format!("the denoiser's inputs do not fit: {e}"))
}

/// Numbers of each picture: [samples, N]. PixArt is told height and width, and the ratio of the two (diffusers' pipelines).
fn rows<const N: usize>(samples: &[Sample<'_>], of: impl Fn(&Geometry) -> [f32; N]) -> Result<ArrayD<f32>, Error> {
    let values: Vec<f32> = samples.iter().flat_map(|s| of(&s.geometry)).collect();
    ArrayD::from_shape_vec(IxDyn(&[samples.len(), N]), values).map_err(misfit)
}

/// Original size, corner of the cut and target size, as SDXL takes them; refiners take a rating in place of the target.
fn time_ids(samples: &[Sample<'_>], input: &Input) -> Result<ArrayD<f32>, Error> {
    /// The rating that refiners are asked for.
    const AESTHETIC: f32 = 6.0;
    let width = input.shape.last().copied().flatten().unwrap_or(6);
    let row = |g: &Geometry| -> Vec<f32> {
        let [a, b, c] = [g.original, g.crop, g.target].map(|pair| pair.map(|v| v as f32));
        match width {
            5 => [&a[..], &b, &[AESTHETIC]].concat(),
            _ => [a, b, c].concat(),
        }
    };
    let rows: Vec<f32> = samples.iter().flat_map(|s| row(&s.geometry)).collect();
    ArrayD::from_shape_vec(IxDyn(&[samples.len(), width]), rows).map_err(misfit)
}

/// Sines and cosines of the guidance (Meng et al. 2023), as latent consistency models take it.
fn guidance_embedding(guidance: f32, count: usize, input: &Input) -> ArrayD<f32> {
    let width = input.shape.last().copied().flatten().unwrap_or(256);
    let half = (width / 2).max(2);
    let w = f64::from(guidance - 1.0) * 1000.0;
    ArrayD::from_shape_fn(IxDyn(&[count, width]), |at| {
        let angle = w * (-(10000f64.ln()) * (at[1] % half) as f64 / (half - 1) as f64).exp();
        (if at[1] < half { angle.sin() } else { angle.cos() }) as f32
    })
}
