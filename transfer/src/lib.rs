//! What every fetch of bytes from somebody else needs, once.
//!
//! Agents get artifacts from masters, images from registries, and what tasks name from anywhere.
//! Each has its own requests and errors; what they have in common stands here. Bytes are hashed on
//! their way into a file ([`Sink`]), which has no name before it is whole ([`Draft`]) and that of its
//! digest then ([`kept`]), and have to come fast enough ([`Pace`]); a download that broke off goes on
//! where it was ([`continues`]). Servers that strangers name are asked by a [`Client`], which asks nobody
//! that is out of [`Reach`] and follows redirects to no less safety. The same thing is fetched once for
//! all who want it ([`Joined`]), and what blocks has its own thread ([`blocking`]), which is told when it
//! may stop ([`StopOnDrop`]).

mod blocking;
mod chain;
mod client;
mod draft;
mod joined;
mod kept;
mod names;
mod pace;
mod range;
mod reach;
mod redirect;
mod sink;
mod stop;

pub use blocking::{Interrupted, blocking};
pub use chain::chain;
pub use client::{AskError, Client};
pub use draft::{Draft, Drafts};
pub use joined::{Joined, Report, Waiting, alone};
pub use kept::{kept, touch};
pub use pace::Pace;
pub use range::continues;
pub use reach::{Closed, Network, ParseNetworkError, Reach, Unreachable};
pub use sink::Sink;
pub use stop::StopOnDrop;
