//! At the entry node: which task gets a client's packet, and what becomes of what comes back.

pub(crate) mod reject;
pub(crate) mod replay;
pub(crate) mod request;
pub(crate) mod selection;
