//! At the home node: packets for its tasks, and what the tasks answer.

pub(crate) mod delivery;
pub(crate) mod icmp;
pub(crate) mod reply;
pub(crate) mod request;
