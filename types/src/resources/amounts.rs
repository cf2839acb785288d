//! Amounts as people type them: `cpus=4,mem=8GiB,gpus=1`.
//!
//! Amounts of memory and disk always carry a unit, because a bare number means bytes to some and MiB
//! to others; `MB` means MiB. Other amounts have at most three decimals.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{Bytes, MilliCpus, ResourceLimit, ResourceRequest};

/// Amounts by name, in the smallest unit of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts(BTreeMap<String, u64>);

impl Amounts {
    /// Each by its name.
    pub fn from_entries<'a>(entries: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let entries = entries.into_iter();
        Self(
            entries
                .map(|(name, amount)| (name.to_owned(), amount))
                .collect(),
        )
    }

    /// So much is asked for.
    pub fn request(&self) -> ResourceRequest {
        let mut request = ResourceRequest::default();
        for (name, amount) in &self.0 {
            match name.as_str() {
                "cpus" => request.cpus = MilliCpus(*amount),
                "mem" => request.mem = Bytes(*amount),
                "disk" => request.disk = Bytes(*amount),
                "ports" => request.ports = *amount,
                "gpus" => request.gpus_milli = *amount,
                name => _ = request.custom.insert(name.to_owned(), *amount),
            }
        }
        request.custom.retain(|_, amount| *amount > 0);
        request
    }

    /// So much is the most.
    pub fn limit(&self) -> ResourceLimit {
        let mut limit = ResourceLimit::default();
        for (name, amount) in &self.0 {
            match name.as_str() {
                "cpus" => limit.cpus = Some(MilliCpus(*amount)),
                "mem" => limit.mem = Some(Bytes(*amount)),
                "disk" => limit.disk = Some(Bytes(*amount)),
                "ports" => limit.ports = Some(u32::try_from(*amount).unwrap_or(u32::MAX)),
                "gpus" => limit.gpus_milli = Some(*amount),
                name => _ = limit.custom.insert(name.to_owned(), *amount),
            }
        }
        limit
    }
}

/// `cpus=4,mem=8GiB`, or `none`.
impl FromStr for Amounts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut amounts = BTreeMap::new();
        for part in text.split(',').filter(|_| text != "none") {
            let wanted = || format!("`{part}` is not an amount such as cpus=4 or mem=8GiB");
            let (name, amount) = part.trim().split_once('=').ok_or_else(wanted)?;
            let amount = match name {
                "" => return Err(wanted()),
                "mem" | "disk" => amount.parse::<Bytes>()?.0,
                "ports" => amount.parse::<u32>().map_err(|_| wanted())?.into(),
                _ => thousandths(amount).ok_or_else(wanted)?,
            };
            if amounts.insert(name.to_owned(), amount).is_some() {
                return Err(format!("`{name}` is there twice"));
            }
        }
        Ok(Self(amounts))
    }
}

/// As [`FromStr`] reads it, exactly; empty where nothing is named.
impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, amount)) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            match name.as_str() {
                "mem" | "disk" => {
                    let (number, unit) = exact(*amount);
                    write!(f, "{name}={number}{unit}")?;
                }
                "ports" => write!(f, "{name}={amount}")?,
                _ => write!(f, "{name}={}", MilliCpus(*amount))?,
            }
        }
        Ok(())
    }
}

/// Bytes in the largest unit of which they are a whole number.
fn exact(bytes: u64) -> (u64, &'static str) {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |(shift, _): &(u32, &str)| bytes > 0 && bytes.trailing_zeros() >= *shift;
    let unit = units.into_iter().find(whole);
    unit.map_or((bytes, "B"), |(shift, unit)| (bytes >> shift, unit))
}

/// Memory or disk with its unit: `64MiB`, `1.5GiB`.
impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = || format!("`{text}` is not an amount of memory such as 64MiB or 1.5GiB");
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.'));
        let (number, unit) = text.split_at(split.unwrap_or(text.len()));
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            "" => return Err(format!("`{text}` has no unit: write {text}MiB or {text}B")),
            _ => return Err(wanted()),
        };
        let milli = thousandths(number).ok_or_else(wanted)?;
        let total = (u128::from(milli) << shift) / 1000;
        u64::try_from(total).map(Self).map_err(|_| wanted())
    }
}

/// A decimal number with at most three decimals, in thousandths.
pub fn thousandths(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 3 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let decimals: u64 = format!("{decimals:0<3}").parse().ok()?;
    whole.checked_mul(1000)?.checked_add(decimals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_amount_is_named_once() {
        let amounts = |text: &str| text.parse::<Amounts>();
        let named = |entries: &[(&str, u64)]| Ok(Amounts::from_entries(entries.iter().copied()));
        assert_eq!(
            amounts("cpus=1.5, mem=1GiB"),
            named(&[("cpus", 1500), ("mem", 1 << 30)])
        );
        assert_eq!(
            amounts("ports=3,fpga=2"),
            named(&[("fpga", 2000), ("ports", 3)])
        );
        assert_eq!(amounts("none"), named(&[]));
        for text in [
            "",
            "cpus",
            "=1",
            "cpus=-1",
            "mem=1",
            "cpus=1,cpus=2",
            "ports=0.5",
        ] {
            assert!(amounts(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_exactly() {
        let texts = [
            "cpus=1.5,mem=1GiB",
            "disk=1536MiB,fpga=2,gpus=0.5,ports=3",
            "mem=1025B",
            "mem=0B",
        ];
        for text in texts {
            let amounts: Amounts = text.parse().unwrap();
            assert_eq!(amounts.to_string(), text);
            assert_eq!(Amounts::from_entries(amounts.limit().entries()), amounts);
        }
    }

    #[test]
    fn memory_needs_its_unit() {
        let bytes = |text: &str| text.parse::<Bytes>();
        for text in ["64MiB", "64MB", "64m", "65536KiB", "64 MiB"] {
            assert_eq!(bytes(text), Ok(Bytes::mib(64)), "{text}");
        }
        assert_eq!(bytes("1.5GiB"), Ok(Bytes::mib(1536)));
        assert_eq!(bytes("7B"), Ok(Bytes(7)));
        assert!(bytes("64").unwrap_err().contains("64MiB"));
        for text in ["", "MiB", "64XB", "-1MiB", "1.2.3GiB", "99999999999TiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
