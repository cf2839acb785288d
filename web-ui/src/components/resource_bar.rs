//! How much of a resource there is, is used, and is held in offers.

use leptos::prelude::*;
use tepui_types::resources::ResourceRequest;
use tepui_types::{Bytes, MilliCpus};
use tepui_web::amounts;

/// A resource that every part of the cluster has or may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Processors.
    Cpus,
    /// Memory.
    Mem,
    /// Disk.
    Disk,
    /// Graphics processors.
    Gpus,
}

impl Resource {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Cpus, Self::Mem, Self::Disk, Self::Gpus];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpus => "cpus",
            Self::Mem => "memory",
            Self::Disk => "disk",
            Self::Gpus => "gpus",
        }
    }

    /// How much of it is in `amounts`, in thousandths or bytes.
    pub fn of(self, amounts: &ResourceRequest) -> u64 {
        match self {
            Self::Cpus => amounts.cpus.0,
            Self::Mem => amounts.mem.0,
            Self::Disk => amounts.disk.0,
            Self::Gpus => amounts.gpus_milli,
        }
    }

    /// An amount with its unit, if it has one.
    pub fn text(self, amount: u64) -> String {
        match self {
            Self::Cpus | Self::Gpus => MilliCpus(amount).to_string(),
            Self::Mem | Self::Disk => Bytes(amount).to_string(),
        }
    }
}

/// Amounts of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// What tasks have.
    pub used: u64,
    /// What offers hold.
    pub offered: u64,
    /// All there is.
    pub total: u64,
}

impl Share {
    /// Of `resource` in three sums.
    pub fn of(
        resource: Resource,
        used: &ResourceRequest,
        offered: &ResourceRequest,
        total: &ResourceRequest,
    ) -> Self {
        Self {
            used: resource.of(used),
            offered: resource.of(offered),
            total: resource.of(total),
        }
    }

    fn sentence(self, resource: Resource) -> String {
        let Self {
            used,
            offered,
            total,
        } = self;
        let (name, text) = (resource.name(), |amount| resource.text(amount));
        let held = match offered {
            0 => String::new(),
            offered => format!(", {} offered", text(offered)),
        };
        format!("{name}: {} of {} used{held}", text(used), text(total))
    }
}

/// The bar alone.
#[component]
pub fn Bar(
    /// Which resource.
    resource: Resource,
    /// How much.
    #[prop(into)]
    share: Signal<Share>,
) -> impl IntoView {
    let used = move || amounts::percent(share.get().used, share.get().total);
    let offered = move || amounts::percent(share.get().offered, share.get().total);
    let width = |percent: f64| format!("{percent:.2}%");
    let sentence = move || share.get().sentence(resource);
    view! {
        <span class="bar" role="img" aria-label=sentence title=sentence>
            <span class="bar-used" style:width=move || width(used())></span>
            <span
                class="bar-offered"
                style:width=move || width(offered().min(100.0 - used()))
            ></span>
        </span>
    }
}

/// A table's cell: the bar with its numbers below.
#[component]
pub fn BarCell(
    /// Which resource.
    resource: Resource,
    /// How much.
    #[prop(into)]
    share: Signal<Share>,
) -> impl IntoView {
    view! {
        <div class="bar-cell">
            <Bar resource=resource share=share/>
            <span class="bar-numbers">
                {move || resource.text(share.get().used)}
                <span class="muted">" / " {move || resource.text(share.get().total)}</span>
            </span>
        </div>
    }
}

/// A card: name, numbers, bar and what they mean.
#[component]
pub fn BarCard(
    /// Which resource.
    resource: Resource,
    /// How much.
    #[prop(into)]
    share: Signal<Share>,
) -> impl IntoView {
    let text = move |amount: u64| resource.text(amount);
    view! {
        <section class="card bar-card" aria-label=resource.name()>
            <div class="bar-card-head">
                <h3>{resource.name()}</h3>
                <span class="muted number">
                    {move || amounts::percent_text(share.get().used, share.get().total)}
                </span>
            </div>
            <p class="bar-card-numbers">
                <strong>{move || text(share.get().used)}</strong>
                <span class="muted">" of " {move || text(share.get().total)}</span>
            </p>
            <Bar resource=resource share=share/>
            <p class="bar-card-foot muted">
                {move || match share.get().offered {
                    0 => "nothing on offer".to_owned(),
                    offered => format!("{} on offer", text(offered)),
                }}
            </p>
        </section>
    }
}
