//! Virtual addresses: every port, between tasks, wherever they run.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    client::{Conversation, Report, Transfer},
    dig::Dig,
    inside::{Inside, Network},
    lab::{Lab, Node, text},
    paths::root,
    service::{Service, Spec},
    wait,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Scenario,
    support::{PATIENCE, PROMPT, PROMPT_TABLES, Undo, all_ok, exact, live, live_on, only_on},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a two-tier stack finds its database by a short name, and Redis sees who calls", a_two_tier_stack),
    ("tasks reach a service at its virtual address on any port, in exact turns", any_port_in_turns),
    ("a virtual address answers a ping", a_ping_is_answered),
    ("a task reaches its own service, also as its only task", hairpin),
    ("a service scaled to zero keeps its name and refuses fast, and serves again", scaled_to_zero),
    ("an internal network has virtual addresses too", an_internal_network),
    ("an attachable container calls and is known by its names", an_attachable_container),
    ("a connection to a virtual address outlives a change of the tasks", a_connection_stays),
    ("a virtual address passes bulk data intact", much_data),
    (
        "containers that come and go leave no program behind, and Docker's balancer never has one",
        nothing_stays,
    ),
];

/// What `mesh-workload ask` reports.
#[derive(Debug, Deserialize)]
struct Heard {
    target: String,
    source: String,
    answers: Vec<String>,
}

/// The virtual address of a service on its only network.
fn vip_of(lab: &Lab, service: &str) -> Result<String> {
    let found = lab.manager().ask(&format!("/services/{service}"))?;
    let address = text(&found, "/Endpoint/VirtualIPs/0/Addr").split('/').next();
    let address = address.filter(|address| !address.is_empty());
    Ok(address.with_context(|| format!("{service} has no virtual address"))?.to_owned())
}

/// A caller on every node of a network.
fn callers<'a>(lab: &'a Lab, network: &Network<'_>, name: &str) -> Result<(Service<'a>, Vec<Inside<'a>>)> {
    let service = Spec::workload(name).global().option(&network.option()).create(lab)?;
    let places = Inside::tasks(lab, &service)?;
    have_programs(network, &places)?;
    Ok((service, places))
}

/// Waits until the agents have attached their programs to these tasks' ports. On a busy machine that takes longer than the start of a
/// container, whose calls are left to Docker's balancer until then: the lab's kernel has none.
pub(crate) fn have_programs(network: &Network<'_>, places: &[Inside<'_>]) -> Result<()> {
    wait::for_up_to(PATIENCE, &format!("the tasks on {} have programs at their ports", network.name), || {
        for place in places {
            let tasks = places.iter().filter(|other| other.node.name == place.node.name).count();
            let row = network.status(place.node)?;
            let ports = row["ports"].as_array().map_or(0, Vec::len);
            ensure!(ports >= tasks, "{} has {tasks} tasks: {row}", place.node.name);
        }
        Ok(())
    })
}

/// Waits until the nodes of these callers have so many tasks of a service in their tables; others need not know it.
fn serving(places: &[Inside<'_>], service: &str, count: usize) -> Result<()> {
    live_on(&places.iter().map(|place| place.node).collect::<Vec<_>>(), service, count, PROMPT_TABLES)
}

/// Requests that must all be answered, each by a new connection.
fn get(place: &Inside<'_>, target: &str, count: usize) -> Result<Report> {
    all_ok(place.run(&["get", target, "--count", &count.to_string()])?)
        .with_context(|| format!("{count} requests from {} to {target}", place.node.name))
}

/// Tells when a name is answered by the mesh with this one address.
fn named(place: &Inside<'_>, name: &str, address: &str) -> Result<()> {
    named_within(PROMPT, place, name, address)
}

fn named_within(limit: Duration, place: &Inside<'_>, name: &str, address: &str) -> Result<()> {
    wait::for_up_to(limit, &format!("{} knows {name}", place.node.name), || {
        let dig = Dig::ask(place, &[name])?;
        ensure!(dig.data() == [address] && dig.answers[0].ttl < 600, "the answer is {dig:?}");
        Ok(())
    })
}

fn a_two_tier_stack(lab: &Lab) -> Result<()> {
    let _stack = Undo::at_the_end(|| {
        let _ = lab.docker(["stack", "rm", "shop"]).quiet().read();
        let _ = wait::for_up_to(PATIENCE, "the stack is gone", || {
            for node in &lab.nodes {
                let of_it = [("label", "com.docker.stack.namespace=shop")];
                let left = node.list("/containers/json", &of_it)?;
                ensure!(left.is_empty(), "{} has containers of it", node.name);
            }
            let networks = lab.manager().list("/networks", &[("name", "shop_default")])?;
            ensure!(networks.is_empty(), "its network is there");
            Ok(())
        });
    });
    let file = root().join("tests/fixtures/two-tier.yml");
    let deploy = ["stack", "deploy", "--resolve-image", "never", "--compose-file"];
    lab.docker(deploy).arg(file).arg("shop").read()?;
    let vip = vip_of(lab, "shop_dbcluster")?;
    let mut nodes = BTreeSet::new();
    let places = wait::for_up_to(PATIENCE, "the web tier runs", || {
        let mut places = Vec::new();
        for node in &lab.nodes {
            for container in node.containers_of("shop_web")? {
                places.push(Inside::container(node, text(&container, "/Id"))?);
            }
        }
        ensure!(places.len() == 2, "{} containers", places.len());
        Ok(places)
    })?;
    live_on(&places.iter().map(|place| place.node).collect::<Vec<_>>(), "shop_dbcluster", 1, PATIENCE)?;
    for place in &places {
        nodes.insert(&place.node.name);
        named(place, "dbcluster", &vip)?;
        let own = place.address("shop_default")?;
        for name in ["dbcluster:6379", "store:6379", "shop_dbcluster:6379"] {
            // By the library that the image brings, as the container itself does it.
            let heard: Heard = place.exec(&["ask", name, "PING", "CLIENT INFO"])?;
            ensure!(heard.target == format!("{vip}:6379"), "{name} is {}", heard.target);
            ensure!(heard.answers[0] == "+PONG", "Redis said {:?}", heard.answers);
            let seen = heard.answers[1].split_whitespace().find_map(|word| word.strip_prefix("addr="));
            ensure!(
                seen == Some(&heard.source) && heard.source.starts_with(&format!("{own}:")),
                "Redis saw {seen:?}; the caller was {} of {own}",
                heard.source
            );
        }
    }
    ensure!(nodes.len() == 2, "the web tier is all on {nodes:?}");
    Ok(())
}

fn any_port_in_turns(lab: &Lab) -> Result<()> {
    let network = Network::create(lab, "turns-net", &[])?;
    let (_callers, places) = callers(lab, &network, "turns-caller")?;
    let service = Spec::workload("turns").replicas(4).option(&network.option()).create(lab)?;
    live(lab, "turns", 4)?;
    let vip = vip_of(lab, service.name())?;
    for place in &places {
        let own = place.address(&network.name)?;
        let from = || format!("from {}", place.node.name);
        let report = get(place, &format!("{vip}:8080"), 12).with_context(from)?;
        exact(&report, 4).with_context(from)?;
        ensure!(report.peers.keys().eq([&own]), "the tasks saw {:?}, not {own}", report.peers);

        let echo = format!("{vip}:9000");
        let talk: Conversation = place.run(&["tcp", &echo, "--lines", "5"])?;
        ensure!(talk.error.is_none() && talk.echoed == 5, "{}: {talk:?}", from());
        let mut tasks = BTreeSet::new();
        for extra in [&[][..], &["--unconnected"]] {
            for _ in 0..4 {
                let report: Report =
                    all_ok(place.run(&[&["udp", &echo, "--count", "5"][..], extra].concat())?)
                        .with_context(|| format!("datagrams {} {extra:?}", from()))?;
                ensure!(report.tasks.len() == 1, "one flow went to {:?}", report.tasks);
                ensure!(report.peers.keys().eq([&own]), "the tasks saw {:?}, not {own}", report.peers);
                ensure!(report.sources.keys().eq([&echo]), "answers came from {:?}", report.sources);
                tasks.extend(report.tasks.into_keys());
            }
        }
        ensure!(tasks.len() == 4, "{}: datagrams reached {tasks:?}", from());
        // Nobody listens there: the task itself refuses.
        let refused: Report = place.run(&["get", &format!("{vip}:8079"), "--timeout", "1000"])?;
        ensure!(refused.is_refused(1), "{}: {refused:?}", from());
    }
    Ok(())
}

fn a_ping_is_answered(lab: &Lab) -> Result<()> {
    let network = Network::create(lab, "ping-net", &[])?;
    let (_callers, places) = callers(lab, &network, "ping-caller")?;
    let service = Spec::workload("ping").option(&network.option()).create(lab)?;
    live(lab, "ping", 1)?;
    let vip = vip_of(lab, service.name())?;
    for place in &places {
        let ping =
            place.command("ping").args(["-n", "-c", "3", "-i", "0.2", "-W", "1", &vip]).quiet().read()?;
        ensure!(ping.contains(" 3 received"), "from {}:\n{ping}", place.node.name);
    }
    Ok(())
}

fn hairpin(lab: &Lab) -> Result<()> {
    let network = Network::create(lab, "self-net", &[])?;
    // Its host name `self.1` has Docker write `self` into /etc/hosts, so that it would be found there.
    let join = format!("--network=name={},alias=mirror", network.name);
    let service = Spec::workload("self").option(&join).create(lab)?;
    serving(&Inside::tasks(lab, &service)?, "self", 1)?;
    have_programs(&network, &Inside::tasks(lab, &service)?)?;
    let vip = vip_of(lab, service.name())?;
    let reach = |place: &Inside<'_>, tasks: usize| -> Result<()> {
        let own = place.address(&network.name)?;
        for target in [format!("{vip}:8080"), "mirror:8080".into()] {
            let report: Report =
                all_ok(place.exec(&["get", &target, "--count", &(3 * tasks).to_string()])?)?;
            exact(&report, tasks)?;
        }
        let echo = format!("{vip}:9000");
        for extra in [&[][..], &["--unconnected"]] {
            for _ in 0..tasks {
                let report: Report =
                    all_ok(place.run(&[&["udp", &echo, "--count", "3"][..], extra].concat())?)?;
                ensure!(report.sources.keys().eq([&echo]), "{own}: answers came from {:?}", report.sources);
            }
        }
        Ok(())
    };
    reach(&Inside::tasks(lab, &service)?[0], 1).context("the only task")?;
    service.scale(3)?;
    service.wait_for(3)?;
    serving(&Inside::tasks(lab, &service)?, "self", 3)?;
    have_programs(&network, &Inside::tasks(lab, &service)?)?;
    for place in Inside::tasks(lab, &service)? {
        reach(&place, 3).with_context(|| format!("one of three, on {}", place.node.name))?;
    }
    Ok(())
}

fn scaled_to_zero(lab: &Lab) -> Result<()> {
    let network = Network::create(lab, "zero-net", &[])?;
    let (_callers, places) = callers(lab, &network, "zero-caller")?;
    let service = Spec::workload("zero").replicas(2).option(&network.option()).create(lab)?;
    live(lab, "zero", 2)?;
    let vip = vip_of(lab, service.name())?;
    service.scale(0)?;
    service.wait_for(0)?;
    live(lab, "zero", 0)?;
    for place in &places {
        named(place, "zero", &vip)?;
        let begin = Instant::now();
        let report: Report = place.run(&["get", &format!("{vip}:8080")])?;
        let took = begin.elapsed();
        let refused = report.is_refused(1) && took < Duration::from_secs(1);
        ensure!(refused, "{} {took:?}: {report:?}", place.node.name);
        let report: Report = place.run(&["udp", &format!("{vip}:9000"), "--timeout", "1000"])?;
        ensure!(report.is_refused(1), "UDP on {}: {report:?}", place.node.name);
    }
    service.scale(2)?;
    service.wait_for(2)?;
    live(lab, "zero", 2)?;
    for place in &places {
        exact(&get(place, &format!("{vip}:8080"), 6)?, 2)?;
    }
    Ok(())
}

fn an_internal_network(lab: &Lab) -> Result<()> {
    let network = Network::create(lab, "inner-net", &["--internal"])?;
    let (_callers, places) = callers(lab, &network, "inner-caller")?;
    let service = Spec::workload("inner").replicas(2).option(&network.option()).create(lab)?;
    live(lab, "inner", 2)?;
    let vip = vip_of(lab, service.name())?;
    for place in &places {
        exact(&get(place, &format!("{vip}:8080"), 6)?, 2)?;
        named(place, "inner", &vip)?;
    }
    Ok(())
}

fn an_attachable_container(lab: &Lab) -> Result<()> {
    let network = Network::create(lab, "attach-net", &[])?;
    let service = Spec::workload("attach").replicas(3).option(&network.option()).create(lab)?;
    live(lab, "attach", 3)?;
    let vip = vip_of(lab, service.name())?;
    for (index, node) in lab.nodes.iter().enumerate() {
        let name = format!("byhand{index}");
        let container = network.run(node, &name, &["--network-alias", "hand"])?;
        let place = container.inside()?;
        have_programs(&network, std::slice::from_ref(&place))?;
        named(&place, "attach", &vip)?;
        // Other nodes learn the new container's hardware address by gossip; what they send it before that is lost.
        let report = wait::for_up_to(PROMPT, "every task answers it", || {
            let report: Report = all_ok(place.exec(&["get", "attach:8080", "--count", "6"])?)?;
            exact(&report, 3).map(|()| report)
        })?;
        let own = place.address(&network.name)?;
        ensure!(report.peers.keys().eq([&own]), "the tasks saw {:?}, not {own}", report.peers);
        // Also on the other nodes: the Swarm's API has neither names nor aliases of such containers, but the agents do. How soon
        // is what `names.rs` is about.
        for task in &Inside::tasks(lab, &service)? {
            for name in [&name, "hand", &place.container_id()?[..12]] {
                named_within(PATIENCE, task, name, &own)
                    .with_context(|| format!("of {}'s container", node.name))?;
            }
        }
    }
    Ok(())
}

fn a_connection_stays(lab: &Lab) -> Result<()> {
    let network = Network::create(lab, "stays-net", &[])?;
    let (_callers, places) = callers(lab, &network, "stays-caller")?;
    let service = Spec::workload("stays").replicas(1).option(&network.option()).create(lab)?;
    live(lab, "stays", 1)?;
    let vip = vip_of(lab, service.name())?;
    let talks: Vec<_> = places
        .iter()
        .map(|place| place.start(&["tcp", &format!("{vip}:9000"), "--lines", "60", "--interval", "100"]))
        .collect::<Result<_>>()?;
    std::thread::sleep(Duration::from_millis(500));
    service.scale(4)?;
    service.wait_for(4)?;
    live(lab, "stays", 4)?;
    for talk in talks {
        let talk: Conversation = talk.report()?;
        ensure!(talk.error.is_none() && talk.echoed == 60, "it was cut: {talk:?}");
    }
    Ok(())
}

fn much_data(lab: &Lab) -> Result<()> {
    let network = Network::create(lab, "bulk-net", &[])?;
    let (_callers, places) = callers(lab, &network, "bulk-caller")?;
    let service =
        Spec::workload("bulk").option(&network.option()).option(&only_on(&lab.nodes[1])).create(lab)?;
    live(lab, "bulk", 1)?;
    let target = format!("{}:8080", vip_of(lab, service.name())?);
    for place in &places {
        for direction in ["download", "upload"] {
            let moved: Transfer = place.run(&[direction, &target, "--bytes", "20000000"])?;
            ensure!(moved.intact && moved.bytes == 20_000_000, "{direction} {}: {moved:?}", place.node.name);
        }
    }
    Ok(())
}

/// The names of the programs that are pinned for a network's ports on a node.
fn pins(node: &Node, vni: u64) -> Result<BTreeSet<String>> {
    let dir = format!("/sys/fs/bpf/mesh/overlays/{vni}");
    let list = node.command("sh").args(["-c", &format!("ls {dir} 2>/dev/null || true")]).quiet().read()?;
    Ok(list.lines().map(String::from).collect())
}

fn nothing_stays(lab: &Lab) -> Result<()> {
    let network = Network::create(lab, "gone-net", &[])?;
    let (node, other) = (&lab.nodes[1], &lab.nodes[2]);
    let _keeper = Spec::workload("keeper").option(&network.option()).option(&only_on(node)).create(lab)?;
    live_on(&[node], "keeper", 1, PROMPT_TABLES)?;
    let row = wait::for_up_to(PROMPT, "the network's ports are known", || {
        let row = network.status(node)?;
        ensure!(row["vni"].is_u64(), "{row}");
        Ok(row)
    })?;
    let vni = row["vni"].as_u64().context("no VNI")?;
    let settled = |node: &Node, ports: usize| {
        wait::for_up_to(PATIENCE, &format!("{} has {ports} ports", node.name), || {
            let pins = pins(node, vni)?;
            let row = network.status(node)?;
            let listed = row["ports"].as_array().map_or(0, Vec::len);
            // Two programs each way at each port; Docker's balancer has a port, too, which is not listed.
            ensure!(pins.len() == 4 * ports && listed == ports, "{pins:?}, {row}");
            Ok(pins)
        })
    };
    let before = settled(node, 1)?;
    for round in 0..3 {
        let here = network.run(node, &format!("comes{round}"), &[])?;
        let there = network.run(other, &format!("goes{round}"), &[])?;
        settled(node, 2)?;
        settled(other, 1)?;
        drop((here, there));
        settled(other, 0)?;
        let after = settled(node, 1)?;
        ensure!(after == before, "round {round}: {after:?}, and before {before:?}");
    }
    let errors: Vec<Value> = vec![network.status(node)?["error"].clone()];
    ensure!(errors == [Value::Null], "{errors:?}");
    Ok(())
}
