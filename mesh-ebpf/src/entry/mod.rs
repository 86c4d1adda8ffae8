//! At the entry node: which task gets a client's packet, and what becomes of what comes back.

pub mod bridged;
pub mod choose;
pub mod established;
pub mod icmp;
pub mod reject;
pub mod replay;
pub mod reply;
pub mod request;
pub mod selection;
