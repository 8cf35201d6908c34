//! NVRTC, the compiler of CUDA sources, loaded when it is first needed, and the cache of what it compiled.

use super::Source;
use crate::error::{Error, Result};
use crate::files::hex;
use crate::oracle::find::cache_root;
use crate::wheel::{Fetched, Wheel, WheelError};
use libloading::{Library, Symbol};
use sara_kernels::cuda::{HEADER, SHARED};
use sha2::{Digest, Sha256};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Version of the library that the cache is filled with.
pub const PINNED_VERSION: &str = "12.9.86";

/// The package of the pinned library, and what belongs to it.
const WHEEL: Wheel = Wheel {
    package: "nvidia-cuda-nvrtc-cu12",
    version: PINNED_VERSION,
    hashes: &[(
        "nvidia_cuda_nvrtc_cu12-12.9.86-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
        "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4",
    )],
    keeps: |path| path.contains("/lib/libnvrtc") && !path.contains(".alt."),
};

/// Downloads the pinned library into the cache.
pub fn fetch() -> Result<Fetched, WheelError> {
    let reason = "there is no place for the cache, because neither XDG_CACHE_HOME nor HOME is set".to_owned();
    let package = WHEEL.package;
    let cache = cache_dir().ok_or(WheelError::Fetch { package, version: PINNED_VERSION, reason })?;
    WHEEL.fetch_into(&cache)
}

/// Names under which the system may know the library.
const NAMES: &[&str] = &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// What code is to run on.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The compute capability of the device.
    pub capability: (i32, i32),
    /// The CUDA version of the driver.
    pub driver: (i32, i32),
}

/// The library.
pub struct Nvrtc {
    library: Library,
    /// Its version.
    pub version: (i32, i32),
    /// Where it was found: a path, or a name that the system resolved.
    pub place: PathBuf,
}

/// Code for one architecture.
pub struct Compiled {
    /// What a driver loads.
    pub cubin: Vec<u8>,
    /// What the assembler says of registers, spills and shared memory; empty if it came from the cache.
    pub log: String,
}

type Program = *mut c_void;

impl Nvrtc {
    /// Finds and loads the library: below `CUDA_HOME` or `CUDA_PATH`, in the cache, or where the system looks. If a target is
    /// given, it must know its device, and make what its driver loads, which is code of the same major version of CUDA or an older one.
    pub fn open(target: Option<Target>) -> Result<Nvrtc> {
        let mut places = Vec::new();
        for home in ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os) {
            places.extend(libraries(&Path::new(&home).join("lib64")));
        }
        places.extend(cache_dir().iter().flat_map(|dir| libraries(dir)));
        places.extend(NAMES.iter().map(PathBuf::from));
        let mut refused = None;
        for found in places.iter().filter_map(|place| Nvrtc::load(place)) {
            let Some(Target { capability: (major, minor), driver }) = target else { return Ok(found) };
            let ((own_major, own_minor), place) = (found.version, found.place.display());
            if own_major > driver.0 {
                refused = Some(format!(
                    "NVRTC {own_major}.{own_minor} ({place}) makes code for drivers of CUDA {own_major}, and the driver is for {}.{}; update NVIDIA's driver, set CUDA_HOME to a CUDA toolkit {}, or let `sara doctor --fetch-nvrtc` fetch NVRTC {PINNED_VERSION}",
                    driver.0, driver.1, driver.0
                ));
            } else if !found.knows(10 * major + minor) {
                refused = Some(format!(
                    "NVRTC {own_major}.{own_minor} ({place}) knows no devices of compute capability {major}.{minor}; install a newer CUDA toolkit, or let `sara doctor --fetch-nvrtc` fetch NVRTC {PINNED_VERSION}"
                ));
            } else {
                return Ok(found);
            }
        }
        Err(Error::Device(refused.unwrap_or_else(|| {
            "NVRTC, which compiles the CUDA kernels, is not here; set CUDA_HOME to a CUDA toolkit, install one (libnvrtc.so.12 or .13), or let `sara doctor --fetch-nvrtc` fetch it".to_owned()
        })))
    }

    /// As [`Nvrtc::open`]; if there is none, the pinned version is downloaded into the cache first.
    pub fn open_or_fetch() -> Result<Nvrtc> {
        Nvrtc::open(None).or_else(|_| {
            fetch().map_err(|e| Error::Device(e.to_string()))?;
            Nvrtc::open(None)
        })
    }

    #[expect(unsafe_code, reason = "loads a library")]
    fn load(place: &Path) -> Option<Nvrtc> {
        // SAFETY: the initialisers of NVRTC have no conditions.
        let library = unsafe { Library::new(place) }.ok()?;
        let (mut major, mut minor) = (0, 0);
        {
            // SAFETY: nvrtcVersion has this signature in every version.
            let version: Symbol<'_, unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int> =
                unsafe { library.get(b"nvrtcVersion\0") }.ok()?;
            // SAFETY: both point to integers.
            (unsafe { version(&mut major, &mut minor) } == 0).then_some(())?;
        }
        Some(Nvrtc { library, version: (major, minor), place: place.to_owned() })
    }

    /// Whether it compiles for devices of this compute capability, such as 90.
    #[expect(unsafe_code, reason = "calls the library")]
    fn knows(&self, capability: c_int) -> bool {
        type Count = unsafe extern "C" fn(*mut c_int) -> c_int;
        let mut count = 0;
        // SAFETY: both have this signature in every version; the list has room for as many as the first says.
        unsafe {
            let Ok(number) = self.symbol::<Count>("nvrtcGetNumSupportedArchs") else { return false };
            let Ok(list) = self.symbol::<Count>("nvrtcGetSupportedArchs") else { return false };
            if number(&mut count) != 0 {
                return false;
            }
            let mut known = vec![0; count.max(1) as usize];
            list(known.as_mut_ptr()) == 0 && known.contains(&capability)
        }
    }

    /// Code of a source for an architecture such as `sm_90`, from the cache if it is there.
    pub fn cached(&self, source: &Source, arch: &str) -> Result<Compiled> {
        let path = self.place_in_cache(source, arch);
        if let Some(cubin) = path.as_ref().and_then(|path| used(path)) {
            return Ok(Compiled { cubin, log: String::new() });
        }
        let compiled = self.compile(source, arch)?;
        // A cache that cannot be written only costs time.
        let _ = path.map(|path| keep(&path, &compiled.cubin));
        Ok(compiled)
    }

    /// Where the cache has the code of a source for an architecture.
    fn place_in_cache(&self, source: &Source, arch: &str) -> Option<PathBuf> {
        let text = source.text().unwrap_or_default();
        let mut hash = Sha256::new();
        for part in SHARED.iter().flat_map(|(name, text)| [*name, *text]).chain([HEADER, text, arch]) {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update(format!("{:?} {OPTIONS:?}", self.version));
        let name = format!("{}-{arch}-{}.cubin", source.name(), hex(&hash.finalize()));
        cache_root().map(|root| root.join("cubin").join(name))
    }

    /// Compiles a source for an architecture such as `sm_90`.
    pub fn compile(&self, source: &Source, arch: &str) -> Result<Compiled> {
        let name = source.name();
        let text = source.text().ok_or_else(|| Error::Device(format!("`{name}` has no CUDA form")))?;
        self.compile_source(text, &format!("{name}/kernel.cu"), arch)
    }

    #[expect(unsafe_code, reason = "calls the library")]
    fn compile_source(&self, source: &str, name: &str, arch: &str) -> Result<Compiled> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        let text = |s: &str| CString::new(s).map_err(|_| Error::Device(format!("`{name}` holds a zero byte")));
        let (source, file) = (text(source)?, text(name)?);
        let all = SHARED.iter().copied().chain([("kernel.h", HEADER)]);
        let (mut names, mut headers) = (Vec::new(), Vec::new());
        for (name, header) in all {
            names.push(text(name)?);
            headers.push(text(header)?);
        }
        let pointers = |list: &[CString]| -> Vec<*const c_char> { list.iter().map(|s| s.as_ptr()).collect() };
        let (name_pointers, header_pointers) = (pointers(&names), pointers(&headers));
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the signature is that of the library; all strings end with a zero and outlive the call.
        let created = unsafe {
            self.symbol::<Create>("nvrtcCreateProgram")?(
                &mut program,
                source.as_ptr(),
                file.as_ptr(),
                headers.len() as c_int,
                header_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        };
        self.check(created, "nvrtcCreateProgram")?;
        let mut options = vec![text(&format!("--gpu-architecture={arch}"))?];
        for option in OPTIONS {
            options.push(text(option)?);
        }
        let option_pointers = pointers(&options);
        // SAFETY: the program exists, and the options outlive the call.
        let status = unsafe {
            self.symbol::<Compile>("nvrtcCompileProgram")?(program, options.len() as c_int, option_pointers.as_ptr())
        };
        let log = self.part(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
        let cubin = if status == 0 { self.part(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN") } else { Ok(Vec::new()) };
        // SAFETY: the program exists and is not used again.
        unsafe { self.symbol::<unsafe extern "C" fn(*mut Program) -> c_int>("nvrtcDestroyProgram")?(&mut program) };
        let log = String::from_utf8_lossy(&log?).trim_end_matches('\0').trim().to_owned();
        if status != 0 {
            let (major, minor) = self.version;
            let reason = if log.is_empty() { self.reason(status) } else { log };
            return Err(Error::Device(format!("NVRTC {major}.{minor} cannot compile `{name}` for {arch}: {reason}")));
        }
        Ok(Compiled { cubin: cubin?, log })
    }

    /// Bytes that the library gives in two calls, their number first.
    #[expect(unsafe_code, reason = "calls the library")]
    fn part(&self, program: Program, size: &str, get: &str) -> Result<Vec<u8>> {
        let mut bytes = 0_usize;
        // SAFETY: the signature is that of the library, and the program exists.
        let status =
            unsafe { self.symbol::<unsafe extern "C" fn(Program, *mut usize) -> c_int>(size)?(program, &mut bytes) };
        self.check(status, size)?;
        let mut out = vec![0_u8; bytes];
        // SAFETY: as above, and there is room for as many bytes as it said.
        let status = unsafe {
            self.symbol::<unsafe extern "C" fn(Program, *mut c_char) -> c_int>(get)?(program, out.as_mut_ptr().cast())
        };
        self.check(status, get)?;
        Ok(out)
    }

    /// # Safety
    /// `T` must be the type of the function `name`.
    #[expect(unsafe_code, reason = "names a function of the library")]
    unsafe fn symbol<T>(&self, name: &str) -> Result<Symbol<'_, T>> {
        // SAFETY: the caller's promise.
        unsafe { self.library.get(name.as_bytes()) }
            .map_err(|e| Error::Device(format!("`{}` is no NVRTC: {e}", self.place.display())))
    }

    fn check(&self, status: c_int, what: &str) -> Result<()> {
        if status == 0 { Ok(()) } else { Err(Error::Device(format!("{what}: {}", self.reason(status)))) }
    }

    #[expect(unsafe_code, reason = "calls the library")]
    fn reason(&self, status: c_int) -> String {
        // SAFETY: the signature is that of the library, whose answer ends with a zero and lives for ever.
        let text = unsafe {
            self.symbol::<unsafe extern "C" fn(c_int) -> *const c_char>("nvrtcGetErrorString")
                .map(|f| CStr::from_ptr(f(status)).to_string_lossy().into_owned())
        };
        text.unwrap_or_else(|_| format!("error {status}"))
    }
}

/// What every kernel is compiled with. Products and sums are one operation where a kernel says so and nowhere else, as in the tests.
const OPTIONS: &[&str] = &["--std=c++17", "--fmad=false", "--device-int128", "--ptxas-options=-v"];

/// The directory that holds the pinned library once it has been fetched.
pub fn cache_dir() -> Option<PathBuf> {
    Some(cache_root()?.join(format!("nvrtc-{PINNED_VERSION}")))
}

/// NVRTC libraries in a folder, without their companions.
fn libraries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libnvrtc.so")))
        .collect();
    found.sort();
    found
}

/// Writes code after its hash to a file that appears whole or not at all.
fn keep(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, &[&Sha256::digest(code)[..], code].concat())?;
    file.persist(path)?;
    forget(folder, SystemTime::now())
}

/// How long code stays that nobody uses: of plans that are gone, or other versions of this program.
const UNUSED: Duration = Duration::from_secs(90 * 24 * 3600);

/// Removes the files that were last used too long before `now`.
fn forget(folder: &Path, now: SystemTime) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if now.duration_since(entry.metadata()?.modified()?).is_ok_and(|age| age > UNUSED) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The code in a file, which is used now.
fn used(path: &Path) -> Option<Vec<u8>> {
    let code = kept(&std::fs::read(path).ok()?)?;
    // Where the time cannot be set, the code is compiled again some day.
    let _ = File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
    Some(code)
}

/// The code that such a file holds, if it is what was written: the driver is not told where it ends.
fn kept(file: &[u8]) -> Option<Vec<u8>> {
    let (hash, code) = file.split_first_chunk::<32>()?;
    (Sha256::digest(code)[..] == hash[..]).then(|| code.to_vec())
}

#[cfg(test)]
mod tests {
    use super::{UNUSED, forget, keep, kept, used};
    use std::time::{Duration, SystemTime};

    #[test]
    fn damaged_code_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cubin/some.cubin");
        keep(&path, b"code").expect("a file");
        let whole = std::fs::read(&path).expect("the file");
        assert_eq!(kept(&whole), Some(b"code".to_vec()));
        let zeros = vec![0; whole.len()];
        for damaged in [&whole[..whole.len() - 1], &whole[..20], &[], &zeros, b"code"] {
            assert_eq!(kept(damaged), None);
        }
    }

    #[test]
    fn code_that_nobody_uses_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let [old, other] = ["old", "other"].map(|name| folder.path().join(name));
        keep(&old, b"old").expect("a file");
        keep(&other, b"other").expect("a file");
        let now = SystemTime::now();
        let file = std::fs::File::options().append(true).open(&old).expect("the file");
        file.set_modified(now - UNUSED / 2).expect("a time");
        forget(folder.path(), now).expect("a folder");
        forget(folder.path(), now + UNUSED / 2 - Duration::from_secs(9)).expect("a folder");
        assert_eq!(used(&old), Some(b"old".to_vec()));
        // It counts from the last use.
        forget(folder.path(), now + UNUSED / 2 + Duration::from_secs(9)).expect("a folder");
        assert!(old.exists());
        forget(folder.path(), now + UNUSED + Duration::from_secs(9)).expect("a folder");
        assert!(!old.exists() && !other.exists());
    }
}
