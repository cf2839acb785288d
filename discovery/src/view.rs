//! The directory as bodies of the HTTP API: `/v1/services` and `/v1/services/{framework}/{service}`.
//!
//! Pure functions of a directory. They show what DNS answers and what it holds back: instances that
//! are not ready are listed, too, and say so.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::directory::{Directory, Instance, tree_name};
use crate::entry::Port;
use crate::label::framework_label;
use crate::zone::Zone;

/// The most services of a page, and the most instances of a service's body: some 300 KiB of JSON.
pub const MAX_PAGE: usize = 1_000;

/// A page of services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServicesView {
    /// In the order of frameworks' ages, then of names.
    pub services: Vec<ServiceSummary>,
    /// Where the next page begins, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<ServiceCursor>,
}

/// The last service of a page: the next one begins after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceCursor {
    /// Its framework's label.
    pub framework: String,
    /// Its name.
    pub service: String,
}

/// A service in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceSummary {
    /// Its framework.
    pub framework: String,
    /// Its name in its framework.
    pub service: String,
    /// Its name in DNS.
    pub dns_name: String,
    /// How many instances are in service.
    pub ready: usize,
    /// How many instances there are.
    pub instances: usize,
}

/// A service and its instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceView {
    /// The service.
    #[serde(flatten)]
    pub summary: ServiceSummary,
    /// Its instances, those in service first; at most [`MAX_PAGE`].
    pub list: Vec<InstanceView>,
}

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceView {
    /// The task's id, as in `/v1/tasks/{id}`.
    pub task: String,
    /// What the task is called.
    pub name: String,
    /// Its name in DNS.
    pub dns_name: String,
    /// The agent it runs on.
    pub agent: String,
    /// What that agent's machine is called.
    pub hostname: String,
    /// Where it is reached.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpAddr>,
    /// On which ports.
    pub ports: Vec<Port>,
    /// Whether it is in service.
    pub ready: bool,
}

/// A page of services, after a cursor, of at most `limit` and [`MAX_PAGE`].
pub fn services(
    directory: &Directory,
    zone: &Zone,
    after: Option<&ServiceCursor>,
    limit: usize,
) -> ServicesView {
    let limit = limit.clamp(1, MAX_PAGE);
    // A framework that has gone since has no place to go on from; its page begins anew.
    let after = after.and_then(|cursor| {
        let framework = directory.framework(&framework_label(&cursor.framework))?;
        Some((framework, tree_name(&cursor.service)))
    });
    let after = after
        .as_ref()
        .map(|(framework, name)| (*framework, &**name));
    let mut all = directory
        .services_after(after)
        .filter_map(|(framework, name, _)| {
            let first = directory.instances(framework, name).next()?;
            // What another framework of that label hides from DNS is not shown under its name.
            (directory.framework(&first.framework)? == framework)
                .then(|| summary(directory, zone, first))
                .flatten()
        });
    let services: Vec<ServiceSummary> = all.by_ref().take(limit).collect();
    let more = all.next().is_some();
    let next = services.last().filter(|_| more).map(|last| ServiceCursor {
        framework: last.framework.clone(),
        service: last.service.clone(),
    });
    ServicesView { services, next }
}

/// A service by its framework's name and its own; none where there is no such service.
pub fn service(
    directory: &Directory,
    zone: &Zone,
    framework: &str,
    service: &str,
) -> Option<ServiceView> {
    let id = directory.framework(&framework_label(framework))?;
    let name = tree_name(service);
    let instances: Vec<_> = directory.instances(id, &name).take(MAX_PAGE).collect();
    Some(ServiceView {
        summary: summary(directory, zone, instances.first()?)?,
        list: instances.iter().map(|one| instance(zone, one)).collect(),
    })
}

/// A service, by any of its instances.
fn summary(directory: &Directory, zone: &Zone, first: &Instance) -> Option<ServiceSummary> {
    let name = first.service.as_deref()?;
    let counts = directory.service(first.entry.id.framework, name)?;
    Some(ServiceSummary {
        framework: first.entry.framework.clone(),
        service: first.entry.service.clone()?,
        dns_name: zone.service(&first.framework, name),
        ready: counts.ready,
        instances: counts.all,
    })
}

fn instance(zone: &Zone, instance: &Instance) -> InstanceView {
    let entry = &instance.entry;
    InstanceView {
        task: entry.id.to_string(),
        name: entry.name.clone(),
        dns_name: zone.task(instance).to_ascii(),
        agent: entry.agent.to_string(),
        hostname: entry.hostname.clone(),
        addresses: entry.addresses.clone(),
        ports: entry.ports.clone(),
        ready: entry.in_service(),
    }
}
