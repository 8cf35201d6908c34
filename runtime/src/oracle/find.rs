//! Where an ONNX Runtime library is on this machine.
//!
//! The search never fails: what it cannot read it passes over, and what looked promising without being a library it
//! notes.

use crate::wheel::PYTHON;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Version of the library that the cache is filled with.
pub const PINNED_VERSION: &str = "1.32.0";

/// How a library was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// The environment variable `ORT_DYLIB_PATH` names it.
    Variable,
    /// It is in the project's cache.
    Cache,
    /// It belongs to the `onnxruntime` package of the environment that `VIRTUAL_ENV` names.
    VirtualEnv,
    /// It belongs to the `onnxruntime` package of this Python interpreter.
    Python(PathBuf),
    /// It is in this directory of the system.
    System(PathBuf),
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            How::Variable => f.write_str("named by ORT_DYLIB_PATH"),
            How::Cache => f.write_str("in the cache of sara"),
            How::VirtualEnv => f.write_str("in the onnxruntime package under VIRTUAL_ENV"),
            How::Python(python) => write!(f, "in the onnxruntime package of {}", python.display()),
            How::System(dir) => write!(f, "in the library directory {}", dir.display()),
        }
    }
}

/// A library file and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file, as an absolute path where the working directory is known.
    pub path: PathBuf,
    /// How it was found.
    pub how: How,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path.display(), self.how)
    }
}

/// The result of a search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Libraries, the preferred one first. They exist as files; whether they load is not known yet.
    pub found: Vec<Found>,
    /// Sentences about places that were expected to hold a library and do not.
    pub notes: Vec<String>,
}

impl Search {
    /// The preferred library.
    pub fn best(&self) -> Option<&Found> {
        self.found.first()
    }

    fn add(&mut self, path: PathBuf, how: How) {
        let path = std::path::absolute(&path).unwrap_or(path);
        let same = |other: &Path| match (other.canonicalize(), path.canonicalize()) {
            (Ok(a), Ok(b)) => a == b,
            _ => other == path,
        };
        if !self.found.iter().any(|f| same(&f.path)) {
            self.found.push(Found { path, how });
        }
    }
}

/// The places to search, so that a search can be steered without touching the process environment.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Value of `ORT_DYLIB_PATH`: a file, or a directory that holds one.
    pub variable: Option<PathBuf>,
    /// The directory of the cache for [`PINNED_VERSION`].
    pub cache: Option<PathBuf>,
    /// Value of `VIRTUAL_ENV`.
    pub virtual_env: Option<PathBuf>,
    /// Interpreters to ask, by name or path.
    pub pythons: Vec<PathBuf>,
    /// Directories of shared libraries.
    pub system: Vec<PathBuf>,
}

impl Places {
    /// The places of the running process.
    pub fn from_env() -> Places {
        Places {
            variable: env_path("ORT_DYLIB_PATH"),
            cache: cache_dir(),
            virtual_env: env_path("VIRTUAL_ENV"),
            pythons: vec![PathBuf::from(PYTHON)],
            system: system_dirs(),
        }
    }

    /// Searches all places, in the order of the fields.
    pub fn search(&self) -> Search {
        let mut search = Search::default();
        if let Some(path) = &self.variable {
            if path.is_file() {
                search.add(path.clone(), How::Variable);
            } else if let Some(file) = library_in(path) {
                search.add(file, How::Variable);
            } else {
                search.notes.push(format!(
                    "ORT_DYLIB_PATH is `{}`, which is neither a file nor a directory that holds a library",
                    path.display()
                ));
            }
        }
        if let Some(file) = self.cache.as_deref().and_then(library_in) {
            search.add(file, How::Cache);
        }
        if let Some(env) = &self.virtual_env {
            for file in site_packages(env).iter().filter_map(|dir| package_library(dir)) {
                search.add(file, How::VirtualEnv);
            }
        }
        for python in &self.pythons {
            for package in ask_python(python) {
                match package_library(&package) {
                    Some(file) => search.add(file, How::Python(python.clone())),
                    None => search
                        .notes
                        .push(format!("the onnxruntime package `{}` holds no shared library", package.display())),
                }
            }
        }
        for dir in &self.system {
            if let Some(file) = library_in(dir) {
                search.add(file, How::System(dir.clone()));
            }
        }
        search
    }
}

/// Searches the places of the running process.
pub fn search() -> Search {
    Places::from_env().search()
}

/// The preferred library of the running process, if there is one.
pub fn find() -> Option<Found> {
    search().found.into_iter().next()
}

/// The directory that holds the pinned library once it has been fetched, or `None` where the process has no home.
pub fn cache_dir() -> Option<PathBuf> {
    Some(cache_root()?.join(format!("onnxruntime-{PINNED_VERSION}")))
}

/// The directory of everything that the program keeps for later, or `None` where the process has no home.
pub fn cache_root() -> Option<PathBuf> {
    let base = env_path("XDG_CACHE_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| Some(env_path("HOME").or_else(|| env_path("USERPROFILE"))?.join(".cache")))?;
    Some(base.join("sara"))
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The version in a library's file name, empty for a name without one, or `None` for another file.
///
/// Linux appends the version (`libonnxruntime.so.1.2.3`), macOS puts it before the suffix (`libonnxruntime.1.2.3.dylib`)
/// and Windows leaves it out.
pub(super) fn library_version(name: &str) -> Option<Vec<u32>> {
    if name == "onnxruntime.dll" {
        return Some(Vec::new());
    }
    let rest = name.strip_prefix("libonnxruntime.")?;
    let version = match rest.strip_prefix("so") {
        Some(version) => version,
        None => rest.strip_suffix("dylib")?,
    };
    let version = version.trim_matches('.');
    if version.is_empty() {
        return Some(Vec::new());
    }
    version.split('.').map(|part| part.parse().ok()).collect()
}

/// The library in a directory: the one without a version in its name, else the newest.
fn library_in(dir: &Path) -> Option<PathBuf> {
    std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let version = library_version(entry.file_name().to_str()?)?;
            let path = entry.path();
            path.is_file().then_some((version.is_empty(), version, path))
        })
        .max()
        .map(|(_, _, path)| path)
}

/// The library of an `onnxruntime` package, given the package or a `site-packages` directory.
fn package_library(dir: &Path) -> Option<PathBuf> {
    library_in(&dir.join("capi")).or_else(|| library_in(&dir.join("onnxruntime").join("capi")))
}

/// The `site-packages` directories of a virtual environment.
fn site_packages(env: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![env.join("Lib").join("site-packages")];
    for lib in ["lib", "lib64"] {
        for entry in std::fs::read_dir(env.join(lib)).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("python") {
                dirs.push(entry.path().join("site-packages"));
            }
        }
    }
    dirs.retain(|dir| dir.is_dir());
    dirs
}

/// Asks an interpreter for the folders of its `onnxruntime` package, which is not imported.
///
/// The working directory is taken off the module path, so that a folder that merely lies there is not believed.
fn ask_python(python: &Path) -> Vec<PathBuf> {
    const QUESTION: &str = "import sys\n\
        sys.path[:] = [p for p in sys.path if p]\n\
        import importlib.util\n\
        spec = importlib.util.find_spec('onnxruntime')\n\
        for folder in (spec.submodule_search_locations or []) if spec else []:\n    \
            print(folder)\n";
    let answer = Command::new(python).args(["-c", QUESTION]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    match answer {
        Ok(answer) if answer.status.success() => String::from_utf8_lossy(&answer.stdout)
            .lines()
            .map(|line| line.trim_end_matches('\r'))
            .filter(|line| !line.is_empty())
            .map(PathBuf::from)
            .collect(),
        _ => Vec::new(),
    }
}

/// Directories in which the dynamic loader would look.
fn system_dirs() -> Vec<PathBuf> {
    let variable = if cfg!(windows) {
        "PATH"
    } else if cfg!(target_os = "macos") {
        "DYLD_LIBRARY_PATH"
    } else {
        "LD_LIBRARY_PATH"
    };
    let listed: OsString = std::env::var_os(variable).unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&listed).filter(|dir| !dir.as_os_str().is_empty()).collect();
    if !cfg!(windows) {
        dirs.extend(
            ["/usr/local/lib", "/usr/local/lib64", "/opt/homebrew/lib", "/opt/onnxruntime/lib"].map(PathBuf::from),
        );
        dirs.extend(["/usr/lib", "/usr/lib64", "/lib", "/lib64"].map(PathBuf::from));
        for entry in std::fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains("-linux-") {
                dirs.push(entry.path());
            }
        }
    }
    dirs
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().expect("has a parent")).expect("directory");
        fs::write(path, b"").expect("file");
    }

    #[test]
    fn file_names() {
        assert_eq!(library_version("libonnxruntime.so"), Some(vec![]));
        assert_eq!(library_version("libonnxruntime.so.1.20.1"), Some(vec![1, 20, 1]));
        assert_eq!(library_version("libonnxruntime.1.20.1.dylib"), Some(vec![1, 20, 1]));
        assert_eq!(library_version("libonnxruntime.dylib"), Some(vec![]));
        assert_eq!(library_version("onnxruntime.dll"), Some(vec![]));
        assert_eq!(library_version("libonnxruntime_providers_shared.so"), None);
        assert_eq!(library_version("libonnxruntime.so.debug"), None);
        assert_eq!(library_version("libonnxruntime.a"), None);
    }

    #[test]
    fn places_in_order() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join(name);
        touch(&at("named/libonnxruntime.so.1.9.0"));
        touch(&at("named/libonnxruntime.so.1.20.0"));
        touch(&at("cache/libonnxruntime.so.1.32.0"));
        touch(&at("env/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.30.0"));
        touch(&at("sys/libonnxruntime.so.1.31.0"));
        touch(&at("sys/libonnxruntime.so"));
        let places = Places {
            variable: Some(at("named")),
            cache: Some(at("cache")),
            virtual_env: Some(at("env")),
            pythons: vec![at("no-such-python")],
            system: vec![at("absent"), at("sys")],
        };
        let search = places.search();
        let names: Vec<_> =
            search.found.iter().map(|f| f.path.strip_prefix(dir.path()).expect("inside").to_owned()).collect();
        assert_eq!(
            names,
            [
                "named/libonnxruntime.so.1.20.0",
                "cache/libonnxruntime.so.1.32.0",
                "env/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.30.0",
                "sys/libonnxruntime.so",
            ]
            .map(PathBuf::from)
        );
        assert_eq!(search.best().map(|f| &f.how), Some(&How::Variable));
        assert!(search.notes.is_empty());
    }

    #[test]
    fn a_wrong_variable_is_noted() {
        let places = Places { variable: Some(PathBuf::from("/no/such/libonnxruntime.so")), ..Places::default() };
        let search = places.search();
        assert!(search.found.is_empty());
        assert!(search.notes[0].contains("/no/such/libonnxruntime.so"), "{search:?}");
    }
}
