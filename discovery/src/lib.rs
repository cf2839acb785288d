//! Service discovery: who runs where, by name.
//!
//! A [`Directory`] holds the tasks, agents and masters that the cluster's state tells of; it is
//! pure, and cheap to change and to clone. [`Published`] hands the newest one to readers. From it a
//! [`DnsServer`] answers questions below a domain of its own ([`Zone`]), and [`services`] and
//! [`service`] make the bodies of the HTTP API. The master keeps the directory and runs the server;
//! nothing in here knows of masters' logs.

mod answer;
mod answerer;
mod counters;
mod dice;
mod directory;
mod entry;
mod error;
mod label;
mod message;
mod published;
mod question;
mod rate;
mod server;
mod tcp;
mod udp;
mod upstream;
mod view;
mod zone;

pub use counters::DnsCounts;
pub use directory::Directory;
pub use entry::{Agent, Entry, Master, Port};
pub use error::DiscoveryError;
pub use label::label;
pub use published::Published;
pub use rate::Rate;
pub use server::{DnsConfig, DnsListener, DnsServer};
pub use tepui_types::container::Protocol;
pub use upstream::Upstreams;
pub use view::{
    InstanceView, MAX_PAGE, ServiceCursor, ServiceSummary, ServiceView, ServicesView, service,
    services,
};
pub use zone::Zone;

#[cfg(test)]
mod tests;
