//! What the frozen parts of a pipeline make of pictures and captions, on disk: latents and text embeddings.
//!
//! A cache is a folder. `latents/` and `texts/` hold safetensors files called by the hash of what they were made from, so that an
//! edited picture or caption is seen and nothing is made twice; `cache.json` says which of them are seen in training.

use super::conditions::Conditions;
use super::denoiser::Geometry;
use super::shapes::Size;
use super::space;
use super::vae::Moments;
use super::{Error, Pipeline};
use ndarray::{Array4, ArrayD, Axis, IxDyn};
use sara_compiler::import::{Model, external_files};
use sara_models::bucket::{Buckets, Fit};
use sara_models::dataset::{Item, Kind, Problems};
use sara_models::photo::Photo;
use sara_runtime::files::{sha256, sha256_file, write_atomic};
use sara_runtime::tensor::{Tensor, Tensors, read_safetensors, write_safetensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const INDEX: &str = "cache.json";
const VERSION: u32 = 2;

/// The index of a cache.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    version: u32,
    pipeline: PathBuf,
    /// Hash of the files of the text encoders and the VAE.
    frozen: String,
    /// The text of a caption that is left out.
    no_text: String,
    entries: Vec<Entry>,
}

/// A picture as training sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The picture's file.
    pub picture: PathBuf,
    /// Its caption.
    pub caption: String,
    /// Where it was cut from.
    pub geometry: Geometry,
    /// How often it is seen in an epoch.
    pub repeats: usize,
    /// Whether it is there to keep what the model knew.
    pub prior: bool,
    latents: String,
    text: String,
}

/// What is to be cached, and how pictures are brought to size.
pub struct Request<'a> {
    /// The pictures.
    pub items: &'a [Item],
    /// Their sizes.
    pub buckets: &'a Buckets,
}

/// What [`build`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Built {
    /// Pictures in the cache, mirror images counted.
    pub pictures: usize,
    /// Of these, encoded now.
    pub encoded: usize,
    /// Different captions, none at all included.
    pub captions: usize,
    /// Of these, embedded now.
    pub embedded: usize,
    /// Files of an earlier time that nothing refers to any more, and that were deleted.
    pub deleted: usize,
    /// Pictures that were enlarged.
    pub enlarged: usize,
}

/// A cache that is read.
pub struct Cache {
    folder: PathBuf,
    index: Index,
}

impl Cache {
    /// Opens a cache.
    pub fn open(folder: &Path) -> Result<Cache, Error> {
        let path = folder.join(INDEX);
        let misfit = |what: String| Error::Misfit(format!("{}: {what}; make one with `sara cache`", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|e| misfit(format!("is no cache ({e})")))?;
        let index: Index = serde_json::from_str(&text).map_err(|e| misfit(e.to_string()))?;
        if index.version != VERSION {
            return Err(misfit(format!("has version {}, and this sara reads {VERSION}", index.version)));
        }
        if index.entries.is_empty() {
            return Err(misfit("holds no pictures".into()));
        }
        Ok(Cache { folder: folder.to_owned(), index })
    }

    /// The pipeline that it was made with.
    pub fn pipeline(&self) -> &Path {
        &self.index.pipeline
    }

    /// Hash of everything that training may see of it.
    pub fn sha256(&self) -> String {
        sha256(&serde_json::to_vec(&self.index).unwrap_or_default())
    }

    /// The pictures.
    pub fn entries(&self) -> &[Entry] {
        &self.index.entries
    }

    /// The sizes of the pictures, the commonest first.
    pub fn sizes(&self) -> Vec<Size> {
        let mut sizes: Vec<(usize, Size)> = Vec::new();
        for entry in &self.index.entries {
            match sizes.iter_mut().find(|s| s.1 == entry.geometry.target) {
                Some(size) => size.0 += 1,
                None => sizes.push((1, entry.geometry.target)),
            }
        }
        sizes.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        sizes.into_iter().map(|s| s.1).collect()
    }

    /// The latents' distribution of a picture.
    pub fn moments(&self, entry: &Entry) -> Result<Moments, Error> {
        let path = file(&self.folder, "latents", &entry.latents);
        let (tensors, _) = read_safetensors(&path)?;
        let part = |name: &str| -> Result<Array4<f32>, Error> {
            let array = tensors.get(name).and_then(floats).and_then(|a| a.into_dimensionality().ok());
            array.ok_or_else(|| Error::Misfit(format!("{}: has no {name} of four dimensions", path.display())))
        };
        let (mean, deviation) = (part("mean")?, part("deviation")?);
        if mean.dim() != deviation.dim() || mean.dim().0 != 1 {
            return Err(Error::Misfit(format!("{}: does not hold the latents of one picture", path.display())));
        }
        Ok(Moments { mean, deviation })
    }

    /// What the denoiser is told of a picture's caption, or of none.
    pub fn conditions(&self, entry: Option<&Entry>) -> Result<Conditions, Error> {
        let path = file(&self.folder, "texts", entry.map_or(&self.index.no_text, |entry| &entry.text));
        let (tensors, _) = read_safetensors(&path)?;
        Ok(tensors.into_iter().filter_map(|(name, tensor)| Some((name, floats(&tensor)?))).collect())
    }
}

fn floats(tensor: &Tensor) -> Option<ArrayD<f32>> {
    ArrayD::from_shape_vec(IxDyn(tensor.shape()), tensor.to_f32()).ok()
}

fn file(folder: &Path, kind: &str, key: &str) -> PathBuf {
    folder.join(kind).join(format!("{key}.safetensors"))
}

/// A picture that is ready to be encoded.
struct Ready<'a> {
    item: &'a Item,
    fit: Fit,
    original: Size,
    sha256: String,
}

impl Ready<'_> {
    /// What its latents, or those of its mirror image, are called by.
    fn key(&self, frozen: &str, flip: bool) -> String {
        let Fit { resized, crop, size, .. } = self.fit;
        let made = format!("latents {VERSION} {frozen} {} {resized:?} {crop:?} {size:?} {flip}", self.sha256);
        sha256(made.as_bytes())
    }

    /// Whether it is seen as it is, and as its mirror image.
    fn flips(&self) -> impl Iterator<Item = bool> + use<> {
        [false, true].into_iter().take(1 + usize::from(self.item.flip))
    }
}

/// What a text is called by; nothing stands for no text.
fn text_key(frozen: &str, caption: Option<&str>) -> String {
    let what = caption.map_or_else(|| "no text".to_owned(), |caption| format!("text {caption}"));
    sha256(format!("{VERSION} {frozen} {what}").as_bytes())
}

/// Makes a cache, or brings one up to date. It is an error when the disk has no room for it. `progress` is told how much is done of how much.
pub fn build(
    pipeline: &mut Pipeline,
    request: &Request<'_>,
    folder: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<Built, Error> {
    let ready = check(request)?;
    let frozen = frozen(pipeline)?;
    let mut built = Built::default();
    let mut entries = Vec::new();
    let work = ready.iter().map(|r| r.flips().count()).sum();
    let text = |pipeline: &mut Pipeline, caption: Option<&str>, built: &mut Built| -> Result<String, Error> {
        let key = text_key(&frozen, caption);
        let path = file(folder, "texts", &key);
        if !path.is_file() {
            // A caption that is left out in training is the empty text also where sampling takes zeros.
            let found = match caption {
                Some(caption) => pipeline.conditions(Some(caption))?,
                None => pipeline.avoided(Some(""))?,
            };
            let tensors: Tensors = found.into_iter().map(|(name, a)| (name, Tensor::F32(a))).collect();
            write_safetensors(&path, &tensors, None)?;
            built.embedded += 1;
        }
        Ok(key)
    };
    let no_text = text(pipeline, None, &mut built)?;
    space::check(folder, missing(pipeline, &ready, &frozen, folder)?)?;
    for own in &ready {
        let Ready { item, fit, original, .. } = own;
        let text = text(pipeline, Some(&item.caption), &mut built)?;
        built.enlarged += usize::from(fit.enlarged);
        for flip in own.flips() {
            let key = own.key(&frozen, flip);
            let path = file(folder, "latents", &key);
            if !path.is_file() {
                let moments = encode(pipeline, own, flip)?;
                let tensors = [("mean", moments.mean), ("deviation", moments.deviation)];
                let tensors =
                    tensors.into_iter().map(|(name, a)| (name.to_owned(), Tensor::F32(a.into_dyn()))).collect();
                write_safetensors(&path, &tensors, None)?;
                built.encoded += 1;
            }
            entries.push(Entry {
                picture: item.path.clone(),
                caption: item.caption.clone(),
                // The corner is told in pixels of the picture after it was resized, as SDXL was trained.
                geometry: Geometry { original: *original, crop: fit.crop, target: fit.size },
                repeats: item.repeats,
                prior: item.prior,
                latents: key,
                text: text.clone(),
            });
            progress(entries.len(), work);
        }
    }
    built.pictures = entries.len();
    let root = std::path::absolute(&pipeline.folder.root).unwrap_or_else(|_| pipeline.folder.root.clone());
    let index = Index { version: VERSION, pipeline: root, frozen, no_text, entries };
    let json = serde_json::to_string_pretty(&index).map_err(|e| Error::Misfit(e.to_string()))?;
    write_atomic(&folder.join(INDEX), |out| out.write_all(json.as_bytes()))?;
    let texts: BTreeSet<&str> = index.entries.iter().map(|e| e.text.as_str()).chain([index.no_text.as_str()]).collect();
    built.captions = texts.len();
    let latents = index.entries.iter().map(|e| e.latents.as_str()).collect();
    built.deleted = sweep(&folder.join("latents"), &latents)? + sweep(&folder.join("texts"), &texts)?;
    Ok(built)
}

/// Bytes that the files take which are not there yet. The embedding of no text is there; others are as large.
fn missing(pipeline: &Pipeline, ready: &[Ready<'_>], frozen: &str, folder: &Path) -> Result<u64, Error> {
    /// What a safetensors file holds besides the numbers.
    const HEADER: u64 = 512;
    let scale = pipeline.downscale()?;
    let text = std::fs::metadata(file(folder, "texts", &text_key(frozen, None))).map_or(0, |m| m.len());
    let mut found = BTreeMap::new();
    for own in ready {
        let [height, width] = own.fit.size.map(|side| (side / scale) as u64);
        // Mean and deviation, in single precision.
        let latents = 8 * pipeline.latent_channels() as u64 * height * width + HEADER;
        found.extend(own.flips().map(|flip| (file(folder, "latents", &own.key(frozen, flip)), latents)));
        found.insert(file(folder, "texts", &text_key(frozen, Some(&own.item.caption))), text + HEADER);
    }
    Ok(found.into_iter().filter(|(path, _)| !path.is_file()).map(|(_, bytes)| space::on_disk(bytes)).sum())
}

/// Reads all pictures once, so that everything that is wrong with any is told before the work begins.
fn check<'a>(request: &Request<'a>) -> Result<Vec<Ready<'a>>, Error> {
    let mut problems = Problems::default();
    let mut ready = Vec::new();
    for item in request.items {
        match photo(&item.path) {
            Err(error) => problems.add(Kind::Broken, error.to_string()),
            Ok((photo, sha256)) => match request.buckets.fit(photo.size()) {
                Some(fit) => ready.push(Ready { item, fit, original: photo.size(), sha256 }),
                None => {
                    let [height, width] = photo.size();
                    problems.add(Kind::Small, format!("{}: {width}x{height}", item.path.display()));
                }
            },
        }
    }
    problems.check(request.items.len())?;
    Ok(ready)
}

fn photo(path: &Path) -> Result<(Photo, String), Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::Misfit(format!("{}: {e}", path.display())))?;
    Ok((Photo::decode(path, &bytes)?, sha256(&bytes)))
}

fn encode(pipeline: &mut Pipeline, own: &Ready<'_>, flip: bool) -> Result<Moments, Error> {
    let (photo, now) = photo(&own.item.path)?;
    if now != own.sha256 {
        return Err(Error::Misfit(format!("{}: changed while it was cached; run again", own.item.path.display())));
    }
    let part = photo.resized(own.fit.resized).cut(own.fit.crop, own.fit.size, flip)?;
    let moments = pipeline.encode_pictures(part.insert_axis(Axis(0)))?;
    if !moments.mean.iter().chain(&moments.deviation).all(|v| v.is_finite()) {
        return Err(Error::Misfit(format!(
            "{}: its latents hold NaN or infinity; the VAE is at fault, as those in half precision often are",
            own.item.path.display()
        )));
    }
    Ok(moments)
}

/// Hash of the models that make a cache, external data included.
fn frozen(pipeline: &Pipeline) -> Result<String, Error> {
    let encoders = pipeline.folder.encoders.iter().flatten().map(|e| &e.part.model);
    let vae = pipeline.folder.vae_encoder.iter().map(|part| &part.model);
    let mut all = String::new();
    for path in encoders.chain(vae) {
        let model = Model::open(path)?;
        let external = external_files(&model)?.into_iter().map(|file| model.source.path(&file));
        for file in external.chain([path.clone()]) {
            all += &sha256_file(&file)?.1;
        }
    }
    Ok(sha256(all.as_bytes()))
}

/// Deletes the files of a folder whose keys are not among `used`, and returns how many.
fn sweep(folder: &Path, used: &BTreeSet<&str>) -> Result<usize, Error> {
    let failed = |e: std::io::Error| Error::Misfit(format!("{}: {e}", folder.display()));
    let mut deleted = 0;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let key = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if path.extension().is_some_and(|e| e == "safetensors") && !used.contains(key.as_str()) {
            std::fs::remove_file(&path).map_err(failed)?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;
    use sara_models::photo::png;

    #[test]
    fn what_is_missing_is_what_is_then_written() {
        let place = tempfile::tempdir().unwrap();
        let items: Vec<Item> = (0..3usize)
            .map(|i| {
                let path = place.path().join(format!("{i}.png"));
                let picture =
                    Array3::from_shape_fn((3, 40, 48), |at| (at.0 + at.1 * at.2) as f32 % 7.0 / 7.0 - i as f32 / 9.0);
                std::fs::write(&path, png(picture.view()).unwrap()).unwrap();
                Item { path, caption: "a cat".repeat(i.min(1)), repeats: 1, flip: i == 2, prior: false }
            })
            .collect();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/pipeline");
        let mut pipeline = Pipeline::open(&tiny, 2).unwrap();
        let buckets = Buckets::fixed(vec![[32, 32]]).unwrap();
        let request = Request { items: &items, buckets: &buckets };
        let folder = place.path().join("cache");
        let written = |kind: &str| -> Vec<u64> {
            std::fs::read_dir(folder.join(kind)).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).collect()
        };
        let (ready, frozen) = (check(&request).unwrap(), frozen(&pipeline).unwrap());
        // The text that tells how large texts are is not among them.
        let latents = missing(&pipeline, &ready, &frozen, &folder).unwrap();
        build(&mut pipeline, &request, &folder, |_, _| ()).unwrap();
        let found: u64 = written("latents").into_iter().map(space::on_disk).sum();
        let texts = written("texts");
        assert_eq!((written("latents").len(), texts.len()), (4, 3));
        assert!(latents >= found && latents < found + 4 * 4096, "{latents} {found}");
        assert_eq!(missing(&pipeline, &ready, &frozen, &folder).unwrap(), 0);
        for kind in ["latents", "texts"] {
            std::fs::remove_dir_all(folder.join(kind)).unwrap();
        }
        std::fs::create_dir(folder.join("texts")).unwrap();
        std::fs::write(file(&folder, "texts", &text_key(&frozen, None)), vec![0; texts[0] as usize]).unwrap();
        let all = found + 2 * space::on_disk(texts[0]);
        let found = missing(&pipeline, &ready, &frozen, &folder).unwrap();
        assert!(found >= all && found <= all + 6 * 4096, "{found} {all}");
    }
}
