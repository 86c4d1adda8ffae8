//! A description as the Swarm and this node would tell it. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::description::{
    DescribedBackend, DescribedNetwork, DescribedNode, DescribedService, DescribedState, Description,
};
use crate::swarm::container::mac_address;
use crate::swarm::snapshot::{
    Attachment, BridgeEndpoint, ContainerDetails, LocalContainer, LocalView, Network, Node, Port, Protocol,
    PublishMode, Role, Service, ServiceNetwork, Snapshot, Task, TaskState, ThisNode, VirtualIp,
};

const INGRESS: &str = "ingress";

impl Description {
    /// Whose node this is `hostname` tells if the file does not. An error says what contradicts what.
    pub(super) fn into_views(mut self, hostname: &str) -> Result<(Snapshot, LocalView), String> {
        let this = self.node.clone().unwrap_or_else(|| hostname.to_owned());
        let Some(here) = self.nodes.get(&this) else {
            return Err(format!("this node is {this:?}, which is not among `nodes`; name it with `node:`"));
        };
        let node = ThisNode {
            id: this.clone(),
            hostname: this.clone(),
            address: match here.address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            },
            cluster_id: "file".into(),
            manager: here.role == Role::Manager,
        };
        let mut builder = Builder {
            snapshot: Snapshot::default(),
            view: LocalView { node, ..LocalView::default() },
            identities: BTreeSet::new(),
        };
        self.networks.entry(INGRESS.to_owned()).or_insert(DescribedNetwork {
            subnet: "10.0.0.0/24".into(),
            internal: false,
            vni: 0,
        });
        for (name, network) in self.networks {
            builder.network(name, network);
        }
        for (name, node) in self.nodes {
            builder.node(name, node);
        }
        for (name, service) in self.services {
            builder.service(&name, service).map_err(|reason| format!("service {name:?}: {reason}"))?;
        }
        Ok((builder.snapshot, builder.view))
    }
}

struct Builder {
    snapshot: Snapshot,
    view: LocalView,
    identities: BTreeSet<Ipv4Addr>,
}

impl Builder {
    fn network(&mut self, name: String, network: DescribedNetwork) {
        let network = Network {
            id: name.clone(),
            name: name.clone(),
            driver: "overlay".into(),
            ingress: name == INGRESS,
            internal: network.internal,
            attachable: false,
            encrypted: false,
            vni: network.vni,
            subnets: vec![network.subnet],
        };
        self.snapshot.networks.insert(name, network);
    }

    fn node(&mut self, name: String, node: DescribedNode) {
        let node = Node {
            id: name.clone(),
            version: 1,
            hostname: name.clone(),
            address: Some(node.address),
            role: node.role,
            availability: node.availability,
            state: node.state,
            labels: node.labels,
        };
        self.snapshot.nodes.insert(name, node);
    }

    fn service(&mut self, name: &str, described: DescribedService) -> Result<(), String> {
        self.require_networks(described.virtual_addresses.keys())?;
        let ports = described.ports.iter().map(|text| port(text)).collect::<Result<_, _>>()?;
        let targets = described.virtual_addresses.keys();
        let networks =
            targets.map(|name| ServiceNetwork { target: name.clone(), aliases: Vec::new() }).collect();
        let virtual_ips = described
            .virtual_addresses
            .into_iter()
            .map(|(network_id, address)| VirtualIp { network_id, address })
            .collect();
        let service = Service {
            id: name.to_owned(),
            version: 1,
            name: name.to_owned(),
            labels: described.labels,
            mode: described.mode,
            endpoint_mode: described.endpoint_mode,
            ports,
            virtual_ips,
            networks,
        };
        self.snapshot.services.insert(name.to_owned(), service);
        for (slot, backend) in (1..).zip(described.backends) {
            self.backend(name, slot, backend).map_err(|reason| format!("backend {slot}: {reason}"))?;
        }
        Ok(())
    }

    fn backend(&mut self, service: &str, slot: u64, described: DescribedBackend) -> Result<(), String> {
        if !self.snapshot.nodes.contains_key(&described.node) {
            return Err(format!("its node {:?} is not among `nodes`", described.node));
        }
        if !self.identities.insert(described.address) {
            return Err(format!("its address {} is another backend's too", described.address));
        }
        self.require_networks(described.addresses.keys())?;
        let id = format!("{service}.{slot}");
        let mut addresses = described.addresses.clone();
        addresses.insert(INGRESS.to_owned(), described.address);
        let (desired_state, state) = match described.state {
            DescribedState::Active => (TaskState::Running, TaskState::Running),
            DescribedState::Draining => (TaskState::Shutdown, TaskState::Running),
            DescribedState::Down => (TaskState::Shutdown, TaskState::Failed),
        };
        if described.node == self.view.node.id && described.state != DescribedState::Down {
            let container = LocalContainer {
                task_id: id.clone(),
                service_id: service.to_owned(),
                bridge: bridge_endpoint(&described)?,
                addresses: addresses.clone(),
                draining: false,
                name: id.clone(),
                details: Some(ContainerDetails::default()),
            };
            self.view.containers.insert(id.clone(), container);
        }
        let attachments = addresses
            .into_iter()
            .map(|(network_id, address)| Attachment {
                network_id,
                addresses: vec![address],
                aliases: Vec::new(),
            })
            .collect();
        let task = Task {
            id: id.clone(),
            version: 1,
            service_id: service.to_owned(),
            slot,
            node_id: described.node,
            desired_state,
            state,
            since: 0,
            container_id: Some(id.clone()),
            hostname: String::new(),
            attachments,
            ports: None,
        };
        self.snapshot.tasks.insert(id, task);
        Ok(())
    }

    fn require_networks<'a>(&self, names: impl Iterator<Item = &'a String>) -> Result<(), String> {
        for name in names {
            if !self.snapshot.networks.contains_key(name) {
                return Err(format!("network {name:?} is not among `networks`"));
            }
        }
        Ok(())
    }
}

fn bridge_endpoint(described: &DescribedBackend) -> Result<Option<BridgeEndpoint>, String> {
    let Some(address) = described.bridge else {
        return Ok(None);
    };
    let [a, b, c, d] = address.octets();
    let mac = match described.mac.as_deref() {
        None => [0x02, 0x42, a, b, c, d],
        Some(text) => mac_address(text).ok_or_else(|| format!("{text:?} is not a MAC address"))?,
    };
    Ok(Some(BridgeEndpoint { address, mac }))
}

/// `PUBLISHED:TARGET[/PROTOCOL]`
fn port(text: &str) -> Result<Port, String> {
    let malformed = || format!("port {text:?} is not PUBLISHED:TARGET[/tcp|udp|sctp]");
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (published, target) = numbers.split_once(':').ok_or_else(malformed)?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(malformed()),
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number != 0).ok_or_else(malformed);
    Ok(Port {
        name: String::new(),
        protocol,
        target: number(target)?,
        published: number(published)?,
        mode: PublishMode::Ingress,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::snapshot::NodeState;

    const GOOD: &str = r#"
node: one
nodes:
  one: { address: 10.99.0.1, role: manager }
  two: { address: 10.99.0.2, labels: { mesh.zone: b }, state: down }
networks:
  back: { subnet: 10.0.1.0/24, vni: 4097 }
services:
  web:
    ports: ["80:8080", "53:5353/udp"]
    labels: { mesh.policy: maglev }
    virtual-addresses: { back: 10.0.1.2 }
    backends:
      - { node: one, address: 10.0.0.5, bridge: 172.18.0.3, addresses: { back: 10.0.1.3 } }
      - { node: two, address: 10.0.0.6, state: draining }
      - { node: one, address: 10.0.0.7, bridge: 172.18.0.4, mac: "aa:bb:cc:dd:ee:ff" }
      - { node: one, address: 10.0.0.8, state: down }
"#;

    fn views(text: &str) -> Result<(Snapshot, LocalView), String> {
        let description: Description = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        description.into_views("host")
    }

    #[test]
    fn a_file_describes_services_backends_and_nodes() {
        let (snapshot, view) = views(GOOD).unwrap();
        let web = &snapshot.services["web"];
        assert_eq!(web.ports[0].published, 80);
        assert_eq!(web.ports[0].target, 8080);
        assert_eq!(web.ports[1].protocol, Protocol::Udp);
        assert_eq!(web.virtual_ips[0].address, Ipv4Addr::new(10, 0, 1, 2));
        assert_eq!(snapshot.nodes["two"].state, NodeState::Down);
        assert!(snapshot.networks["ingress"].ingress);
        assert_eq!(snapshot.networks["back"].vni, 4097);
        let draining = &snapshot.tasks["web.2"];
        assert_eq!((draining.desired_state, draining.state), (TaskState::Shutdown, TaskState::Running));
        assert_eq!(view.node.id, "one");
        assert!(view.node.manager);
        assert_eq!(view.containers.keys().collect::<Vec<_>>(), ["web.1", "web.3"]);
        let first = &view.containers["web.1"];
        assert_eq!(first.bridge.unwrap().mac, [0x02, 0x42, 172, 18, 0, 3]);
        assert_eq!(first.addresses["back"], Ipv4Addr::new(10, 0, 1, 3));
        assert_eq!(view.containers["web.3"].bridge.unwrap().mac, [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("node: one", "node: nine", "\"nine\", which is not among `nodes`"),
            ("node: two,", "node: three,", "service \"web\": backend 2: its node \"three\""),
            ("address: 10.0.0.6", "address: 10.0.0.5", "is another backend's too"),
            ("80:8080", "80", "port \"80\" is not PUBLISHED:TARGET"),
            ("80:8080", "0:8080", "port \"0:8080\" is not"),
            ("back: 10.0.1.2", "front: 10.0.1.2", "network \"front\" is not among"),
            ("aa:bb:cc:dd:ee:ff", "aa:bb", "is not a MAC address"),
            ("labels: { mesh.policy", "lables: { mesh.policy", "unknown field `lables`"),
        ];
        for (from, to, complaint) in cases {
            assert!(GOOD.contains(from));
            let error = views(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(complaint), "{from:?} as {to:?} gives {error:?}");
        }
    }

    #[test]
    fn the_hosts_name_says_which_node_this_is_unless_the_file_does() {
        let text = GOOD.replacen("node: one\n", "", 1);
        assert!(views(&text).unwrap_err().contains("\"host\""));
        let (_, view) = views(&text.replace("one:", "host:").replace("node: one", "node: host")).unwrap();
        assert_eq!(view.node.id, "host");
    }
}
