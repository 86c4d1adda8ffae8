//! Server and client against each other, with certificates as Docker issues them.

pub(crate) mod authority;
mod exchange;
pub(crate) mod snapshots;
