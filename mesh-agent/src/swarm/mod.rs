//! In: everything the agent learns about the Swarm. The only folder that names bollard.
//!
//! ```text
//!            manager: docker.sock  ─ docker  → api (pure) ────┐ store (pure):
//!                     control.sock ─ control → control_api ───┤ lists and changes
//!  source ─┬ worker:  peers::client ──────────────────────────┼─► Snapshot ─┐
//!          ├ file:    --source file:PATH ─────────────────────┘             ├─► desired/
//!          └ every node: docker.sock ─ docker → containers (pure) ─► LocalView
//! ```
//!
//! [`source`] gives one channel of [`snapshot::Snapshot`]s whatever the role of this node is or becomes, and one of
//! [`snapshot::LocalView`]s. What cannot be read freezes the last value; nothing here ever publishes half a view.

mod api;
pub mod backoff;
mod container;
mod containers;
mod control;
mod control_api;
mod control_wire;
mod docker;
pub mod file;
mod listing;
mod local;
mod manager;
mod membership;
pub mod snapshot;
pub mod source;
pub mod status;
mod store;
pub mod survey;
#[cfg(test)]
mod tests;
pub mod trouble;
mod wire;

use std::path::Path;

/// Which Docker answers at a socket, or why none does.
pub async fn docker_version(socket: &Path) -> Result<String, String> {
    let docker = docker::Docker::connect(socket).await.map_err(|error| error.to_string())?;
    docker.version().await.map_err(|error| error.to_string())
}
