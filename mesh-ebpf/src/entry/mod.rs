//! At the entry node: which task gets a client's packet, and what becomes of what comes back.

pub(crate) mod choose;
pub(crate) mod icmp;
pub(crate) mod reject;
pub(crate) mod replay;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod selection;
