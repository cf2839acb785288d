//! Bars on stderr for what takes longer than a second, and only on a terminal.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// What is done sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far something has come. Clones show the same bar.
#[derive(Debug, Clone)]
pub struct Transfer {
    bar: ProgressBar,
    started: Arc<Instant>,
}

impl Transfer {
    /// A transfer of `size` bytes.
    pub fn bytes(label: &str, size: u64) -> Self {
        Self::new(
            label,
            size,
            "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
        )
    }

    /// A job of `count` tasks.
    pub fn tasks(label: &str, count: u64) -> Self {
        Self::new(
            label,
            count,
            "{msg} [{bar:30}] {pos} of {len} tasks {prefix}",
        )
    }

    fn new(label: &str, length: u64, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(label.to_owned());
        Self {
            bar,
            started: Arc::new(Instant::now()),
        }
    }

    /// Back to the beginning: the transfer is tried again.
    pub fn restart(&self) {
        self.bar.set_position(0);
    }

    /// `amount` more.
    pub fn advance(&self, amount: u64) {
        self.show();
        self.bar.inc(amount);
    }

    /// This far in all, with a word about the rest.
    pub fn set(&self, position: u64, rest: String) {
        self.show();
        self.bar.set_prefix(rest);
        self.bar.set_position(position);
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn show(&self) {
        // `stderr()` draws nothing where stderr is not a terminal.
        if self.bar.is_hidden() && self.started.elapsed() > PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}
