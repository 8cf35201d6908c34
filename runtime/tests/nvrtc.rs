//! Every CUDA kernel compiles for every architecture, without spilling registers, and has the entry points that the tests run on a
//! processor.

use sara_kernels::KERNELS;
use sara_runtime::device::Source;
use sara_runtime::device::nvrtc::Nvrtc;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const ARCHITECTURES: [&str; 6] = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"];

/// The first number after `label` in a line.
fn after(line: &str, label: &str) -> Option<u64> {
    let rest = line.split_once(label)?.1.trim_start();
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The number before `label` in a line.
fn before(line: &str, label: &str) -> Option<u64> {
    line.split_once(label)?.0.rsplit(|c: char| !c.is_ascii_digit()).find(|w| !w.is_empty())?.parse().ok()
}

#[test]
fn every_kernel_compiles_for_every_architecture_without_spills() {
    let nvrtc = Nvrtc::open_or_fetch().unwrap_or_else(|e| panic!("NVRTC is needed for this test: {e}"));
    let entries = sara_shim::entries();
    let work: Vec<_> = KERNELS.iter().flat_map(|k| ARCHITECTURES.map(|arch| (*k, arch))).collect();
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (compiled, most) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((kernel, arch)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let fault =
                        |text: String| faults.lock().unwrap().push(format!("{} for {arch}: {text}", kernel.name));
                    let result = match nvrtc.compile(&Source::Kernel(kernel), arch) {
                        Ok(result) => result,
                        Err(error) => {
                            fault(error.to_string());
                            continue;
                        }
                    };
                    let mut entry = String::new();
                    for line in result.log.lines() {
                        if let Some((_, name)) = line.split_once("Compiling entry function '") {
                            entry = name.split('\'').next().unwrap_or_default().to_owned();
                            compiled.fetch_add(1, Ordering::Relaxed);
                            if !entries.contains(&entry) {
                                fault(format!("`{entry}` is not run on a processor"));
                            }
                        }
                        if before(line, " bytes spill stores").is_some_and(|n| n > 0)
                            || before(line, " bytes spill loads").is_some_and(|n| n > 0)
                        {
                            fault(format!("`{entry}`: {}", line.trim()));
                        }
                        if let Some(registers) = after(line, "Used ") {
                            let mut most = most.lock().unwrap();
                            let own: &mut u64 = most.entry(kernel.name).or_default();
                            *own = registers.max(*own);
                        }
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let most = most.into_inner().unwrap();
    assert_eq!(most.len(), KERNELS.len(), "the assembler's report is not understood");
    println!("{} entry points; registers at most: {most:?}", compiled.into_inner());
}
