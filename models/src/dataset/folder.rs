//! A folder of pictures.

use std::path::{Path, PathBuf};

use super::metadata::{self, Captions};
use super::{Folder, Item, Kind, Problems, is_picture};
use crate::Error;

/// How deep folders may lie in one another.
const DEEPEST: usize = 32;

pub(super) fn scan(folder: &Folder, problems: &mut Problems) -> Result<Vec<Item>, Error> {
    if !folder.path.is_dir() {
        return Err(Error::file(&folder.path, "is not a folder of pictures"));
    }
    if folder.repeats == 0 {
        return Err(Error::file(&folder.path, "is to be seen 0 times; repeat it at least once"));
    }
    let mut items = Vec::new();
    walk(folder, &folder.path, None, 0, problems, &mut items)?;
    items.sort_by(|a, b| a.path.cmp(&b.path));
    if items.is_empty() && problems.is_empty() {
        return Err(Error::file(&folder.path, "holds no pictures (png, jpg, jpeg, webp or bmp)"));
    }
    Ok(items)
}

/// What a folder `N_name` says of its pictures.
#[derive(Clone)]
struct Named {
    repeats: usize,
    name: String,
}

fn named(path: &Path) -> Option<Named> {
    let (count, name) = path.file_name()?.to_str()?.split_once('_')?;
    let repeats = count.parse().ok().filter(|n| *n > 0)?;
    Some(Named { repeats, name: name.to_owned() })
}

fn walk(
    folder: &Folder,
    at: &Path,
    own: Option<Named>,
    depth: usize,
    problems: &mut Problems,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(Error::file(at, "lies too deep; folders of pictures may not hold themselves"));
    }
    let entries = std::fs::read_dir(at).map_err(|e| Error::file(at, e))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|e| e.path()).map_err(|e| Error::file(at, e))).collect::<Result<_, _>>()?;
    paths.sort();
    let mut captions = metadata::read(at, &folder.caption_column, problems)?;
    for path in paths {
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            walk(folder, &path, named(&path).or_else(|| own.clone()), depth + 1, problems, items)?;
        } else if is_picture(&path)
            && let Some(caption) = caption(folder, &path, own.as_ref(), &mut captions, problems)
        {
            let caption = format!("{}{}{}", folder.prefix, caption, folder.suffix);
            let repeats = folder.repeats * own.as_ref().map_or(1, |own| own.repeats);
            items.push(Item { path, caption, repeats, prior: folder.prior, flip: folder.flip });
        }
    }
    // Metadata may name pictures of folders below.
    for (name, caption) in captions.unwrap_or_default() {
        let path = at.join(&name);
        match items.iter_mut().find(|item| item.path == path) {
            Some(item) => item.caption = format!("{}{}{}", folder.prefix, caption, folder.suffix),
            None if path.is_file() && is_picture(&path) => {
                let caption = format!("{}{}{}", folder.prefix, caption, folder.suffix);
                items.push(Item { path, caption, repeats: folder.repeats, prior: folder.prior, flip: folder.flip });
            }
            None => problems.add(Kind::NoPicture, path.display().to_string()),
        }
    }
    Ok(())
}

/// The caption of a picture: from the metadata of its folder, from the file beside it, or what stands in for one.
fn caption(
    folder: &Folder,
    path: &Path,
    own: Option<&Named>,
    captions: &mut Option<Captions>,
    problems: &mut Problems,
) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    if let Some(caption) = captions.as_mut().and_then(|captions| captions.remove(&name)) {
        return Some(caption);
    }
    let beside = path.with_extension(folder.caption_extension.trim_start_matches('.'));
    match std::fs::read_to_string(&beside) {
        Ok(text) if !text.trim().is_empty() => return Some(text.trim().to_owned()),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => {
            problems.add(Kind::Caption, format!("{}: {e}", beside.display()));
            return None;
        }
    }
    let fallback = folder.prompt.clone().or_else(|| own.map(|own| own.name.clone()));
    if fallback.is_none() {
        problems.add(Kind::NoCaption, path.display().to_string());
    }
    fallback
}
