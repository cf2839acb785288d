//! The raft library's own log lines, which it gives to slog, as tracing events.
//!
//! Its "info" tells of every step of an election; that is our "debug".

use std::fmt::{self, Write as _};

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, Serializer, o};

/// A logger for one node.
pub fn logger() -> Logger {
    Logger::root(Tracing, o!())
}

struct Tracing;

impl Drain for Tracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: "raft", "{}", Line(record, values))
            }
            Level::Warning => tracing::warn!(target: "raft", "{}", Line(record, values)),
            Level::Info => tracing::debug!(target: "raft", "{}", Line(record, values)),
            Level::Debug | Level::Trace => {
                tracing::trace!(target: "raft", "{}", Line(record, values))
            }
        }
        Ok(())
    }
}

/// Formats only when a subscriber wants the line.
struct Line<'a>(&'a Record<'a>, &'a OwnedKVList);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use slog::KV as _;
        write!(f, "{}", self.0.msg())?;
        let mut pairs = Pairs(String::new());
        self.0
            .kv()
            .serialize(self.0, &mut pairs)
            .map_err(|_| fmt::Error)?;
        self.1
            .serialize(self.0, &mut pairs)
            .map_err(|_| fmt::Error)?;
        f.write_str(&pairs.0)
    }
}

struct Pairs(String);

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}
