//! What `preflight` asks Docker about the Swarm, before any agent runs.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;

use super::api;
use super::docker::Docker;
use super::snapshot::{Port, PublishMode};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Ports that are published on every node; `None` on a worker, whose Docker does not know.
    pub published: Option<Vec<Port>>,
    /// Whether the ingress network was made with `--opt encrypted`.
    pub encrypted_ingress: bool,
    /// By which the Swarm knows this node.
    pub address: Option<IpAddr>,
}

pub async fn survey(docker_socket: &Path) -> Result<Survey> {
    let docker = Docker::connect(docker_socket).await?;
    // Without a Swarm there are no such networks; where they cannot be told there is no ingress either.
    let networks = api::networks(&docker.networks().await?)?;
    let published = match docker.services().await {
        Ok(services) => {
            let services = api::services(&services)?.objects;
            let ports = services.into_values().flat_map(|service| service.ports);
            Some(ports.filter(|port| port.mode == PublishMode::Ingress).collect())
        }
        Err(_) => None,
    };
    let encrypted_ingress = networks.objects.values().any(|network| network.ingress && network.encrypted);
    let swarm = docker.info().await?.swarm;
    let address = swarm.and_then(|swarm| api::host_of(&swarm.node_addr?));
    Ok(Survey { published, encrypted_ingress, address })
}
