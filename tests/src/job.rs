//! Jobs for tests: `Job::command(["echo", "hello"]).count(3)`.

use std::collections::BTreeMap;

use tepui_types::api::job::JobRequest;
use tepui_types::resources::ResourceRequest;
use tepui_types::task::{CommandWorkload, WasmWorkload};
use tepui_types::{Bytes, Container, Digest, MilliCpus, PartitionPolicy, Workload};

/// A job in the making: small, so that many fit on an agent.
#[derive(Debug, Clone)]
pub struct Job(JobRequest);

impl Job {
    /// A native command.
    pub fn command<T: Into<String>>(argv: impl IntoIterator<Item = T>) -> Self {
        Self::new(Workload::Command(CommandWorkload::new(
            argv.into_iter().map(Into::into).collect(),
        )))
    }

    /// A command in a container of this image.
    pub fn container(image: &str, argv: &[&str]) -> Self {
        let mut command =
            CommandWorkload::new(argv.iter().map(|word| (*word).to_owned()).collect());
        command.container = Some(Box::new(Container {
            // Tests name real ones.
            image: Some(image.parse().expect("an image")),
            ..Container::default()
        }));
        Self::new(Workload::Command(command)).mem(Bytes::mib(64))
    }

    /// How its life is looked at, as JSON.
    pub fn checks(mut self, json: &str) -> Self {
        // Tests write what can be read.
        self.0.checks = Some(serde_json::from_str(json).expect("checks"));
        self
    }

    /// A shell script.
    pub fn shell(script: &str) -> Self {
        Self::command(["sh", "-c", script])
    }

    /// A WebAssembly program with its arguments.
    pub fn wasm(artifact: Digest, args: &[&str]) -> Self {
        Self::new(Workload::Wasm(WasmWorkload {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..WasmWorkload::new(artifact)
        }))
    }

    fn new(workload: Workload) -> Self {
        Self(JobRequest {
            name: None,
            workload,
            resources: ResourceRequest {
                cpus: MilliCpus(10),
                mem: Bytes::mib(16),
                ..ResourceRequest::default()
            },
            count: 1,
            max_restarts: 0,
            priority: 0,
            kill_grace_ms: 5_000,
            labels: BTreeMap::new(),
            partition: PartitionPolicy::Wait,
            constraints: Default::default(),
            role: None,
            volumes: Vec::new(),
            revocable: false,
            gang: false,
            gang_wait_ms: None,
            time_limit_ms: None,
            checks: None,
            fetch: Vec::new(),
        })
    }

    /// What runs with its command, as JSON; all of it in containers without an image.
    pub fn companions(&mut self, json: &str) {
        if let Workload::Command(command) = &mut self.0.workload {
            command.container.get_or_insert_default();
            let options = command.options.get_or_insert_default();
            options.companions = serde_json::from_str(json).expect("companions");
        }
    }

    /// Its name.
    pub fn name(mut self, name: &str) -> Self {
        self.0.name = Some(name.to_owned());
        self
    }

    /// How many tasks.
    pub fn count(mut self, count: u32) -> Self {
        self.0.count = count;
        self
    }

    /// Processors of each task.
    pub fn cpus(mut self, milli: u64) -> Self {
        self.0.resources.cpus = MilliCpus(milli);
        self
    }

    /// Memory of each task.
    pub fn mem(mut self, mem: Bytes) -> Self {
        self.0.resources.mem = mem;
        self
    }

    /// Host ports of each task.
    pub fn ports(mut self, ports: u32) -> Self {
        self.0.resources.ports = ports.into();
        self
    }

    /// How often a failed task is run again.
    pub fn restarts(mut self, restarts: u32) -> Self {
        self.0.max_restarts = restarts;
        self
    }

    /// The grace of a kill.
    pub fn grace_ms(mut self, millis: u64) -> Self {
        self.0.kill_grace_ms = millis;
        self
    }

    /// What becomes of it while its agent is not heard of.
    pub fn partition(mut self, policy: PartitionPolicy) -> Self {
        self.0.partition = policy;
        self
    }

    /// A persistent volume that each task uses.
    pub fn volume(mut self, volume: &str) -> Self {
        self.0.volumes.push(volume.into());
        self
    }

    /// Milliseconds from its launch after which a task is ended.
    pub fn time_limit_ms(mut self, millis: u64) -> Self {
        self.0.time_limit_ms = Some(millis);
        self
    }

    /// All of its tasks start together.
    pub fn gang(mut self, wait_ms: Option<u64>) -> Self {
        self.0.gang = true;
        self.0.gang_wait_ms = wait_ms;
        self
    }

    /// Which of the framework's roles is charged.
    pub fn role(mut self, role: &str) -> Self {
        self.0.role = role.parse().ok();
        self
    }

    /// A variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let env = match &mut self.0.workload {
            Workload::Wasm(wasm) => &mut wasm.env,
            Workload::Command(command) => &mut command.env,
        };
        env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The most processes of a native task.
    pub fn pids(mut self, pids: u32) -> Self {
        if let Workload::Command(command) = &mut self.0.workload {
            command.pids = Some(pids);
        }
        self
    }

    /// The request.
    pub fn request(&self) -> &JobRequest {
        &self.0
    }
}
