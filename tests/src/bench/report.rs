//! What a benchmark found, as a table and as JSON.

use std::collections::BTreeMap;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::Samples;

/// One measured thing.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name, which never changes.
    pub name: &'static str,
    /// The value that counts.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// `lower` or `higher`.
    pub better: &'static str,
    /// What it should reach.
    pub goal: f64,
    /// For people: median, 99th percentile and number of measurements.
    #[serde(skip)]
    pub spread: Option<(f64, f64, usize)>,
    /// For people: under which conditions.
    #[serde(skip)]
    pub note: String,
}

impl Row {
    /// A row that is better when lower, and known by its median.
    pub fn median(
        name: &'static str,
        unit: &'static str,
        goal: f64,
        samples: &Samples,
        note: &str,
    ) -> Self {
        let value = samples.median();
        Self::new(name, unit, goal, value, Some(samples), note)
    }

    /// A row that is better when lower.
    pub fn new(
        name: &'static str,
        unit: &'static str,
        goal: f64,
        value: f64,
        samples: Option<&Samples>,
        note: &str,
    ) -> Self {
        let spread = samples.map(|samples| (samples.median(), samples.p99(), samples.count()));
        let note = note.to_owned();
        Self {
            name,
            value: round(value),
            unit,
            better: "lower",
            goal,
            spread,
            note,
        }
    }

    /// The same, but better when higher.
    pub fn higher(self) -> Self {
        Self {
            better: "higher",
            ..self
        }
    }

    /// Whether the goal is reached.
    pub fn is_reached(&self) -> bool {
        match self.better {
            "higher" => self.value >= self.goal,
            _ => self.value <= self.goal,
        }
    }
}

/// All that a benchmark found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The benchmark's name.
    pub bench: &'static str,
    /// What it ran on and with.
    pub conditions: BTreeMap<String, String>,
    /// What it found.
    pub rows: Vec<Row>,
}

impl Report {
    /// The table for people.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_preset(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([
            "",
            "value",
            "median",
            "p99",
            "unit",
            "goal",
            "",
            "conditions",
        ]);
        for row in &self.rows {
            let (median, p99, count) = match row.spread {
                Some((median, p99, count)) => {
                    (shown(median), shown(p99), format!("{count} times; "))
                }
                None => Default::default(),
            };
            let sign = match row.better {
                "higher" => ">",
                _ if row.goal == 0.0 => "=",
                _ => "<",
            };
            table.add_row([
                row.name.to_owned(),
                shown(row.value),
                median,
                p99,
                row.unit.to_owned(),
                format!("{sign} {}", shown(row.goal)),
                if row.is_reached() {
                    "reached"
                } else {
                    "missed"
                }
                .to_owned(),
                format!("{count}{}", row.note),
            ]);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let conditions = self.conditions.iter();
        let conditions: Vec<_> = conditions
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        format!("{}\n\n{}", table.trim_fmt(), conditions.join("\n"))
    }
}

/// The machine and its load.
pub fn machine() -> BTreeMap<String, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    BTreeMap::from([
        ("cores".to_owned(), cores.to_string()),
        ("cpu".to_owned(), model.to_owned()),
        (
            "kernel".to_owned(),
            read("/proc/sys/kernel/osrelease").trim().to_owned(),
        ),
        (
            "load before".to_owned(),
            read("/proc/loadavg").trim().to_owned(),
        ),
    ])
}

/// Three significant decimals are as much as a shared machine can say.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn shown(value: f64) -> String {
    let text = format!("{:.3}", value);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_promised_form() {
        let mut samples = Samples::default();
        samples.add(4.25);
        let row = Row::median("one_task_ms", "ms", 5.0, &samples, "idle");
        assert!(row.is_reached());
        let report = Report {
            bench: "path",
            conditions: BTreeMap::new(),
            rows: vec![row],
        };
        let json = serde_json::to_value(&report).unwrap();
        let expected = serde_json::json!({
            "bench": "path",
            "conditions": {},
            "rows": [{
                "name": "one_task_ms", "value": 4.25, "unit": "ms", "better": "lower", "goal": 5.0,
            }],
        });
        assert_eq!(json, expected);
        assert!(report.table().contains("reached"));
    }
}
