//! Which overlay networks are served on this node.

use std::collections::BTreeMap;

use crate::args::{RunArguments, Switch};
use crate::dataplane::overlays::Overlay;
use crate::node::namespaces::{self, Namespaces};
use crate::swarm::snapshot::Snapshot;

/// Those whose namespaces are here, by network id.
pub(super) fn here(
    snapshot: &Snapshot,
    namespaces: &Namespaces,
    arguments: &RunArguments,
) -> BTreeMap<String, Overlay> {
    if arguments.vip == Switch::Off {
        return BTreeMap::new();
    }
    let docker_run = &arguments.docker_run;
    let mut overlays = BTreeMap::new();
    for network in snapshot.networks.values().filter(|network| !network.ingress && network.vni != 0) {
        let Some(identity) = namespaces::overlay_identity(namespaces, &network.id) else { continue };
        let overlay = Overlay {
            name: network.name.clone(),
            vni: network.vni,
            identity,
            namespace: namespaces::of_overlay(docker_run, &network.id),
            balancer: namespaces::of_balancer(docker_run, &network.id),
        };
        overlays.insert(network.id.clone(), overlay);
    }
    overlays
}
