//! One container on this node, as Docker lists it and as it shows it alone → [`LocalContainer`]. Pure.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, EndpointResource,
};

use super::api::ipv4_of_cidr;
use super::docker::TASK_LABEL;
use super::snapshot::{BridgeEndpoint, ContainerDetails, LocalContainer};

const SERVICE_LABEL: &str = "com.docker.swarm.service.id";

/// With its id; the names of its networks are added to `names`.
pub(super) fn container(
    summary: ContainerSummary,
    endpoints: &HashMap<String, EndpointResource>,
    names: &mut BTreeMap<String, String>,
) -> Option<(String, LocalContainer)> {
    let id = summary.id?;
    let mut labels = summary.labels.unwrap_or_default();
    let networks = summary.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let addresses = networks
        .into_iter()
        .filter_map(|(name, endpoint)| {
            let address = endpoint.ip_address?.parse().ok()?;
            let network_id = endpoint.network_id?;
            names.insert(network_id.clone(), name);
            Some((network_id, address))
        })
        .collect();
    // Links of others to it are names like `/other/alias`.
    let own_name = summary.names.into_iter().flatten().find(|name| name.matches('/').count() == 1);
    let name = own_name.map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default();
    let is_paused = summary.state == Some(ContainerSummaryStateEnum::PAUSED);
    let is_unhealthy = summary.status.is_some_and(|status| status.contains("(unhealthy)"));
    let container = LocalContainer {
        task_id: labels.remove(TASK_LABEL).unwrap_or_default(),
        service_id: labels.remove(SERVICE_LABEL).unwrap_or_default(),
        bridge: endpoints.get(&id).and_then(bridge_endpoint),
        addresses,
        draining: is_paused || is_unhealthy,
        name,
        details: None,
    };
    Some((id, container))
}

/// Whether it is on a network of the Swarm.
pub(super) fn is_in_the_swarm(container: &LocalContainer) -> bool {
    container.addresses.keys().any(|id| !is_of_this_node_only(id))
}

/// The Swarm's own objects have short ids; networks of a single Docker have 64 hexadecimal digits.
fn is_of_this_node_only(network_id: &str) -> bool {
    network_id.len() == 64 && network_id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What only a look at this one tells.
pub(super) fn details(response: ContainerInspectResponse) -> ContainerDetails {
    let settings = response.network_settings.unwrap_or_default();
    let endpoints = settings.networks.unwrap_or_default().into_values();
    let aliases = endpoints.filter_map(|endpoint| {
        // Docker 25 and later keep what they make names of apart from what was asked for.
        let mut names = endpoint.dns_names.unwrap_or_default();
        names.extend(endpoint.aliases.unwrap_or_default());
        names.sort_unstable();
        names.dedup();
        Some((endpoint.network_id?, names))
    });
    let host = response.host_config.unwrap_or_default();
    let name_servers = host.dns.unwrap_or_default();
    ContainerDetails {
        hostname: response.config.and_then(|config| config.hostname).unwrap_or_default(),
        aliases: aliases.collect(),
        name_servers: name_servers.iter().filter_map(|server| server.parse().ok()).collect(),
        dns_options: host.dns_options.unwrap_or_default(),
        sandbox: settings.sandbox_key.unwrap_or_default(),
        namespace: None,
    }
}

fn bridge_endpoint(endpoint: &EndpointResource) -> Option<BridgeEndpoint> {
    let address = ipv4_of_cidr(endpoint.ipv4_address.as_deref()?).ok()??;
    Some(BridgeEndpoint { address, mac: mac_address(endpoint.mac_address.as_deref()?)? })
}

pub(super) fn mac_address(text: &str) -> Option<[u8; 6]> {
    let mut bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = bytes.next()??;
    }
    bytes.next().is_none().then_some(mac)
}
