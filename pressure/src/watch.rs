//! Looks at the machine at an interval, for as long as somebody wants to know.
//!
//! A thread of its own does it, which is there from the start: a disk that does not answer holds up
//! nobody else, and a machine that is out of processes is still seen. Only the latest readings are
//! kept. Who waits for them much longer than the interval knows that the disk does not answer.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

use crate::gauges::{Gauges, Sources};
use crate::readings::Readings;

/// A good interval: the kernel makes its averages anew every two seconds.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// Stops looking when it is dropped.
#[derive(Debug)]
pub struct Watch {
    /// Nothing is sent: the thread waits until there is nobody to send.
    _wanted: mpsc::SyncSender<()>,
}

impl Watch {
    /// Looks now, and then at every interval. Nothing is known until the receiver has changed for the
    /// first time.
    pub fn start(
        sources: &Sources,
        interval: Duration,
    ) -> io::Result<(Self, watch::Receiver<Readings>)> {
        let (wanted, stop) = mpsc::sync_channel(0);
        let (readings, receiver) = watch::channel(Readings::default());
        let sources = sources.clone();
        let look = move || look(&sources, interval, &stop, &readings);
        _ = thread::Builder::new().name("pressure".into()).spawn(look)?;
        Ok((Self { _wanted: wanted }, receiver))
    }
}

fn look(
    sources: &Sources,
    interval: Duration,
    stop: &mpsc::Receiver<()>,
    readings: &watch::Sender<Readings>,
) {
    let mut gauges = Gauges::new(sources);
    let mut known = BTreeSet::new();
    loop {
        let mut faults = Vec::new();
        let sent = readings.send(gauges.read(&mut faults));
        let mut said = BTreeSet::new();
        for fault in faults {
            let text = fault.to_string();
            // Once as long as it lasts.
            if !known.contains(&text) {
                let error = &fault as &dyn Error;
                tracing::warn!(error, "the machine is not fully seen");
            }
            _ = said.insert(text);
        }
        known = said;
        if sent.is_err() || stop.recv_timeout(interval) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
    }
}
