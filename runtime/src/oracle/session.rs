//! Loading ONNX Runtime, opening models and running them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, SessionInputValue, SessionOutputs};
use ort::value::{Outlet, ValueType};

use super::error::OracleError;
use super::find::{self, Found, How, Search};
use super::{Array, OracleType, fetch};

/// The library that the process has loaded. It cannot be exchanged for another, and it stays loaded until the process
/// ends.
static LOADED: Mutex<Option<Oracle>> = Mutex::new(None);

/// A loaded ONNX Runtime library.
///
/// Clones share the library; there is one per process.
#[derive(Clone, Debug)]
pub struct Oracle {
    environment: Environment,
    library: Found,
    version: String,
}

impl Oracle {
    /// Loads the library that [`find::search`] prefers, or returns the one that the process has loaded already.
    ///
    /// A library that does not load is passed over for the next one, unless `ORT_DYLIB_PATH` asks for it.
    pub fn open() -> Result<Oracle, OracleError> {
        let mut loaded = lock();
        match &*loaded {
            Some(oracle) => Ok(oracle.clone()),
            None => Ok(loaded.insert(Oracle::load(&find::search())?).clone()),
        }
    }

    /// Like [`Oracle::open`], and where no library is found, fetches the pinned one into the cache first.
    pub fn open_or_fetch() -> Result<Oracle, OracleError> {
        // One thread fetches; the others wait and find what it fetched.
        static FETCHING: Mutex<()> = Mutex::new(());
        let _guard = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
        match Oracle::open() {
            Err(OracleError::NotFound { .. }) => fetch::fetch().and_then(|_| Oracle::open()),
            other => other,
        }
    }

    /// Like [`Oracle::open`], with the result of a search that was made before.
    ///
    /// The search has no effect once the process has loaded a library.
    pub fn open_from(search: &Search) -> Result<Oracle, OracleError> {
        let mut loaded = lock();
        match &*loaded {
            Some(oracle) => Ok(oracle.clone()),
            None => Ok(loaded.insert(Oracle::load(search)?).clone()),
        }
    }

    fn load(search: &Search) -> Result<Oracle, OracleError> {
        if cfg!(target_endian = "big") {
            return Err(OracleError::BigEndian);
        }
        if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|v| !v.is_empty())
            && !search.found.iter().any(|f| f.how == How::Variable)
        {
            return Err(OracleError::BadVariable {
                path: path.into(),
                reason: "which is neither a file nor a directory that holds a library".to_owned(),
            });
        }
        let mut tried = Vec::new();
        for found in &search.found {
            match load_library(&found.path) {
                Ok(environment) => {
                    return Ok(Oracle { environment, library: found.clone(), version: library_version(&found.path) });
                }
                Err(reason) if found.how == How::Variable => {
                    return Err(OracleError::BadVariable {
                        path: found.path.clone(),
                        reason: format!("which does not load: {reason}"),
                    });
                }
                Err(reason) => tried.push(format!("{found}: {reason}")),
            }
        }
        if tried.is_empty() {
            let notes = search.notes.iter().map(|note| format!("; {note}")).collect();
            Err(OracleError::NotFound { notes })
        } else {
            Err(OracleError::NotLoaded { tried: tried.join("; ") })
        }
    }

    /// The library file and how it was found.
    pub fn library(&self) -> &Found {
        &self.library
    }

    /// Version of the library, `unknown` where neither its build information nor its file name tells.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Opens a model file. External data is read from beside it.
    pub fn session_from_file(&self, path: &Path, options: &SessionOptions) -> Result<Session, OracleError> {
        let model = format!("`{}`", path.display());
        let session = self.builder(options)?.commit_from_file(path);
        Session::new(session, model)
    }

    /// Opens the bytes of a model. External data is read from files of `external_folder`, which must exist even if there
    /// is none.
    ///
    /// ONNX Runtime copies the bytes and maps the external data by itself. Recent versions refuse external data that is
    /// a symbolic link out of the folder.
    pub fn session_from_bytes(
        &self,
        bytes: &[u8],
        external_folder: &Path,
        options: &SessionOptions,
    ) -> Result<Session, OracleError> {
        let refused = |reason: &str| OracleError::ExternalFolder {
            folder: external_folder.to_owned(),
            reason: reason.to_owned(),
        };
        if !external_folder.is_dir() {
            return Err(refused("is not a directory"));
        }
        let folder = std::path::absolute(external_folder).map_err(|e| refused(&e.to_string()))?;
        let folder = folder.to_str().ok_or_else(|| refused("has a name that is not UTF-8"))?;
        let session = self
            .builder(options)?
            .with_config_entry("session.model_external_initializers_file_folder_path", folder)
            .map_err(|e| refused(e.message()))?
            .commit_from_memory(bytes);
        Session::new(session, format!("a model of {} bytes", bytes.len()))
    }

    fn builder(&self, options: &SessionOptions) -> Result<SessionBuilder, OracleError> {
        let refused = |option, reason: &str| OracleError::Option { option, reason: reason.to_owned() };
        let builder = ort::session::Session::builder(&self.environment)
            .map_err(|e| refused("of a new session", e.message()))?
            .with_optimization_level(options.optimization.level())
            .map_err(|e| refused("graph optimization level", e.message()))?
            .with_config_entry("session.disable_prepacking", if options.prepacking { "0" } else { "1" })
            .map_err(|e| refused("prepacking", e.message()))?;
        if options.intra_threads == 0 {
            return Ok(builder);
        }
        // The count is handed over as a C int.
        let threads = options.intra_threads.min(i32::MAX as usize);
        builder.with_intra_threads(threads).map_err(|e| refused("intra-op threads", e.message()))
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<Oracle>> {
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load_library(path: &Path) -> Result<Environment, String> {
    // `ort` looks for a relative path beside the executable first.
    let path: PathBuf = std::path::absolute(path).map_err(|e| e.to_string())?;
    let environment = ort::init_from(&path)
        .map_err(|e| match &e {
            // The loader's own message is the cause of this error, not a part of its text.
            ort::LoadDynamicError::Dlopen { error, .. } => {
                std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
            }
            _ => e.to_string(),
        })?
        .with_name("sara")
        .with_telemetry(false)
        .build()
        .map_err(|e| e.message().to_owned())?;
    // Failures come back as errors, so the library need not print them too. `ORT_LOG` asks for its log.
    if std::env::var_os("ORT_LOG").is_none() {
        environment.set_log_level(LogLevel::Fatal);
    }
    Ok(environment)
}

/// The version that the build information names as a release branch, else the one in the file name.
fn library_version(path: &Path) -> String {
    let branch = ort::info()
        .split([' ', ','])
        .find_map(|word| word.strip_prefix("git-branch=rel-"))
        .filter(|version| version.starts_with(|c: char| c.is_ascii_digit()));
    if let Some(version) = branch {
        return version.to_owned();
    }
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let parts = file.file_name().and_then(|name| find::library_version(name.to_str()?)).unwrap_or_default();
    if parts.is_empty() {
        return "unknown".to_owned();
    }
    parts.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

/// How far ONNX Runtime rewrites a model before it runs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Optimization {
    /// Not at all: every node of the model runs, which comparing values node by node needs.
    #[default]
    Disabled,
    /// Only rewrites that keep to ONNX operators.
    Basic,
    /// Also fusions into operators of ONNX Runtime.
    Extended,
    /// Everything, changes of data layout included, as for timing.
    All,
}

impl Optimization {
    fn level(self) -> GraphOptimizationLevel {
        match self {
            Optimization::Disabled => GraphOptimizationLevel::Disable,
            Optimization::Basic => GraphOptimizationLevel::Level1,
            Optimization::Extended => GraphOptimizationLevel::Level2,
            Optimization::All => GraphOptimizationLevel::All,
        }
    }
}

/// Settings of a session. The default is for comparing values: it optimises nothing, copies no weights and leaves the
/// number of threads to ONNX Runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// Rewriting of the graph.
    pub optimization: Optimization,
    /// Threads that share the work of one operator; 0 for the choice of ONNX Runtime.
    pub intra_threads: usize,
    /// Whether operators may keep copies of weights in layouts of their own. They run faster with them, and the copies
    /// take as much memory as the weights, which are mapped from their files otherwise.
    pub prepacking: bool,
}

impl SessionOptions {
    /// The settings under which ONNX Runtime is as fast as it can be, for timing.
    pub fn fastest(intra_threads: usize) -> SessionOptions {
        SessionOptions { optimization: Optimization::All, intra_threads, prepacking: true }
    }
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name in the graph.
    pub name: String,
    /// Element type, or `None` where the value has no [`Array`] form.
    pub dtype: Option<OracleType>,
    /// Extents, `None` for one that may vary. ONNX Runtime reports an unknown number of dimensions like a scalar, as
    /// an empty shape.
    pub shape: Vec<Option<usize>>,
    /// The type in words, as ONNX Runtime has it.
    pub description: String,
}

impl Port {
    fn new(outlet: &Outlet) -> Port {
        let (name, ty) = (outlet.name(), outlet.dtype());
        Port {
            name: name.to_owned(),
            dtype: ty.tensor_type().and_then(OracleType::from_ort),
            shape: ty
                .tensor_shape()
                .map(|shape| shape.iter().map(|&d| usize::try_from(d).ok()).collect())
                .unwrap_or_default(),
            description: ty.to_string(),
        }
    }

    fn check(&self, array: &Array) -> Result<(), OracleError> {
        if self.dtype != Some(array.dtype) {
            return Err(OracleError::InputType {
                name: self.name.clone(),
                expected: self.dtype.map_or_else(|| self.description.clone(), |t| t.to_string()),
                actual: array.dtype,
            });
        }
        let fits = self.shape.len() == array.shape.len()
            && self.shape.iter().zip(&array.shape).all(|(expected, &actual)| expected.is_none_or(|d| d == actual));
        if fits || self.shape.is_empty() {
            return Ok(());
        }
        let extents: Vec<String> =
            self.shape.iter().map(|d| d.map_or_else(|| "?".to_owned(), |d| d.to_string())).collect();
        Err(OracleError::InputShape {
            name: self.name.clone(),
            expected: format!("[{}]", extents.join(", ")),
            actual: array.shape.clone(),
        })
    }
}

/// An opened model.
#[derive(Debug)]
pub struct Session {
    session: ort::session::Session,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    defaulted: HashSet<String>,
}

impl Session {
    fn new(session: ort::Result<ort::session::Session>, model: String) -> Result<Session, OracleError> {
        let session = session.map_err(|e| {
            let mut reason = e.message().to_owned();
            if reason.contains("escapes model directory") {
                reason.push_str(
                    "; files of external data may not be symbolic links out of the folder: replace them by copies or hard \
                     links",
                );
            }
            OracleError::Model { model, reason }
        })?;
        // `ort` panics on a value of optional type that holds nothing, so a model that could return one is refused.
        if let Some(port) = session.outputs().iter().find(|o| matches!(o.dtype(), ValueType::Optional(_))) {
            return Err(OracleError::OutputType { name: port.name().to_owned(), actual: port.dtype().to_string() });
        }
        let ports = |outlets: &[Outlet]| outlets.iter().map(Port::new).collect::<Vec<_>>();
        Ok(Session {
            inputs: ports(session.inputs()),
            outputs: ports(session.outputs()),
            defaulted: session.overridable_initializers().iter().map(|i| i.name().to_owned()).collect(),
            session,
        })
    }

    /// The inputs that every run must give. Those that have an initializer as their default may be given and are not
    /// listed.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Runs the model and copies all outputs, in the model's order.
    pub fn run<S: AsRef<str>>(&mut self, inputs: &[(S, Array)]) -> Result<Vec<(String, Array)>, OracleError> {
        let values = self.values(inputs)?;
        let outputs = self.session.run(values).map_err(|e| OracleError::Run(e.message().to_owned()))?;
        copy(&outputs)
    }

    /// Runs the model and copies these outputs, in the order of their names.
    ///
    /// What only other outputs need is not necessarily computed, and no other output is kept, so the outputs of a large
    /// model with many of them can be taken in portions.
    pub fn run_selected<S: AsRef<str>, O: AsRef<str>>(
        &mut self,
        inputs: &[(S, Array)],
        outputs: &[O],
    ) -> Result<Vec<(String, Array)>, OracleError> {
        let values = self.values(inputs)?;
        let mut selector = OutputSelector::no_default();
        let mut wanted = HashSet::new();
        for name in outputs.iter().map(AsRef::as_ref) {
            if !self.outputs.iter().any(|port| port.name == name) {
                return Err(OracleError::UnknownOutput { name: name.to_owned(), known: self.some_outputs() });
            }
            if wanted.insert(name) {
                selector = selector.with(name);
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |e: ort::Error| OracleError::Run(e.message().to_owned());
        let options: RunOptions<HasSelectedOutputs> = RunOptions::new().map_err(failed)?.with_outputs(selector);
        let results = self.session.run_with_options(values, &options).map_err(failed)?;
        let arrays: std::collections::HashMap<String, Array> = copy(&results)?.into_iter().collect();
        outputs
            .iter()
            .map(AsRef::as_ref)
            .map(|name| match arrays.get(name) {
                Some(array) => Ok((name.to_owned(), array.clone())),
                None => Err(OracleError::Run(format!("it returned no output {name:?}"))),
            })
            .collect()
    }

    fn some_outputs(&self) -> String {
        const MOST: usize = 10;
        let names: Vec<&str> = self.outputs.iter().take(MOST).map(|port| port.name.as_str()).collect();
        let more = self.outputs.len() - names.len();
        if more == 0 { format!("{names:?}") } else { format!("{names:?} and {more} more") }
    }

    fn values<'a, S: AsRef<str>>(
        &self,
        inputs: &'a [(S, Array)],
    ) -> Result<Vec<(Cow<'a, str>, SessionInputValue<'static>)>, OracleError> {
        let mut given = HashSet::new();
        let mut values = Vec::with_capacity(inputs.len());
        for (name, array) in inputs {
            let name = name.as_ref();
            if !given.insert(name) {
                return Err(OracleError::DuplicateInput { name: name.to_owned() });
            }
            match self.inputs.iter().find(|port| port.name == name) {
                Some(port) => port.check(array)?,
                // ONNX Runtime itself checks what replaces an initializer.
                None if self.defaulted.contains(name) => {}
                None => {
                    return Err(OracleError::UnknownInput {
                        name: name.to_owned(),
                        known: self.inputs.iter().map(|port| port.name.clone()).collect(),
                    });
                }
            }
            values.push((Cow::Borrowed(name), array.to_value(name)?));
        }
        match self.inputs.iter().find(|port| !given.contains(port.name.as_str())) {
            Some(port) => Err(OracleError::MissingInput { name: port.name.clone() }),
            None => Ok(values),
        }
    }
}

fn copy(outputs: &SessionOutputs<'_>) -> Result<Vec<(String, Array)>, OracleError> {
    outputs.iter().map(|(name, value)| Ok((name.to_owned(), Array::from_value(name, &value)?))).collect()
}
