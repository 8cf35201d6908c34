//! kohya's dataset configuration: `[[datasets]]` with `[[datasets.subsets]]`, each a folder.

use std::path::Path;

use serde::Deserialize;

use super::Folder;
use crate::Error;
use crate::bucket::Buckets;

/// What a configuration says.
#[derive(Clone, Debug)]
pub struct Configured {
    /// The folders, in order.
    pub folders: Vec<Folder>,
    /// Sizes of pictures, if it says any.
    pub buckets: Option<Buckets>,
    /// Pictures of a batch, if it says so.
    pub batch_size: Option<usize>,
    /// Share of captions that are left out, if it says so.
    pub caption_dropout_rate: Option<f64>,
}

/// A number, or width and height.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Resolution {
    Square(usize),
    Sides([usize; 2]),
}

/// The keys of any level; those of a subset win over those of its dataset, and those over `[general]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    image_dir: Option<String>,
    caption_extension: Option<String>,
    class_tokens: Option<String>,
    caption_prefix: Option<String>,
    caption_suffix: Option<String>,
    caption_dropout_rate: Option<f64>,
    num_repeats: Option<usize>,
    is_reg: Option<bool>,
    flip_aug: Option<bool>,
    resolution: Option<Resolution>,
    batch_size: Option<usize>,
    enable_bucket: Option<bool>,
    min_bucket_reso: Option<usize>,
    max_bucket_reso: Option<usize>,
    bucket_reso_steps: Option<usize>,
    bucket_no_upscale: Option<bool>,
    /// What kohya does unless it is told otherwise; other values are refused.
    shuffle_caption: Option<bool>,
    color_aug: Option<bool>,
    random_crop: Option<bool>,
    keep_tokens: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    general: Keys,
    datasets: Vec<Dataset>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Dataset {
    subsets: Vec<Keys>,
    #[serde(flatten)]
    keys: std::collections::BTreeMap<String, toml::Value>,
}

/// Reads a configuration. Folders are relative to where the program runs, as in kohya's scripts.
pub fn read(path: &Path) -> Result<Configured, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
    let file: File = toml::from_str(&text).map_err(|e| Error::file(path, e))?;
    let mut found = Configured { folders: Vec::new(), buckets: None, batch_size: None, caption_dropout_rate: None };
    for dataset in file.datasets {
        let table: toml::Table = dataset.keys.into_iter().collect();
        let own: Keys = table.try_into().map_err(|e| Error::file(path, format!("[[datasets]]: {e}")))?;
        let level = own.over(&file.general);
        if let Some(buckets) = level.buckets(path)? {
            match &found.buckets {
                Some(before) if *before != buckets => {
                    return Err(Error::file(
                        path,
                        "its datasets have different resolutions; cache each with a file of its own",
                    ));
                }
                _ => found.buckets = Some(buckets),
            }
        }
        found.batch_size = found.batch_size.or(level.batch_size);
        for subset in dataset.subsets {
            let keys = subset.over(&level);
            found.caption_dropout_rate = found.caption_dropout_rate.or(keys.caption_dropout_rate);
            found.folders.push(keys.folder(path)?);
        }
    }
    if found.folders.is_empty() {
        return Err(Error::file(path, "holds no [[datasets.subsets]] with an image_dir"));
    }
    Ok(found)
}

impl Keys {
    /// These keys, and those of `other` where they are not given.
    fn over(self, other: &Keys) -> Keys {
        Keys {
            image_dir: self.image_dir.or_else(|| other.image_dir.clone()),
            caption_extension: self.caption_extension.or_else(|| other.caption_extension.clone()),
            class_tokens: self.class_tokens.or_else(|| other.class_tokens.clone()),
            caption_prefix: self.caption_prefix.or_else(|| other.caption_prefix.clone()),
            caption_suffix: self.caption_suffix.or_else(|| other.caption_suffix.clone()),
            caption_dropout_rate: self.caption_dropout_rate.or(other.caption_dropout_rate),
            num_repeats: self.num_repeats.or(other.num_repeats),
            is_reg: self.is_reg.or(other.is_reg),
            flip_aug: self.flip_aug.or(other.flip_aug),
            resolution: self.resolution.or(other.resolution),
            batch_size: self.batch_size.or(other.batch_size),
            enable_bucket: self.enable_bucket.or(other.enable_bucket),
            min_bucket_reso: self.min_bucket_reso.or(other.min_bucket_reso),
            max_bucket_reso: self.max_bucket_reso.or(other.max_bucket_reso),
            bucket_reso_steps: self.bucket_reso_steps.or(other.bucket_reso_steps),
            bucket_no_upscale: self.bucket_no_upscale.or(other.bucket_no_upscale),
            shuffle_caption: self.shuffle_caption.or(other.shuffle_caption),
            color_aug: self.color_aug.or(other.color_aug),
            random_crop: self.random_crop.or(other.random_crop),
            keep_tokens: self.keep_tokens.or(other.keep_tokens),
        }
    }

    fn folder(self, path: &Path) -> Result<Folder, Error> {
        let refused = [
            ("shuffle_caption", self.shuffle_caption),
            ("color_aug", self.color_aug),
            ("random_crop", self.random_crop),
        ];
        if let Some((key, _)) = refused.iter().find(|(_, on)| *on == Some(true)) {
            return Err(Error::file(
                path,
                format!("`{key}` changes what is cached in each epoch and is not supported; set it to false"),
            ));
        }
        let image_dir = self.image_dir.ok_or_else(|| Error::file(path, "a subset has no `image_dir`"))?;
        let new = Folder::new(image_dir);
        let spaced = |text: Option<String>| text.unwrap_or_default();
        Ok(Folder {
            caption_extension: self.caption_extension.unwrap_or(new.caption_extension),
            prompt: self.class_tokens,
            prefix: match spaced(self.caption_prefix) {
                prefix if prefix.is_empty() || prefix.ends_with(' ') => prefix,
                prefix => prefix + " ",
            },
            suffix: match spaced(self.caption_suffix) {
                suffix if suffix.is_empty() || suffix.starts_with(' ') => suffix,
                suffix => " ".to_owned() + &suffix,
            },
            repeats: self.num_repeats.unwrap_or(1),
            prior: self.is_reg.unwrap_or(false),
            flip: self.flip_aug.unwrap_or(false),
            ..new
        })
    }

    fn buckets(&self, path: &Path) -> Result<Option<Buckets>, Error> {
        let Some(resolution) = self.resolution else { return Ok(None) };
        let [width, height] = match resolution {
            Resolution::Square(side) => [side, side],
            Resolution::Sides(sides) => sides,
        };
        let found = if self.enable_bucket.unwrap_or(false) {
            Buckets::around(
                [height, width],
                self.min_bucket_reso.unwrap_or(256),
                self.max_bucket_reso.unwrap_or(1024),
                self.bucket_reso_steps.unwrap_or(64),
                self.bucket_no_upscale.unwrap_or(false),
            )
        } else {
            Buckets::fixed(vec![[height, width]])
        };
        found.map(Some).map_err(|e| Error::file(path, e))
    }
}
