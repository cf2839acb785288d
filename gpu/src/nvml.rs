//! NVIDIA's library itself, looked for when the program runs.
//!
//! [`Nvml::open`] gives none where there is no driver. The library is C code in this process: what
//! it answers is taken as data, and what a device refuses is that device's fault alone. Calls may
//! block while a driver recovers, so they are made on a thread that may.

use std::ffi::OsStr;

use nvml_wrapper::Device;
use nvml_wrapper::error::NvmlError;
use tepui_types::Bytes;

use crate::gpu::{ComputeCapability, DriverVersions};
use crate::nvidia::{DeviceReading, MigReading, NvidiaFault, NvidiaLibrary};

/// The name that drivers install; the one without a number comes with development packages only.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// The most instances that are asked for: devices have up to 7 times 7 of them.
const MAX_INSTANCES: u32 = 64;

/// The open library. It is closed when dropped.
pub struct Nvml(nvml_wrapper::Nvml);

impl Nvml {
    /// The machine's library; none without a driver.
    pub fn open() -> Result<Option<Self>, NvidiaFault> {
        match nvml_wrapper::Nvml::builder()
            .lib_path(OsStr::new(LIBRARY))
            .init()
        {
            Ok(nvml) => Ok(Some(Self(nvml))),
            Err(
                error @ (NvmlError::LibloadingError(_)
                | NvmlError::LibraryNotFound
                | NvmlError::DriverNotLoaded
                | NvmlError::NotFound),
            ) => {
                tracing::debug!(%error, "no NVIDIA driver");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl NvidiaLibrary for Nvml {
    fn versions(&self) -> Result<DriverVersions, NvidiaFault> {
        // Thousands are the major release, tens the minor one: 12040 is 12.4.
        let cuda = |version: i32| {
            let version = u32::try_from(version).ok()?;
            Some((version / 1000, version % 1000 / 10))
        };
        Ok(DriverVersions {
            driver: self.0.sys_driver_version()?,
            cuda: self.0.sys_cuda_driver_version().ok().and_then(cuda),
        })
    }

    fn device_count(&self) -> Result<u32, NvidiaFault> {
        Ok(self.0.device_count()?)
    }

    fn device(&self, index: u32) -> Result<DeviceReading, NvidiaFault> {
        let device = self.0.device_by_index(index)?;
        Ok(DeviceReading {
            uuid: device.uuid()?,
            model: device.name()?,
            memory: Bytes(device.memory_info()?.total),
            pci_bus_id: device.pci_info()?.bus_id,
            compute_capability: optional(device.cuda_compute_capability())?.and_then(capability),
            minor: device.minor_number()?,
            instances: instances(&device)?,
        })
    }
}

fn capability(
    found: nvml_wrapper::structs::device::CudaComputeCapability,
) -> Option<ComputeCapability> {
    Some(ComputeCapability {
        major: u32::try_from(found.major).ok()?,
        minor: u32::try_from(found.minor).ok()?,
    })
}

/// `None` if the device is not cut into instances.
fn instances(device: &Device<'_>) -> Result<Option<Vec<MigReading>>, NvidiaFault> {
    if optional(device.mig_mode())?.is_none_or(|mode| mode.current == 0) {
        return Ok(None);
    }
    let most = device.mig_device_count()?.min(MAX_INSTANCES);
    let mut instances = Vec::new();
    for index in 0..most {
        let instance = match device.mig_device_by_index(index) {
            Ok(instance) => instance,
            // Instances that are not made leave gaps.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => continue,
            Err(error) => return Err(error.into()),
        };
        let (gpu_instance, compute_instance) = placement(&instance)?;
        instances.push(MigReading {
            uuid: instance.uuid()?,
            model: instance.name()?,
            memory: Bytes(instance.memory_info()?.total),
            index,
            gpu_instance,
            compute_instance,
        });
    }
    Ok(Some(instances))
}

/// Which GPU instance and compute instance it is. The wrapper has no call for these two.
fn placement(instance: &Device<'_>) -> Result<(u32, u32), NvidiaFault> {
    let library = instance.nvml().lib();
    let missing = |error: &_| NvidiaFault::Other(format!("{error}"));
    let gpu_instance = library.nvmlDeviceGetGpuInstanceId.as_ref();
    let gpu_instance = gpu_instance.map_err(missing)?;
    let compute_instance = library.nvmlDeviceGetComputeInstanceId.as_ref();
    let compute_instance = compute_instance.map_err(missing)?;
    let (mut gpu, mut compute) = (0, 0);
    // SAFETY: both symbols are of the library that is open and initialised as long as `instance`
    // lives, the handle is that library's own, and each writes one unsigned int to where it is told.
    let codes = unsafe {
        let handle = instance.handle();
        [
            gpu_instance(handle, &raw mut gpu),
            compute_instance(handle, &raw mut compute),
        ]
    };
    for code in codes {
        nvml_wrapper::error::nvml_try(code)?;
    }
    Ok((gpu, compute))
}

/// None for what a device, or an older driver, does not have.
fn optional<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvidiaFault> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(
            NvmlError::NotSupported
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::FunctionNotFound,
        ) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl From<NvmlError> for NvidiaFault {
    fn from(error: NvmlError) -> Self {
        match error {
            NvmlError::GpuLost => Self::Lost,
            NvmlError::ResetRequired => Self::ResetRequired,
            NvmlError::LibRmVersionMismatch => Self::VersionMismatch,
            NvmlError::NoPermission => Self::NoPermission,
            other => Self::Other(other.to_string()),
        }
    }
}
