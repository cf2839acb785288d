//! Amounts, counts and spans of time as people read them.
//!
//! Every number that a page shows goes through here, so that one amount looks
//! the same everywhere. Units: thousandths, bytes, milliseconds.

use tepui_types::resources::ResourceRequest;

/// A whole number in groups of three: `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 task`, `2 tasks`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// The share of `part` in `whole` in percent, from 0 to 100; 0 of nothing is 0.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    (part as f64 / whole as f64 * 100.0).clamp(0.0, 100.0)
}

/// A share in whole percent; more than nothing is never shown as `0 %`.
pub fn percent_text(part: u64, whole: u64) -> String {
    let share = percent(part, whole);
    if part > 0 && share < 1.0 {
        "<1 %".into()
    } else {
        format!("{} %", share.floor())
    }
}

/// Processor time by the time in which it is taken, from thousandths: in percent of one processor.
pub fn processors(milli: u64) -> String {
    match milli % 10 {
        0 => format!("{} %", milli / 10),
        tenth => format!("{}.{tenth} %", milli / 10),
    }
}

/// How long something takes or took: `820 ms`, `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis} ms"),
        1..=9 => match millis % 1000 / 100 {
            0 => format!("{seconds} s"),
            tenth => format!("{seconds}.{tenth} s"),
        },
        10..=59 => format!("{seconds} s"),
        60..=3599 => two_units(seconds / 60, "min", seconds % 60, "s"),
        3600..=86_399 => two_units(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two_units(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn two_units(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large} {large_unit}")
    } else {
        format!("{large} {large_unit} {small} {small_unit}")
    }
}

/// How long ago something was, in one unit: `just now`, `12 s ago`, `3 d ago`.
/// Clocks differ a little, so the near future is now as well.
pub fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..=1 => "just now".into(),
        2..=59 => format!("{seconds} s ago"),
        60..=3599 => format!("{} min ago", seconds / 60),
        3600..=86_399 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// How long until something is, in one unit: `now`, `in 12 s`, `in 3 d`.
pub fn ahead(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => "now".into(),
        1..=59 => format!("in {seconds} s"),
        60..=3599 => format!("in {} min", seconds / 60),
        3600..=86_399 => format!("in {} h", seconds / 3600),
        _ => format!("in {} d", seconds / 86_400),
    }
}

/// What there is of resources with names of their own, one a line: `licenses: 1 of 3 used`.
pub fn named(
    used: &ResourceRequest,
    offered: &ResourceRequest,
    total: &ResourceRequest,
) -> Vec<String> {
    let said = |name: &String| {
        let held = match offered.amount(name) {
            0 => String::new(),
            _ => format!(", {} on offer", offered.show(name)),
        };
        format!(
            "{name}: {} of {} used{held}",
            used.show(name),
            total.show(name)
        )
    };
    total.custom.keys().map(said).collect()
}

/// Processor time from microseconds: `312 µs`, `1.8 ms`, then as [`duration`].
pub fn cpu_time(micros: u64) -> String {
    match micros {
        0..=999 => format!("{micros} µs"),
        1000..=999_999 => {
            let tenths = micros / 100;
            match tenths % 10 {
                0 => format!("{} ms", tenths / 10),
                tenth => format!("{}.{tenth} ms", tenths / 10),
            }
        }
        _ => duration(micros / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ];
        for (number, text) in cases {
            assert_eq!(count(number), text);
        }
        assert_eq!(counted(1, "task"), "1 task");
        assert_eq!(counted(0, "task"), "0 tasks");
    }

    #[test]
    fn shares_stay_within_their_bar() {
        assert_eq!(percent(1, 4), 25.0);
        assert_eq!(percent(5, 0), 0.0);
        assert_eq!(
            percent(9, 3),
            100.0,
            "an agent may have shrunk under its tasks"
        );
        assert_eq!(percent_text(1, 1000), "<1 %");
        assert_eq!(percent_text(0, 1000), "0 %");
        assert_eq!(percent_text(999, 1000), "99 %", "not all is in use yet");
    }

    #[test]
    fn processors_are_percent_of_one() {
        assert_eq!(processors(0), "0 %");
        assert_eq!(processors(1_234), "123.4 %");
        assert_eq!(processors(2_000), "200 %");
    }

    #[test]
    fn spans_have_at_most_two_units() {
        let cases = [
            (0, "0 ms"),
            (820, "820 ms"),
            (4_260, "4.2 s"),
            (5_000, "5 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (185_000, "3 min 5 s"),
            (7_800_000, "2 h 10 min"),
            (273_600_000, "3 d 4 h"),
        ];
        for (millis, text) in cases {
            assert_eq!(duration(millis), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        let cases = [
            (900, "just now"),
            (12_000, "12 s ago"),
            (3_700_000, "1 h ago"),
        ];
        for (millis, text) in cases {
            assert_eq!(age(millis), text);
        }
    }

    #[test]
    fn processor_time_keeps_what_is_small() {
        let cases = [
            (312, "312 µs"),
            (1_850, "1.8 ms"),
            (20_000, "20 ms"),
            (4_200_000, "4.2 s"),
        ];
        for (micros, text) in cases {
            assert_eq!(cpu_time(micros), text);
        }
    }

    #[test]
    fn what_is_to_come_has_one_unit() {
        let cases = [
            (0, "now"),
            (999, "now"),
            (12_000, "in 12 s"),
            (3_599_000, "in 59 min"),
            (7_200_000, "in 2 h"),
            (172_800_000, "in 2 d"),
        ];
        for (millis, text) in cases {
            assert_eq!(ahead(millis), text);
        }
    }

    #[test]
    fn resources_of_an_operators_own_are_told_by_name() {
        let amounts = |json: &str| serde_json::from_str::<ResourceRequest>(json).unwrap();
        let total =
            amounts(r#"{"cpus_milli": 1000, "custom_milli": {"fast": 500, "licenses": 3000}}"#);
        let used = amounts(r#"{"custom_milli": {"licenses": 1000}}"#);
        let offered = amounts(r#"{"custom_milli": {"fast": 500}}"#);
        assert_eq!(
            named(&used, &offered, &total),
            ["fast: 0 of 0.5 used, 0.5 on offer", "licenses: 1 of 3 used"]
        );
    }
}
