//! `sara cache`: latents and text embeddings of a dataset.

use super::options::{Size, Threads, parse_size};
use super::sample::{self, decoded, scheduler, write_png};
use super::{Failure, report};
use crate::pipeline::Pipeline;
use crate::pipeline::cache::{Cache, Request, build};
use crate::pipeline::sample::{Painter, Start};
use crate::pipeline::shapes::name;
use indicatif::ProgressBar;
use sara_models::bucket::Buckets;
use sara_models::dataset::{Folder, Item, Problems, is_picture, read_toml};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the pipeline.
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    /// Folder of pictures: captions in NAME.txt beside each, in metadata.jsonl or metadata.csv, or in the names of folders `N_name`.
    #[arg(long, value_name = "DIR", required_unless_present = "dataset_config")]
    train_data_dir: Option<PathBuf>,
    /// kohya's TOML of several folders, in place of --train-data-dir.
    #[arg(long, value_name = "FILE", conflicts_with = "train_data_dir")]
    dataset_config: Option<PathBuf>,
    /// Where the cache goes; one that is there is brought up to date.
    #[arg(long, short, value_name = "CACHE")]
    output: PathBuf,
    #[command(flatten)]
    sizes: Sizes,
    /// Also train on mirror images.
    #[arg(long)]
    random_flip: bool,
    /// Field of metadata.jsonl or column of metadata.csv with the captions.
    #[arg(long, default_value = "text", value_name = "NAME")]
    caption_column: String,
    /// Extension of the caption files beside pictures.
    #[arg(long, default_value = ".txt", value_name = "EXT")]
    caption_extension: String,
    /// Caption of pictures that have none.
    #[arg(long, value_name = "TEXT")]
    instance_prompt: Option<String>,
    /// Pictures of what the model knew and shall keep (prior preservation).
    #[arg(long, value_name = "DIR")]
    class_data_dir: Option<PathBuf>,
    /// Caption of those that have none.
    #[arg(long, value_name = "TEXT", requires = "class_data_dir")]
    class_prompt: Option<String>,
    /// Draw pictures of --class-prompt with the pipeline until --class-data-dir holds this many.
    #[arg(long, value_name = "N", requires = "class_prompt")]
    num_class_images: Option<usize>,
    #[command(flatten)]
    threads: Threads,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

/// Sizes of pictures.
#[derive(clap::Args)]
struct Sizes {
    /// Size in pixels, 512 or WIDTHxHEIGHT; several separated by commas are buckets. Default: what the model was made for.
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = parse_size)]
    resolution: Vec<Size>,
    /// Bring each picture to the nearest of many aspect ratios, of about as many pixels.
    #[arg(long)]
    enable_bucket: bool,
    /// Least side of a bucket.
    #[arg(long, default_value_t = 256, value_name = "PIXELS")]
    min_bucket_reso: usize,
    /// Greatest side of a bucket.
    #[arg(long, default_value_t = 1024, value_name = "PIXELS")]
    max_bucket_reso: usize,
    /// What sides of buckets are multiples of.
    #[arg(long, default_value_t = 64, value_name = "PIXELS")]
    bucket_reso_steps: usize,
    /// Refuse pictures that are smaller than their bucket.
    #[arg(long)]
    bucket_no_upscale: bool,
}

impl Sizes {
    fn buckets(&self, own: Size) -> Result<Buckets, Failure> {
        let sizes = if self.resolution.is_empty() { vec![own] } else { self.resolution.clone() };
        Ok(match (self.enable_bucket, &sizes[..]) {
            (true, [size]) => Buckets::around(
                *size,
                self.min_bucket_reso,
                self.max_bucket_reso,
                self.bucket_reso_steps,
                self.bucket_no_upscale,
            )?,
            (true, _) => return Err(Failure::Usage("--enable-bucket goes with one --resolution".into())),
            (false, _) => Buckets::fixed(sizes)?,
        })
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut pipeline = Pipeline::open(&args.pipeline, args.threads.count())?;
    draw_class_images(args, &mut pipeline)?;
    let (folders, configured) = match &args.dataset_config {
        Some(path) => {
            let found = read_toml(path)?;
            (found.folders, found.buckets)
        }
        None => (folders(args), None),
    };
    let buckets = match configured {
        Some(buckets) => buckets,
        None => args.sizes.buckets(pipeline.own_size()?)?,
    };
    let items = items(&folders)?;
    let bar = ProgressBar::new(0).with_style(sample::style());
    let request = Request { items: &items, buckets: &buckets };
    let built = build(&mut pipeline, &request, &args.output, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if args.json {
        return report::json(&built);
    }
    let cache = Cache::open(&args.output)?;
    say!("pictures  {} ({} encoded now)", built.pictures, built.encoded);
    say!("captions  {} ({} embedded now)", built.captions, built.embedded);
    for size in cache.sizes() {
        let count = cache.entries().iter().filter(|e| e.geometry.target == size).count();
        say!("  {}  {count}", name(size));
    }
    if built.enlarged > 0 {
        eprintln!("warning: {} pictures are smaller than their bucket and were enlarged", built.enlarged);
    }
    if built.deleted > 0 {
        say!("deleted {} files that nothing refers to any more", built.deleted);
    }
    say!("wrote {}", args.output.display());
    Ok(())
}

/// The folders that the flags name.
fn folders(args: &Args) -> Vec<Folder> {
    let folder = |path: &PathBuf, prompt: &Option<String>, prior: bool| Folder {
        caption_column: args.caption_column.clone(),
        caption_extension: args.caption_extension.clone(),
        prompt: prompt.clone(),
        flip: args.random_flip,
        prior,
        ..Folder::new(path)
    };
    let own = args.train_data_dir.iter().map(|path| folder(path, &args.instance_prompt, false));
    own.chain(args.class_data_dir.iter().map(|path| folder(path, &args.class_prompt, true))).collect()
}

/// Steps of sampling and seed of the first of the class pictures.
const CLASS_STEPS: usize = 30;
const CLASS_SEED: u64 = 42;

/// Draws what --class-data-dir lacks. Picture `i` is a function of `i`; those that are there stay.
fn draw_class_images(args: &Args, pipeline: &mut Pipeline) -> Result<(), Failure> {
    let (Some(folder), Some(prompt), Some(count)) = (&args.class_data_dir, &args.class_prompt, args.num_class_images)
    else {
        return Ok(());
    };
    let failed = |e: std::io::Error| Failure::Plain(format!("{}: {e}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let there =
        std::fs::read_dir(folder).map_err(failed)?.filter(|f| f.as_ref().is_ok_and(|f| is_picture(&f.path()))).count();
    if there >= count {
        return Ok(());
    }
    let [height, width] = match &args.sizes.resolution[..] {
        [] => pipeline.own_size()?,
        [size, ..] => *size,
    };
    let scale = pipeline.downscale()?;
    let sampler = scheduler(None, pipeline)?;
    let mut painter = Painter::open(pipeline, sampler, CLASS_STEPS, None)?;
    let (text, avoided) = (pipeline.conditions(Some(prompt))?, pipeline.conditions(None)?);
    pipeline.release();
    let bar = ProgressBar::new(((count - there) * painter.evaluations()) as u64).with_style(sample::style());
    let names = (0..).map(|i: u64| (i, folder.join(format!("class-{i:05}.png")))).filter(|(_, path)| !path.exists());
    for (i, path) in names.take(count - there) {
        let start = Start::new(CLASS_SEED.wrapping_add(i), pipeline.latent_channels(), height / scale, width / scale);
        let latents = painter.latents(pipeline, start, [&text, &avoided], || bar.inc(1))?;
        write_png(&path, &decoded(pipeline, latents, &format!("class picture {i}"))?)?;
    }
    bar.finish_and_clear();
    pipeline.release();
    eprintln!("drew {} pictures of \"{prompt}\" into {}", count - there, folder.display());
    Ok(())
}

/// The pictures of all folders; everything that is wrong with any is told at once.
fn items(folders: &[Folder]) -> Result<Vec<Item>, Failure> {
    let (mut problems, mut items) = (Problems::default(), Vec::new());
    for folder in folders {
        items.extend(folder.scan(&mut problems)?);
    }
    problems.check(items.len())?;
    Ok(items)
}
