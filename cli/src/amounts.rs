//! Amounts, times and settings as people type them.
//!
//! Every parser here is a clap value parser: its error is one sentence that
//! says what is wanted, with an example. Amounts of resources are in
//! [`tepui_types::resources::Amounts`].

use std::time::Duration;

use tepui_types::resources::thousandths;
use tepui_types::{MilliCpus, Timestamp};

/// Processors with at most three decimals: `2`, `0.25`.
pub fn cpus(text: &str) -> Result<MilliCpus, String> {
    thousandths(text)
        .map(MilliCpus)
        .ok_or_else(|| format!("`{text}` is not a number of cpus such as 2 or 0.25"))
}

/// A span of time with its unit: `500ms`, `5s`, `2m`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || format!("`{text}` is not a span of time such as 500ms, 5s, 2m or 1h");
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(wanted)?;
    let (number, unit) = text.split_at(split);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wanted()),
    };
    let number: u64 = number.parse().map_err(|_| wanted())?;
    let millis = number.checked_mul(unit_ms).ok_or_else(wanted)?;
    Ok(Duration::from_millis(millis))
}

/// A point in time: `in 2h`, or as RFC 3339 has it, with its offset from UTC.
pub fn when(text: &str) -> Result<Timestamp, String> {
    let now = jiff::Timestamp::now().as_millisecond();
    when_from(text, Timestamp(u64::try_from(now).unwrap_or(0)))
}

fn when_from(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(span) = text.strip_prefix("in ") {
        let millis = duration(span.trim())?.as_millis();
        return Ok(now.after_millis(u64::try_from(millis).unwrap_or(u64::MAX)));
    }
    let parsed: Option<jiff::Timestamp> = text.parse().ok();
    let millis = parsed.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    millis.map(Timestamp).ok_or_else(|| {
        format!("`{text}` is not a time such as `in 2h`, 2026-05-01T22:00:00Z or …T22:00+02:00")
    })
}

/// A weight above 0 with at most three decimals, in thousandths: `2`, `0.5`.
pub fn weight(text: &str) -> Result<u32, String> {
    let milli = thousandths(text).and_then(|milli| u32::try_from(milli).ok());
    milli
        .filter(|milli| *milli > 0)
        .ok_or_else(|| format!("`{text}` is not a weight above 0 such as 2 or 0.5"))
}

/// `NAME=VALUE`; the value may be empty and may hold `=`.
pub fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(format!("`{text}` is not of the form NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_have_at_most_three_decimals() {
        assert_eq!(cpus("2"), Ok(MilliCpus(2000)));
        assert_eq!(cpus("0.5"), Ok(MilliCpus(500)));
        assert_eq!(cpus("1.025"), Ok(MilliCpus(1025)));
        for text in [
            "", ".", "1.", ".5", "-1", "0.0001", "1e3", "two", "9e99", "1.2.3",
        ] {
            assert!(cpus(text).is_err(), "{text}");
        }
        assert!(cpus("99999999999999999999").is_err());
    }

    #[test]
    fn spans_need_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for text in ["", "5", "s", "5 s", "-5s", "99999999999999999999s", "1.5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_spans_from_now_or_instants_with_their_offset() {
        let when = |text| when_from(text, Timestamp(1_000));
        assert_eq!(when("in 2s"), Ok(Timestamp(3_000)));
        assert_eq!(when("1970-01-01T00:00:07Z"), Ok(Timestamp(7_000)));
        assert_eq!(when("1970-01-01T01:00:07+01:00"), Ok(Timestamp(7_000)));
        for text in [
            "",
            "in",
            "in 2",
            "2h",
            "tomorrow",
            "1970-01-01",
            "1970-01-01T00:00:07",
        ] {
            assert!(when(text).is_err(), "{text}");
        }
    }

    #[test]
    fn weights_are_above_zero() {
        assert_eq!(weight("0.5"), Ok(500));
        for text in ["0", "-1", "x", "0.0001", "9999999999"] {
            assert!(weight(text).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_are_split_at_the_first_sign() {
        assert_eq!(setting("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(setting("A="), Ok(("A".into(), String::new())));
        assert!(setting("A").is_err());
        assert!(setting("=b").is_err());
    }
}
