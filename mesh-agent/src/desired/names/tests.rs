//! What a small Swarm's names mean to the containers of one of its nodes.

use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;

use super::*;
use crate::swarm::snapshot::{ContainerNames, NodeState, TaskState};

#[derive(Deserialize)]
struct Described {
    snapshot: Snapshot,
    local: LocalView,
}

pub(crate) fn swarm() -> (Snapshot, LocalView) {
    let described: Described = serde_json::from_str(include_str!("../../dns/testdata/swarm.json"))
        .expect("the description of a Swarm");
    (described.snapshot, described.local)
}

fn names() -> Names {
    let (snapshot, local) = swarm();
    Names::from(&snapshot, &local)
}

/// What a name stands for on a network, by the last bytes of the addresses.
fn on(names: &Names, network: &str, name: &str) -> Option<(Vec<u8>, u32)> {
    let network = names.networks().iter().find(|candidate| candidate.id == network).expect("the network");
    let found = network.find(name)?;
    Some((found.addresses.iter().map(|address| address.octets()[3]).collect(), found.ttl))
}

fn found(names: &Names, name: &str) -> Option<(Vec<u8>, u32)> {
    on(names, "net1", name)
}

#[test]
fn a_service_and_its_aliases_stand_for_its_virtual_address() {
    let names = names();
    for name in ["app_web", "web", "www"] {
        assert_eq!(found(&names, name), Some((vec![5], VIRTUAL_TTL)), "{name}");
    }
    assert_eq!(on(&names, "net2", "web"), None, "another network");
}

#[test]
fn the_tasks_of_a_service_are_found_under_each_of_its_names_that_they_have() {
    let names = names();
    for name in ["tasks.app_web", "tasks.web"] {
        assert_eq!(found(&names, name), Some((vec![6, 7], TASK_TTL)), "{name}");
    }
    assert_eq!(
        found(&names, "tasks.www"),
        Some((vec![7], TASK_TTL)),
        "an earlier generation has no such alias"
    );
    assert_eq!(found(&names, "tasks.web-1"), None, "a task has no tasks");
}

#[test]
fn a_task_is_found_by_its_container_its_short_id_and_its_hostname() {
    let names = names();
    for name in ["app_web.2.t2", "bbbbbbbbbbbb", "web-2"] {
        assert_eq!(found(&names, name), Some((vec![7], TASK_TTL)), "{name}");
    }
    assert_eq!(found(&names, "web-1"), Some((vec![6], TASK_TTL)));
    assert_eq!(found(&names, "both.n1.g1"), Some((vec![51], TASK_TTL)), "a global service's");
}

#[test]
fn dnsrr_stands_for_the_active_tasks_and_has_a_ttl_of_its_own_by_label() {
    let (mut snapshot, local) = swarm();
    assert_eq!(found(&Names::from(&snapshot, &local), "rr"), Some((vec![11, 12], 2)));
    let service = snapshot.services.get_mut("rr-id").unwrap();
    service.labels.insert("mesh.dns.starting".into(), "true".into());
    assert_eq!(found(&Names::from(&snapshot, &local), "rr"), Some((vec![11, 12, 13], 2)));
}

#[test]
fn only_active_tasks_are_named() {
    let named = |change: &dyn Fn(&mut Snapshot, &mut LocalView)| {
        let (mut snapshot, mut local) = swarm();
        change(&mut snapshot, &mut local);
        let names = Names::from(&snapshot, &local);
        found(&names, "tasks.web").map(|(addresses, _)| addresses)
    };
    assert_eq!(
        named(&|snapshot, _| snapshot.tasks.get_mut("t2").unwrap().state = TaskState::Starting),
        Some(vec![6])
    );
    let stopping = |snapshot: &mut Snapshot, _: &mut LocalView| {
        snapshot.tasks.get_mut("t2").unwrap().desired_state = TaskState::Shutdown;
    };
    assert_eq!(named(&stopping), Some(vec![6]));
    assert_eq!(
        named(&|snapshot, _| snapshot.nodes.get_mut("n2").unwrap().state = NodeState::Down),
        Some(vec![6])
    );
    assert_eq!(
        named(&|_, local| local.containers.get_mut("aaaaaaaaaaaaaaaa").unwrap().draining = true),
        Some(vec![7])
    );
    let dead = |_: &mut Snapshot, local: &mut LocalView| {
        local.containers.remove("aaaaaaaaaaaaaaaa");
    };
    assert_eq!(named(&dead), Some(vec![7]));
}

#[test]
fn a_service_without_tasks_keeps_its_names() {
    let names = names();
    assert_eq!(found(&names, "idle"), Some((vec![20], VIRTUAL_TTL)));
    assert_eq!(found(&names, "tasks.idle"), Some((vec![], TASK_TTL)));
    assert_eq!(found(&names, "norr"), Some((vec![], TASK_TTL)), "its network is given by name");
}

#[test]
fn two_services_of_one_name_on_one_network_are_both_meant() {
    assert_eq!(found(&names(), "cache"), Some((vec![41, 42], VIRTUAL_TTL)));
}

#[test]
fn an_alias_goes_with_the_last_task_that_has_it_and_does_not_reach_other_networks() {
    let (mut snapshot, local) = swarm();
    snapshot.services.get_mut("web-id").unwrap().networks[0].aliases = vec!["web".into()];
    assert_eq!(found(&Names::from(&snapshot, &local), "www"), Some((vec![5], VIRTUAL_TTL)), "t2 has it");
    snapshot.tasks.get_mut("t2").unwrap().attachments[0].aliases = vec!["web".into()];
    let names = Names::from(&snapshot, &local);
    assert_eq!((found(&names, "www"), on(&names, "net2", "web")), (None, None));
}

#[test]
fn containers_attached_by_hand_have_their_names_here_and_their_ids_elsewhere() {
    let names = names();
    for name in ["by-hand", "888888888888", "handy", "extra"] {
        assert_eq!(on(&names, "net2", name), Some((vec![88], TASK_TTL)), "{name}");
    }
    assert_eq!(found(&names, "999999999999"), Some((vec![90], TASK_TTL)));
    assert_eq!(on(&names, "local1", "neighbour"), Some((vec![7], TASK_TTL)));
}

#[test]
fn containers_attached_by_hand_elsewhere_have_the_names_that_their_own_node_tells_as_long_as_the_swarm_has_them()
 {
    let (mut snapshot, local) = swarm();
    let told = ContainerNames {
        name: "Distant".into(),
        hostname: "faraway".into(),
        aliases: [("net1".into(), vec!["remote".into()]), ("net2".into(), vec!["other".into()])].into(),
    };
    let of_node = BTreeMap::from([("999999999999aaaa".to_owned(), told)]);
    let all = ["distant", "999999999999", "faraway", "remote"];
    snapshot.attached.insert("n3".into(), of_node.clone());
    assert_eq!(found(&Names::from(&snapshot, &local), "distant"), None, "not that node's container");

    snapshot.attached = [("n2".to_owned(), of_node)].into();
    let names = Names::from(&snapshot, &local);
    for name in all {
        assert_eq!(found(&names, name), Some((vec![90], TASK_TTL)), "{name}");
    }
    assert_eq!((found(&names, "other"), on(&names, "net2", "other")), (None, None), "not on that network");
    let network = names.networks().iter().find(|network| network.id == "net1").unwrap();
    assert_eq!(&*network.reverse([10, 0, 1, 90].into()).unwrap().name, "Distant");

    let mut ended = snapshot.clone();
    ended.tasks.get_mut("h1").unwrap().desired_state = TaskState::Shutdown;
    snapshot.tasks.remove("h1");
    for snapshot in [ended, snapshot] {
        let names = Names::from(&snapshot, &local);
        assert!(all.iter().all(|name| found(&names, name).is_none()));
    }
}

#[test]
fn addresses_have_the_names_of_their_tasks_and_services() {
    let (mut snapshot, local) = swarm();
    snapshot.tasks.get_mut("t2").unwrap().desired_state = TaskState::Shutdown;
    let names = Names::from(&snapshot, &local);
    let network = names.networks().iter().find(|network| network.id == "net1").unwrap();
    let name = |last| network.reverse([10, 0, 1, last].into()).map(|reverse| (&*reverse.name, reverse.ttl));
    assert_eq!(name(6), Some(("app_web.1.t1", TASK_TTL)));
    assert_eq!(name(7), Some(("app_web.2.t2", TASK_TTL)), "until it ends");
    assert_eq!(name(5), Some(("app_web", VIRTUAL_TTL)));
    assert_eq!(name(99), None);
}

#[test]
fn an_address_that_is_used_again_has_the_name_of_the_new_task() {
    let (mut snapshot, local) = swarm();
    let mut old = snapshot.tasks["t2"].clone();
    old.id = "t0".into();
    old.desired_state = TaskState::Shutdown;
    snapshot.tasks.insert("t0".into(), old);
    let names = Names::from(&snapshot, &local);
    let network = names.networks().iter().find(|network| network.id == "net1").unwrap();
    assert_eq!(&*network.reverse([10, 0, 1, 7].into()).unwrap().name, "app_web.2.t2");
}

#[test]
fn who_asks_sees_the_networks_it_is_on_the_swarms_first() {
    let names = names();
    let networks = |last| {
        let asker = names.askers().get(&bridge(last))?;
        Some(names.networks_of(asker).map(|network| network.name.as_str()).collect::<Vec<_>>())
    };
    assert_eq!(networks(3), Some(vec!["app_default"]), "the ingress network has no names");
    assert_eq!(networks(4), Some(vec!["Back.End", "app_default"]));
    assert_eq!(networks(5), Some(vec!["Back.End", "compose_default"]));
    assert_eq!(networks(9), None);
}

/// Where the container with this address on docker_gwbridge asks from.
fn bridge(last: u8) -> Seat {
    Seat::Bridge([172, 18, 0, last].into())
}

#[test]
fn who_is_on_internal_networks_only_is_answered_inside_and_has_nobody_else_to_ask() {
    let (mut snapshot, mut local) = swarm();
    let container = local.containers.get_mut("ffffffffffffffff").unwrap();
    container.bridge = None;
    container.details.as_mut().unwrap().sandbox = "/var/run/docker/netns/0123456789ab".into();
    let on: Vec<String> = container.addresses.keys().cloned().collect();
    let seat = Seat::Sandbox(Sandbox::of(Path::new("0123456789ab")).unwrap());
    assert!(!Names::from(&snapshot, &local).askers().contains_key(&seat), "one of them is not internal");
    for id in on {
        snapshot.networks.get_mut(&id).unwrap().internal = true;
    }
    let names = Names::from(&snapshot, &local);
    let asker = &names.askers()[&seat];
    assert_eq!(asker.upstream.servers.as_deref(), Some(&[] as &[SocketAddr]));
    assert!(names.networks_of(asker).count() > 0);
    assert_eq!(names.sandboxes().count(), 1);
}

#[test]
fn an_internal_network_is_asked_after_the_others() {
    let (mut snapshot, local) = swarm();
    snapshot.networks.get_mut("net2").unwrap().internal = true;
    let names = Names::from(&snapshot, &local);
    let asker = &names.askers()[&bridge(4)];
    assert_eq!(
        names.networks_of(asker).map(|network| network.id.as_str()).collect::<Vec<_>>(),
        ["net1", "net2"]
    );
}

#[test]
fn a_container_says_whom_to_ask_for_other_names() {
    let names = names();
    let upstream = |last| &names.askers()[&bridge(last)].upstream;
    assert_eq!(*upstream(3), Upstream::default());
    assert_eq!(upstream(4).searches_first, Some(true));
    let servers: &[SocketAddr] = &["192.0.2.53:53".parse().unwrap()];
    assert_eq!(upstream(5).servers.as_deref(), Some(servers), "Docker's own resolver would ask us again");
}

#[test]
fn who_has_a_name_server_that_only_it_can_reach_stays_with_docker() {
    let (snapshot, mut local) = swarm();
    let why = "its name server 10.0.2.53 is on its network Back.End";
    assert_eq!(names().left_to_docker()["own-server"], why);
    assert!(!names().askers().contains_key(&bridge(6)));
    let details = local.containers.get_mut("666666666666dddd").unwrap().details.as_mut().unwrap();
    details.name_servers = vec![[127, 0, 0, 1].into()];
    let names = Names::from(&snapshot, &local);
    assert_eq!(names.left_to_docker()["own-server"], "its name server 127.0.0.1 is inside of it");
}

#[test]
fn nobody_asks_before_docker_told_about_it_and_without_a_place_on_the_bridge() {
    let (snapshot, mut local) = swarm();
    local.containers.get_mut("aaaaaaaaaaaaaaaa").unwrap().details = None;
    local.containers.get_mut("ffffffffffffffff").unwrap().bridge = None;
    let names = Names::from(&snapshot, &local);
    assert_eq!(names.askers().keys().collect::<Vec<_>>(), [&bridge(5)]);
    assert_eq!(names.networks().len(), 2, "no other network counts");
}
