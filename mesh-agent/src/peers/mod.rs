//! Agents telling agents: workers cannot read the Swarm's state from Docker, so the managers' agents serve it to them.
//!
//! ```text
//!  manager:  Snapshots ─► history (deltas, once for all) ─► server ─┐ gRPC mesh.v1.Swarm/Subscribe
//!  worker:   Snapshots ◄─ assembly (whole or not at all) ◄─ client ◄┘ over TLS both ways
//!
//!  any node: its containers ─► conditions ─► reporter ─┐ mesh.v1.Swarm/Report, to every manager
//!  manager:  Snapshots ◄─ conditions of all ◄─ server ◄┘
//! ```
//!
//! Both ends prove themselves with the certificate that Docker gave their node: the server must be a manager of this
//! cluster, the client any node of it. `changes`, `history`, `assembly`, `conditions`, `pace` and `remains` are pure; `server`,
//! `client` and `reporter` do the I/O.

mod assembly;
pub mod certificates;
mod changes;
pub mod client;
mod conditions;
mod history;
mod messages;
mod pace;
mod refusals;
mod remains;
pub mod reporter;
mod reports;
pub mod server;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tls;

/// Where managers' agents serve the others.
pub const DEFAULT_PORT: u16 = 4798;
