//! Throwaway.
use tepui_types::TaskState;
use tepui_types::wire::agent::AgentEffect;
use crate::master::{FakeMaster, wasm, shell};
use crate::process::AgentProcess;

#[tokio::test]
async fn zz_latency() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let digest = master.add_artifact(&crate::wasm::hello());
    let mut session = master.session().await;
    let mut times = vec![];
    for n in 0..200 {
        let t = wasm(&format!("w{n}"), digest);
        let s = std::time::Instant::now();
        session.launch(&t).await;
        session.until(&t.task, TaskState::Finished).await;
        times.push(s.elapsed().as_micros());
    }
    println!("first wasm {} us", times[0]);
    times.sort();
    println!("wasm median {} p99 {}", times[100], times[198]);
    let mut times = vec![];
    for n in 0..50 {
        let t = shell(&format!("n{n}"), "true");
        let s = std::time::Instant::now();
        session.launch(&t).await;
        session.until(&t.task, TaskState::Finished).await;
        times.push(s.elapsed().as_micros());
    }
    times.sort();
    println!("native median {} p99 {}", times[25], times[49]);
    let tasks: Vec<_> = (0..1_000).map(|number| wasm(&format!("t{number}"), digest)).collect();
    let launch = |task: &_| AgentEffect::Launch(Box::new(Clone::clone(task)));
    let cpu = |pid: i32| { let t = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap(); let f: Vec<u64> = t.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2).map(|x| x.parse().unwrap()).collect(); (f[0]*10, f[1]*10) };
    let ex = agent.executors()[0].pid;
    println!("agent {:?} ex {:?} me {:?} ms", cpu(agent.pid().as_raw()), cpu(ex), cpu(std::process::id() as i32));
    let s = std::time::Instant::now();
    session.latest.clear();
    session.effects(tasks.iter().map(launch).collect()).await;
    session.until_all(|latest| latest.values().filter(|r| r.state.is_terminal()).count() == 1_000).await;
    println!("1000 wasm {} us", s.elapsed().as_micros());
    println!("agent {:?} ex {:?} me {:?} ms", cpu(agent.pid().as_raw()), cpu(ex), cpu(std::process::id() as i32));
    let rss = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    println!("{}", rss.lines().find(|l| l.starts_with("VmRSS")).unwrap());
}
