//! `metadata.jsonl` and `metadata.csv`: a `file_name` and a caption for each picture of a folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Kind, Problems};
use crate::Error;

/// Captions by file name.
pub(super) type Captions = BTreeMap<String, String>;

/// The captions of a folder's metadata, if it has any.
pub(super) fn read(folder: &Path, column: &str, problems: &mut Problems) -> Result<Option<Captions>, Error> {
    let (lines, table) = (folder.join("metadata.jsonl"), folder.join("metadata.csv"));
    let rows = match (lines.is_file(), table.is_file()) {
        (true, true) => return Err(Error::file(folder, "holds both metadata.jsonl and metadata.csv; keep one")),
        (true, false) => from_lines(&lines, column)?,
        (false, true) => from_table(&table, column)?,
        (false, false) => return Ok(None),
    };
    let mut captions = Captions::new();
    for (name, caption) in rows {
        match caption.trim() {
            "" => problems.add(Kind::NoCaption, folder.join(&name).display().to_string()),
            caption if captions.insert(name.clone(), caption.to_owned()).is_some() => {
                problems.add(Kind::Caption, format!("{}: is named twice", folder.join(&name).display()));
            }
            _ => {}
        }
    }
    Ok(Some(captions))
}

fn from_lines(path: &Path, column: &str) -> Result<Vec<(String, String)>, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |what: String| Error::file(path, format!("line {}: {what}", i + 1));
        let row: Map<String, Value> = serde_json::from_str(line).map_err(|e| at(e.to_string()))?;
        let field = |name: &str| match row.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(at(format!("`{name}` is not a text"))),
            None => {
                let known: Vec<&str> = row.keys().map(String::as_str).collect();
                Err(at(format!(
                    "has no `{name}`; its fields are {} (--caption-column chooses another)",
                    known.join(", ")
                )))
            }
        };
        rows.push((field("file_name")?, field(column)?));
    }
    Ok(rows)
}

fn from_table(path: &Path, column: &str) -> Result<Vec<(String, String)>, Error> {
    let failed = |e: csv::Error| Error::file(path, e);
    let mut reader = csv::Reader::from_path(path).map_err(failed)?;
    let headers = reader.headers().map_err(failed)?.clone();
    let find = |name: &str| {
        headers.iter().position(|h| h == name).ok_or_else(|| {
            let known: Vec<&str> = headers.iter().collect();
            let known = known.join(", ");
            Error::file(
                path,
                format!("has no column `{name}`; its columns are {known} (--caption-column chooses another)"),
            )
        })
    };
    let (name, caption) = (find("file_name")?, find(column)?);
    let rows = reader.records().map(|row| {
        let row = row.map_err(failed)?;
        Ok((row[name].to_owned(), row[caption].to_owned()))
    });
    rows.collect()
}
