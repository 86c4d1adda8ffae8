//! Which task this is, as the Swarm's templates in the service's environment tell.

use std::{env, net::SocketAddr};

use serde_json::{Value, json};

#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) task: String,
    id: String,
    node: String,
    service: String,
    pub(crate) version: String,
}

impl Identity {
    pub(crate) fn from_environment() -> Self {
        let read = |name: &str| env::var(name).ok();
        let host = || std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned();
        Self {
            task: read("WORKLOAD_TASK").unwrap_or_else(host),
            id: read("WORKLOAD_TASK_ID").unwrap_or_default(),
            node: read("WORKLOAD_NODE").unwrap_or_default(),
            service: read("WORKLOAD_SERVICE").unwrap_or_default(),
            version: read("WORKLOAD_VERSION").unwrap_or_default(),
        }
    }

    /// The answer to one client.
    pub(crate) fn to(&self, peer: SocketAddr, local: Option<SocketAddr>, requests: u64) -> Value {
        let plain =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port()).to_string();
        json!({
            "task": self.task,
            "id": self.id,
            "node": self.node,
            "service": self.service,
            "version": self.version,
            "peer": plain(peer),
            "local": local.map(plain),
            "requests": requests,
        })
    }
}
