//! The node's own processes, and what must not leave it.

pub(crate) mod guard;
pub(crate) mod leaving;
pub(crate) mod socket;
