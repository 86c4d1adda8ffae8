//! The nodes' own processes: what they dial at their own node is a published port like any other.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{At, Conversation, Report},
    lab::{Lab, Node},
    service::{Service, Spec},
};

use crate::{
    Scenario,
    support::{all_ok, exact, get_at, live, only_on},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a node's own processes reach published ports at localhost and at the node's address, in turn", in_turn),
    ("a node's own processes see the address they dialled as their peer", what_was_dialled),
    ("a node's own datagrams are answered by the address they were sent to", own_datagrams),
    ("a node's own processes can move much data to tasks elsewhere", much_data),
    ("a node's own processes are not told of tasks that refuse while another one serves", refusing_tasks),
    ("a container's own localhost is its own", a_containers_own_localhost),
];

/// How a process can call its own node.
fn own_names(node: &Node, port: u16) -> [String; 4] {
    ["127.0.0.1", "[::1]", "127.1.2.3", &node.address].map(|host| format!("{host}:{port}"))
}

fn in_turn(lab: &Lab) -> Result<()> {
    let _service = Spec::workload("own").replicas(4).publish("8301:8080").create(lab)?;
    live(lab, "own", 4)?;
    for node in &lab.nodes {
        for target in own_names(node, 8301) {
            let report = get_at(At::Node(node), &target, 8).with_context(|| format!("on {}", node.name))?;
            exact(&report, 4).with_context(|| format!("{target} on {}", node.name))?;
        }
        let mut answers = BTreeSet::new();
        for _ in 0..4 {
            answers.insert(At::Node(node).curl("http://localhost:8301/")?);
        }
        ensure!(answers.len() == 4, "curl on {} got {answers:?}", node.name);
    }
    Ok(())
}

fn what_was_dialled(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("dialled").replicas(3).publish("8302:9000").publish("8302:9000/udp");
    let _service = spec.create(lab)?;
    live(lab, "dialled", 3)?;
    for node in &lab.nodes {
        for target in own_names(node, 8302) {
            // As often as there are tasks: here and elsewhere.
            for _ in 0..3 {
                let talk: Conversation = At::Node(node).run(&["tcp", &target, "--lines", "3"])?;
                ensure!(talk.error.is_none() && talk.echoed == 3, "{target} on {}: {talk:?}", node.name);
                let peer = talk.connected_to.as_deref();
                ensure!(peer == Some(&target), "TCP to {target} on {} has the peer {peer:?}", node.name);
                let report: Report = all_ok(At::Node(node).run(&["udp", &target, "--count", "3"])?)
                    .with_context(|| format!("UDP to {target} on {}", node.name))?;
                let peer = report.connected_to.as_deref();
                ensure!(peer == Some(&target), "UDP to {target} on {} has the peer {peer:?}", node.name);
            }
        }
    }
    Ok(())
}

fn own_datagrams(lab: &Lab) -> Result<()> {
    let _service = Spec::workload("owndata").replicas(3).publish("8303:9000/udp").create(lab)?;
    live(lab, "owndata", 3)?;
    for node in &lab.nodes {
        for connected in [true, false] {
            let [v4, v6, other, own] = own_names(node, 8303);
            // The kernel has no hook for datagrams without a connection that would make an IPv6 one an IPv4 one.
            let targets = if connected { vec![v4, v6, other, own] } else { vec![v4, other, own] };
            for target in targets {
                let mut tasks = BTreeSet::new();
                for _ in 0..3 {
                    let mut send = vec!["udp", &target, "--count", "5"];
                    send.extend((!connected).then_some("--unconnected"));
                    let report: Report = all_ok(At::Node(node).run(&send)?)
                        .with_context(|| format!("{send:?} on {}", node.name))?;
                    let sources: Vec<&String> = report.sources.keys().collect();
                    ensure!(sources == [&target], "{send:?} on {} was answered by {sources:?}", node.name);
                    ensure!(report.tasks.len() == 1, "one socket, but {:?}", report.tasks);
                    tasks.extend(report.tasks.into_keys());
                }
                ensure!(tasks.len() == 3, "three sockets on {} to {target} got {tasks:?}", node.name);
            }
        }
    }
    Ok(())
}

fn much_data(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("ownbulk").publish("8304:8080").option(&only_on(&lab.nodes[0]));
    let _service = spec.create(lab)?;
    live(lab, "ownbulk", 1)?;
    for node in &lab.nodes {
        for direction in ["download", "upload"] {
            let moved: mesh_tests::client::Transfer =
                At::Node(node).run(&[direction, "127.0.0.1:8304", "--bytes", "20000000"])?;
            ensure!(moved.intact, "{direction} on {}: {moved:?}", node.name);
        }
    }
    Ok(())
}

/// Two tasks on each node, one of which listens on the port of its own slot that is published.
fn refusing_tasks(lab: &Lab) -> Result<()> {
    let spec = Spec::workload("refusing").replicas(6).publish("8307:8081").publish("8308:9001");
    let spec = spec.option("--env=WORKLOAD_HTTP=808{{.Task.Slot}}");
    let _service = spec.option("--env=WORKLOAD_ECHO=900{{.Task.Slot}}").create(lab)?;
    live(lab, "refusing", 6)?;
    for node in &lab.nodes {
        for target in own_names(node, 8307) {
            let report = get_at(At::Node(node), &target, 30).with_context(|| format!("on {}", node.name))?;
            ensure!(report.tasks.len() == 1, "{target} on {}: {report:?}", node.name);
        }
        for _ in 0..6 {
            let target = "127.0.0.1:8308";
            let talk: Conversation = At::Node(node).run(&["tcp", target, "--lines", "50"])?;
            ensure!(talk.error.is_none() && talk.echoed == 50, "{target} on {}: {talk:?}", node.name);
        }
    }
    Ok(())
}

fn a_containers_own_localhost(lab: &Lab) -> Result<()> {
    let service =
        Spec::workload("inside").replicas(3).publish("8080:8080").publish("8305:8080").create(lab)?;
    live(lab, "inside", 3)?;
    for task in service.tasks()? {
        let own = ask_inside(lab, &service, &task, "127.0.0.1:8080")?;
        let only_itself = own.failed == 0 && own.tasks.len() == 1 && own.tasks.contains_key(&task.name);
        ensure!(only_itself, "localhost:8080 in {} is {own:?}", task.name);
        let nobody = ask_inside(lab, &service, &task, "127.0.0.1:8305")?;
        let refused = nobody.errors.keys().all(|error| error.contains("Connection refused"));
        ensure!(nobody.ok == 0 && refused, "localhost:8305 in {} is {nobody:?}", task.name);
    }
    Ok(())
}

fn ask_inside(
    lab: &Lab,
    service: &Service<'_>,
    task: &mesh_tests::service::Task,
    target: &str,
) -> Result<Report> {
    let container = service.container(task)?;
    let ask = ["exec", &container, "/workload", "get", target, "--count", "6"];
    let text = lab.node(&task.node)?.docker(ask).quiet().read()?;
    serde_json::from_str(&text).with_context(|| format!("{} said {text}", task.name))
}
