//! Server and client against each other, with certificates as Docker issues them.

pub(crate) mod authority;
mod exchange;
mod limits;
pub(crate) mod snapshots;
