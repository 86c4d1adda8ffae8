//! The Docker API's JSON about the Swarm → our own words. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::de::value::{Error as WordError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::listing::{Converted, Listed, list};
use super::snapshot::{
    Attachment, Availability, EndpointMode, Network, Node, NodeState, Port, PublishMode, Role, Service,
    ServiceMode, ServiceNetwork, Task, TaskState, VirtualIp,
};
use super::wire::{
    WireAttachment, WireMode, WireNetwork, WireNode, WirePort, WireService, WireTarget, WireTask,
    WireVirtualIp,
};

pub(super) fn services(json: &[u8]) -> Result<Listed<Service>, serde_json::Error> {
    list(json, "service", service)
}

/// Only tasks that have not ended: the Swarm's history of earlier tasks is nobody's backend.
pub(super) fn tasks(json: &[u8]) -> Result<Listed<Task>, serde_json::Error> {
    let mut listed = list(json, "task", task)?;
    listed.objects.retain(|_, task| task.state <= TaskState::Running);
    Ok(listed)
}

pub(super) fn nodes(json: &[u8]) -> Result<Listed<Node>, serde_json::Error> {
    list(json, "node", node)
}

pub(super) fn networks(json: &[u8]) -> Result<Listed<Network>, serde_json::Error> {
    list(json, "network", network)
}

/// The address in CIDR notation or plain; only IPv4 is of use to the dataplane's tables.
pub(super) fn ipv4_of_cidr(text: &str) -> Result<Option<Ipv4Addr>, String> {
    let address = text.split('/').next().unwrap_or_default();
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Ok(Some(address)),
        Ok(IpAddr::V6(_)) => Ok(None),
        Err(_) if text.is_empty() => Ok(None),
        Err(_) => Err(format!("{text:?} is not an IP address")),
    }
}

pub(super) fn service(wire: WireService, complaints: &mut Vec<String>) -> Converted<Service> {
    let endpoint = wire.endpoint.unwrap_or_default();
    let specified = wire.spec.endpoint_spec.unwrap_or_default();
    let template = wire.spec.task_template.unwrap_or_default();
    let networks = template.networks.filter(|networks| !networks.is_empty()).or(wire.spec.networks);
    // What is in force counts; what is asked for fills in until the first allocation.
    let mode = endpoint.spec.unwrap_or_default().mode.or(specified.mode).unwrap_or_default();
    let endpoint_mode = word_or_default(&mode, "endpoint mode", complaints).unwrap_or(EndpointMode::Vip);
    let ports = endpoint.ports.unwrap_or_default();
    let virtual_ips = endpoint.virtual_ips.unwrap_or_default();
    let service = Service {
        version: wire.version.index,
        name: wire.spec.name,
        labels: wire.spec.labels.unwrap_or_default(),
        mode: service_mode(&wire.spec.mode.unwrap_or_default()),
        endpoint_mode,
        ports: ports.into_iter().filter_map(|wire| port(wire, complaints)).collect(),
        virtual_ips: virtual_ips.into_iter().filter_map(|wire| virtual_ip(wire, complaints)).collect(),
        networks: networks.into_iter().flatten().map(service_network).collect(),
        id: wire.id.clone(),
    };
    (wire.id, service)
}

fn service_network(wire: WireTarget) -> ServiceNetwork {
    ServiceNetwork { target: wire.target, aliases: wire.aliases.unwrap_or_default() }
}

fn service_mode(wire: &WireMode) -> ServiceMode {
    if wire.replicated_job.is_some() || wire.global_job.is_some() {
        ServiceMode::Job
    } else if wire.global.is_some() {
        ServiceMode::Global
    } else {
        ServiceMode::Replicated
    }
}

pub(super) fn port(wire: WirePort, complaints: &mut Vec<String>) -> Option<Port> {
    let mode = word_or_default(wire.publish_mode.as_deref().unwrap_or_default(), "publish mode", complaints)?;
    let protocol = word_or_default(wire.protocol.as_deref().unwrap_or_default(), "protocol", complaints)?;
    let mut number = |value: u64, what: &str| {
        let number = u16::try_from(value).ok();
        if number.is_none() {
            complaints.push(format!("port left out: {what} {value} is not a port number"));
        }
        number
    };
    let target = number(wire.target_port.unwrap_or_default(), "target")?;
    let published = number(wire.published_port.unwrap_or_default(), "published")?;
    // A port that is still to be allocated cannot be dialled; one in host mode is the node's own choice.
    if published == 0 && mode == PublishMode::Ingress {
        return None;
    }
    Some(Port { name: wire.name.unwrap_or_default(), protocol, target, published, mode })
}

fn virtual_ip(wire: WireVirtualIp, complaints: &mut Vec<String>) -> Option<VirtualIp> {
    let network_id = wire.network_id?;
    match ipv4_of_cidr(&wire.addr.unwrap_or_default()) {
        Ok(address) => address.map(|address| VirtualIp { network_id, address }),
        Err(reason) => {
            complaints.push(format!("virtual address on network {network_id} left out: {reason}"));
            None
        }
    }
}

/// As Docker shows it. There are many tasks, and nobody asks for more.
fn shortened(id: &str) -> String {
    id.get(..12).unwrap_or(id).to_owned()
}

pub(super) fn task(wire: WireTask, complaints: &mut Vec<String>) -> Converted<Task> {
    let spec = wire.spec.unwrap_or_default();
    let wanted = spec.networks.unwrap_or_default();
    let attachments = wire.networks_attachments.unwrap_or_default();
    let service_id = wire.service_id.unwrap_or_default();
    let container_id = wire
        .status
        .container_status
        .and_then(|container| container.container_id)
        .or(spec.network_attachment_spec.and_then(|attachment| attachment.container_id))
        .filter(|id| !id.is_empty());
    let task = Task {
        version: wire.version.index,
        slot: wire.slot.unwrap_or_default(),
        node_id: wire.node_id.unwrap_or_default(),
        desired_state: wire.desired_state,
        state: wire.status.state,
        since: wire.status.timestamp.as_deref().map_or(0, seconds_since_epoch),
        container_id: if service_id.is_empty() {
            container_id
        } else {
            container_id.as_deref().map(shortened)
        },
        service_id,
        hostname: spec.container_spec.and_then(|container| container.hostname).unwrap_or_default(),
        attachments: attachments
            .into_iter()
            .filter_map(|wire| attachment(wire, &wanted, complaints))
            .collect(),
        ports: None,
        id: wire.id.clone(),
    };
    (wire.id, task)
}

fn attachment(
    wire: WireAttachment,
    wanted: &[WireTarget],
    complaints: &mut Vec<String>,
) -> Option<Attachment> {
    let network = wire.network?;
    let name = network.spec.and_then(|spec| spec.name).unwrap_or_default();
    let mut addresses = Vec::new();
    for text in wire.addresses.unwrap_or_default() {
        match ipv4_of_cidr(&text) {
            Ok(address) => addresses.extend(address),
            Err(reason) => complaints.push(format!("address on network {} left out: {reason}", network.id)),
        }
    }
    let aliases = wanted
        .iter()
        .find(|target| target.target == network.id || (!name.is_empty() && target.target == name))
        .and_then(|target| target.aliases.clone())
        .unwrap_or_default();
    Some(Attachment { network_id: network.id, addresses, aliases })
}

pub(super) fn node(wire: WireNode, complaints: &mut Vec<String>) -> Converted<Node> {
    let status = wire.status.unwrap_or_default();
    let description = wire.description.unwrap_or_default();
    let manager = wire.manager_status.and_then(|manager| manager.addr);
    let address = manager.as_deref().and_then(host_of).or_else(|| status.addr.as_deref().and_then(host_of));
    let node = Node {
        version: wire.version.index,
        hostname: description.hostname.unwrap_or_default(),
        address,
        role: word_or_default(&wire.spec.role.unwrap_or_default(), "role", complaints)
            .unwrap_or(Role::Worker),
        availability: word_or_default(
            &wire.spec.availability.unwrap_or_default(),
            "availability",
            complaints,
        )
        .unwrap_or(Availability::Active),
        state: word_or_default(&status.state.unwrap_or_default(), "state", complaints)
            .unwrap_or(NodeState::Unknown),
        labels: wire.spec.labels.unwrap_or_default(),
        id: wire.id.clone(),
    };
    (wire.id, node)
}

/// The host of `10.0.0.1:2377`, `[fd00::1]:2377` or `10.0.0.1`, if other nodes can reach it by that: managers that see
/// themselves report 0.0.0.0 or 127.0.0.1.
pub(super) fn host_of(text: &str) -> Option<IpAddr> {
    let address =
        text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| text.parse::<IpAddr>()).ok()?;
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

pub(super) fn network(wire: WireNetwork, _complaints: &mut Vec<String>) -> Converted<Network> {
    let configurations = wire.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let network = Network {
        name: wire.name.unwrap_or_default(),
        driver: wire.driver.unwrap_or_default(),
        ingress: wire.ingress.unwrap_or_default(),
        internal: wire.internal.unwrap_or_default(),
        attachable: wire.attachable.unwrap_or_default(),
        encrypted: is_encrypted(wire.options.as_ref()),
        vni: vni(wire.options.as_ref()),
        subnets: configurations.into_iter().filter_map(|configuration| configuration.subnet).collect(),
        id: wire.id.clone(),
    };
    (wire.id, network)
}

/// `--opt encrypted`, or with a value that is a truth (moby, `daemon/libnetwork/drivers/overlay/ov_network.go`).
fn is_encrypted(options: Option<&BTreeMap<String, String>>) -> bool {
    let value = options.and_then(|options| options.get("encrypted"));
    value.is_some_and(|value| !matches!(value.as_str(), "0" | "f" | "F" | "false" | "FALSE" | "False"))
}

/// Docker gives each overlay one identifier; the option is a list because it could have one for each subnet.
fn vni(options: Option<&BTreeMap<String, String>>) -> u32 {
    let list = options.and_then(|options| options.get("com.docker.network.driver.overlay.vxlanid_list"));
    list.and_then(|list| list.split(',').next()?.trim().parse().ok()).unwrap_or(0)
}

/// One of the words of an enumeration; none at all is its default, an unknown one a complaint and `None`.
fn word_or_default<T: DeserializeOwned + Default>(
    word: &str,
    what: &str,
    complaints: &mut Vec<String>,
) -> Option<T> {
    if word.is_empty() {
        return Some(T::default());
    }
    let deserializer: StrDeserializer<'_, WordError> = word.into_deserializer();
    let value = T::deserialize(deserializer).ok();
    if value.is_none() {
        complaints.push(format!("{what} {word:?} is not known to this agent"));
    }
    value
}

fn seconds_since_epoch(timestamp: &str) -> u64 {
    OffsetDateTime::parse(timestamp, &Rfc3339)
        .ok()
        .and_then(|time| u64::try_from(time.unix_timestamp()).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::snapshot::Protocol;

    #[test]
    fn a_service_is_read_as_it_is_allocated() {
        let listed = services(include_bytes!("testdata/services.json")).unwrap();
        let web = &listed.objects["web000000000000000000000id"];
        assert_eq!(web.name, "shop_web");
        assert_eq!(web.version, 42);
        assert_eq!(web.labels["mesh.policy"], "maglev");
        assert_eq!(web.mode, ServiceMode::Replicated);
        assert_eq!(web.endpoint_mode, EndpointMode::Vip);
        let port = |protocol, target, published, mode| Port {
            name: String::new(),
            protocol,
            target,
            published,
            mode,
        };
        assert_eq!(
            web.ports,
            [
                port(Protocol::Tcp, 80, 8080, PublishMode::Ingress),
                port(Protocol::Tcp, 443, 30000, PublishMode::Ingress),
                port(Protocol::Udp, 53, 0, PublishMode::Host),
            ]
        );
        let vip = |network: &str, address: [u8; 4]| VirtualIp {
            network_id: network.into(),
            address: address.into(),
        };
        assert_eq!(web.virtual_ips, [vip("ingressid", [10, 0, 0, 4]), vip("shopnetid", [10, 0, 1, 2])]);
        let shop = ServiceNetwork { target: "shopnetid".into(), aliases: vec!["web".into()] };
        assert_eq!(web.networks, [shop]);
    }

    #[test]
    fn a_service_without_an_endpoint_has_a_virtual_address_mode_and_no_ports() {
        let listed = services(include_bytes!("testdata/services.json")).unwrap();
        let bare = &listed.objects["bare00000000000000000000id"];
        assert_eq!(bare.endpoint_mode, EndpointMode::Vip);
        assert_eq!((bare.ports.len(), bare.virtual_ips.len()), (0, 0));
        assert_eq!(bare.mode, ServiceMode::Global);
        assert_eq!(listed.objects["rr000000000000000000000id"].endpoint_mode, EndpointMode::Dnsrr);
        assert_eq!(listed.objects["job00000000000000000000id"].mode, ServiceMode::Job);
    }

    #[test]
    fn an_odd_entry_is_left_out_and_named_and_the_rest_counts() {
        let listed = services(include_bytes!("testdata/services.json")).unwrap();
        assert_eq!(listed.objects.len(), 5);
        let odd = &listed.objects["odd000000000000000000000id"];
        assert_eq!(odd.ports.len(), 1, "the good port of a service with odd ones stays: {odd:?}");
        let complaints: Vec<String> = listed.complaints.iter().map(ToString::to_string).collect();
        assert_eq!(complaints.len(), 4, "{complaints:#?}");
        assert!(
            complaints.iter().any(|text| text.contains("protocol \"dccp\" is not known")),
            "{complaints:#?}"
        );
        assert!(complaints.iter().any(|text| text.contains("70000 is not a port number")), "{complaints:#?}");
        assert!(
            complaints.iter().any(|text| text.contains("\"10.0.0/24\" is not an IP address")),
            "{complaints:#?}"
        );
        assert!(
            complaints
                .iter()
                .any(|text| text.starts_with("service broken00000000000000000id (version 9): left out")),
            "{complaints:#?}"
        );
    }

    #[test]
    fn tasks_that_ended_are_history_and_tasks_that_are_still_stopping_are_not() {
        let listed = tasks(include_bytes!("testdata/tasks.json")).unwrap();
        assert_eq!(listed.objects.keys().collect::<Vec<_>>(), ["fresh", "running", "stopping"]);
        assert!(listed.complaints.is_empty(), "{:?}", listed.complaints);
        let stopping = &listed.objects["stopping"];
        assert_eq!((stopping.desired_state, stopping.state), (TaskState::Shutdown, TaskState::Running));
    }

    #[test]
    fn a_task_is_read_with_its_addresses_and_its_own_aliases() {
        let listed = tasks(include_bytes!("testdata/tasks.json")).unwrap();
        let expected = Task {
            id: "running".into(),
            version: 77,
            service_id: "web000000000000000000000id".into(),
            slot: 1,
            node_id: "node1".into(),
            desired_state: TaskState::Running,
            state: TaskState::Running,
            since: 1_700_000_000,
            container_id: Some("c0ffee012345".into()),
            hostname: "web-{{.Task.Slot}}".into(),
            attachments: vec![
                Attachment {
                    network_id: "ingressid".into(),
                    addresses: vec![[10, 0, 0, 5].into()],
                    aliases: vec![],
                },
                Attachment {
                    network_id: "shopnetid".into(),
                    addresses: vec![[10, 0, 1, 3].into()],
                    aliases: vec!["web".into()],
                },
            ],
            ports: None,
        };
        assert_eq!(listed.objects["running"], expected);
        let fresh = &listed.objects["fresh"];
        assert_eq!((fresh.state, fresh.container_id.as_ref()), (TaskState::Pending, None));
    }

    #[test]
    fn a_container_attached_by_hand_is_a_task_without_a_service() {
        let json = br#"[{"ID": "t", "NodeID": "n", "DesiredState": "running", "Status": {"State": "running"},
            "Spec": {"NetworkAttachmentSpec": {"ContainerID": "0123456789abcdef"}},
            "NetworksAttachments": [{"Network": {"ID": "net"}, "Addresses": ["10.0.1.9/24"]}]}]"#;
        let listed = tasks(json).unwrap();
        let task = &listed.objects["t"];
        assert_eq!((task.service_id.as_str(), task.container_id.as_deref()), ("", Some("0123456789abcdef")));
        assert_eq!(task.attachments[0].addresses, [Ipv4Addr::new(10, 0, 1, 9)]);
    }

    #[test]
    fn a_managers_address_is_the_one_other_managers_use() {
        let listed = nodes(include_bytes!("testdata/nodes.json")).unwrap();
        let manager = &listed.objects["node1"];
        assert_eq!(manager.address, Some([10, 99, 0, 1].into()));
        assert_eq!((manager.role, manager.state), (Role::Manager, NodeState::Ready));
        assert_eq!(manager.labels["mesh.zone"], "a");
        let worker = &listed.objects["node2"];
        assert_eq!(worker.address, Some([10, 99, 0, 2].into()));
        assert_eq!((worker.role, worker.availability), (Role::Worker, Availability::Drain));
        assert_eq!(listed.objects["node3"].address, None, "a loopback address is of no use to others");
        assert_eq!(listed.objects["node3"].state, NodeState::Down);
    }

    #[test]
    fn networks_are_read_with_their_subnets() {
        let listed = networks(include_bytes!("testdata/networks.json")).unwrap();
        let ingress = &listed.objects["ingressid"];
        assert!(ingress.ingress && !ingress.attachable);
        assert_eq!(ingress.subnets, ["10.0.0.0/24"]);
        assert!(listed.objects["shopnetid"].attachable);
        assert_eq!((ingress.vni, listed.objects["bareid"].vni), (4096, 0));
        assert_eq!(listed.objects["bareid"].subnets.len(), 0);
    }

    #[test]
    fn an_empty_list_may_be_null() {
        assert!(services(b"null").unwrap().objects.is_empty());
        assert!(tasks(b"[]").unwrap().objects.is_empty());
        assert!(nodes(b"{\"message\":\"no\"}").is_err());
    }

    #[test]
    fn hosts_that_others_cannot_use_are_no_addresses() {
        assert_eq!(host_of("10.0.0.1:2377"), Some([10, 0, 0, 1].into()));
        assert_eq!(host_of("[fd00::1]:2377"), "fd00::1".parse().ok());
        assert_eq!(host_of("10.0.0.1"), Some([10, 0, 0, 1].into()));
        for useless in ["0.0.0.0", "0.0.0.0:2377", "127.0.0.1", "[::]:2377", "::1", "", "manager:2377"] {
            assert_eq!(host_of(useless), None, "{useless}");
        }
    }
}
