//! Pictures to train on and their captions, in the forms in which people keep them.
//!
//! | form                | file         | is                                                                   |
//! |---------------------|--------------|----------------------------------------------------------------------|
//! | `metadata.jsonl`, `metadata.csv` | `metadata` | the captions of a folder in one file, as Hugging Face's imagefolder has it |
//! | `NAME.txt`          | `folder`   | a caption beside each picture                                        |
//! | `N_name/`           | `folder`   | kohya's folders: N repeats, and the name stands in for a caption     |
//! | `[[datasets]]`      | `kohya`    | kohya's TOML of several folders                                      |
//!
//! Nothing is dropped in silence: whatever is wrong with any picture is gathered and told at once.

mod folder;
mod kohya;
mod metadata;

use std::path::{Path, PathBuf};

use crate::Error;

pub use kohya::read as read_toml;

/// Extensions of pictures.
pub const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// One picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its file.
    pub path: PathBuf,
    /// Its caption.
    pub caption: String,
    /// How often it is seen in an epoch.
    pub repeats: usize,
    /// Whether it shows what the model knew before, and is there to keep it (Ruiz et al. 2023, section 4.2).
    pub prior: bool,
    /// Whether its mirror image is seen too.
    pub flip: bool,
}

/// A folder of pictures and how their captions are found.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// Field of `metadata.jsonl` or column of `metadata.csv` with the captions.
    pub caption_column: String,
    /// Extension of the files beside pictures that hold their captions.
    pub caption_extension: String,
    /// The caption of pictures that have none.
    pub prompt: Option<String>,
    /// Put before each caption.
    pub prefix: String,
    /// Put after each caption.
    pub suffix: String,
    /// How often each picture is seen in an epoch.
    pub repeats: usize,
    /// Whether the pictures are there to keep what the model knew.
    pub prior: bool,
    /// Whether mirror images are seen too.
    pub flip: bool,
}

impl Folder {
    /// A folder with captions in `.txt` files or in a field `text`.
    pub fn new(path: impl Into<PathBuf>) -> Folder {
        Folder {
            path: path.into(),
            caption_column: "text".into(),
            caption_extension: ".txt".into(),
            prompt: None,
            prefix: String::new(),
            suffix: String::new(),
            repeats: 1,
            prior: false,
            flip: false,
        }
    }

    /// Finds the pictures, in the order of their paths, and their captions.
    pub fn scan(&self, problems: &mut Problems) -> Result<Vec<Item>, Error> {
        folder::scan(self, problems)
    }
}

/// What is wrong with a set of pictures.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    found: Vec<(Kind, String)>,
}

/// Kinds of problems, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A picture cannot be read.
    Broken,
    /// A picture is smaller than what it would be cut to.
    Small,
    /// A picture has no caption.
    NoCaption,
    /// A caption is for a picture that is not there.
    NoPicture,
    /// A caption file is not what it should be.
    Caption,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Broken, Kind::Small, Kind::NoCaption, Kind::NoPicture, Kind::Caption];

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Kind::Broken => ("cannot be read", "replace them or take them out"),
            Kind::Small => ("are too small", "take them out, lower --resolution, or allow enlarging"),
            Kind::NoCaption => ("have no caption", "write a caption file beside each, or pass --instance-prompt"),
            Kind::NoPicture => ("are named by captions and are not there", "put them there or take the captions out"),
            Kind::Caption => {
                ("have captions that cannot be read", "write them as UTF-8 text, one caption for each picture")
            }
        }
    }
}

impl Problems {
    /// Notes one.
    pub fn add(&mut self, kind: Kind, what: impl Into<String>) {
        self.found.push((kind, what.into()));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// An error that tells all of them, if there are any, for a set of `count` pictures.
    pub fn check(&self, count: usize) -> Result<(), Error> {
        let mut text = String::new();
        for kind in Kind::ALL {
            let mut all: Vec<&str> = self.found.iter().filter(|p| p.0 == kind).map(|p| p.1.as_str()).collect();
            all.sort_unstable();
            all.dedup();
            if !all.is_empty() {
                let (what, help) = kind.words();
                let gap = if text.is_empty() { "" } else { "\n" };
                text += &format!("{gap}{} of {count} pictures {what}: {help}", all.len());
                all.iter().for_each(|one| text += &format!("\n    {one}"));
            }
        }
        if text.is_empty() { Ok(()) } else { Err(Error::Invalid(text)) }
    }
}

/// Whether a file is a picture by its name.
pub fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

#[cfg(test)]
mod tests;
