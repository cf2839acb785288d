//! The other masters: how one is reached, how one is recognized, and how one comes to be.
//!
//! [`founding`] gives an empty folder its place in a cluster, [`candidacy`] is what others see of it
//! meanwhile, and [`invitation`] asks one in that waits for it; [`link`] is one connection between
//! two masters, which the log's [transport](crate::raft) uses, and [`presence`] sees that none is there
//! twice; [`image`] brings the state to one that is too far behind; [`rejoin`] brings back one whose database is damaged; [`moved`] tells the
//! others where this one is now; [`peers`] is what every request to another master goes through.

pub mod address;
pub mod candidacy;
pub mod founding;
pub mod image;
pub mod invitation;
pub mod link;
pub mod moved;
pub mod peers;
pub mod presence;
pub mod rejoin;
