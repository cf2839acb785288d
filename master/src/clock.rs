//! The one place where the time of day enters the master.
//!
//! Commands carry it into the log; `State::apply` never reads a clock. Parts that want deadlines
//! use tokio's monotonic clock instead.

use std::time::SystemTime;

use tepui_types::Timestamp;

/// Milliseconds since the Unix epoch by this machine's clock; 0 for a clock set before it.
#[expect(
    clippy::disallowed_methods,
    reason = "the time of day enters the master here"
)]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since_epoch = since_epoch.unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
