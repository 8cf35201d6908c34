//! Filling the cache with the pinned library.

use super::OracleError;
use super::find::{self, PINNED_VERSION};
use crate::wheel::{Fetched, Wheel, WheelError};

/// The package of the pinned library; the module beside it, which depends on Python, is left out.
const WHEEL: Wheel = Wheel {
    package: "onnxruntime",
    version: PINNED_VERSION,
    hashes: &[
        (
            "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_x86_64.whl",
            "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
        ),
        (
            "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl",
            "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8",
        ),
        (
            "onnxruntime-1.32.0-cp313-cp313-manylinux_2_28_x86_64.whl",
            "02ea12a28c069ea8510093d95a7f6ff8126bfd9fc5c0d3381c03b80fb2b424ba",
        ),
    ],
    keeps: |path| path.strip_prefix("onnxruntime/capi/").is_some_and(|file| find::library_version(file).is_some()),
};

/// Downloads the pinned library into the cache.
pub fn fetch() -> Result<Fetched, OracleError> {
    let reason = "there is no place for the cache, because neither XDG_CACHE_HOME nor HOME is set".to_owned();
    let package = WHEEL.package;
    let cache = find::cache_dir().ok_or(WheelError::Fetch { package, version: PINNED_VERSION, reason })?;
    Ok(WHEEL.fetch_into(&cache)?)
}

#[cfg(test)]
mod tests {
    use super::WHEEL;

    #[test]
    fn of_a_wheel_the_library_is_kept() {
        assert!((WHEEL.keeps)("onnxruntime/capi/libonnxruntime.so.1.32.0"));
        assert!(!(WHEEL.keeps)("onnxruntime/capi/libonnxruntime_providers_shared.so"));
        assert!(!(WHEEL.keeps)("elsewhere/libonnxruntime.so"));
    }
}
