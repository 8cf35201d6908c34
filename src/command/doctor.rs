//! `sara doctor`: what this machine offers.

use super::Failure;
use sara_runtime::Error;
use sara_runtime::device::driver;
use sara_runtime::device::nvrtc::{self, Nvrtc, Target};
use sara_runtime::oracle::{Oracle, fetch, find};
use sara_runtime::wheel::Fetched;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Fetch ONNX Runtime into the cache if none is found (needs python3 with pip).
    #[arg(long)]
    fetch_onnxruntime: bool,
    /// Fetch NVRTC, which compiles the CUDA kernels, into the cache if none is found (needs python3 with pip).
    #[arg(long)]
    fetch_nvrtc: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    say!("sara {}", env!("CARGO_PKG_VERSION"));
    say!("processor    {}", features().join(" "));
    say!("threads      {}", std::thread::available_parallelism().map_or(1, usize::from));
    if args.fetch_onnxruntime && find::find().is_none() {
        let fetched = fetch::fetch()?;
        report(&fetched);
    }
    let search = find::search();
    for found in &search.found {
        say!("onnxruntime  {} ({})", found.path.display(), found.how);
    }
    for note in &search.notes {
        say!("             {note}");
    }
    match Oracle::open_from(&search) {
        Ok(oracle) => say!("             loaded, version {}", oracle.version()),
        Err(error) => say!("onnxruntime  {error}"),
    }
    let devices = driver::devices();
    // What training would look for.
    let target = devices
        .as_ref()
        .ok()
        .and_then(|(devices, driver)| devices.first().map(|d| Target { capability: d.capability, driver: *driver }));
    if args.fetch_nvrtc && Nvrtc::open(target).is_err() {
        report(&nvrtc::fetch().map_err(|e| Failure::from(Error::Device(e.to_string())))?);
    }
    match Nvrtc::open(target) {
        Ok(found) => say!("nvrtc        {}.{} ({})", found.version.0, found.version.1, found.place.display()),
        Err(error) => say!("nvrtc        {error}"),
    }
    match devices {
        Ok((devices, (major, minor))) => {
            say!("cuda         driver for CUDA {major}.{minor}");
            for d in &devices {
                let (major, minor) = d.capability;
                say!("cuda:{}       {}, compute capability {major}.{minor}, {} MiB", d.ordinal, d.name, d.memory >> 20);
            }
            if devices.is_empty() {
                say!("             there is no device");
            }
        }
        Err(error) => say!("cuda         {error}"),
    }
    Ok(())
}

fn report(fetched: &Fetched) {
    for path in &fetched.paths {
        say!("fetched      {}", path.display());
    }
    say!("             {}", fetched.checked);
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("amx-bf16", sara_kernels::multiplies_matrices()),
    ];
    found.into_iter().filter(|f| f.1).map(|f| f.0).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    vec![std::env::consts::ARCH]
}
