//! Every CUDA kernel compiles for every architecture, without spilling registers, and has the entry points that the tests run on a
//! processor, with the same parameters.

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

/// An unsigned number of `N` bytes at a place of a cubin.
fn number<const N: usize>(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + N].iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte))
}

/// Bytes of each parameter of each entry point. A cubin is an ELF file, and its section `.nv.info.ENTRY` a list of attributes: format,
/// kind, and for format 4 a length; of kind 0x17 with the parameter's number at 4 and its size in the upper 14 bits of the last word.
fn parameters(cubin: &[u8]) -> BTreeMap<String, Vec<usize>> {
    let sections = number::<8>(cubin, 0x28);
    let header = |i: usize| sections + 64 * i;
    let name_table = number::<8>(cubin, header(number::<2>(cubin, 0x3e)) + 0x18);
    let mut all = BTreeMap::new();
    for section in (0..number::<2>(cubin, 0x3c)).map(header) {
        let name = &cubin[name_table + number::<4>(cubin, section)..];
        let name: String = name.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
        let Some(entry) = name.strip_prefix(".nv.info.") else { continue };
        let (mut at, bytes) = (number::<8>(cubin, section + 0x18), number::<8>(cubin, section + 0x20));
        let (end, mut sizes) = (at + bytes, BTreeMap::new());
        while at < end {
            let long = cubin[at] == 4;
            if long && cubin[at + 1] == 0x17 {
                sizes.insert(number::<2>(cubin, at + 8), number::<4>(cubin, at + 12) >> 18);
            }
            at += if long { 4 + number::<2>(cubin, at + 2) } else { 4 };
        }
        all.insert(entry.to_owned(), sizes.into_values().collect());
    }
    all
}

/// The bytes of parameters of these kinds, which [`sara_kernels::cuda::Param::kind`] names.
fn sizes(kinds: &str) -> Vec<usize> {
    let mut rest = kinds;
    std::iter::from_fn(|| {
        let kind = rest.chars().next()?;
        let digits = rest[1..].chars().take_while(char::is_ascii_digit).count();
        let size = rest[1..1 + digits].parse().unwrap_or(if "if".contains(kind) { 4 } else { 8 });
        rest = &rest[1 + digits..];
        Some(size)
    })
    .collect()
}

#[test]
fn every_kernel_compiles_for_every_architecture_without_spills() {
    let nvrtc = Nvrtc::open_or_fetch().unwrap_or_else(|e| panic!("NVRTC is needed for this test: {e}"));
    let entries = sara_shim::entries();
    let work: Vec<_> = KERNELS.iter().flat_map(|k| ARCHITECTURES.map(|arch| (*k, arch))).collect();
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (compiled, compared, most) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
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
                    for (entry, own) in parameters(&result.cubin) {
                        let kinds = sara_shim::entry(&entry).map_or(String::new(), |(_, kinds)| kinds);
                        compared.fetch_add(1, Ordering::Relaxed);
                        if own != sizes(&kinds) {
                            fault(format!("`{entry}` takes {own:?} bytes, and on a processor {kinds}"));
                        }
                    }
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
    let compiled = compiled.into_inner();
    assert_eq!(compared.into_inner(), compiled, "parameters of all entry points are compared");
    println!("{compiled} entry points; registers at most: {most:?}");
}
