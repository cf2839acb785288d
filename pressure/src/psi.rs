//! Pressure stall information: how much of the time work waited for something.
//!
//! The kernel tells it for the machine in `/proc/pressure/{cpu,memory,io}` and for a cgroup in its
//! `cpu.pressure`, `memory.pressure` and `io.pressure`, in the form of its
//! `Documentation/accounting/psi.rst`. A kernel without it is an ordinary case, which readers of files
//! show as `None`; here is only the form. Lines and fields that later kernels add are passed over.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Malformed;

/// The longest text that is parsed: today's have about 120 bytes, and lines may be added.
pub const MAX_BYTES: usize = 4096;

/// Hundredths of a percent of time: the kernel tells two decimals.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BasisPoints(pub u32);

impl BasisPoints {
    /// So many percent.
    pub const fn percent(percent: u32) -> Self {
        Self(percent * 100)
    }
}

impl fmt::Display for BasisPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}%", self.0 / 100, self.0 % 100)
    }
}

/// How long work stood still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stall {
    /// Share of the last ten seconds.
    #[serde(rename = "avg10_basis_points")]
    pub avg10: BasisPoints,
    /// Share of the last minute.
    #[serde(rename = "avg60_basis_points")]
    pub avg60: BasisPoints,
    /// Share of the last five minutes.
    #[serde(rename = "avg300_basis_points")]
    pub avg300: BasisPoints,
    /// Microseconds since the start, all together.
    pub total_micros: u64,
}

/// The pressure of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pressure {
    /// While at least one task waited for it.
    pub some: Stall,
    /// While every task that was not idle waited for it. Before Linux 5.13 not told of cpus, and of
    /// the whole machine's cpus always nothing.
    pub full: Option<Stall>,
}

impl Pressure {
    /// Reads a pressure file's text.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > MAX_BYTES {
            return Err(Malformed::TooLong(MAX_BYTES));
        }
        let (mut some, mut full) = (None, None);
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("some") => put(&mut some, "some", Stall::parse(words)?)?,
                Some("full") => put(&mut full, "full", Stall::parse(words)?)?,
                _ => {}
            }
        }
        let some = some.ok_or(Malformed::Missing("some"))?;
        Ok(Self { some, full })
    }

    /// While every task waited; nothing where that is not told.
    pub fn full(&self) -> Stall {
        self.full.unwrap_or_default()
    }
}

impl Stall {
    fn parse<'a>(fields: impl Iterator<Item = &'a str>) -> Result<Self, Malformed> {
        let (mut avg10, mut avg60, mut avg300, mut total) = (None, None, None, None);
        for (name, value) in fields.filter_map(|field| field.split_once('=')) {
            match name {
                "avg10" => put(&mut avg10, "avg10", share("avg10", value)?)?,
                "avg60" => put(&mut avg60, "avg60", share("avg60", value)?)?,
                "avg300" => put(&mut avg300, "avg300", share("avg300", value)?)?,
                "total" => {
                    let micros = value.parse().map_err(|_| Malformed::Number("total"))?;
                    put(&mut total, "total", micros)?;
                }
                _ => {}
            }
        }
        Ok(Self {
            avg10: avg10.ok_or(Malformed::Missing("avg10"))?,
            avg60: avg60.ok_or(Malformed::Missing("avg60"))?,
            avg300: avg300.ok_or(Malformed::Missing("avg300"))?,
            total_micros: total.ok_or(Malformed::Missing("total"))?,
        })
    }
}

fn put<T>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), Malformed> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed::Twice(name)),
    }
}

/// A percentage of two decimals, such as `19.60`.
fn share(name: &'static str, text: &str) -> Result<BasisPoints, Malformed> {
    let digits = |text: &str| {
        let all = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = Some(text).filter(|_| all)?.parse::<u32>().ok()?;
        Some(number)
    };
    let parse = || {
        let (whole, hundredths) = text.split_once('.')?;
        let hundredths = Some(hundredths).filter(|text| text.len() == 2)?;
        let whole = digits(whole)?.checked_mul(100)?;
        Some(BasisPoints(whole.checked_add(digits(hundredths)?)?))
    };
    parse().ok_or(Malformed::Number(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(name: &str, stall: Stall) -> String {
        let two = |share: BasisPoints| format!("{}.{:02}", share.0 / 100, share.0 % 100);
        format!(
            "{name} avg10={} avg60={} avg300={} total={}\n",
            two(stall.avg10),
            two(stall.avg60),
            two(stall.avg300),
            stall.total_micros
        )
    }

    fn stall() -> impl Strategy<Value = Stall> {
        let share = || (0..=10_000_u32).prop_map(BasisPoints);
        (share(), share(), share(), any::<u64>()).prop_map(
            |(avg10, avg60, avg300, total_micros)| Stall {
                avg10,
                avg60,
                avg300,
                total_micros,
            },
        )
    }

    #[test]
    fn kernels_of_all_ages_are_read() {
        let old = "some avg10=19.60 avg60=12.72 avg300=0.07 total=32973686926\n";
        let pressure = Pressure::parse(old).unwrap();
        assert_eq!(pressure.some.avg10, BasisPoints(1_960));
        assert_eq!(pressure.some.avg300.to_string(), "0.07%");
        assert_eq!(pressure.some.total_micros, 32_973_686_926);
        assert_eq!((pressure.full, pressure.full()), (None, Stall::default()));
        let later = format!("{old}full avg5=1.00 {}\nmost of=it\n", &old[5..]);
        assert_eq!(
            Pressure::parse(&later).unwrap().full.unwrap().avg60,
            BasisPoints(1_272)
        );
    }

    #[test]
    fn other_texts_are_refused_with_what_is_wrong() {
        let good = line("some", Stall::default());
        for (text, wrong) in [
            (String::new(), Malformed::Missing("some")),
            (line("full", Stall::default()), Malformed::Missing("some")),
            (format!("{good}{good}"), Malformed::Twice("some")),
            ("some avg10=0.00".into(), Malformed::Missing("avg60")),
            (good.replace("avg60", "avg10"), Malformed::Twice("avg10")),
            (good.replace("0.00", "0.0"), Malformed::Number("avg10")),
            (good.replace("0.00", "+1.00"), Malformed::Number("avg10")),
            (
                good.replace("0.00", "99999999.00"),
                Malformed::Number("avg10"),
            ),
            (
                good.replace("total=0", "total=-1"),
                Malformed::Number("total"),
            ),
            (" ".repeat(MAX_BYTES + 1), Malformed::TooLong(MAX_BYTES)),
        ] {
            assert_eq!(Pressure::parse(&text), Err(wrong), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_the_kernel_writes_is_read_as_it_is(
            some in stall(), full in proptest::option::of(stall())
        ) {
            let text = line("some", some) + &full.map_or(String::new(), |full| line("full", full));
            prop_assert_eq!(Pressure::parse(&text), Ok(Pressure { some, full }));
        }

        #[test]
        fn no_text_breaks_the_parser(
            text in "((some|full|[a-z]{0,3}) ?(avg10=|avg60=|total=)?[0-9.=+-]{0,12}[ \n]?){0,12}|\\PC*"
        ) {
            _ = Pressure::parse(&text);
        }
    }
}
