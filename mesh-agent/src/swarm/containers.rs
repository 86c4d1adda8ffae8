//! This node's own containers: Docker's lists and events → [`LocalContainer`]s. Pure.
//!
//! An event takes effect before the next list, and outlives a list that was made before it: Docker tells of a death
//! before its own list knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard::models::{ContainerSummary, EndpointResource, EventMessage, EventMessageTypeEnum};

use super::container::{container, is_in_the_swarm};
use super::docker::TASK_LABEL;
use super::snapshot::{ContainerDetails, LocalContainer};

/// The containers on this node that concern the Swarm, by id.
#[derive(Debug, Default)]
pub(super) struct Containers {
    alive: BTreeMap<String, LocalContainer>,
    /// The names of their networks, by id.
    networks: BTreeMap<String, String>,
    /// Died according to an event; a list may still show them for a moment.
    dead: BTreeSet<String>,
    /// Were sent the signal that asks them to stop. Until they die.
    stopping: BTreeSet<String>,
}

/// What an event calls for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// The view is another one already.
    pub(super) changed: bool,
    /// Docker should be asked again.
    pub(super) look: bool,
    /// Whether this signal asks the container to stop depends on the container.
    pub(super) signal: Option<(String, String)>,
}

impl Containers {
    pub(super) fn alive(&self) -> &BTreeMap<String, LocalContainer> {
        &self.alive
    }

    pub(super) fn networks(&self) -> &BTreeMap<String, String> {
        &self.networks
    }

    /// Those that Docker has to be asked about one by one. A container without a network of its own has no use for it.
    pub(super) fn without_details(&self) -> impl Iterator<Item = &str> {
        let unknown =
            |container: &LocalContainer| container.details.is_none() && !container.addresses.is_empty();
        self.alive.iter().filter(move |(_, container)| unknown(container)).map(|(id, _)| id.as_str())
    }

    /// Whether that is news.
    pub(super) fn inspected(&mut self, id: &str, details: ContainerDetails) -> bool {
        let Some(container) = self.alive.get_mut(id) else { return false };
        let is_news = container.details.as_ref() != Some(&details);
        container.details = Some(details);
        is_news
    }

    /// A container on an overlay normally has a place on the node's bridge too; it may come a moment later.
    pub(super) fn lacks_a_bridge_address(&self) -> bool {
        self.alive.values().any(|container| container.bridge.is_none() && is_in_the_swarm(container))
    }

    pub(super) fn listed(
        &mut self,
        summaries: Vec<ContainerSummary>,
        endpoints: &HashMap<String, EndpointResource>,
    ) {
        let ids: BTreeSet<String> = summaries.iter().filter_map(|summary| summary.id.clone()).collect();
        self.dead.retain(|id| ids.contains(id));
        self.stopping.retain(|id| ids.contains(id));
        let mut networks = BTreeMap::new();
        let mut before = std::mem::take(&mut self.alive);
        self.alive = summaries
            .into_iter()
            .filter_map(|summary| container(summary, endpoints, &mut networks))
            .filter(|(id, _)| !self.dead.contains(id))
            .map(|(id, container)| {
                let draining = container.draining || self.stopping.contains(&id);
                // Being connected to another network may bring other aliases.
                let before = before.remove(&id).filter(|before| before.addresses == container.addresses);
                let details = before.and_then(|before| before.details);
                (id, LocalContainer { draining, details, ..container })
            })
            .collect();
        self.retain_what_concerns_the_swarm();
        networks.retain(|id, _| self.alive.values().any(|container| container.addresses.contains_key(id)));
        self.networks = networks;
    }

    /// Keeps tasks, what is on a network of the Swarm by hand, and their neighbours on this node's own networks: those
    /// can ask for each other's names.
    fn retain_what_concerns_the_swarm(&mut self) {
        let askers = self.alive.values().filter(|container| is_in_the_swarm(container));
        let networks: BTreeSet<String> =
            askers.flat_map(|container| container.addresses.keys().cloned()).collect();
        self.alive.retain(|_, container| {
            let is_neighbour = container.addresses.keys().any(|network| networks.contains(network));
            is_neighbour || !container.task_id.is_empty()
        });
    }

    pub(super) fn happened(&mut self, event: &EventMessage) -> Effect {
        let action = event.action.as_deref().unwrap_or_default();
        if event.typ == Some(EventMessageTypeEnum::NETWORK) {
            return Effect { look: matches!(action, "connect" | "disconnect"), ..Effect::default() };
        }
        let Some(actor) = event.actor.as_ref() else { return Effect::default() };
        let (Some(id), attributes) = (actor.id.as_deref(), actor.attributes.as_ref()) else {
            return Effect::default();
        };
        let attribute = |name: &str| attributes.and_then(|attributes| attributes.get(name));
        if attribute(TASK_LABEL).is_none() && !self.alive.contains_key(id) {
            // One that was started by hand may be on a network of the Swarm.
            return Effect { look: action == "start", ..Effect::default() };
        }
        match action {
            "die" | "destroy" => {
                self.dead.insert(id.to_owned());
                self.stopping.remove(id);
                Effect { changed: self.alive.remove(id).is_some(), look: true, signal: None }
            }
            "start" => {
                self.dead.remove(id);
                Effect { look: true, ..Effect::default() }
            }
            "kill" => match attribute("signal").map(String::as_str) {
                Some(SIGTERM | SIGKILL) => self.told_to_stop(id),
                Some(other) => {
                    Effect { signal: Some((id.to_owned(), other.to_owned())), ..Effect::default() }
                }
                None => Effect::default(),
            },
            "pause" | "health_status: unhealthy" => {
                Effect { changed: self.drain(id), look: true, signal: None }
            }
            "unpause" | "stop" | "oom" | "rename" | "health_status: healthy" => {
                Effect { look: true, ..Effect::default() }
            }
            _ => Effect::default(),
        }
    }

    /// From now until its death the container gets no new flows.
    pub(super) fn told_to_stop(&mut self, id: &str) -> Effect {
        self.stopping.insert(id.to_owned());
        Effect { changed: self.drain(id), look: true, signal: None }
    }

    fn drain(&mut self, id: &str) -> bool {
        match self.alive.get_mut(id) {
            Some(container) => !std::mem::replace(&mut container.draining, true),
            None => false,
        }
    }
}

const SIGKILL: &str = "9";
const SIGTERM: &str = "15";

/// Whether the number in a `kill` event is the signal that the image or the service names for stopping, by number or
/// name. Some images stop by a signal that others take for "reload", so only the container itself can tell.
pub(super) fn is_stop_signal(number: &str, configured: &str) -> bool {
    const NAMES: [(&str, &str); 7] = [
        ("HUP", "1"),
        ("INT", "2"),
        ("QUIT", "3"),
        ("KILL", "9"),
        ("USR1", "10"),
        ("USR2", "12"),
        ("TERM", "15"),
    ];
    let name = configured.strip_prefix("SIG").unwrap_or(configured);
    let configured =
        NAMES.iter().find(|(candidate, _)| *candidate == name).map_or(name, |(_, number)| *number);
    // The 28th signal stops Apache's image.
    number == configured || (number == "28" && name == "WINCH")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::container::details;
    use crate::swarm::snapshot::BridgeEndpoint;

    fn listing() -> (Vec<ContainerSummary>, HashMap<String, EndpointResource>) {
        let summaries = serde_json::from_slice(include_bytes!("testdata/containers.json")).unwrap();
        let network: bollard::models::NetworkInspect =
            serde_json::from_slice(include_bytes!("testdata/docker_gwbridge.json")).unwrap();
        (summaries, network.containers.unwrap())
    }

    fn listed() -> Containers {
        let mut containers = Containers::default();
        let (summaries, endpoints) = listing();
        containers.listed(summaries, &endpoints);
        containers
    }

    fn event(id: &str, action: &str, attributes: &[(&str, &str)]) -> EventMessage {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut attributes: HashMap<String, String> = attributes.collect();
        attributes.insert(TASK_LABEL.into(), format!("task-of-{id}"));
        let event = serde_json::json!({
            "Type": "container", "Action": action, "scope": "local",
            "Actor": {"ID": id, "Attributes": attributes},
        });
        serde_json::from_value(event).unwrap()
    }

    #[test]
    fn containers_of_tasks_are_read_with_their_addresses() {
        let containers = listed();
        let expected = LocalContainer {
            task_id: "task1".into(),
            service_id: "web000000000000000000000id".into(),
            bridge: Some(BridgeEndpoint {
                address: [172, 18, 0, 3].into(),
                mac: [0x02, 0x42, 0xac, 0x12, 0, 3],
            }),
            addresses: BTreeMap::from([
                ("ingressid".into(), [10, 0, 0, 5].into()),
                ("shopnetid".into(), [10, 0, 1, 3].into()),
            ]),
            draining: false,
            name: "shop_web.1.task1".into(),
            details: None,
        };
        assert_eq!(containers.alive()["web1"], expected);
        let networks = [("ingressid", "ingress"), ("shopnetid", "shop_default")];
        assert_eq!(
            containers.networks().iter().map(|(id, name)| (id.as_str(), name.as_str())).collect::<Vec<_>>(),
            networks
        );
        assert_eq!(containers.alive().keys().collect::<Vec<_>>(), ["host1", "paused1", "sick1", "web1"]);
        assert!(containers.alive()["host1"].addresses.is_empty());
    }

    #[test]
    fn paused_and_unhealthy_containers_get_no_new_flows() {
        let containers = listed();
        assert!(containers.alive()["paused1"].draining && containers.alive()["sick1"].draining);
        let mut containers = listed();
        let effect = containers.happened(&event("web1", "health_status: unhealthy", &[]));
        assert!(effect.changed && effect.look && containers.alive()["web1"].draining);
    }

    #[test]
    fn a_container_that_died_vanishes_at_once_and_a_late_list_does_not_bring_it_back() {
        let mut containers = listed();
        let effect = containers.happened(&event("web1", "die", &[("exitCode", "0")]));
        assert_eq!(effect, Effect { changed: true, look: true, signal: None });
        assert!(!containers.alive().contains_key("web1"));
        let (summaries, endpoints) = listing();
        containers.listed(summaries, &endpoints);
        assert!(!containers.alive().contains_key("web1"), "Docker's list may be older than its event");
        containers.happened(&event("web1", "start", &[]));
        let (summaries, endpoints) = listing();
        containers.listed(summaries, &endpoints);
        assert!(containers.alive().contains_key("web1"));
    }

    #[test]
    fn a_container_that_was_told_to_stop_drains_until_it_dies() {
        let mut containers = listed();
        let effect = containers.happened(&event("web1", "kill", &[("signal", "15")]));
        assert_eq!(effect, Effect { changed: true, look: true, signal: None });
        let (summaries, endpoints) = listing();
        containers.listed(summaries, &endpoints);
        assert!(containers.alive()["web1"].draining, "a list does not know of signals");
    }

    #[test]
    fn other_signals_mean_what_the_container_says() {
        let mut containers = listed();
        let effect = containers.happened(&event("web1", "kill", &[("signal", "3")]));
        assert_eq!(effect, Effect { changed: false, look: false, signal: Some(("web1".into(), "3".into())) });
        for (signal, configured, stops) in [
            ("3", "SIGQUIT", true),
            ("3", "3", true),
            ("1", "SIGQUIT", false),
            ("28", "SIGWINCH", true),
            ("10", "USR1", true),
            ("10", "", false),
        ] {
            assert_eq!(is_stop_signal(signal, configured), stops, "{signal} {configured}");
        }
    }

    #[test]
    fn health_checks_and_containers_of_no_task_are_nobodys_business() {
        let mut containers = listed();
        assert_eq!(containers.happened(&event("web1", "exec_start: true", &[])), Effect::default());
        let mut other = event("other", "die", &[]);
        other.actor.as_mut().unwrap().attributes = None;
        assert_eq!(containers.happened(&other), Effect::default());
    }

    #[test]
    fn containers_of_no_task_count_when_they_share_a_network_with_the_swarms() {
        let local = "ab".repeat(32);
        let on = |networks: &[(&str, &str)]| {
            let networks: serde_json::Map<_, _> = networks
                .iter()
                .map(|(id, address)| {
                    (format!("name-{id}"), serde_json::json!({"NetworkID": id, "IPAddress": address}))
                })
                .collect();
            serde_json::json!({"Networks": networks})
        };
        let summaries = serde_json::json!([
            {"Id": "attached", "Names": ["/other/link", "/by-hand"], "State": "running",
             "NetworkSettings": on(&[("shopnetid", "10.0.1.9"), (&local, "172.20.0.2")])},
            {"Id": "neighbour", "Names": ["/db"], "NetworkSettings": on(&[(&local, "172.20.0.3")])},
            {"Id": "stranger", "Names": ["/x"], "NetworkSettings": on(&[(&"cd".repeat(32), "172.21.0.3")])},
            {"Id": "no-network", "Names": ["/y"]},
        ]);
        let mut containers = Containers::default();
        containers.listed(serde_json::from_value(summaries).unwrap(), &HashMap::new());
        assert_eq!(containers.alive().keys().collect::<Vec<_>>(), ["attached", "neighbour"]);
        assert_eq!(containers.alive()["attached"].name, "by-hand");
        assert_eq!(containers.networks().len(), 2);
    }

    #[test]
    fn a_container_is_asked_about_once_and_again_when_it_has_other_networks() {
        let mut containers = listed();
        assert_eq!(containers.without_details().collect::<Vec<_>>(), ["web1"]);
        let response = serde_json::json!({
            "Config": {"Hostname": "web-1"},
            "HostConfig": {"Dns": ["10.9.9.9", "nonsense"], "DnsOptions": ["ndots:2"]},
            "NetworkSettings": {
                "SandboxKey": "/var/run/docker/netns/0123456789ab",
                "Networks": {"shop_default": {"NetworkID": "shopnetid", "Aliases": ["web"], "DNSNames": ["web", "x"]}},
            },
        });
        assert!(containers.inspected("web1", details(serde_json::from_value(response).unwrap())));
        let expected = ContainerDetails {
            hostname: "web-1".into(),
            aliases: BTreeMap::from([("shopnetid".into(), vec!["web".into(), "x".into()])]),
            name_servers: vec![[10, 9, 9, 9].into()],
            dns_options: vec!["ndots:2".into()],
            sandbox: "/var/run/docker/netns/0123456789ab".into(),
            namespace: None,
        };
        assert_eq!(containers.alive()["web1"].details, Some(expected));
        let (mut summaries, endpoints) = listing();
        containers.listed(summaries.clone(), &endpoints);
        assert_eq!(containers.without_details().count(), 0);
        summaries[0].network_settings.as_mut().unwrap().networks.as_mut().unwrap().remove("ingress");
        containers.listed(summaries, &endpoints);
        assert_eq!(containers.without_details().collect::<Vec<_>>(), ["web1"]);
    }

    #[test]
    fn a_container_without_its_place_on_the_bridge_yet_is_noticed() {
        let mut containers = listed();
        assert!(!containers.lacks_a_bridge_address());
        let (summaries, _) = listing();
        containers.listed(summaries, &HashMap::new());
        assert!(containers.lacks_a_bridge_address());
    }
}
