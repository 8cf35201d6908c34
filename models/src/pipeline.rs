//! What a pipeline's folder holds, as diffusers and optimum lay it out: `model_index.json` names the parts, and each has a folder.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Error;
use crate::json;
use crate::scheduler::SchedulerConfig;
use crate::tokenizer::Tokenizer;

/// Folders of the model that is trained.
const DENOISERS: [&str; 2] = ["unet", "transformer"];
/// Folders of text encoders, each with its tokenizer's.
const ENCODERS: [[&str; 2]; 3] =
    [["text_encoder", "tokenizer"], ["text_encoder_2", "tokenizer_2"], ["text_encoder_3", "tokenizer_3"]];

/// A pipeline's folder.
pub struct Pipeline {
    /// The folder.
    pub root: PathBuf,
    /// Its class in diffusers, such as `StableDiffusionXLPipeline`.
    pub class_name: String,
    /// The model that is trained.
    pub denoiser: Part<DenoiserConfig>,
    /// Noise and predictions.
    pub scheduler: SchedulerConfig,
    /// Text encoders, in order; a pipeline may lack any.
    pub encoders: [Option<Encoder>; 3],
    /// From pictures to latents; needed for training from pictures only.
    pub vae_encoder: Option<Part<VaeConfig>>,
    /// From latents to pictures.
    pub vae_decoder: Option<Part<VaeConfig>>,
    /// Whether an absent negative prompt is embedded as zeros.
    pub force_zeros_for_empty_prompt: bool,
}

/// A model of a pipeline.
#[derive(Clone, Debug)]
pub struct Part<C> {
    /// The ONNX file.
    pub model: PathBuf,
    /// What `config.json` beside it says.
    pub config: C,
}

/// A text encoder with its tokenizer.
pub struct Encoder {
    /// The model.
    pub part: Part<EncoderConfig>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
}

/// Keys of a text encoder's `config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EncoderConfig {
    /// The most tokens.
    pub max_position_embeddings: Option<usize>,
}

/// Keys of a denoiser's `config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DenoiserConfig {
    /// Channels of its input.
    pub in_channels: Option<usize>,
    /// Height and width for which it was made, in latent pixels.
    pub sample_size: Option<Size>,
    /// Width of the text embeddings of an MMDiT.
    pub joint_attention_dim: Option<usize>,
}

/// One number for both sides, or one each.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// Both.
    Square(usize),
    /// Height and width.
    Sides([usize; 2]),
}

impl Size {
    /// Height and width.
    pub fn sides(self) -> [usize; 2] {
        match self {
            Size::Square(side) => [side, side],
            Size::Sides(sides) => sides,
        }
    }
}

/// Keys of a VAE's `config.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// What latents are multiplied by.
    pub scaling_factor: f64,
    /// What is taken from latents before.
    pub shift_factor: Option<f64>,
    /// Mean of each channel, taken from latents in place of the shift.
    pub latents_mean: Option<Vec<f64>>,
    /// Standard deviation of each channel, by which latents are divided.
    pub latents_std: Option<Vec<f64>>,
    /// Channels of latents.
    pub latent_channels: usize,
    /// Channels of its blocks; pictures are halved between two.
    pub block_out_channels: Vec<usize>,
    /// The same of a deep-compression autoencoder.
    pub encoder_block_out_channels: Option<Vec<usize>>,
}

impl Default for VaeConfig {
    fn default() -> VaeConfig {
        VaeConfig {
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            latent_channels: 4,
            block_out_channels: vec![0; 4],
            encoder_block_out_channels: None,
        }
    }
}

impl VaeConfig {
    /// Pixels of a picture along a side for one of its latents.
    pub fn downscale(&self) -> usize {
        let blocks = self.encoder_block_out_channels.as_ref().unwrap_or(&self.block_out_channels).len();
        1 << blocks.saturating_sub(1).min(10)
    }

    /// What is taken from the latents of a channel, and what they are then multiplied by.
    pub fn normalisation(&self, channel: usize) -> (f64, f64) {
        let of = |list: &Option<Vec<f64>>| list.as_ref().and_then(|list| list.get(channel).copied());
        match (of(&self.latents_mean), of(&self.latents_std)) {
            (Some(mean), Some(std)) if std > 0.0 => (mean, self.scaling_factor / std),
            _ => (self.shift_factor.unwrap_or(0.0), self.scaling_factor),
        }
    }
}

impl Pipeline {
    /// Whether a path is a pipeline's folder.
    pub fn is_pipeline(path: &Path) -> bool {
        path.join("model_index.json").is_file()
    }

    /// Reads a folder. No model is read; only the denoiser and the scheduler must be there.
    pub fn open(root: &Path) -> Result<Pipeline, Error> {
        let index_path = root.join("model_index.json");
        if !index_path.is_file() {
            return Err(Error::file(
                root,
                "holds no model_index.json; give the folder of a pipeline that was exported to ONNX",
            ));
        }
        let index: Map<String, Value> = read_json(&index_path)?;
        let class = index.get("_class_name").and_then(Value::as_str).unwrap_or_default();
        let class_name = class.trim_start_matches("ORT").trim_start_matches("Onnx").to_owned();
        let mut denoisers = DENOISERS.iter().filter_map(|name| part(root, name).transpose());
        let denoiser = denoisers.next().ok_or_else(|| {
            Error::file(
                root,
                "holds neither unet nor transformer with an ONNX model; export the pipeline to ONNX first",
            )
        })??;
        let encoder = |[model, tokenizer]: [&str; 2]| -> Result<Option<Encoder>, Error> {
            let Some(part) = part(root, model)? else { return Ok(None) };
            Ok(Some(Encoder { part, tokenizer: Tokenizer::open(&root.join(tokenizer))? }))
        };
        let [first, second, third] = ENCODERS;
        let path = root.join("scheduler/scheduler_config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
        Ok(Pipeline {
            root: root.to_owned(),
            class_name,
            denoiser,
            scheduler: SchedulerConfig::parse(&text).map_err(|e| Error::file(&path, e))?,
            encoders: [encoder(first)?, encoder(second)?, encoder(third)?],
            vae_encoder: part(root, "vae_encoder")?,
            vae_decoder: part(root, "vae_decoder")?,
            force_zeros_for_empty_prompt: index.get("force_zeros_for_empty_prompt").and_then(Value::as_bool)
                == Some(true),
        })
    }

    /// What the latents of this pipeline are, by the VAE that it holds.
    pub fn vae(&self) -> Option<&VaeConfig> {
        self.vae_encoder.as_ref().or(self.vae_decoder.as_ref()).map(|part| &part.config)
    }
}

/// The model of a folder and its configuration; nothing where there is no such folder or no model in it.
fn part<C: DeserializeOwned + Default>(root: &Path, name: &str) -> Result<Option<Part<C>>, Error> {
    let folder = root.join(name);
    if !folder.is_dir() {
        return Ok(None);
    }
    let usual = folder.join("model.onnx");
    let model = if usual.is_file() {
        usual
    } else {
        let entries = std::fs::read_dir(&folder).map_err(|e| Error::file(&folder, e))?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
            .collect();
        found.sort();
        match found.len() {
            0 => return Ok(None),
            1 => found.remove(0),
            _ => return Err(Error::file(&folder, "holds several ONNX models and none is called model.onnx")),
        }
    };
    let config = folder.join("config.json");
    Ok(Some(Part { model, config: if config.is_file() { read_json(&config)? } else { C::default() } }))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
    json::from_str(&text).map_err(|e| Error::file(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Prediction;

    fn tiny() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny/pipeline")
    }

    #[test]
    fn a_folder_of_optimum_is_understood() {
        let pipeline = Pipeline::open(&tiny()).unwrap();
        assert_eq!(pipeline.class_name, "StableDiffusionPipeline");
        assert!(pipeline.denoiser.model.ends_with("unet/model.onnx"));
        assert_eq!(pipeline.denoiser.config.sample_size.unwrap().sides(), [16, 16]);
        assert_eq!(pipeline.scheduler.prediction(), Prediction::Epsilon);
        assert!(pipeline.encoders[0].is_some() && pipeline.encoders[1].is_none());
        let vae = pipeline.vae().unwrap();
        assert_eq!((vae.downscale(), vae.normalisation(0)), (2, (0.0, 0.18215)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |what: &str| {
            let error = Pipeline::open(folder.path()).map(drop).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        error("model_index.json");
        std::fs::write(folder.path().join("model_index.json"), "{}").unwrap();
        error("neither unet nor transformer");
        let unet = folder.path().join("unet");
        std::fs::create_dir(&unet).unwrap();
        std::fs::write(unet.join("a.onnx"), "").unwrap();
        error("scheduler_config.json");
        std::fs::write(unet.join("b.onnx"), "").unwrap();
        error("several ONNX models");
        std::fs::write(unet.join("model.onnx"), "").unwrap();
        std::fs::write(unet.join("config.json"), "[").unwrap();
        error("config.json");
    }
}
