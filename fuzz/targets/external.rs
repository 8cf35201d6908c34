//! Any text as a location of external data: what opens lies where it may.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sara::runtime::source::Source;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::OnceLock;
use tempfile::TempDir;

fn place() -> &'static TempDir {
    static PLACE: OnceLock<TempDir> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = tempfile::tempdir().unwrap();
        for folder in ["a", "a/b", "c"] {
            fs::create_dir(place.path().join(folder)).unwrap();
        }
        for file in ["a/m", "a/d", "a/b/d", "c/s", "s"] {
            fs::write(place.path().join(file), file).unwrap();
        }
        symlink("../c", place.path().join("a/c")).unwrap();
        symlink("../s", place.path().join("a/s")).unwrap();
        symlink("b/d", place.path().join("a/e")).unwrap();
        place
    })
}

fuzz_target!(|location: &str| {
    let place = place().path();
    if location.is_empty() {
        return;
    }
    if let Ok((path, _)) = Source::new(place.join("a/m")).open(location) {
        let real = path.canonicalize().unwrap();
        assert!(real.starts_with(place.join("a").canonicalize().unwrap()), "{location:?} opens {}", real.display());
    }
});
