//! What a run trains on: a file of batches, or a cache of pictures.

use super::Failure;
use super::flags::Flags;
use crate::pipeline::Pipeline;
use crate::pipeline::batches::Batches;
use crate::pipeline::cache::Cache;
use crate::pipeline::copy::of_denoiser;
use crate::pipeline::denoiser::Denoiser;
use crate::pipeline::shapes::name;
use sara_compiler::import::Model;
use sara_compiler::loss::WEIGHT;
use sara_runtime::files::sha256_file;
use sara_runtime::plan::Plan;
use sara_runtime::tensor::{Tensors, read_safetensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where batches come from.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Source {
    /// Batches: safetensors with the model's inputs and `target`, each with a leading step dimension.
    #[arg(long, value_name = "FILE")]
    pub(super) batches: Option<PathBuf>,
    /// A cache that `sara cache` made.
    #[arg(long, value_name = "CACHE")]
    pub(super) cache: Option<PathBuf>,
}

/// The batches of a run.
pub(super) enum Data {
    /// Those of a file, one after the other.
    File {
        /// All of them.
        batches: Tensors,
        /// How many.
        count: u64,
    },
    /// Those that are made of a cache.
    Cache(Box<Batches>),
}

/// Data, and what belongs to it.
pub(super) struct Opened {
    pub(super) data: Data,
    /// The pipeline of a cache.
    pub(super) pipeline: Option<Pipeline>,
    /// What identifies the data and how it is seen.
    pub(super) identity: BTreeMap<String, String>,
}

impl Data {
    /// Opens what the flags name. `model` is the plan's.
    pub(super) fn open(
        source: &Source,
        flags: &Flags,
        plan: &Plan,
        model: &Path,
        threads: usize,
    ) -> Result<Opened, Failure> {
        let mut identity = BTreeMap::new();
        if let Some(path) = &source.batches {
            let (batches, _) = read_safetensors(path)?;
            let count = batch_count(path, &batches)?;
            identity.insert("batches_sha256".to_owned(), sha256_file(path)?.1);
            return Ok(Opened { data: Data::File { batches, count }, pipeline: None, identity });
        }
        let Some(path) = &source.cache else { return Err(Failure::Usage("give --batches or --cache".into())) };
        let cache = Cache::open(path)?;
        let root = of_denoiser(model).unwrap_or_else(|| cache.pipeline().to_owned());
        let pipeline = Pipeline::open(&root, threads)?;
        let seen = flags.seen();
        identity.insert("cache_sha256".to_owned(), cache.sha256());
        identity.insert("guidance_scale".to_owned(), flags.guidance().to_string());
        for (key, value) in [
            ("snr_gamma", seen.objective.snr_gamma.map(|v| v.to_string())),
            ("noise_offset", Some(seen.objective.noise_offset.to_string())),
            ("input_perturbation", Some(seen.objective.input_perturbation.to_string())),
            ("weighting_scheme", Some(format!("{:?}", seen.objective.weighting))),
            ("logit_mean", Some(seen.objective.logit_mean.to_string())),
            ("logit_std", Some(seen.objective.logit_std.to_string())),
            ("mode_scale", Some(seen.objective.mode_scale.to_string())),
            ("prediction_type", seen.prediction.map(|p| format!("{p:?}"))),
            ("flow_shift", seen.flow_shift.map(|v| v.to_string())),
            ("caption_dropout_rate", Some(seen.caption_dropout_rate.to_string())),
            ("prior_loss_weight", Some(seen.prior_loss_weight.to_string())),
            ("validation_split", Some(seen.validation_split.to_string())),
        ] {
            identity.extend(value.map(|value| (key.to_owned(), value)));
        }
        let denoiser = Denoiser::new(&pipeline.folder, &Model::open(model)?.inputs(), flags.guidance());
        let train = plan.program("train");
        let inputs = train.map_or(&[][..], |p| &p.inputs);
        let first = inputs.iter().find(|i| ["sample", "hidden_states"].contains(&i.name.as_str()));
        let batch = first.and_then(|i| i.shape.first()).copied().unwrap_or(1) as usize;
        let weighted = inputs.iter().any(|i| i.name == WEIGHT);
        let batches = Batches::new(cache, &pipeline.folder, denoiser, seen, batch, weighted)?;
        for (size, example) in batches.examples()? {
            if !plan.programs.iter().any(|p| p.kind() == "train" && p.takes(&example)) {
                return Err(Failure::Plain(format!(
                    "{}: the plan has no program for pictures of {}; compile it with --cache {}",
                    path.display(),
                    name(size),
                    path.display()
                )));
            }
        }
        Ok(Opened { data: Data::Cache(Box::new(batches)), pipeline: Some(pipeline), identity })
    }

    /// Batches of one pass.
    pub(super) fn per_epoch(&self) -> u64 {
        match self {
            Data::File { count, .. } => *count,
            Data::Cache(batches) => batches.per_epoch(),
        }
    }

    /// Batch number `i`.
    pub(super) fn batch(&self, i: u64) -> Result<Tensors, Failure> {
        match self {
            Data::File { batches, count } => {
                let row = (i % count) as usize;
                Ok(batches.iter().filter_map(|(name, t)| Some((name.clone(), t.at(row)?))).collect())
            }
            Data::Cache(batches) => Ok(batches.batch(i)?),
        }
    }
}

/// Number of steps that a batches file holds: the common first dimension of its tensors.
fn batch_count(path: &Path, batches: &Tensors) -> Result<u64, Failure> {
    let mut sizes = batches.iter().map(|(name, t)| (name, t.shape().first().copied().unwrap_or(0)));
    let Some((_, count)) = sizes.next().filter(|s| s.1 > 0) else {
        return Err(Failure::Plain(format!("{}: holds no batches", path.display())));
    };
    match sizes.find(|s| s.1 != count) {
        None => Ok(count as u64),
        Some((name, other)) => Err(Failure::Plain(format!(
            "{}: tensor `{name}` has {other} steps and others have {count}",
            path.display()
        ))),
    }
}
