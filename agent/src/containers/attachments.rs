//! Tasks on networks: attached before they start, let go of when they are released, and what an
//! earlier process of this agent has left.
//!
//! Plugins are programs of the operator's and may hang until their time is over. So only so many are
//! called at once, nothing but a task that wants a network waits for them, and an agent that starts does
//! not either: what was left is detached meanwhile, and before a task is attached anew, for it may have
//! that task's ports.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tepui_network::{
    Attach, Attachment, AttachmentId, Dns, NetworkError, Networks, NetworksConfig, PortMapping,
};
use tepui_types::container::{NamedNetwork, Protocol};
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::LocalNetwork;
use tepui_types::{Reason, TaskId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::container_of;
use crate::error::AgentError;
use crate::sandbox::Layout;

/// Attachments that are worked on at once. Each has a thread of those that may block, of which there
/// are 512: when all of these hang, the agent's disk and executors still have the others.
const AT_ONCE: usize = 64;
/// How often a network that does not let go is asked again, and how long after; what is left then is
/// asked for at the agent's next start.
const DETACH_TRIES: u32 = 3;
const DETACH_PAUSE: Duration = Duration::from_secs(5);

/// The attachments of this agent's tasks.
#[derive(Debug)]
pub struct Attachments {
    networks: Networks,
    /// Makes them this agent's among those of its machine.
    nonce: u128,
    calls: Arc<Semaphore>,
    /// Whether what an earlier process has left is detached, or does not let go.
    is_clean: watch::Sender<bool>,
}

impl Attachments {
    /// Begins to detach what an earlier process of this agent has left, but for what these tasks have.
    ///
    /// # Errors
    /// When their folder cannot be used.
    pub fn open(
        layout: &Layout,
        config: NetworksConfig,
        nonce: u128,
        kept: &[TaskId],
    ) -> Result<Arc<Self>, AgentError> {
        let networks = Networks::open(&layout.networks(), config);
        let this = Arc::new(Self {
            networks: networks.map_err(|error| AgentError::Containers(error.into()))?,
            nonce,
            calls: Arc::new(Semaphore::new(AT_ONCE)),
            is_clean: watch::Sender::new(false),
        });
        let kept: BTreeSet<_> = kept.iter().filter_map(|task| this.id(task)).collect();
        let left = this.networks.left(&kept);
        let left = left.map_err(|error| AgentError::Containers(error.into()))?;
        tokio::spawn(this.clone().clean(left));
        Ok(this)
    }

    async fn clean(self: Arc<Self>, left: Vec<AttachmentId>) {
        let mut detaching = JoinSet::new();
        for id in left {
            let this = self.clone();
            detaching.spawn(async move {
                match this.detach(&id).await {
                    Ok(()) => {
                        tracing::info!(%id, "a network that an earlier agent left is detached")
                    }
                    Err(why) => {
                        tracing::warn!(%id, "a network that an earlier agent left stays: {why}");
                    }
                }
            });
        }
        detaching.join_all().await;
        self.is_clean.send_replace(true);
    }

    /// Attaches a task, which is done already if an earlier process has.
    ///
    /// # Errors
    /// The task's reason.
    pub async fn attach(
        self: &Arc<Self>,
        launch: &TaskLaunch,
        network: &NamedNetwork,
        cancelled: CancellationToken,
    ) -> Result<LocalNetwork, Reason> {
        let failed = |message: String| Reason::new(reason::NETWORK_FAILED, message);
        let id = self.id(&launch.task);
        let id = id.ok_or_else(|| failed("the task's id names no attachment".into()))?;
        let attach = asked(id, launch, network).map_err(failed)?;
        // The sender is here.
        let _ = self
            .is_clean
            .subscribe()
            .wait_for(|is_clean| *is_clean)
            .await;
        let permit = self.permit().await;
        let this = self.clone();
        let attached = spawn_blocking(move || {
            let _permit = permit;
            let id = attach.id.clone();
            // Whoever releases the task detaches after this, or has cancelled before.
            let attached = this.networks.attach(attach);
            if cancelled.is_cancelled() {
                this.networks.detach(&id)?;
            }
            attached
        });
        let attachment = match attached.await {
            Ok(attached) => attached.map_err(|error| {
                let code = match &error {
                    NetworkError::PortTaken { .. } => reason::PORT_TAKEN,
                    _ => reason::NETWORK_FAILED,
                };
                Reason::new(code, in_words(error))
            })?,
            Err(error) => return Err(failed(error.to_string())),
        };
        let hostname = container_of(launch).and_then(|(_, container)| container.hostname.clone());
        let hostname = hostname.unwrap_or_else(|| launch.task.name.to_string());
        Ok(joined(&attachment, &hostname))
    }

    /// Lets go of what a task has, if it has something.
    pub async fn release(self: &Arc<Self>, task: &TaskId) {
        let Some(id) = self.id(task) else { return };
        for _ in 0..DETACH_TRIES {
            match self.detach(&id).await {
                Ok(()) => return,
                Err(why) => tracing::warn!(%id, "a network does not let go: {why}"),
            }
            tokio::time::sleep(DETACH_PAUSE).await;
        }
    }

    /// Detaches every network: the tasks that had them have been ended. Blocks.
    pub fn detach_all(&self) {
        match self.networks.recover(&BTreeSet::new()) {
            Ok(recovered) => {
                for (id, error) in recovered.failed {
                    tracing::warn!(%id, "a network does not let go: {}", in_words(error));
                }
            }
            Err(error) => tracing::warn!("networks stay attached: {}", in_words(error)),
        }
    }

    async fn detach(self: &Arc<Self>, id: &AttachmentId) -> Result<(), String> {
        let permit = self.permit().await;
        let (this, id) = (self.clone(), id.clone());
        let detached = spawn_blocking(move || {
            let _permit = permit;
            this.networks.detach(&id)
        });
        match detached.await {
            Ok(detached) => detached.map_err(in_words),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Held by the thread that calls plugins, for as long as it does.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes it.
        self.calls.clone().acquire_owned().await.ok()
    }

    fn id(&self, task: &TaskId) -> Option<AttachmentId> {
        format!("{:08x}-{task}", self.nonce as u32).parse().ok()
    }
}

fn in_words(error: NetworkError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

fn asked(id: AttachmentId, launch: &TaskLaunch, network: &NamedNetwork) -> Result<Attach, String> {
    let servers = network.nameservers.iter();
    Ok(Attach {
        id,
        network: network.name.clone(),
        port_mappings: mappings(network, launch.resources.ports.iter().collect())?,
        dns: Dns {
            nameservers: servers.flat_map(|text| text.parse()).collect(),
            search: network.search.clone(),
            options: Vec::new(),
        },
    })
}

fn joined(attachment: &Attachment, hostname: &str) -> LocalNetwork {
    LocalNetwork {
        namespace: attachment.netns.to_string_lossy().into_owned(),
        resolv_conf: attachment.resolv_conf().unwrap_or_else(machines_servers),
        hosts: attachment.hosts(hostname),
        addresses: attachment.addresses().collect(),
    }
}

/// The machine's name servers, but for those that only the machine itself reaches.
fn machines_servers() -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let dns = Dns::parse(&text).without_loopback();
    dns.resolv_conf().unwrap_or_default()
}

/// Which ports of the machine lead where: those that are named, and for the others the task's first
/// ports that are not.
fn mappings(network: &NamedNetwork, ports: Vec<u16>) -> Result<Vec<PortMapping>, String> {
    let named: BTreeSet<u16> = network
        .ports
        .iter()
        .filter_map(|mapping| mapping.host)
        .collect();
    if let Some(foreign) = named.iter().find(|port| !ports.contains(port)) {
        return Err(format!(
            "port {foreign} of the machine is not the task's, which has {ports:?}: leave `host` out, \
             and ask for as many ports as are mapped"
        ));
    }
    let mut free = ports.iter().copied().filter(|port| !named.contains(port));
    let mapping = |mapping: &tepui_types::container::PortMapping| {
        let host_port = mapping.host.or_else(|| free.next());
        let host_port = host_port.ok_or_else(|| {
            format!(
                "the task has {} ports, and maps {}: ask for as many (`--ports`)",
                ports.len(),
                network.ports.len()
            )
        })?;
        Ok(PortMapping {
            host_port,
            container_port: mapping.container,
            protocol: match mapping.protocol {
                Protocol::Tcp => tepui_network::Protocol::Tcp,
                Protocol::Udp => tepui_network::Protocol::Udp,
            },
            host_ip: None,
        })
    };
    network.ports.iter().map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_ports_are_the_tasks_own() {
        let network: NamedNetwork = serde_json::from_str(
            r#"{"name": "web", "ports": [{"container": 80}, {"container": 53, "host": 31001, "protocol": "udp"}]}"#,
        )
        .unwrap();
        let mapped = mappings(&network, vec![31001, 31000]).unwrap();
        let pairs: Vec<_> = mapped
            .iter()
            .map(|one| (one.host_port, one.container_port))
            .collect();
        assert_eq!(pairs, [(31000, 80), (31001, 53)]);
        assert!(
            mappings(&network, vec![31001])
                .unwrap_err()
                .contains("--ports")
        );
        assert!(
            mappings(&network, vec![31000])
                .unwrap_err()
                .contains("31001")
        );
    }
}
