//! `sara report`: plots of a run, and one page of all of it.

use super::Failure;
use super::train::{RunFile, Summary};
use sara_models::lines::Lines;
use sara_models::page::Page;
use sara_models::photo::{self, Photo};
use sara_runtime::files::write_atomic;
use sara_runtime::train::Metrics;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the run.
    run: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    for path in write(&args.run)? {
        say!("wrote {}", path.display());
    }
    Ok(())
}

/// A plot: file name, what the lines run over, what the values are, caption, and series.
type Plot<'a> = (&'a str, &'a str, &'a str, &'a str, Vec<(&'a str, Vec<(u64, f64)>)>);

/// Writes the plots and the page of a run, and returns their paths.
pub(super) fn write(run: &Path) -> Result<Vec<PathBuf>, Failure> {
    let file = RunFile::read(run)?;
    let metrics = metrics(run)?;
    let Some(last) = metrics.last() else {
        return Err(Failure::Plain(format!("{}: no step has been trained", run.display())));
    };
    let series = |of: &dyn Fn(&Metrics) -> Option<f64>| -> Vec<(u64, f64)> {
        metrics.iter().filter_map(|m| Some((m.step, of(m)?))).collect()
    };
    let quartile = |q: usize| series(&|m| m.validation_quartiles.as_ref()?.get(q).copied());
    let summary = Summary::read(run)?;
    let plots: [Plot<'_>; 5] = [
        (
            "loss.svg",
            "step",
            "loss",
            "Mean of the last twentieth of the steps, and of held-out pictures where there are any.",
            vec![("training", smoothed(&series(&|m| Some(m.loss)))), ("held out", series(&|m| m.validation_loss))],
        ),
        (
            "val_loss.svg",
            "step",
            "loss on held-out pictures",
            "By quarter of the timesteps, always with the same noise.",
            vec![
                ("least noise", quartile(0)),
                ("second quarter", quartile(1)),
                ("third quarter", quartile(2)),
                ("most noise", quartile(3)),
            ],
        ),
        ("lr.svg", "step", "learning rate", "", vec![("learning rate", series(&|m| Some(m.learning_rate)))]),
        (
            "grad_norm.svg",
            "step",
            "norm of the gradient",
            "Over the entries that train, before clipping.",
            vec![("norm", series(&|m| Some(m.grad_norm)))],
        ),
        (
            "weights.svg",
            "|w| in percent of the threshold",
            "entries",
            "Entries that train, by their size; the last class holds all that are larger.",
            summary.as_ref().map(Summary::series).unwrap_or_default(),
        ),
    ];
    let mut page = Page::new(&format!("Run {}", run.file_name().map_or_else(|| "".into(), |n| n.to_string_lossy())));
    let count = metrics.len() as f64;
    let mut rows = vec![
        ("steps".to_owned(), last.step.to_string()),
        ("loss of the last step".to_owned(), format!("{:.5}", last.loss)),
        ("entries that train".to_owned(), super::report::grouped(last.trainable)),
        ("seconds a step".to_owned(), format!("{:.3}", metrics.iter().map(|m| m.seconds).sum::<f64>() / count)),
    ];
    rows.extend(
        metrics
            .iter()
            .rev()
            .find_map(|m| m.validation_loss)
            .map(|v| ("loss on held-out pictures".to_owned(), format!("{v:.5}"))),
    );
    rows.extend(summary.iter().flat_map(Summary::rows));
    page.table(&rows);
    let (mut written, folder) = (Vec::new(), run.join("plots"));
    for (name, over, value, caption, series) in plots {
        if series.iter().all(|s| s.1.iter().all(|p| !p.1.is_finite())) {
            continue;
        }
        let svg = Lines { over, value, series: &series }.svg()?;
        let path = folder.join(name);
        write_atomic(&path, |out| out.write_all(svg.as_bytes()))?;
        page.drawing(&svg, caption);
        written.push(path);
    }
    let pictures = pictures(run)?;
    if let Some(both) = before_and_after(&pictures)? {
        let path = run.join("before-after.png");
        write_atomic(&path, |out| out.write_all(&both))?;
        page.heading("Before and after");
        page.picture(&both, "Above before training, below after it, from the same noise.");
        written.push(path);
    }
    if !pictures.is_empty() {
        page.heading("Pictures on the way, from the same noise");
        page.pictures(&pictures);
    }
    page.heading("Settings");
    page.terminal(&toml::to_string(&file).map_err(|e| Failure::Plain(e.to_string()))?);
    let path = run.join("report.html");
    let html = page.finish();
    write_atomic(&path, |out| out.write_all(html.as_bytes()))?;
    written.push(path);
    Ok(written)
}

/// The steps of a run.
fn metrics(run: &Path) -> Result<Vec<Metrics>, Failure> {
    let path = run.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|e| Failure::Plain(format!("{}: {e}", path.display())))?;
    // A run that was killed can end in half a line.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Means over the last twentieth of all points.
fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let window = (points.len() / 20).max(1);
    let mean = |i: usize| {
        let part = &points[(i + 1).saturating_sub(window)..=i];
        part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64
    };
    points.iter().enumerate().map(|(i, p)| (p.0, mean(i))).collect()
}

/// The pictures of the first step above those of the last, as a PNG. The step is the second part of a picture's name.
fn before_and_after(pictures: &[(Vec<u8>, String)]) -> Result<Option<Vec<u8>>, Failure> {
    let step = |name: &str| name.split('-').nth(1).map(str::to_owned);
    let (Some((_, first)), Some((_, last))) = (pictures.first(), pictures.last()) else { return Ok(None) };
    if step(first) == step(last) {
        return Ok(None);
    }
    let row = |of: &str| -> Result<Vec<_>, sara_models::Error> {
        let own = pictures.iter().filter(|(_, name)| step(name) == step(of));
        own.map(|(bytes, name)| {
            let photo = Photo::decode(Path::new(name), bytes)?;
            photo.cut([0, 0], photo.size(), false)
        })
        .collect()
    };
    Ok(Some(photo::png(photo::grid(&[row(first)?, row(last)?], 2)?.view())?))
}

/// The pictures of a run, in the order of their names.
fn pictures(run: &Path) -> Result<Vec<(Vec<u8>, String)>, Failure> {
    let entries = std::fs::read_dir(run.join("samples")).into_iter().flatten();
    let paths: BTreeSet<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    let read = |path: &PathBuf| {
        let bytes = std::fs::read(path).map_err(|e| Failure::Plain(format!("{}: {e}", path.display())))?;
        Ok((bytes, path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned())))
    };
    paths.iter().filter(|path| path.extension().is_some_and(|e| e == "png")).map(read).collect()
}
