//! Shows what an agent would see and decide on this machine:
//! `cargo run -p tepui-pressure --example watch`, until it is interrupted.

use std::io;

use tepui_pressure::{INTERVAL, Pressure, Relief, Sources, Watch};
use tokio::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let (_watch, mut readings) = Watch::start(&Sources::machine("/"), INTERVAL)?;
    let (start, mut relief) = (Instant::now(), Relief::default());
    while readings.changed().await.is_ok() {
        let seen = *readings.borrow_and_update();
        let decision = relief.decide(start.elapsed(), &seen, &[]);
        let stall = |pressure: Option<Pressure>| match pressure {
            Some(pressure) => format!("{}/{}", pressure.some.avg10, pressure.full().avg10),
            None => "not told".into(),
        };
        println!(
            "waiting (some/full, 10 s): cpu {}, memory {}, io {}",
            stall(seen.cpu_pressure),
            stall(seen.memory_pressure),
            stall(seen.io_pressure),
        );
        if let Some(cpu) = seen.cpu {
            println!("  {} of {} cpus are busy", cpu.busy, cpu.all);
        }
        if let (Some(mem), Some(pids), Some(disk)) = (seen.mem, seen.pids, seen.disk) {
            println!(
                "  left: {} of {} memory, {} of {} processes, {} of {} disk, {} of {} files",
                mem.available,
                mem.total,
                pids.max.saturating_sub(pids.used),
                pids.max,
                disk.available,
                disk.size,
                disk.available_inodes,
                disk.inodes,
            );
        }
        println!("  {decision:?}");
    }
    Ok(())
}
