//! The resolver that the Swarm's containers ask for names. The only folder that names hickory.
//!
//! ```text
//! udp, tcp ──► resolver ──► respond (pure): wire → zone → wire ──► answer
//!   ▲                          │ names that are not the Swarm's
//!   │                          └► upstream ──► cache, or race ──► exchange ──► the node's name servers
//!   └ the containers' sockets, redirected by the dataplane: who asks is known by the address on docker_gwbridge,
//!     or by the namespace that the question is asked in (`inside`)
//! ```
//!
//! [`crate::desired::Names`] says what each container can ask for. Everything up to an answer about those names is pure
//! and done where the query was read; only questions for others wait, beside the loops that read.

mod cache;
pub mod check;
mod exchange;
pub mod host;
pub mod inside;
mod race;
mod relay;
pub mod report;
pub mod resolver;
pub mod respond;
pub mod server;
mod stats;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod upstream;
pub mod wire;
pub mod zone;
