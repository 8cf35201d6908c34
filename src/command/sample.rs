//! `sara sample`: pictures of a pipeline.

use super::Failure;
use super::options::{Threads, parse_scaled, parse_share};
use crate::pipeline::Pipeline;
use crate::pipeline::conditions::Conditions;
use crate::pipeline::sample::{Painter, Start};
use indicatif::{ProgressBar, ProgressStyle};
use ndarray::{Array4, Axis};
use sara_models::{photo, sampler};
use sara_runtime::adapter::Adapter;
use sara_runtime::files::write_atomic;
use sara_runtime::tensor::{Tensor, read_safetensors, write_safetensors};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the pipeline, as diffusers or optimum exports it to ONNX.
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    /// What the picture shows; repeat for more pictures.
    #[arg(long, required = true, value_name = "TEXT")]
    prompt: Vec<String>,
    /// What it does not show.
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,
    /// Steps of sampling.
    #[arg(long, default_value_t = 30, value_name = "N")]
    num_inference_steps: usize,
    /// Strength of classifier-free guidance; 1 for none. Default: that of diffusers' pipeline, such as 7.5 for Stable Diffusion.
    #[arg(long, value_name = "G")]
    guidance_scale: Option<f32>,
    /// Pictures of each prompt; each has a seed of its own.
    #[arg(long, default_value_t = 1, value_name = "N")]
    num_images: u64,
    /// Seed of the first picture's noise.
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Height in pixels; what the model was made for by default.
    #[arg(long, value_name = "PIXELS")]
    height: Option<usize>,
    /// Width in pixels.
    #[arg(long, value_name = "PIXELS")]
    width: Option<usize>,
    /// ddim, euler, euler_ancestral, heun, dpmpp_2m, pndm, lcm or flow_euler. Default: what the pipeline names.
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// An adapter, with a scale after a colon if it is not 1; repeat for more. The model's file stays as it is.
    #[arg(long, value_name = "FILE[:SCALE]", value_parser = parse_scaled)]
    adapter: Vec<(PathBuf, f32)>,
    /// Set this share of each of the denoiser's matrices to zero, its smallest entries, as the paper does to show how little they do.
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    zero_smallest: Option<f64>,
    /// Noise in place of the seed's: safetensors with `latents`, standard normal, [pictures, channels, height, width].
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,
    /// Also write the `latents` and `images` as safetensors.
    #[arg(long, value_name = "FILE")]
    save_tensors: Option<PathBuf>,
    /// Folder of the pictures. Those that are there stay: numbers go on behind the greatest.
    #[arg(long, short, default_value = "samples", value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    threads: Threads,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut pipeline = Pipeline::open(&args.pipeline, args.threads.count())?;
    let sampler = scheduler(args.scheduler.as_deref(), &pipeline)?;
    let mut painter = Painter::open(&pipeline, sampler, args.num_inference_steps, args.guidance_scale)?;
    if !args.adapter.is_empty() {
        let adapter = combined(&args.adapter)?;
        painter = painter.with(|network| network.with_adapter(adapter));
    }
    if let Some(share) = args.zero_smallest {
        painter = painter.with(|network| network.with_zeroed(share));
    }
    let starts = starts(args, &pipeline)?;
    let first = next_number(&args.output)?;
    let avoided = pipeline.avoided(args.negative_prompt.as_deref())?;
    let mut texts: Vec<Conditions> = Vec::new();
    for prompt in &args.prompt {
        texts.push(pipeline.conditions(Some(prompt))?);
    }
    pipeline.release();
    let bar = ProgressBar::new((starts.len() * painter.evaluations()) as u64).with_style(style());
    let mut found = Vec::new();
    for (start, text) in starts.into_iter().zip(texts.iter().flat_map(|t| (0..args.num_images).map(move |_| t))) {
        found.push(painter.latents(&pipeline, start, [text, &avoided], || bar.inc(1))?);
    }
    bar.finish_and_clear();
    drop(painter);
    let mut pictures = Vec::new();
    for (i, latents) in found.iter().enumerate() {
        let picture = decoded(&mut pipeline, latents.clone(), &format!("picture {i}"))?;
        let path = args.output.join(format!("{:03}.png", first + i as u64));
        write_png(&path, &picture)?;
        say!("{}", path.display());
        pictures.push(picture);
    }
    if let Some(path) = &args.save_tensors {
        let tensors = [("latents", joined(&found)?), ("images", joined(&pictures)?)];
        let tensors = tensors.into_iter().map(|(name, a)| (name.to_owned(), Tensor::F32(a.into_dyn()))).collect();
        write_safetensors(path, &tensors, None)?;
    }
    Ok(())
}

/// The number behind the greatest that a picture of a folder has; 0 where there is none.
fn next_number(folder: &Path) -> Result<u64, Failure> {
    let failed = |e: std::io::Error| Failure::Plain(format!("{}: {e}", folder.display()));
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        found => found.map_err(failed)?,
    };
    let mut next = 0;
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"))) {
            next = next.max(number.saturating_add(1));
        }
    }
    Ok(next)
}

/// The sampler that is asked for, or the pipeline's own.
pub(super) fn scheduler(asked: Option<&str>, pipeline: &Pipeline) -> Result<String, Failure> {
    let config = &pipeline.folder.scheduler;
    if let Some(name) = asked {
        return Ok(name.to_owned());
    }
    if let Some(name) = sampler::of_class(&config.class_name) {
        return Ok(name.to_owned());
    }
    let name = if config.is_flow() { "flow_euler" } else { "dpmpp_2m" };
    eprintln!("{} is not one of the samplers; {name} is used (--scheduler chooses another)", config.class_name);
    Ok(name.to_owned())
}

/// The sum of scaled adapters.
fn combined(list: &[(PathBuf, f32)]) -> Result<Adapter, Failure> {
    let parts: Result<Vec<_>, _> = list.iter().map(|(path, scale)| Ok((Adapter::read(path)?, *scale))).collect();
    Ok(Adapter::combine(&parts.map_err(|e: sara_runtime::Error| Failure::from(e))?)?)
}

/// What all pictures start from.
fn starts(args: &Args, pipeline: &Pipeline) -> Result<Vec<Start>, Failure> {
    let count = args.prompt.len() * args.num_images as usize;
    let seeds = args.prompt.iter().flat_map(|_| (0..args.num_images).map(|i| args.seed.wrapping_add(i)));
    if let Some(path) = &args.latents {
        let (tensors, _) = read_safetensors(path)?;
        let tensor =
            tensors.get("latents").filter(|t| t.shape().len() == 4 && t.shape()[0] == count).ok_or_else(|| {
                Failure::Usage(format!(
                    "{}: needs a tensor `latents` of shape [{count}, channels, height, width]",
                    path.display()
                ))
            })?;
        let shape = [1, tensor.shape()[1], tensor.shape()[2], tensor.shape()[3]];
        let size: usize = shape.iter().product();
        let all = tensor.to_f32();
        let one = |i: usize| Array4::from_shape_vec(shape, all[i * size..(i + 1) * size].to_vec());
        let start = |(i, seed)| one(i).map(|noise| Start { noise, seed }).map_err(|e| Failure::Plain(e.to_string()));
        return seeds.enumerate().map(start).collect();
    }
    let scale = pipeline.downscale()?;
    let own = pipeline.own_size()?;
    let side = |asked: Option<usize>, own: usize, flag: &str| match asked.unwrap_or(own) {
        pixels if pixels == 0 || pixels % scale > 0 => {
            Err(Failure::Usage(format!("{flag} must be a multiple of {scale}, not {pixels}")))
        }
        pixels => Ok(pixels / scale),
    };
    let (height, width) = (side(args.height, own[0], "--height")?, side(args.width, own[1], "--width")?);
    let channels = pipeline.latent_channels();
    Ok(seeds.map(|seed| Start::new(seed, channels, height, width)).collect())
}

fn joined(list: &[Array4<f32>]) -> Result<Array4<f32>, Failure> {
    let views: Vec<_> = list.iter().map(|a| a.view()).collect();
    ndarray::concatenate(Axis(0), &views).map_err(|e| Failure::Plain(e.to_string()))
}

/// The picture of latents; numbers that are no colours are an error.
pub(super) fn decoded(pipeline: &mut Pipeline, latents: Array4<f32>, what: &str) -> Result<Array4<f32>, Failure> {
    let picture = pipeline.decode_latents(latents)?;
    if picture.iter().all(|v| v.is_finite()) {
        return Ok(picture);
    }
    Err(Failure::Plain(format!(
        "{what} holds NaN or infinity; the model, an adapter or the guidance scale is at fault"
    )))
}

/// Writes the first picture of a batch, and returns what the file holds.
pub(super) fn write_png(path: &Path, pictures: &Array4<f32>) -> Result<Vec<u8>, Failure> {
    let bytes = photo::png(pictures.index_axis(Axis(0), 0))?;
    write_atomic(path, |out| out.write_all(&bytes))?;
    Ok(bytes)
}

pub(super) fn style() -> ProgressStyle {
    let template = "{bar:32} {pos}/{len}  {per_sec}  {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_behind_the_greatest() {
        let folder = tempfile::tempdir().unwrap();
        let next = || next_number(folder.path()).unwrap();
        assert_eq!((next_number(&folder.path().join("new")).unwrap(), next()), (0, 0));
        for (name, wanted) in [("000.png", 1), ("007.png", 8), ("cat.png", 8), ("012.txt", 8), ("1200.PNG", 1201)] {
            std::fs::write(folder.path().join(name), "").unwrap();
            assert_eq!(next(), wanted, "{name}");
        }
        assert!(next_number(&folder.path().join("000.png")).is_err());
    }
}
