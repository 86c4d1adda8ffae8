//! What a small Swarm means for one of its nodes.

use super::*;
use crate::swarm::snapshot::{
    Attachment, BridgeEndpoint, Condition, LocalContainer, Network, Node, NodeState, Port as ServicePort,
    Task, TaskState, ThisNode, VirtualIp,
};

fn node(id: &str, last: u8, state: NodeState) -> (String, Node) {
    let address = Some(IpAddr::from([10, 99, 0, last]));
    (id.into(), Node { id: id.into(), hostname: id.into(), address, state, ..Node::default() })
}

fn task(id: &str, slot: u64, node: &str, last: u8) -> (String, Task) {
    let ingress = Attachment {
        network_id: "ingress".into(),
        addresses: vec![Ipv4Addr::new(10, 0, 0, last)],
        aliases: Vec::new(),
    };
    let task = Task {
        id: id.into(),
        service_id: "web-id".into(),
        slot,
        node_id: node.into(),
        desired_state: TaskState::Running,
        state: TaskState::Running,
        attachments: vec![ingress],
        ..Task::default()
    };
    (id.into(), task)
}

fn port(published: u16, target: u16, protocol: Protocol, mode: PublishMode) -> ServicePort {
    ServicePort { name: String::new(), protocol, target, published, mode }
}

/// Two nodes; `web` publishes 80 and has a task on each.
fn swarm() -> (Snapshot, LocalView) {
    let web = Service {
        id: "web-id".into(),
        name: "web".into(),
        ports: vec![
            port(80, 8080, Protocol::Tcp, PublishMode::Ingress),
            port(81, 8080, Protocol::Tcp, PublishMode::Host),
        ],
        ..Service::default()
    };
    let ingress = Network { id: "ingress".into(), ingress: true, ..Network::default() };
    let snapshot = Snapshot {
        services: [("web-id".into(), web)].into(),
        tasks: [task("t1", 1, "n1", 6), task("t2", 2, "n2", 7)].into(),
        nodes: [node("n1", 1, NodeState::Ready), node("n2", 2, NodeState::Ready)].into(),
        networks: [("ingress".into(), ingress)].into(),
        ..Snapshot::default()
    };
    let container = LocalContainer {
        task_id: "t1".into(),
        service_id: "web-id".into(),
        bridge: Some(BridgeEndpoint { address: Ipv4Addr::new(172, 18, 0, 3), mac: [2, 0x42, 172, 18, 0, 3] }),
        addresses: BTreeMap::from([("ingress".into(), Ipv4Addr::new(10, 0, 0, 6))]),
        ..LocalContainer::default()
    };
    let local = LocalView {
        node: ThisNode { id: "n1".into(), ..ThisNode::default() },
        containers: BTreeMap::from([("c1".into(), container)]),
        ..LocalView::default()
    };
    (snapshot, local)
}

const WEB: FrontendId = FrontendId::Published { port: 80, protocol: Protocol::Tcp };

#[test]
fn a_published_port_is_a_frontend_with_a_backend_for_each_task() {
    let (snapshot, local) = swarm();
    let desired = Desired::from(&snapshot, &local, &Surroundings::default());

    assert_eq!(desired.frontends.keys().copied().collect::<Vec<_>>(), [WEB], "mode=host is not ours");
    let backends = &desired.frontends[&WEB].backends;
    assert_eq!(backends.len(), 2);
    assert!(matches!(backends["t1"].home, Home::Here(_)));
    assert_eq!(backends["t2"].home, Home::There(Ipv4Addr::new(10, 99, 0, 2)));
    assert_eq!(backends["t2"].identity, Ipv4Addr::new(10, 0, 0, 7));
    assert_eq!(backends["t2"].port, 8080);
    let (service, task) = (&snapshot.services["web-id"], &snapshot.tasks["t2"]);
    assert_eq!(backends::name(service, task), "web.2");
    assert_eq!(desired.peers, BTreeSet::from([Ipv4Addr::new(10, 99, 0, 2)]));
}

#[test]
fn a_task_serves_only_while_it_runs_and_shall_run_on_a_ready_node() {
    let (mut snapshot, local) = swarm();
    let task = snapshot.tasks.get_mut("t2").expect("t2");
    task.state = TaskState::Starting;
    assert!(
        !Desired::from(&snapshot, &local, &Surroundings::default()).frontends[&WEB]
            .backends
            .contains_key("t2")
    );

    let task = snapshot.tasks.get_mut("t2").expect("t2");
    task.state = TaskState::Running;
    task.desired_state = TaskState::Shutdown;
    assert_eq!(
        Desired::from(&snapshot, &local, &Surroundings::default()).frontends[&WEB].backends["t2"].state,
        State::Draining
    );

    snapshot.tasks.get_mut("t2").expect("t2").desired_state = TaskState::Running;
    snapshot.nodes.get_mut("n2").expect("n2").state = NodeState::Down;
    assert!(
        !Desired::from(&snapshot, &local, &Surroundings::default()).frontends[&WEB]
            .backends
            .contains_key("t2")
    );

    snapshot.nodes.get_mut("n2").expect("n2").state = NodeState::Unknown;
    assert!(
        Desired::from(&snapshot, &local, &Surroundings::default()).frontends[&WEB]
            .backends
            .contains_key("t2"),
        "a new leader's view"
    );
}

#[test]
fn a_container_that_is_gone_takes_its_backend_along_before_the_managers_know() {
    let (snapshot, mut local) = swarm();
    local.containers.clear();
    let desired = Desired::from(&snapshot, &local, &Surroundings::default());
    assert_eq!(desired.frontends[&WEB].backends.keys().collect::<Vec<_>>(), ["t2"]);
    assert!(desired.deliveries.is_empty());
}

#[test]
fn a_container_can_be_delivered_to_before_its_task_runs() {
    let (mut snapshot, local) = swarm();
    snapshot.tasks.remove("t1");
    let desired = Desired::from(&snapshot, &local, &Surroundings::default());
    let key = TaskKey {
        identity: Ipv4Addr::new(10, 0, 0, 6).into(),
        port: Port::new(8080),
        protocol: protocol::TCP,
        padding: 0,
    };
    assert_eq!(desired.deliveries[&key].bridge, Ipv4Addr::new(172, 18, 0, 3).into());
    assert!(!desired.frontends[&WEB].backends.contains_key("t1"));
}

#[test]
fn a_task_keeps_the_ports_that_it_was_made_with_while_its_service_is_given_others() {
    let (mut snapshot, local) = swarm();
    let own = |published, target| Some(vec![port(published, target, Protocol::Tcp, PublishMode::Ingress)]);
    // The service goes from 80:8080 to 80:8081; one task is of each generation, one of before the port.
    snapshot.services.get_mut("web-id").expect("web").ports[0].target = 8081;
    snapshot.tasks.get_mut("t1").expect("t1").ports = own(80, 8080);
    snapshot.tasks.get_mut("t2").expect("t2").ports = own(80, 8081);
    let (id, mut earlier) = task("t3", 3, "n2", 8);
    earlier.ports = Some(vec![port(80, 8080, Protocol::Tcp, PublishMode::Host)]);
    snapshot.tasks.insert(id, earlier);
    snapshot.tasks.extend([task("t4", 4, "n2", 9)]);

    let desired = Desired::from(&snapshot, &local, &Surroundings::default());
    let backends = &desired.frontends[&WEB].backends;
    let ports: Vec<_> = backends.iter().map(|(id, backend)| (id.as_str(), backend.port)).collect();
    assert_eq!(ports, [("t1", 8080), ("t2", 8081), ("t4", 8081)], "t4's own ports are not known");
    let delivered: Vec<_> = desired.deliveries.keys().map(|key| key.port).collect();
    assert_eq!(delivered, [Port::new(8080)]);
}

#[test]
fn a_disabled_service_is_left_to_docker() {
    let (mut snapshot, local) = swarm();
    let labels = BTreeMap::from([("mesh.enable".into(), "false".into())]);
    snapshot.services.get_mut("web-id").expect("web").labels = labels;
    let desired = Desired::from(&snapshot, &local, &Surroundings::default());
    assert!(desired.frontends.values().all(|frontend| frontend.left == Some(Left::Disabled)));
    assert_eq!(desired.services["web-id"].left.len(), desired.services["web-id"].frontends.len());
    assert!(!desired.deliveries.is_empty(), "flows that other nodes have given it go on");
}

#[test]
fn a_service_without_tasks_still_has_its_frontend() {
    let (mut snapshot, local) = swarm();
    snapshot.tasks.clear();
    let desired = Desired::from(&snapshot, &local, &Surroundings::default());
    assert!(desired.frontends[&WEB].backends.is_empty(), "so that clients are refused at once");
}

#[test]
fn warnings_reach_the_operator() {
    let (mut snapshot, local) = swarm();
    let web = snapshot.services.get_mut("web-id").expect("web");
    web.labels = BTreeMap::from([("mesh.unheard-of".into(), "1".into())]);
    web.ports.push(port(9000, 9000, Protocol::Sctp, PublishMode::Ingress));
    let warnings = &Desired::from(&snapshot, &local, &Surroundings::default()).services["web-id"].warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn labels_of_nodes_that_are_not_understood_are_named() {
    let (mut snapshot, _) = swarm();
    assert!(node_warnings(&snapshot).is_empty());
    let mut warnings = |labels: &[(&str, &str)]| {
        let (id, mut node) = node("heavy", 9, NodeState::Ready);
        node.labels = labels.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect();
        snapshot.nodes.insert(id, node);
        node_warnings(&snapshot)
    };
    let told = warnings(&[("mesh.weight", "much"), ("mesh.policy", "random"), ("zone", "a")]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].starts_with("node heavy: label mesh.weight=much is ignored: "), "{told:?}");
    assert!(warnings(&[("mesh.weight", "7")]).is_empty());
}

#[test]
fn a_virtual_address_is_a_frontend_on_the_overlays_that_are_here() {
    let (mut snapshot, local) = swarm();
    let address = Ipv4Addr::new(10, 0, 1, 2);
    let web = snapshot.services.get_mut("web-id").expect("web");
    web.ports.clear();
    web.virtual_ips = vec![
        VirtualIp { network_id: "ingress".into(), address: Ipv4Addr::new(10, 0, 0, 9) },
        VirtualIp { network_id: "shop".into(), address },
        VirtualIp { network_id: "elsewhere".into(), address },
    ];
    for (id, vni) in [("shop", 4097), ("elsewhere", 4098)] {
        snapshot.networks.insert(id.into(), Network { id: id.into(), vni, ..Network::default() });
    }
    for (task, last) in [("t1", 6), ("t2", 7)] {
        let attachment = Attachment {
            network_id: "shop".into(),
            addresses: vec![Ipv4Addr::new(10, 0, 1, last)],
            aliases: Vec::new(),
        };
        snapshot.tasks.get_mut(task).expect("a task").attachments.push(attachment);
    }
    let overlays = BTreeSet::from(["ingress".to_owned(), "shop".to_owned()]);
    let mut here = Surroundings { overlays, ..Surroundings::default() };
    let desired = Desired::from(&snapshot, &local, &here);
    let id = FrontendId::Vip { network: 4097, address };
    assert_eq!(desired.frontends.keys().copied().collect::<Vec<_>>(), [id]);
    let backends = &desired.frontends[&id].backends;
    assert_eq!(backends["t2"].identity, Ipv4Addr::new(10, 0, 1, 7));
    assert_eq!(backends["t2"].home, Home::Overlay([2, 0x42, 10, 0, 1, 7]));
    assert_eq!(backends.len(), 2);

    let node = Ipv4Addr::new(10, 99, 0, 2);
    here.reach.without_mesh.insert(node);
    let desired = Desired::from(&snapshot, &local, &here);
    assert_eq!(desired.frontends[&id].backends["t2"].state, State::Active, "the overlay is Docker's");
    here.reach.silent.insert(node);
    let desired = Desired::from(&snapshot, &local, &here);
    assert_eq!(desired.frontends[&id].backends["t2"].state, State::Draining);
}

#[test]
fn a_node_out_of_reach_gets_nothing_new_unless_there_is_no_other() {
    let (mut snapshot, local) = swarm();
    let node = Ipv4Addr::new(10, 99, 0, 2);
    let silent = Reach { silent: BTreeSet::from([node]), ..Reach::default() };
    let without = Reach { without_mesh: BTreeSet::from([node]), ..Reach::default() };
    for reach in [silent, without] {
        let here = Surroundings { reach, ..Surroundings::default() };
        let labels = BTreeMap::from([("mesh.drain".to_owned(), "5s".to_owned())]);
        snapshot.services.get_mut("web-id").expect("web").labels = labels;
        let backends = &Desired::from(&snapshot, &local, &here).frontends[&WEB].backends;
        assert_eq!((backends["t1"].state, backends["t2"].state), (State::Active, State::Draining));
        assert_eq!(backends["t2"].drain, None, "its connections are not over");

        let first = snapshot.tasks.remove("t1").expect("t1");
        let backends = &Desired::from(&snapshot, &local, &here).frontends[&WEB].backends;
        assert_eq!(backends["t2"].state, State::Active, "it may be us who cannot hear");
        snapshot.tasks.insert_shared("t1".into(), first);
    }
}

#[test]
fn what_a_tasks_own_node_says_comes_before_what_the_swarm_says() {
    let (mut snapshot, local) = swarm();
    snapshot.conditions.insert("t2".into(), Condition::Draining);
    let surroundings = Surroundings::default();
    let backends = |snapshot: &Snapshot, surroundings: &Surroundings| {
        Desired::from(snapshot, &local, surroundings).frontends[&WEB].backends.clone()
    };
    assert_eq!(backends(&snapshot, &surroundings)["t2"].state, State::Draining);
    let drained = Surroundings { drained: BTreeSet::from(["t2".to_owned()]), ..Surroundings::default() };
    assert!(!backends(&snapshot, &drained).contains_key("t2"), "its connections had their time");
    snapshot.conditions.insert("t2".into(), Condition::Ended);
    assert!(!backends(&snapshot, &surroundings).contains_key("t2"));
    snapshot.conditions.insert("t1".into(), Condition::Ended);
    assert!(backends(&snapshot, &surroundings).contains_key("t1"), "what runs here is known here");
}
