//! What the CUDA driver, which is loaded when it is first needed, says of this machine.

use crate::error::{Error, Result};
use cudarc::driver::{DriverError, result, sys};

/// The oldest compute capability that the kernels are compiled for.
pub(super) const OLDEST: (i32, i32) = (7, 5);
/// The oldest CUDA version of a driver that has all functions that are called.
const OLDEST_DRIVER: (i32, i32) = (11, 4);

/// What is known of a device before it is used.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its number.
    pub ordinal: i32,
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// Bytes of its memory.
    pub memory: usize,
}

/// The devices of this machine, and the newest CUDA version that the driver supports.
#[expect(unsafe_code, reason = "calls the driver")]
pub fn devices() -> Result<(Vec<Info>, (i32, i32))> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device(
            "there is no CUDA driver (libcuda.so.1) on this machine; install NVIDIA's driver, or use --device cpu"
                .to_owned(),
        ));
    }
    use sys::CUresult as R;
    let failed = |e: DriverError| {
        Error::Device(match e.0 {
            R::CUDA_ERROR_STUB_LIBRARY => "the CUDA driver that was found is a toolkit's stub, which programs are linked with; install NVIDIA's driver, take the stub out of LD_LIBRARY_PATH, or use --device cpu".to_owned(),
            R::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => "the CUDA driver's library and its kernel module are of different versions; restart the machine after an update of the driver, or use --device cpu".to_owned(),
            _ => format!("the CUDA driver does not work: {e}"),
        })
    };
    let mut version = 0;
    // SAFETY: points to an integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed)?;
    let version = (version / 1000, version % 1000 / 10);
    if version < OLDEST_DRIVER {
        let ((major, minor), (least_major, least_minor)) = (version, OLDEST_DRIVER);
        return Err(Error::Device(format!(
            "the driver is for CUDA {major}.{minor}, and {least_major}.{least_minor} is needed; update NVIDIA's driver, or use --device cpu"
        )));
    }
    match result::init() {
        Err(DriverError(R::CUDA_ERROR_NO_DEVICE)) => return Ok((Vec::new(), version)),
        other => other.map_err(failed)?,
    }
    let mut found = Vec::new();
    for ordinal in 0..result::device::get_count().map_err(failed)? {
        let device = result::device::get(ordinal).map_err(failed)?;
        let attribute = |a| {
            // SAFETY: the device exists.
            unsafe { result::device::get_attribute(device, a) }.map_err(failed)
        };
        found.push(Info {
            ordinal,
            name: result::device::get_name(device).map_err(failed)?,
            capability: (
                attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            // SAFETY: the device exists.
            memory: unsafe { result::device::total_mem(device) }.map_err(failed)?,
        });
    }
    Ok((found, version))
}
