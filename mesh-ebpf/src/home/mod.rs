//! At the home node: packets for its tasks, and what the tasks answer.

pub mod delivery;
pub mod established;
pub mod icmp;
pub mod reply;
pub mod request;
