//! The kernel's netfilter by netlink: messages of nfnetlink as bytes. What they say is for `firewall` and `handover`.

pub mod conntrack;
pub mod ipvs;
pub mod message;
mod socket;

pub use socket::{Dump, Socket};
