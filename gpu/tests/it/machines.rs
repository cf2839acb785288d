//! Machines as NVIDIA's library described them.

use tepui_gpu::{
    ComputeCapability, DeviceReading, DriverVersions, MigReading, NvidiaFault, NvidiaLibrary,
};
use tepui_types::Bytes;

/// A machine that says the same each time.
pub struct Recorded {
    pub versions: Result<DriverVersions, NvidiaFault>,
    pub devices: Result<Vec<Result<DeviceReading, NvidiaFault>>, NvidiaFault>,
}

impl NvidiaLibrary for Recorded {
    fn versions(&self) -> Result<DriverVersions, NvidiaFault> {
        self.versions.clone()
    }

    fn device_count(&self) -> Result<u32, NvidiaFault> {
        let devices = self.devices.as_ref().map_err(Clone::clone)?;
        Ok(devices.len() as u32)
    }

    fn device(&self, index: u32) -> Result<DeviceReading, NvidiaFault> {
        let devices = self.devices.as_ref().map_err(Clone::clone)?;
        devices[index as usize].clone()
    }
}

pub const H100: &str = "GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c";
pub const A100: [&str; 2] = [
    "GPU-9a3c1b7e-0d14-52f1-8e35-6a1f0c2d4b58",
    "GPU-0b1f6c5a-77d2-9c0e-4f21-b8d3a5e90c17",
];
pub const MIG: [&str; 3] = [
    "MIG-1c5d2a6e-3f4b-5a7c-8d9e-0f1a2b3c4d5e",
    "MIG-2d6e3b7f-4a5c-5b8d-9e0f-1a2b3c4d5e6f",
    "MIG-3e7f4c8a-5b6d-5c9e-8f1a-2b3c4d5e6f70",
];

fn driver(driver: &str, cuda: (u32, u32)) -> Result<DriverVersions, NvidiaFault> {
    Ok(DriverVersions {
        driver: driver.into(),
        cuda: Some(cuda),
    })
}

fn device(uuid: &str, model: &str, mib: u64, minor: u32, major: u32) -> DeviceReading {
    DeviceReading {
        uuid: uuid.into(),
        model: model.into(),
        memory: Bytes::mib(mib),
        pci_bus_id: format!("00000000:{:02X}:00.0", 0x1b + minor),
        compute_capability: Some(ComputeCapability { major, minor: 0 }),
        minor,
        instances: None,
    }
}

fn instance(n: usize, profile: &str, mib: u64, index: u32, gpu_instance: u32) -> MigReading {
    MigReading {
        uuid: MIG[n].into(),
        model: format!("NVIDIA A100-SXM4-40GB MIG {profile}"),
        memory: Bytes::mib(mib),
        index,
        gpu_instance,
        compute_instance: 0,
    }
}

/// One H100.
pub fn h100() -> Recorded {
    let device = device(H100, "NVIDIA H100 80GB HBM3", 81_559, 0, 9);
    Recorded {
        versions: driver("550.90.07", (12, 4)),
        devices: Ok(vec![Ok(device)]),
    }
}

/// Two A100: one cut into three instances, one whole, with numbers that are not those of their nodes.
pub fn a100_mig() -> Recorded {
    let mut cut = device(A100[0], "NVIDIA A100-SXM4-40GB", 40_960, 1, 8);
    cut.instances = Some(vec![
        instance(0, "3g.20gb", 19_968, 0, 2),
        instance(1, "2g.10gb", 9_856, 1, 3),
        instance(2, "1g.5gb", 4_864, 4, 9),
    ]);
    let whole = device(A100[1], "NVIDIA A100-SXM4-40GB", 40_960, 0, 8);
    Recorded {
        versions: driver("535.183.01", (12, 2)),
        devices: Ok(vec![Ok(cut), Ok(whole)]),
    }
}

/// Three H100, of which one fell off the bus and one wants a reset.
pub fn one_lost() -> Recorded {
    let device = device(H100, "NVIDIA H100 80GB HBM3", 81_559, 2, 9);
    Recorded {
        versions: driver("550.90.07", (12, 4)),
        devices: Ok(vec![
            Err(NvidiaFault::Lost),
            Err(NvidiaFault::ResetRequired),
            Ok(device),
        ]),
    }
}

/// A driver without a device.
pub fn empty() -> Recorded {
    Recorded {
        versions: driver("550.90.07", (12, 4)),
        devices: Ok(Vec::new()),
    }
}
