//! swarmkit's objects → our own words. Pure.
//!
//! They are first put into the words of the Docker API, as dockerd itself does it (moby, daemon/cluster/convert), and
//! then read like those: what is pushed and what is listed cannot differ.

use serde::de::IgnoredAny;

use super::api;
use super::control_wire::{
    Endpoint, Event, Network, NetworkTarget, Node, Object, PortConfig, REMOVE, Service, Task, TaskSpec,
};
use super::snapshot::TaskState;
use super::store::{Change, Kind, Pushed};
use super::wire::{
    WireAttachedNetwork, WireAttachment, WireContainerSpec, WireContainerStatus, WireDescription,
    WireEndpoint, WireEndpointSpec, WireIpam, WireIpamConfiguration, WireManagerStatus, WireMode, WireName,
    WireNetwork, WireNetworkAttachmentSpec, WireNode, WireNodeSpec, WireNodeStatus, WirePort, WireService,
    WireServiceSpec, WireTarget, WireTask, WireTaskSpec, WireTaskStatus, WireVersion, WireVirtualIp,
};

/// What an event means; `None` for what the mesh has no use for. What cannot be understood in part is named when it is
/// listed.
pub(super) fn change(event: Event) -> Option<Change> {
    let is_removal = event.action == REMOVE;
    let Object { node, service, network, task } = event.object?;
    if let Some(task) = task {
        return Some(if is_removal {
            removed(Kind::Task, task.id, version(task.meta))
        } else {
            task_change(task)
        });
    }
    if let Some(service) = service {
        let version = version(service.meta);
        // Docker lists no plugins.
        let is_plugin = service.spec.as_ref().is_some_and(|spec| is_plugin(spec.task.as_ref()));
        return Some(if is_removal || is_plugin {
            removed(Kind::Service, service.id, version)
        } else {
            Change::Set {
                version,
                object: Pushed::Service(api::service(wire_service(service), &mut Vec::new()).1),
            }
        });
    }
    if let Some(node) = node {
        let version = version(node.meta);
        return Some(if is_removal {
            removed(Kind::Node, node.id, version)
        } else {
            Change::Set { version, object: Pushed::Node(api::node(wire_node(node), &mut Vec::new()).1) }
        });
    }
    let network = network?;
    let version = version(network.meta);
    Some(if is_removal || is_predefined(&network) {
        removed(Kind::Network, network.id, version)
    } else {
        Change::Set {
            version,
            object: Pushed::Network(api::network(wire_network(network), &mut Vec::new()).1),
        }
    })
}

/// A task as it is now. One that has ended is nobody's backend and shall be forgotten, as in lists.
pub(super) fn task_change(task: Task) -> Change {
    let version = version(task.meta);
    let since = task.status.as_ref().and_then(|status| status.timestamp);
    let since = since.and_then(|time| u64::try_from(time.seconds).ok()).unwrap_or_default();
    let ports = task.endpoint.clone().map(|endpoint| {
        let ports = endpoint.ports.into_iter().map(wire_port);
        ports.filter_map(|port| api::port(port, &mut Vec::new())).collect()
    });
    let (id, mut task) = api::task(wire_task(task), &mut Vec::new());
    if task.state > TaskState::Running {
        return removed(Kind::Task, id, version);
    }
    task.since = since;
    task.ports = ports;
    Change::Set { version, object: Pushed::Task(task) }
}

fn removed(kind: Kind, id: String, version: u64) -> Change {
    Change::Removed { kind, id, version }
}

fn version(meta: Option<super::control_wire::Meta>) -> u64 {
    meta.and_then(|meta| meta.version).map_or(0, |version| version.index)
}

fn is_plugin(spec: Option<&TaskSpec>) -> bool {
    spec.is_some_and(|spec| spec.generic.is_some())
}

/// Docker keeps `host` and `bridge` as networks of the Swarm and hides them (moby, daemon/cluster/networks.go).
fn is_predefined(network: &Network) -> bool {
    let annotations = network.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
    annotations.is_some_and(|annotations| {
        annotations.labels.get("com.docker.swarm.predefined").is_some_and(|value| value == "true")
    })
}

/// (moby/swarmkit, api/types.proto, `TaskState`). A state between two that are known counts as the earlier one.
fn task_state(number: i32) -> TaskState {
    match number {
        ..64 => TaskState::New,
        64..192 => TaskState::Pending,
        192..256 => TaskState::Assigned,
        256..320 => TaskState::Accepted,
        320..384 => TaskState::Preparing,
        384..448 => TaskState::Ready,
        448..512 => TaskState::Starting,
        512..576 => TaskState::Running,
        576..640 => TaskState::Complete,
        640..704 => TaskState::Shutdown,
        704..768 => TaskState::Failed,
        768..800 => TaskState::Rejected,
        800..832 => TaskState::Remove,
        832.. => TaskState::Orphaned,
    }
}

/// The word for a number of an enumeration; one that is not known is said as it is, and complained about when listed.
fn word(words: &[&str], number: i32) -> String {
    let index = usize::try_from(number).ok();
    index.and_then(|index| words.get(index)).map_or_else(|| number.to_string(), |word| (*word).to_owned())
}

fn wire_version(index: u64) -> WireVersion {
    WireVersion { index }
}

fn wire_task(task: Task) -> WireTask {
    let status = task.status.unwrap_or_default();
    WireTask {
        version: wire_version(version(task.meta)),
        id: task.id,
        spec: task.spec.map(wire_task_spec),
        service_id: Some(task.service_id),
        slot: Some(task.slot),
        node_id: Some(task.node_id),
        desired_state: task_state(task.desired_state),
        status: WireTaskStatus {
            timestamp: None,
            state: task_state(status.state),
            container_status: status
                .container
                .map(|container| WireContainerStatus { container_id: Some(container.container_id) }),
        },
        networks_attachments: Some(
            task.networks
                .into_iter()
                .map(|attachment| WireAttachment {
                    network: attachment.network.map(|network| WireAttachedNetwork {
                        id: network.id,
                        spec: network.spec.map(|spec| WireName {
                            name: spec.annotations.map(|annotations| annotations.name),
                        }),
                    }),
                    addresses: Some(attachment.addresses),
                })
                .collect(),
        ),
    }
}

fn wire_task_spec(spec: TaskSpec) -> WireTaskSpec {
    WireTaskSpec {
        networks: Some(spec.networks.into_iter().map(wire_target).collect()),
        container_spec: spec
            .container
            .map(|container| WireContainerSpec { hostname: Some(container.hostname) }),
        network_attachment_spec: spec
            .attachment
            .map(|attachment| WireNetworkAttachmentSpec { container_id: Some(attachment.container_id) }),
    }
}

fn wire_target(target: NetworkTarget) -> WireTarget {
    WireTarget { target: target.target, aliases: Some(target.aliases) }
}

fn wire_service(service: Service) -> WireService {
    let spec = service.spec.unwrap_or_default();
    let annotations = spec.annotations.unwrap_or_default();
    let given = |part: Option<super::control_wire::Empty>| part.map(|_| IgnoredAny);
    WireService {
        version: wire_version(version(service.meta)),
        id: service.id,
        spec: WireServiceSpec {
            name: annotations.name,
            labels: Some(annotations.labels),
            mode: Some(WireMode {
                global: given(spec.global),
                replicated_job: given(spec.replicated_job),
                global_job: given(spec.global_job),
            }),
            endpoint_spec: spec.endpoint.map(|spec| wire_endpoint_spec(spec.mode)),
            task_template: spec.task.map(wire_task_spec),
            networks: Some(spec.networks.into_iter().map(wire_target).collect()),
        },
        endpoint: service.endpoint.map(wire_endpoint),
    }
}

fn wire_endpoint_spec(mode: i32) -> WireEndpointSpec {
    WireEndpointSpec { mode: Some(word(&["vip", "dnsrr"], mode)) }
}

fn wire_endpoint(endpoint: Endpoint) -> WireEndpoint {
    WireEndpoint {
        spec: endpoint.spec.map(|spec| wire_endpoint_spec(spec.mode)),
        ports: Some(endpoint.ports.into_iter().map(wire_port).collect()),
        virtual_ips: Some(
            endpoint
                .virtual_ips
                .into_iter()
                .map(|vip| WireVirtualIp { network_id: Some(vip.network_id), addr: Some(vip.addr) })
                .collect(),
        ),
    }
}

fn wire_port(port: PortConfig) -> WirePort {
    WirePort {
        name: Some(port.name),
        protocol: Some(word(&["tcp", "udp", "sctp"], port.protocol)),
        target_port: Some(port.target_port.into()),
        published_port: Some(port.published_port.into()),
        publish_mode: Some(word(&["ingress", "host"], port.publish_mode)),
    }
}

fn wire_node(node: Node) -> WireNode {
    let spec = node.spec.unwrap_or_default();
    WireNode {
        version: wire_version(version(node.meta)),
        id: node.id,
        spec: WireNodeSpec {
            labels: spec.annotations.map(|annotations| annotations.labels),
            role: Some(word(&["worker", "manager"], spec.desired_role)),
            availability: Some(word(&["active", "pause", "drain"], spec.availability)),
        },
        description: node.description.map(|known| WireDescription { hostname: Some(known.hostname) }),
        status: node.status.map(|status| WireNodeStatus {
            state: Some(word(&["unknown", "down", "ready", "disconnected"], status.state)),
            addr: Some(status.addr),
        }),
        manager_status: node.manager_status.map(|status| WireManagerStatus { addr: Some(status.addr) }),
    }
}

fn wire_network(network: Network) -> WireNetwork {
    let spec = network.spec.unwrap_or_default();
    let annotations = spec.annotations.unwrap_or_default();
    let is_old_ingress =
        annotations.name == "ingress" && annotations.labels.contains_key("com.docker.swarm.internal");
    let (driver, options) = network.driver_state.map(|driver| (driver.name, driver.options)).unzip();
    let configurations = network.ipam.map(|ipam| {
        let subnets = ipam.configs.into_iter();
        subnets.map(|config| WireIpamConfiguration { subnet: Some(config.subnet) }).collect()
    });
    WireNetwork {
        id: network.id,
        name: Some(annotations.name),
        driver,
        ingress: Some(spec.ingress || is_old_ingress),
        internal: Some(spec.internal),
        attachable: Some(spec.attachable),
        ipam: configurations.map(|config| WireIpam { config: Some(config) }),
        options,
    }
}
