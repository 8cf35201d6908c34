//! A pipeline's folder with another denoiser.

use super::Error;
use std::path::{Path, PathBuf};

/// The folder of the pipeline whose denoiser `model` is, if it is one's.
pub fn of_denoiser(model: &Path) -> Option<PathBuf> {
    let root = model.parent()?.parent()?;
    sara_models::pipeline::Pipeline::is_pipeline(root).then(|| root.to_owned())
}

/// Copies the pipeline `root` to `output` without `left_out`, which are files of the denoiser, and has `write` write the denoiser at the
/// path it is given. The folder appears when it is complete.
pub fn with_denoiser<E: From<Error>>(
    root: &Path,
    model: &Path,
    left_out: &[PathBuf],
    output: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |e: std::io::Error| Error::Misfit(format!("{}: {e}", path.display()))
    };
    if output.exists() {
        return Err(Error::Misfit(format!("{}: exists; choose another folder", output.display())).into());
    }
    let real = |path: &Path| path.canonicalize().map_err(failed(path));
    let (own, parent) = (real(root)?, output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")));
    std::fs::create_dir_all(parent).map_err(failed(parent))?;
    if real(parent)?.starts_with(&own) {
        return Err(
            Error::Misfit(format!("{}: lies in the pipeline itself; choose another folder", output.display())).into()
        );
    }
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = output.with_file_name(name);
    let left_out: Vec<PathBuf> = left_out.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let result = (|| {
        copy(&own, &partial, &left_out, 0)?;
        let inside = real(model)?.strip_prefix(&own).map(|inside| partial.join(inside));
        let inside =
            inside.map_err(|_| Error::Misfit(format!("{}: is a link out of its pipeline", model.display())))?;
        write(&inside)?;
        Ok(std::fs::rename(&partial, output).map_err(failed(output))?)
    })();
    if result.is_err() {
        // The error that led here is the one to report.
        let _ = std::fs::remove_dir_all(&partial);
    }
    result
}

/// Copies a folder but for some files.
fn copy(from: &Path, to: &Path, left_out: &[PathBuf], depth: usize) -> Result<(), Error> {
    /// Pipelines are two folders deep.
    const DEEPEST: usize = 16;
    let failed = |e: std::io::Error| Error::Misfit(format!("{}: {e}", from.display()));
    if depth > DEEPEST {
        return Err(Error::Misfit(format!("{}: is too deep for a pipeline", from.display())));
    }
    std::fs::create_dir_all(to).map_err(|e| Error::Misfit(format!("{}: {e}", to.display())))?;
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target, left_out, depth + 1)?;
        } else if !source.canonicalize().is_ok_and(|real| left_out.contains(&real)) {
            std::fs::copy(&source, &target).map_err(|e| Error::Misfit(format!("{}: {e}", target.display())))?;
        }
    }
    Ok(())
}
