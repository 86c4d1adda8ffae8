//! What this node's mesh is to serve: what the operator has switched off, what cannot be served as Docker would, and what of the
//! node's packet filters follows for published ports.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_common::frontend::flags;

use crate::args::{RunArguments, Serve, Switch};
use crate::dataplane::pins::Pins;
use crate::desired::{FrontendId, Serving, protocol_number};
use crate::firewall::{self, Firewall, Observed, PublishedPort, Scene};
use crate::node::{Interface, NodeView};
use crate::reconcile::tables::Tables;
use crate::shared_map::SharedMap;
use crate::swarm::snapshot::{PublishMode, Service, Snapshot};

pub(super) struct Served {
    bridge: String,
    published: Switch,
    serve: Serve,
    tunnel_plaintext: Switch,
    firewall: Firewall,
    /// A sign that rules were passed by as the operator wanted; it goes when he does not any more.
    bypass: Option<PathBuf>,
    ports: PublishedPorts,
}

impl Served {
    /// Goes on from what the agent before this one has left. A sign is left where filters are passed by on purpose.
    pub(super) fn begin(arguments: &RunArguments, pins: &Pins, tables: &Tables) -> Self {
        let serves = tables.frontends.iter().any(|(id, frontend)| {
            matches!(id, FrontendId::Published { .. }) && frontend.flags & flags::LEFT == 0
        });
        let sign = pins.bypass();
        let was_bypass = sign.is_dir();
        let is_bypass = arguments.firewall == firewall::Mode::Bypass;
        if is_bypass {
            // Without it an agent that is told otherwise goes on serving, as one does that is exchanged.
            let _ = fs::create_dir(&sign);
        }
        Self {
            bridge: arguments.bridge.clone(),
            published: arguments.published,
            serve: arguments.serve,
            tunnel_plaintext: arguments.tunnel_plaintext,
            firewall: Firewall::new(arguments.firewall, serves && (is_bypass || !was_bypass)),
            bypass: (was_bypass && !is_bypass).then_some(sign),
            ports: PublishedPorts::default(),
        }
    }

    /// What is to be served from now on; what is to be said about it is added to `warnings`.
    pub(super) fn round(
        &mut self,
        snapshot: &Snapshot,
        rules: &Arc<Observed>,
        node: &NodeView,
        uplinks: &[Interface],
        warnings: &mut Vec<String>,
    ) -> Serving {
        let is_encrypted = snapshot.networks.values().any(|network| network.ingress && network.encrypted);
        let leaves_encrypted = is_encrypted && self.tunnel_plaintext == Switch::Off;
        if leaves_encrypted {
            warnings.push(
                "the ingress network is encrypted and the mesh's tunnel is not: published ports stay Docker's; \
                 --tunnel-plaintext=on serves them all the same"
                    .into(),
            );
        }
        let scene = scene(self.ports.of(snapshot), node, uplinks, &self.bridge);
        let filtered = self.firewall.round(rules, scene);
        warnings.extend(self.firewall.warnings());
        Serving {
            leaves_published: self.published == Switch::Off,
            labelled_only: self.serve == Serve::Labelled,
            leaves_encrypted,
            filtered,
        }
    }

    /// The tables say what was decided.
    pub(super) fn is_written(&mut self) {
        if let Some(sign) = self.bypass.take() {
            // Others may have been faster.
            let _ = fs::remove_dir(sign);
        }
    }
}

/// What the rules of this node are judged for.
fn scene(
    published: Arc<BTreeSet<PublishedPort>>,
    node: &NodeView,
    uplinks: &[Interface],
    bridge: &str,
) -> Scene {
    Scene {
        uplinks: uplinks.iter().map(|uplink| (uplink.name.clone(), uplink.index)).collect(),
        bridge: bridge.to_owned(),
        bridge_subnet: firewall::subnet_of(bridge),
        addresses: crate::node::addresses(node).into_iter().map(Ipv4Addr::from).collect(),
        published,
    }
}

/// The ports that the Swarm publishes on every node, gathered anew when a service has changed.
#[derive(Default)]
struct PublishedPorts {
    services: SharedMap<String, Service>,
    ports: Arc<BTreeSet<PublishedPort>>,
}

impl PublishedPorts {
    fn of(&mut self, snapshot: &Snapshot) -> Arc<BTreeSet<PublishedPort>> {
        if !snapshot.services.differences(&self.services).is_empty() {
            self.services = snapshot.services.clone();
            let ports = self.services.values().flat_map(|service| &service.ports);
            let ports = ports.filter(|port| port.mode == PublishMode::Ingress);
            let ports = ports.map(|port| (protocol_number(port.protocol), port.published)).collect();
            if *self.ports != ports {
                self.ports = Arc::new(ports);
            }
        }
        self.ports.clone()
    }
}
