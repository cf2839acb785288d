//! A watch on this machine.

use std::time::Duration;

use tepui_pressure::{Sources, Watch};
use tokio::time::timeout;

/// Far more than a dozen small files take to be read, however busy the machine.
const DEADLINE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(20);

#[tokio::test]
async fn readings_come_again_and_again_until_the_watch_is_dropped() {
    let (watch, mut readings) = Watch::start(&Sources::machine("/"), INTERVAL).unwrap();
    for _ in 0..3 {
        timeout(DEADLINE, readings.changed())
            .await
            .unwrap()
            .unwrap();
        let seen = *readings.borrow_and_update();
        assert!(seen.mem.is_some() && seen.pids.is_some() && seen.disk.is_some());
    }
    let busy = readings.wait_for(|seen| seen.cpu.is_some());
    assert!(timeout(DEADLINE, busy).await.unwrap().is_ok());
    drop(watch);
    let until_closed = async { while readings.changed().await.is_ok() {} };
    timeout(DEADLINE, until_closed).await.unwrap();
}

#[tokio::test]
async fn a_watch_that_is_dropped_does_not_wait_for_its_interval() {
    let hour = Duration::from_secs(3_600);
    let (watch, mut readings) = Watch::start(&Sources::machine("/"), hour).unwrap();
    timeout(DEADLINE, readings.changed())
        .await
        .unwrap()
        .unwrap();
    drop(watch);
    let closed = timeout(DEADLINE, readings.changed()).await;
    assert!(closed.unwrap().is_err());
}
