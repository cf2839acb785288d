//! What people and programs read: tables and fields, or JSON.
//!
//! All that goes to stdout goes through here, so that a reader who leaves
//! early (`| head`) ends the command quietly: the error of a broken pipe is
//! returned like any other, and `main` knows it.

use std::io::{self, Write};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;
use tepui_types::resources::ResourceRequest;
use tepui_types::{Digest, Resources, Timestamp};

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    // For people. (Doc comments here would stretch the help of every command.)
    Table,
    // For programs: one document, or one a line for streams.
    Json,
}

/// Writes a line to stdout.
pub fn line(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(())
}

/// Writes a line to stderr, for people. A terminal that is gone must not keep
/// anything from being cleaned up, so a failure is passed over.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a value as one JSON document.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Writes a value as one line of JSON.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Rows under their names, as wide as they need to be.
pub struct Columns {
    table: Table,
    names: usize,
    rows: usize,
}

impl Columns {
    /// A table with these columns.
    pub fn new(names: &[&str]) -> Self {
        let mut table = Table::new();
        table
            .load_preset(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(names.iter().map(|name| name.to_uppercase()));
        let mut columns = Self {
            table,
            names: names.len(),
            rows: 0,
        };
        columns.tighten();
        columns
    }

    /// Adds a row with one cell a column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.table.add_row(cells);
        self.rows += 1;
    }

    /// Numbers stand to the right.
    pub fn right(&mut self, column: usize) {
        if let Some(column) = self.table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }

    /// Writes the table, or `nothing` where it has no rows.
    pub fn print(self, nothing: &str) -> Result<()> {
        line(&self.text(nothing))
    }

    /// What is written then.
    pub fn text(mut self, nothing: &str) -> String {
        if self.rows == 0 {
            return nothing.to_owned();
        }
        self.tighten();
        self.table.trim_fmt()
    }

    /// Columns stand two spaces apart, the first at the margin.
    fn tighten(&mut self) {
        for index in 0..self.names {
            if let Some(column) = self.table.column_mut(index) {
                column.set_padding((0, 2));
            }
        }
    }
}

/// One object: names and values under each other.
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// No fields yet.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// A field.
    pub fn add(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.0.push((name.to_owned(), value.to_string()));
        self
    }

    /// A field, if it has a value.
    pub fn maybe(&mut self, name: &str, value: Option<impl ToString>) -> &mut Self {
        if let Some(value) = value {
            self.add(name, value);
        }
        self
    }

    /// Writes the fields.
    pub fn print(&self) -> Result<()> {
        line(&self.text())
    }

    fn text(&self) -> String {
        let width = self
            .0
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        let lines: Vec<_> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_owned())
            .collect();
        lines.join("\n")
    }
}

/// An instant as RFC 3339 has it, in UTC, to the second.
pub fn instant(time: Timestamp) -> String {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => format!("{} ms", time.0),
    }
}

/// How long ago an instant was, in the largest fitting unit.
pub fn age(time: Timestamp) -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    let now = Timestamp(u64::try_from(now).unwrap_or(0));
    span(now.millis_since(time))
}

/// A span of milliseconds in one or two units.
pub fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..=9 => format!("{seconds}.{}s", millis % 1000 / 100),
        10..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        7200..=172_799 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A digest short enough for a table; the API wants it whole.
pub fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// What a request asks for, in words.
pub fn request(request: &ResourceRequest) -> String {
    let mut parts = vec![
        format!("{} cpus", request.cpus),
        format!("{} mem", request.mem),
    ];
    if request.disk.0 > 0 {
        parts.push(format!("{} disk", request.disk));
    }
    if request.ports > 0 {
        parts.push(format!("{} ports", request.ports));
    }
    if request.gpus_milli > 0 {
        let gpus = tepui_types::MilliCpus(request.gpus_milli);
        parts.push(format!("{gpus} gpus"));
    }
    for (name, milli) in &request.custom {
        parts.push(format!("{} {name}", tepui_types::MilliCpus(*milli)));
    }
    parts.join(", ")
}

/// `used of total` for a table.
pub fn share(used: &Resources, total: &Resources) -> (String, String) {
    let (used, total) = (ResourceRequest::from(used), ResourceRequest::from(total));
    (
        format!("{}/{}", used.cpus, total.cpus),
        format!("{}/{}", used.mem, total.mem),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        let shown: Vec<_> = [999, 1_500, 59_000, 150_000, 7_260_000, 200_000_000]
            .map(span)
            .into();
        assert_eq!(shown, ["999ms", "1.5s", "59s", "2m30s", "2h01m", "2d07h"]);
    }

    #[test]
    fn fields_stand_under_each_other() {
        let mut fields = Fields::new();
        fields.add("id", "a1").add("hostname", "x");
        fields.maybe("reason", None::<String>);
        assert_eq!(fields.text(), "id        a1\nhostname  x");
    }

    #[test]
    fn instants_are_utc() {
        assert_eq!(
            instant(Timestamp(1_700_000_000_000)),
            "2023-11-14T22:13:20Z"
        );
    }
}
