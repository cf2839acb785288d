//! `vendor.com/class=name`: what a device is called wherever it is described.

use std::fmt;
use std::str::FromStr;

/// The most bytes of a vendor, which is like a DNS name.
const MAX_VENDOR: usize = 253;
/// The most bytes of a class.
const MAX_CLASS: usize = 63;
/// The most bytes of a device's own name; the specification has no bound.
const MAX_DEVICE: usize = 253;

/// A device's full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    vendor: String,
    class: String,
    device: String,
}

/// A text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` names no device: {why}; write VENDOR/CLASS=NAME, such as nvidia.com/gpu=0")]
pub struct ParseDeviceNameError {
    /// What was written.
    pub text: String,
    /// Which part is wrong.
    pub why: &'static str,
}

impl DeviceName {
    /// `kind` is `vendor/class`.
    pub fn new(kind: &str, device: &str) -> Result<Self, ParseDeviceNameError> {
        let wrong = |why| ParseDeviceNameError {
            text: format!("{kind}={device}"),
            why,
        };
        let (vendor, class) = kind
            .split_once('/')
            .ok_or_else(|| wrong("its kind has no `/`"))?;
        if !is_vendor(vendor) {
            return Err(wrong("its vendor is not like a DNS name"));
        }
        if !is_class(class) {
            return Err(wrong(
                "its class has other than 1 to 63 letters, digits, `-`, `_` and `.`, a letter first",
            ));
        }
        if !is_device(device) {
            return Err(wrong(
                "its own name has other than letters, digits, `-`, `_`, `.` and `:` inside",
            ));
        }
        Ok(Self {
            vendor: vendor.into(),
            class: class.into(),
            device: device.into(),
        })
    }

    /// Whether another is of the same vendor and class.
    pub fn is_beside(&self, other: &Self) -> bool {
        (&self.vendor, &self.class) == (&other.vendor, &other.class)
    }

    /// Its name among its vendor's and class's.
    pub fn device(&self) -> &str {
        &self.device
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}={}", self.vendor, self.class, self.device)
    }
}

impl FromStr for DeviceName {
    type Err = ParseDeviceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, device) = text.split_once('=').ok_or_else(|| ParseDeviceNameError {
            text: text.into(),
            why: "it has no `=`",
        })?;
        Self::new(kind, device)
    }
}

fn is_vendor(text: &str) -> bool {
    let is_label = |label: &str| ends_well(label) && label.bytes().all(|byte| is_word(byte, b"-_"));
    (1..=MAX_VENDOR).contains(&text.len()) && text.split('.').all(is_label)
}

fn is_class(text: &str) -> bool {
    (1..=MAX_CLASS).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && ends_well(text)
        && text.bytes().all(|byte| is_word(byte, b"-_."))
}

fn is_device(text: &str) -> bool {
    (1..=MAX_DEVICE).contains(&text.len())
        && ends_well(text)
        // Vendors name instances `0:1`.
        && text.bytes().all(|byte| is_word(byte, b"-_.:"))
}

fn is_word(byte: u8, others: &[u8]) -> bool {
    byte.is_ascii_alphanumeric() || others.contains(&byte)
}

fn ends_well(text: &str) -> bool {
    let is_good = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    is_good(text.as_bytes().first()) && is_good(text.as_bytes().last())
}
