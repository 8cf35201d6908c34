//! A pipeline at work: texts become conditions, pictures become latents and latents pictures, and noise becomes latents.
//!
//! | module          | does                                                                        |
//! |-----------------|-----------------------------------------------------------------------------|
//! | [`network`]     | runs one of the pipeline's models, compiled for the shapes that it is given |
//! | [`conditions`]  | what each family makes of a text                                            |
//! | [`denoiser`]    | the denoiser's inputs by their names, and its output as latents             |
//! | [`shapes`]      | shapes of the denoiser's inputs, for pictures of given sizes                |
//! | [`space`]       | whether a disk has room                                                     |
//! | [`vae`]         | pictures and latents                                                        |
//! | [`cache`]       | latents and text embeddings on disk                                         |
//! | [`batches`]     | batches of a cache                                                          |
//! | [`copy`]        | a pipeline's folder with another denoiser                                   |
//! | [`pytorch`]     | an adapter under the names of PyTorch's parameters                          |
//! | [`sample`]      | pictures from noise                                                         |

pub mod batches;
pub mod cache;
pub mod conditions;
pub mod copy;
pub mod denoiser;
pub mod network;
pub mod pytorch;
pub mod sample;
pub mod shapes;
pub mod space;
pub mod vae;

use network::Network;
use sara_models::pipeline::Pipeline as Folder;
use std::path::{Path, PathBuf};

/// Why a pipeline cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model cannot be compiled.
    #[error(transparent)]
    Compiler(#[from] sara_compiler::Error),
    /// A model cannot be run, or a file not be written.
    #[error(transparent)]
    Runtime(#[from] sara_runtime::Error),
    /// A folder, a text or a picture is not what it should be.
    #[error(transparent)]
    Models(#[from] sara_models::Error),
    /// A disk has less room than what will be written.
    #[error(
        "{}: up to {needed} bytes will be written, and the disk has {free} free; free some, or choose another folder",
        folder.display()
    )]
    Space {
        /// Where it would be written.
        folder: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Two parts of the pipeline do not fit each other, or one is missing.
    #[error("{0}")]
    Misfit(String),
}

/// A pipeline whose models are compiled when they are first used.
pub struct Pipeline {
    /// What its folder says.
    pub folder: Folder,
    encoders: [Option<Network>; 3],
    vae_encoder: Option<Network>,
    vae_decoder: Option<Network>,
    threads: usize,
}

impl Pipeline {
    /// Opens a folder.
    pub fn open(root: &Path, threads: usize) -> Result<Pipeline, Error> {
        let folder = Folder::open(root)?;
        Ok(Pipeline { folder, encoders: [None, None, None], vae_encoder: None, vae_decoder: None, threads })
    }

    /// Gives back the memory of the models; they are read again when they are next used.
    pub fn release(&mut self) {
        self.encoders = [None, None, None];
        (self.vae_encoder, self.vae_decoder) = (None, None);
    }

    /// Whether the denoiser takes latents as a list of patches.
    pub fn is_packed(&self) -> bool {
        self.folder.class_name.starts_with("Flux")
    }

    /// The denoiser, as its file has it.
    pub fn denoiser(&self) -> Result<Network, Error> {
        Network::open(&self.folder.denoiser.model, self.threads)
    }
}
