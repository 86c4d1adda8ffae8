//! Names: what tasks are told by the resolver they ask, in the order of the golden table (D1…) and beyond it.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    dig::Dig,
    inside::{Container, Inside, Network},
    lab::{CLIENT, Lab, Node},
    mesh,
    service::{Spec, virtual_address},
    wait,
};

use crate::{
    Scenario, canary,
    support::{PATIENCE, PROMPT, PROMPT_TABLES, Undo, agent_answers, live_on, only_on},
    upstreams::Upstream,
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("names are answered as the golden table says", golden),
    ("names are found as musl and as glibc look them up", libraries),
    ("names of networks that a task is not on are not told, and the first network has the say", views),
    ("names of a container attached by hand are known on other nodes until it is gone", attached_by_hand),
    ("names of 33 tasks are cut short over UDP and complete over TCP", many_tasks),
    ("names in two stacks with the same alias on one network are both meant", one_alias_twice),
    ("names that were asked for before are answered by the kernel until they change", again_and_again),
    ("names are answered by Docker within a second after the agent stopped", without_agent),
    ("check finds an entry that somebody deleted", check_finds_a_hole),
];

/// Waits until the mesh answers a question with exactly these addresses, in whatever order.
pub(crate) fn told(place: &Inside<'_>, name: &str, addresses: &[String]) -> Result<Dig> {
    let mut wanted: Vec<&str> = addresses.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    wait::for_up_to(PROMPT, &format!("a task on {} is told of {name}", place.node.name), || {
        let dig = Dig::ask(place, &[name])?;
        ensure!(dig.status == "NOERROR" && dig.sorted() == wanted, "not {wanted:?}: {dig:?}");
        // Docker says 600.
        ensure!(
            dig.answers.iter().all(|record| record.ttl < 600),
            "it is not the mesh that answers: {dig:?}"
        );
        Ok(dig)
    })
}

/// The mesh says with this code that there is nothing.
pub(crate) fn empty(place: &Inside<'_>, question: &[&str], code: &str) -> Result<Dig> {
    let dig = Dig::ask(place, question)?;
    ensure!(dig.status == code && dig.answers.is_empty(), "{question:?}, not {code}: {dig:?}");
    Ok(dig)
}

fn addresses(places: &[Inside<'_>], network: &str) -> Result<Vec<String>> {
    places.iter().map(|place| place.address(network)).collect()
}

/// The virtual address of a service on a network.
pub(crate) fn vip(lab: &Lab, service: &str, network: &str) -> Result<String> {
    virtual_address(lab, service, network)
}

fn reversed(address: &str) -> String {
    let parts: Vec<&str> = address.rsplit('.').collect();
    format!("{}.in-addr.arpa", parts.join("."))
}

fn golden(lab: &Lab) -> Result<()> {
    let _upstream = Upstream::start()?;
    let net = Network::create(lab, "app_net", &[])?;
    let web = Spec::workload("app_web")
        .replicas(2)
        .option(&format!("--network=name={},alias=web", net.name))
        .option("--label=mesh.dns.srv=_http._tcp:8080")
        .create(lab)?;
    let asker = Spec::workload("app_asker")
        .replicas(2)
        .option("--replicas-max-per-node=1")
        .option(&net.option())
        .option(&format!("--dns={CLIENT}"))
        .create(lab)?;
    let tasks = web.tasks()?;
    let places = Inside::tasks(lab, &web)?;
    let own = addresses(&places, &net.name)?;
    let vip = vip(lab, "app_web", &net.name)?;
    for place in Inside::tasks(lab, &asker)? {
        for name in ["web", "app_web", "web.", "WEB", "web.app_net"] {
            let dig = told(&place, name, std::slice::from_ref(&vip)).context("D1")?;
            ensure!(dig.has("ra") && !dig.has("aa"), "D1: {dig:?}");
        }
        for name in ["tasks.web", "tasks.app_web", "tasks.web.app_net"] {
            told(&place, name, &own).context("D2")?;
        }
        let dig = empty(&place, &["web", "AAAA"], "NOERROR").context("D3")?;
        ensure!(dig.authorities.iter().any(|record| record.kind == "SOA"), "D3: {dig:?}");
        for kind in ["MX", "TXT", "HTTPS", "SVCB", "SOA", "NS", "ANY"] {
            empty(&place, &["+notcp", "web", kind], "NOERROR").context("D4, D5")?;
        }
        empty(&place, &["nosuch", "MX"], "NXDOMAIN").context("D4: what the other server says")?;

        let dig = Dig::ask(&place, &["_http._tcp.web", "SRV"])?;
        ensure!(dig.data() == ["0 1 8080 app_web.app_net."], "D6: {dig:?}");
        ensure!(dig.additionals.iter().any(|glue| glue.data == vip), "D6: {dig:?}");
        let dig = Dig::ask(&place, &[&reversed(&vip), "PTR"])?;
        ensure!(dig.data() == ["app_web.app_net."], "D8: {dig:?}");
        for ((task, inside), address) in tasks.iter().zip(&places).zip(&own) {
            let dig = Dig::ask(&place, &[&reversed(address), "PTR"])?;
            let name = format!("{}.{}", task.name, task.id);
            ensure!(dig.data() == [format!("{name}.app_net.")], "D7: {dig:?}");
            let hostname = &task.name;
            for name in [&name, hostname, &inside.container_id()?[..12]] {
                told(&place, name, std::slice::from_ref(address)).context("D9")?;
            }
        }
        let dig = Dig::ask(&place, &["www.example"])?;
        ensure!(dig.data() == ["192.0.2.1"], "a name of the world: {dig:?}");
        let dig = empty(&place, &["nosuch.example"], "NXDOMAIN").context("D16")?;
        let soa = dig.authorities.iter().any(|record| record.kind == "SOA" && record.name == "example.");
        ensure!(soa, "D16: {dig:?}");
        manners(&place, &vip)?;
    }
    Ok(())
}

/// D19 and D20, and what they leave open.
fn manners(place: &Inside<'_>, vip: &str) -> Result<()> {
    empty(place, &["+opcode=STATUS", "web"], "NOTIMP").context("D19")?;
    empty(place, &["+opcode=NOTIFY", "web"], "NOTIMP").context("D19")?;
    empty(place, &["-c", "CH", "web"], "REFUSED").context("D19")?;
    let dig = empty(place, &["+edns=1", "+noednsneg", "web"], "BADVERS").context("D20")?;
    ensure!(dig.edns.is_some(), "D20: {dig:?}");
    let dig = Dig::ask(place, &["+edns=0", "+dnssec", "+ednsopt=65001:0102", "web"])?;
    ensure!(dig.data() == [vip], "D20: {dig:?}");
    let edns = dig.edns.as_deref().context("D20: no EDNS")?;
    ensure!(edns.starts_with("version: 0") && edns.contains("do"), "D20: {dig:?}");
    let dig = Dig::ask(place, &["+tcp", "web"])?;
    ensure!(dig.data() == [vip], "over TCP: {dig:?}");
    Ok(())
}

fn libraries(lab: &Lab) -> Result<()> {
    let net = Network::create(lab, "lib-net", &[])?;
    // The service's own name is in /etc/hosts of its tasks, as a part of their host names.
    let join = format!("--network=name={},alias=library", net.name);
    let web = Spec::workload("libweb").replicas(3).option(&join).create(lab)?;
    let vip = vip(lab, "libweb", &net.name)?;
    let places = Inside::tasks(lab, &web)?;
    let mut own = addresses(&places, &net.name)?;
    own.sort_unstable();
    for place in &places {
        for (name, wanted) in [("library", vec![vip.clone()]), ("tasks.library", own.clone())] {
            told(place, name, &wanted)?;
            // Both ask for A and AAAA at once; musl from a socket that is not connected, glibc from one that is.
            let mut musl: Vec<String> = place.exec(&["resolve", name])?;
            musl.sort_unstable();
            ensure!(musl == wanted, "musl finds {musl:?} for {name}, not {wanted:?}");
            let text = place.getent(&["ahosts", name])?;
            let streams = text.lines().filter(|line| line.contains("STREAM"));
            let mut glibc: Vec<&str> = streams.filter_map(|line| line.split_whitespace().next()).collect();
            glibc.sort_unstable();
            ensure!(glibc == wanted, "glibc finds {glibc:?} for {name}, not {wanted:?}:\n{text}");
        }
    }
    Ok(())
}

fn views(lab: &Lab) -> Result<()> {
    let _upstream = Upstream::start()?;
    let nets = [Network::create(lab, "view-a", &[])?, Network::create(lab, "view-b", &[])?];
    let mut servers = Vec::new();
    for (net, name) in nets.iter().zip(["va", "vb"]) {
        let join = format!("--network=name={},alias=db", net.name);
        servers.push(Spec::workload(name).option(&join).create(lab)?);
    }
    let (va, vb) = (vip(lab, "va", "view-a")?, vip(lab, "vb", "view-b")?);
    let dns = format!("--dns={CLIENT}");
    let one = Spec::workload("one").option(&nets[0].option()).option(&dns).create(lab)?;
    let both = Spec::workload("both").option(&nets[0].option()).option(&nets[1].option()).option(&dns);
    let both = both.option("--dns-option=ndots:5").create(lab)?;

    let place = &Inside::tasks(lab, &one)?[0];
    told(place, "db", std::slice::from_ref(&va)).context("D11")?;
    for name in ["vb", "db.view-b", "vb.view-b"] {
        empty(place, &[name], "NXDOMAIN").context("D11: another network's name goes to the other server")?;
    }
    let place = &Inside::tasks(lab, &both)?[0];
    told(place, "va", std::slice::from_ref(&va)).context("D17")?;
    told(place, "vb", std::slice::from_ref(&vb)).context("D17")?;
    told(place, "db.view-a", std::slice::from_ref(&va)).context("D17")?;
    told(place, "db.view-b", std::slice::from_ref(&vb)).context("D17")?;
    let first = Dig::ask(place, &["db"])?;
    ensure!(first.answers.len() == 1, "D17: {first:?}");
    for _ in 0..5 {
        let again = Dig::ask(place, &["db"])?;
        ensure!(again.data() == first.data(), "D17: {again:?} after {first:?}");
    }
    empty(place, &["nosuch"], "NXDOMAIN").context("D13")?;
    Ok(())
}

fn attached_by_hand(lab: &Lab) -> Result<()> {
    let _upstream = Upstream::start()?;
    let net = Network::create(lab, "hand-net", &[])?;
    let dns = format!("--dns={CLIENT}");
    let askers =
        [net.run(&lab.nodes[0], "hand-one", &[&dns])?, net.run(&lab.nodes[2], "hand-three", &[&dns])?];
    let places: Vec<_> = askers.iter().map(Container::inside).collect::<Result<_>>()?;
    let options = ["--network-alias=db", "--hostname=database.example"];
    let container = net.run(&lab.nodes[1], "hand-two", &options)?;
    let address = container.inside()?.address(&net.name)?;
    let id = container.inside()?.container_id()?;
    let names = ["hand-two", "db", "db.hand-net", "database.example", &id[..12]];
    for place in &places {
        for name in names {
            told(place, name, std::slice::from_ref(&address))?;
        }
        let dig = Dig::ask(place, &[&reversed(&address), "PTR"])?;
        ensure!(dig.data() == ["hand-two.hand-net."], "{dig:?}");
    }
    told(&container.inside()?, "hand-three", &[places[1].address(&net.name)?])?;

    drop(container);
    for place in &places {
        for name in names {
            wait::for_up_to(PROMPT, &format!("{name} is forgotten on {}", place.node.name), || {
                empty(place, &[name], "NXDOMAIN").map(drop)
            })?;
        }
    }
    Ok(())
}

fn many_tasks(lab: &Lab) -> Result<()> {
    const TASKS: usize = 33;
    let net = Network::create(lab, "many-net", &[])?;
    let spec = Spec::workload("many").replicas(TASKS).option("--endpoint-mode=dnsrr");
    let many = spec.option(&net.option()).create(lab)?;
    let place = &Inside::task(lab, &many, &many.tasks()?[0])?;
    let full = wait::for_up_to(PROMPT, "all tasks are told over TCP", || {
        let dig = Dig::ask(place, &["+tcp", "many"])?;
        ensure!(dig.answers.len() == TASKS && dig.answers[0].ttl < 600, "{} answers", dig.answers.len());
        Ok(dig)
    })?;
    ensure!(!full.has("tc"), "{full:?}");
    let mut distinct = full.sorted();
    distinct.dedup();
    ensure!(distinct.len() == TASKS, "{full:?}");
    let cut = Dig::ask(place, &["+ignore", "many"])?;
    ensure!(cut.has("tc") && cut.answers.len() < TASKS && cut.answers.len() > 20, "D10: {cut:?}");
    let wide = Dig::ask(place, &["+edns=0", "+bufsize=4096", "+ignore", "many"])?;
    ensure!(!wide.has("tc") && wide.answers.len() == TASKS && wide.edns.is_some(), "D10: {wide:?}");
    let mut firsts: Vec<String> = Vec::new();
    for _ in 0..6 {
        let cut = Dig::ask(place, &["+ignore", "many"])?;
        firsts.push(cut.data().first().context("no answer")?.to_string());
    }
    firsts.sort_unstable();
    firsts.dedup();
    ensure!(firsts.len() > 1, "the order is always the same: {firsts:?}");
    Ok(())
}

fn one_alias_twice(lab: &Lab) -> Result<()> {
    let net = Network::create(lab, "shared-net", &[])?;
    let join = format!("--network=name={},alias=db", net.name);
    let stack = |name: &str| format!("--label=com.docker.stack.namespace={name}");
    let _a = Spec::workload("a_db").option(&join).option(&stack("a")).create(lab)?;
    let b = Spec::workload("b_db").option(&join).option(&stack("b")).create(lab)?;
    let both = [vip(lab, "a_db", &net.name)?, vip(lab, "b_db", &net.name)?];
    let place = &Inside::tasks(lab, &b)?[0];
    told(place, "db", &both).context("D18")?;
    told(place, "a_db", &both[..1])?;
    told(place, "b_db", &both[1..])?;
    Ok(())
}

/// How many questions the kernel of a node has answered by itself.
fn answered_by_kernel(node: &Node) -> Result<u64> {
    let status = mesh::status(node)?;
    let rows = status["dns"]["queries"].as_array().context("no queries")?;
    let counts = rows.iter().filter(|row| row["source"] == "kernel");
    Ok(counts.filter_map(|row| row["count"].as_u64()).sum())
}

fn again_and_again(lab: &Lab) -> Result<()> {
    let net = Network::create(lab, "again-net", &[])?;
    let node = &lab.nodes[1];
    let caller = Spec::workload("asking").option(&net.option()).option(&only_on(node)).create(lab)?;
    let place = &Inside::tasks(lab, &caller)?[0];
    let create = || Spec::workload("again").option(&net.option()).create(lab);
    let service = create()?;
    let first = vip(lab, "again", &net.name)?;
    told(place, "again", std::slice::from_ref(&first))?;
    let before = answered_by_kernel(node)?;
    for _ in 0..10 {
        told(place, "again", std::slice::from_ref(&first))?;
        empty(place, &["again", "AAAA"], "NOERROR")?;
    }
    let given = answered_by_kernel(node)? - before;
    // The names may have changed in between, each time for two more questions to the agent.
    ensure!(
        (10..=20).contains(&given),
        "of 20 questions that were asked before, the kernel answered {given}"
    );

    drop(service);
    wait::for_up_to(PROMPT, "the name is gone", || {
        let dig = Dig::ask(place, &["again"])?;
        ensure!(!dig.data().contains(&first.as_str()), "{dig:?}");
        Ok(())
    })?;
    let _service = create()?;
    let second = vip(lab, "again", &net.name)?;
    ensure!(first != second, "the service has its old address again, which proves nothing");
    for _ in 0..3 {
        told(place, "again", std::slice::from_ref(&second))?;
    }
    Ok(())
}

/// Sends a signal to the agent's process on a node.
fn signal(node: &Node, signal: &str) -> Result<()> {
    let container = mesh::agent_container(node)?;
    node.docker(["kill", "--signal", signal, &container]).quiet().read().map(drop)
}

fn without_agent(lab: &Lab) -> Result<()> {
    let net = Network::create(lab, "alone-net", &[])?;
    let node = &lab.nodes[1];
    let spec = Spec::workload("alone").option(&net.option()).option(&only_on(node));
    let service = spec.create(lab)?;
    let vip = vip(lab, "alone", &net.name)?;
    let place = &Inside::tasks(lab, &service)?[0];
    told(place, "alone", std::slice::from_ref(&vip))?;
    signal(node, "STOP")?;
    let resume = Undo::at_the_end(|| {
        let _ = signal(node, "CONT");
    });
    thread::sleep(Duration::from_secs(1));
    let dig = Dig::ask(place, &["+time=1", "alone"])?;
    ensure!(dig.data() == [&vip] && dig.answers[0].ttl == 600, "Docker does not answer: {dig:?}");
    for _ in 0..5 {
        let dig = Dig::ask(place, &["+time=1", "alone"]).context("while the agent is stopped")?;
        ensure!(dig.data() == [&vip], "{dig:?}");
    }
    drop(resume);
    agent_answers(node)?;
    told(place, "alone", &[vip]).context("after the agent goes on")?;
    Ok(())
}

fn check_finds_a_hole(lab: &Lab) -> Result<()> {
    canary::warns("the tables in the kernel are not what was written");
    let net = Network::create(lab, "check-net", &[])?;
    let node = &lab.nodes[1];
    let service = Spec::workload("checked").option(&net.option()).option(&only_on(node)).create(lab)?;
    live_on(&[node], service.name(), 1, PROMPT_TABLES)?;
    wait::for_up_to(PATIENCE, "the check is content", || mesh::agent(node, &["check"])?.quiet().read())?;
    let (map, bpftool) = ("/sys/fs/bpf/mesh/maps/VIPS", || node.command("bpftool").arg("--json"));
    let dump = bpftool().args(["map", "dump", "pinned", map]).quiet().read()?;
    let entries: serde_json::Value = serde_json::from_str(&dump)?;
    let vip = vip(lab, service.name(), &net.name)?;
    let octets: Vec<String> =
        vip.parse::<std::net::Ipv4Addr>()?.octets().iter().map(|octet| format!("{octet:#04x}")).collect();
    let keys = entries.as_array().into_iter().flatten().filter_map(|entry| entry["key"].as_array());
    let mut keys = keys.map(|key| key.iter().filter_map(serde_json::Value::as_str).collect::<Vec<&str>>());
    // The network's number, and the address.
    let key = keys.find(|key| key.ends_with(&octets.iter().map(String::as_str).collect::<Vec<_>>()));
    let key = key.with_context(|| format!("{vip} is not in {dump}"))?;
    bpftool().args(["map", "delete", "pinned", map, "key", "hex"]).args(&key).quiet().read()?;
    let output = mesh::agent(node, &["check"])?.quiet().output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1), "it ended with {}: {said}", output.status);
    ensure!(said.contains("Vip {") && said.contains(&format!("address: {vip} ")), "it said {said}");
    println!("      it said: {}", said.trim());
    wait::for_up_to(PATIENCE, "the agent repairs it", || mesh::agent(node, &["check"])?.quiet().read())?;
    Ok(())
}
