//! Files that are damaged or hostile, each with the message that refuses it (`malformed/expected.txt`; `BLESS=1` writes it anew).
//!
//! No file makes the program panic, and none makes it ask for much more memory than it has bytes.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

mod common;

#[path = "malformed/bytes.rs"]
mod bytes;
#[path = "malformed/external.rs"]
mod external;
#[path = "malformed/graphs.rs"]
mod graphs;
#[path = "malformed/nodes.rs"]
mod nodes;
#[path = "malformed/others.rs"]
mod others;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which remembers the largest request.
struct Watching;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// Bytes that may be asked for at once beside those of the file: tables of a fixed size, such as those of a histogram.
const SPARE: usize = 4 << 20;

#[expect(unsafe_code, reason = "an allocator is unsafe by nature")]
// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Tries something in an empty folder. Gives the message that refuses it, or nothing if nothing was refused.
type Try = Box<dyn Fn(&Path) -> Option<String>>;

/// One refusal.
struct Case {
    name: String,
    run: Try,
}

impl Case {
    fn new(name: impl Into<String>, run: impl Fn(&Path) -> Option<String> + 'static) -> Case {
        Case { name: name.into(), run: Box::new(run) }
    }
}

/// What is printed for a case, on one line, without the folder's name.
fn outcome(case: &Case) -> String {
    let folder = tempfile::tempdir().unwrap();
    LARGEST.store(0, Ordering::Relaxed);
    let found = catch_unwind(AssertUnwindSafe(|| (case.run)(folder.path())));
    let size = |entry: std::io::Result<std::fs::DirEntry>| entry.and_then(|e| e.metadata()).map_or(0, |m| m.len());
    let files: u64 = std::fs::read_dir(folder.path()).unwrap().map(size).sum();
    // Text and lists take more in memory than in a file.
    let most = SPARE + 64 * files.min(1 << 20) as usize;
    let asked = LARGEST.load(Ordering::Relaxed);
    let message = match found {
        Err(_) => "PANIC".to_owned(),
        Ok(_) if asked > most => format!("ALLOCATES {asked} bytes"),
        Ok(None) => "ACCEPTED".to_owned(),
        Ok(Some(message)) => message,
    };
    let real = folder.path().canonicalize().unwrap();
    let message = message.replace(real.to_str().unwrap(), "DIR").replace(folder.path().to_str().unwrap(), "DIR");
    message.lines().map(str::trim).collect::<Vec<_>>().join(" / ")
}

#[test]
fn every_file_is_refused_with_its_reason() {
    let cases: Vec<Case> = [bytes::cases(), graphs::cases(), nodes::cases(), external::cases(), others::cases()]
        .into_iter()
        .flatten()
        .collect();
    let found: Vec<String> = cases.iter().map(|c| format!("{}: {}\n", c.name, outcome(c))).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed/expected.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, found.concat()).unwrap();
    }
    let bad = ["PANIC", "ALLOCATES", "ACCEPTED"];
    let wrong: Vec<&String> = found.iter().filter(|l| bad.iter().any(|b| l.contains(&format!(": {b}")))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let expected = std::fs::read_to_string(&path).unwrap();
    let expected: Vec<&str> = expected.split_inclusive('\n').collect();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
    assert!(found.len() >= 150, "{} files", found.len());
}
