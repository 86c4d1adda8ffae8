//! The node's own processes, and what must not leave it.

pub mod guard;
pub mod leaving;
pub mod socket;
