//! The network of tasks on an agent's machine.
//!
//! [`Networks`] gives a task a network namespace of its own and attaches it to a network that the
//! machine's operator has configured, by CNI plugins. What an attachment needs for its end is on
//! disk before the first plugin runs, so that nothing of it is left behind, whatever is killed
//! when. [`TaskChecks`] decides when a task's checks are made and what follows from them, and
//! [`Prober`] makes them; [`Lookout`] tells which tasks listen on ports that
//! are not theirs. The agent calls this crate; nothing in here knows of masters.

mod attachment;
mod checks;
mod cidr;
mod cni;
mod dns;
mod error;
mod firewall;
mod id;
mod list;
mod namespace;
mod networks;
mod orphans;
mod plugin;
mod ports;
mod probe;
mod process;
mod record;
mod turns;

pub use attachment::{Attach, Attachment, Interface, PortMapping, Protocol, is_hostname};
pub use checks::{Action, Event, ProbeId, TaskChecks};
pub use cidr::{Cidr, ParseCidrError};
pub use dns::Dns;
pub use error::NetworkError;
pub use id::{AttachmentId, ParseAttachmentIdError};
pub use namespace::NamespaceError;
pub use networks::{Networks, NetworksConfig, Recovered};
pub use plugin::{PluginError, Verb};
pub use ports::{Lookout, Stray, Tenant};
pub use probe::{Place, Prober, connect, datagrams};
