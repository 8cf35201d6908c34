//! The CUDA kernels on a processor: the same `kernel.cu` files, compiled by g++, a block's threads as fibers.
//!
//! For tests. Every access to memory is checked, and a seed chooses the order of blocks and threads; `shim.h` says what is
//! found.

mod driver;

pub use driver::driver;
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;

/// How a kernel uses an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only reads it.
    Read = 0,
    /// Writes each element before it reads it, if it reads it at all.
    Write = 1,
    /// Reads and writes it.
    Update = 2,
}

/// Memory that a launch may touch.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// Its first byte.
    pub start: *mut u8,
    /// Its bytes.
    pub bytes: usize,
    /// Bytes of an element.
    pub grain: usize,
    /// How it is used.
    pub mode: Mode,
    /// Its name, for reports.
    pub name: &'a str,
}

#[repr(C)]
struct RawRegion {
    start: *mut c_void,
    bytes: usize,
    grain: usize,
    mode: c_int,
    name: *const c_char,
}

#[expect(unsafe_code, reason = "declares the library")]
unsafe extern "C" {
    fn shim_kinds(name: *const c_char, threads: *mut c_int) -> *const c_char;
    fn shim_name(i: usize) -> *const c_char;
    fn shim_launch(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        dynamic: usize,
        params: *const *const c_void,
        regions: *const RawRegion,
        count: usize,
        seed: u64,
        report: *mut c_char,
        room: usize,
    ) -> usize;
}

type Kinds = unsafe extern "C" fn(*const c_char, *mut c_int) -> *const c_char;
type Run = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    u32,
    usize,
    *const *const c_void,
    *const RawRegion,
    usize,
    u64,
    *mut c_char,
    usize,
) -> usize;

/// Entry points.
pub struct Entries {
    kinds: Kinds,
    run: Run,
    /// What they lie in, if they were compiled from a source.
    _library: Option<Library>,
}

/// The entry points of all kernels.
pub static KERNELS: Entries = Entries { kinds: shim_kinds, run: shim_launch, _library: None };

/// An entry point of the kernels: threads of its blocks at most, and the kinds of its parameters, such as `ppl` for two pointers
/// and a 64-bit integer (`i` 32 bits, `f` and `d` floats, `sN` a structure of `N` bytes).
pub fn entry(name: &str) -> Option<(u32, String)> {
    KERNELS.entry(name)
}

/// Names of all entry points.
#[expect(unsafe_code, reason = "calls the library")]
pub fn entries() -> Vec<String> {
    let at = |i| {
        // SAFETY: the library's answer is null or ends with a zero and lives for ever.
        unsafe {
            let name = shim_name(i);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    };
    (0..).map_while(at).collect()
}

/// One launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The entry point.
    pub entry: &'a str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub dynamic: usize,
    /// Kinds of the parameters, as [`entry`] gives them; they must be the entry point's.
    pub kinds: &'a str,
    /// Bytes of each parameter.
    pub params: &'a [&'a [u8]],
    /// What it may touch.
    pub regions: &'a [Region<'a>],
    /// Chooses the order of blocks and threads.
    pub seed: u64,
}

impl Entries {
    /// Those of a source, compiled by g++ as the kernels are. What was compiled before is kept beside the library of the kernels.
    #[expect(unsafe_code, reason = "loads a library")]
    pub fn compile(source: &str) -> Result<Entries, String> {
        let out = Path::new(env!("OUT_DIR"));
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        let library = out.join("generated").join(format!("{:016x}.so", hasher.finish()));
        let failed = |e: std::io::Error| format!("`{}` cannot be made: {e}", library.display());
        if !library.exists() {
            std::fs::create_dir_all(out.join("generated")).map_err(failed)?;
            let folder = tempfile::tempdir_in(out).map_err(failed)?;
            let (text, made) = (folder.path().join("source.cu"), folder.path().join("made.so"));
            std::fs::write(&text, source).map_err(failed)?;
            let output = Command::new(env!("SHIM_COMPILER"))
                .args(env!("SHIM_FLAGS").split('\t'))
                .arg(&text)
                .args(["-x", "none", "-shared", "-Wl,-Bsymbolic"])
                .arg(out.join("libshim_runtime.a"))
                .arg("-o")
                .arg(&made)
                .output()
                .map_err(failed)?;
            if !output.status.success() {
                return Err(format!("{}\n{source}", String::from_utf8_lossy(&output.stderr)));
            }
            std::fs::rename(made, &library).map_err(failed)?;
        }
        // SAFETY: the initialisers only announce entry points; the functions have the types of those of the kernels' own library.
        unsafe {
            let loaded = Library::new(&library).map_err(|e| e.to_string())?;
            let kinds = *loaded.get::<Kinds>(b"shim_kinds\0").map_err(|e| e.to_string())?;
            let run = *loaded.get::<Run>(b"shim_launch\0").map_err(|e| e.to_string())?;
            Ok(Entries { kinds, run, _library: Some(loaded) })
        }
    }

    #[expect(unsafe_code, reason = "calls the library")]
    fn entry(&self, name: &str) -> Option<(u32, String)> {
        let name = CString::new(name).ok()?;
        let mut threads = 0;
        // SAFETY: the name ends with a zero, and the library's answer does, too, and lives as long as the library.
        let kinds = unsafe {
            let kinds = (self.kinds)(name.as_ptr(), &mut threads);
            if kinds.is_null() {
                return None;
            }
            CStr::from_ptr(kinds).to_string_lossy().into_owned()
        };
        Some((threads as u32, kinds))
    }

    /// Runs a launch; an error says which rule it broke, and where.
    ///
    /// # Safety
    /// The regions must be valid for reads, and for writes unless they are only read, and nobody else may use them meanwhile.
    #[expect(unsafe_code, reason = "calls the library")]
    pub unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), String> {
        let Some((_, kinds)) = self.entry(launch.entry) else {
            return Err(format!("there is no entry point `{}`", launch.entry));
        };
        if kinds != launch.kinds {
            return Err(format!("`{}` takes parameters {kinds} and is given {}", launch.entry, launch.kinds));
        }
        let name = CString::new(launch.entry).map_err(|e| e.to_string())?;
        let names: Vec<CString> = launch.regions.iter().map(|r| CString::new(r.name).unwrap_or_default()).collect();
        let regions: Vec<RawRegion> = launch
            .regions
            .iter()
            .zip(&names)
            .map(|(r, name)| RawRegion {
                start: r.start.cast(),
                bytes: r.bytes,
                grain: r.grain.max(1),
                mode: r.mode as c_int,
                name: name.as_ptr(),
            })
            .collect();
        // Parameters are read in their own alignment.
        let aligned: Vec<Vec<u64>> = launch
            .params
            .iter()
            .map(|p| {
                let word = |c: &[u8]| {
                    let mut word = [0; 8];
                    word[..c.len()].copy_from_slice(c);
                    u64::from_ne_bytes(word)
                };
                p.chunks(8).map(word).collect()
            })
            .collect();
        let params: Vec<*const c_void> = aligned.iter().map(|p| p.as_ptr().cast()).collect();
        let mut report = vec![0_u8; 2048];
        // SAFETY: the regions by the caller's promise; the kinds, and with them number and sizes of the parameters, are equal.
        let length = unsafe {
            (self.run)(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                launch.dynamic,
                params.as_ptr(),
                regions.as_ptr(),
                regions.len(),
                launch.seed,
                report.as_mut_ptr().cast(),
                report.len(),
            )
        };
        if length == 0 { Ok(()) } else { Err(String::from_utf8_lossy(&report[..length]).into_owned()) }
    }
}

/// Runs a launch of a kernel; an error says which rule it broke, and where.
///
/// # Safety
/// As for [`Entries::launch`].
#[expect(unsafe_code, reason = "calls the library")]
pub unsafe fn launch(launch: &Launch<'_>) -> Result<(), String> {
    // SAFETY: the caller's promise.
    unsafe { KERNELS.launch(launch) }
}
