//! From what must be true to what is in the kernel: a pure plan, and a small loop that carries it out.
//!
//! ```text
//! Desired + NodeView ─► plan (against Tables, which mirror the kernel's maps) ─► operations ─► Dataplane
//! ```
//!
//! Make before break: backends, then the slots of a new set, then the frontend that points to it; what is not needed any
//! more goes last, after the packets that may still look at it have passed. A frontend that cannot be written keeps what it has, and
//! holds up no other one and nothing that is to go.

pub mod allocation;
pub mod handover;
pub mod plan;
pub mod reconciler;
pub mod retries;
pub mod tables;
#[cfg(test)]
mod tests;
