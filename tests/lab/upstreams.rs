//! Names: what the resolver does with questions that are not the Swarm's, or not as they should be (rows of the golden
//! table that need other servers, and networks of another kind).

use std::{
    fs,
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    dig::{self, Dig},
    inside::{Inside, Network},
    lab::{CLIENT, Lab},
    mesh, paths,
    service::Spec,
    wait,
};

use crate::{
    Scenario,
    names::{empty, told, vip},
    support::{PROMPT, Undo, only_on},
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("names that one server cannot tell are told by the next", failover),
    ("names on internal networks are told and the world's are not", internal),
    ("names of services without tasks stay", without_tasks),
    ("names are found in search domains as musl and as glibc look them up", search),
    ("names are asked for one at a time", questions),
];

/// A DNS server at the client: `www.example.` exists and nothing else, and it says so with a SOA. There is one for all who
/// have it at the same time.
pub(crate) struct Upstream {
    server: Option<Arc<Server>>,
}

/// An unbound; it ends with this value.
struct Server(Child);

/// The one of all [`Upstream`]s.
static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// What a server says, in unbound's words.
const WWW_ONLY: &str = "local-zone: \".\" static\n local-data: \". 60 IN SOA ns. host. 1 2 3 4 60\"\n \
                        local-zone: \"example.\" static\n \
                        local-data: \"example. 60 IN SOA ns.example. host.example. 1 2 3 4 60\"\n \
                        local-data: \"www.example. 77 IN A 192.0.2.1\"\n";
const REFUSING: &str = "local-zone: \".\" always_refuse\n";
/// What it may not ask of itself, it cannot find out.
const FAILING: &str = "forward-zone:\n name: \".\"\n forward-addr: 127.0.0.1@9\n";
const SILENT: &str = "local-zone: \".\" always_deny\n";

impl Upstream {
    pub(crate) fn start() -> Result<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Ok(Self { server: Some(server) });
        }
        let server = Arc::new(Server::spawn(CLIENT, WWW_ONLY)?);
        wait::for_up_to(Duration::from_secs(5), "a DNS server at the client", || {
            let server = format!("@{CLIENT}");
            let dig = Lab::client("dig").args([&server, "+short", "+tries=1", "+time=1", "www.example"]);
            ensure!(dig.quiet().read()? == "192.0.2.1", "another answer");
            Ok(())
        })?;
        *shared = Arc::downgrade(&server);
        Ok(Self { server: Some(server) })
    }
}

impl Server {
    fn spawn(address: &str, manner: &str) -> Result<Self> {
        let file = paths::target().join(format!("upstream-{address}.conf"));
        fs::write(
            &file,
            format!(
                "server:\n interface: {address}\n access-control: 0.0.0.0/0 allow\n do-daemonize: no\n \
                 username: \"\"\n chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n \
                 {manner}remote-control:\n control-enable: no\n"
            ),
        )?;
        let mut unbound = Lab::client("unbound").arg("-d").arg("-c").arg(file).into_inner();
        let child = unbound.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("unbound")?;
        Ok(Self(child))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // The last one's has given its port back before anybody starts another one.
        let _shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        self.server.take();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn failover(lab: &Lab) -> Result<()> {
    /// What `dig` prints for the server's answers, if it does not help.
    const BAD: [(&str, &str, Option<&str>); 3] = [
        ("10.99.0.251", REFUSING, Some("REFUSED")),
        ("10.99.0.252", FAILING, Some("SERVFAIL")),
        ("10.99.0.253", SILENT, None),
    ];
    let address = |action: &str, address: &str| {
        Lab::client("ip").args(["addr", action, &format!("{address}/32"), "dev", "lo"]).quiet().read()
    };
    let _addresses = Undo::at_the_end(|| BAD.iter().for_each(|(bad, ..)| drop(address("del", bad))));
    let _good = Upstream::start()?;
    let mut servers = Vec::new();
    for (bad, manner, code) in BAD {
        address("add", bad)?;
        servers.push(Server::spawn(bad, manner)?);
        wait::for_up_to(Duration::from_secs(5), &format!("{bad} is as bad as it should be"), || {
            let dig = Lab::client("dig").args([&format!("@{bad}"), "+tries=1", "+time=1", "www.example"]);
            let said = String::from_utf8_lossy(&dig.quiet().output()?.stdout).into_owned();
            ensure!(said.contains(code.unwrap_or("timed out")), "{said}");
            Ok(())
        })?;
    }
    let net = Network::create(lab, "failing-net", &[])?;
    for (number, (bad, _, code)) in BAD.into_iter().enumerate() {
        let name = format!("failing{number}");
        let spec = Spec::workload(&name).option(&net.option()).option(&format!("--dns={bad}"));
        let service = spec.option(&format!("--dns={CLIENT}")).create(lab)?;
        let place = &Inside::tasks(lab, &service)?[0];
        told(place, &name, &[vip(lab, &name, &net.name)?])?;
        let dig = Dig::ask(place, &["www.example"]).with_context(|| format!("D15 after {bad}"))?;
        ensure!(dig.data() == ["192.0.2.1"], "D15 after {bad}: {dig:?}");
        wait::for_up_to(Duration::from_secs(5), "the agent knows how the server fares", || {
            let status = mesh::status(place.node)?;
            let rows = status["dns"]["upstreams"].as_array().context("no servers")?;
            let row = rows.iter().find(|row| row["server"] == bad).context("it was not asked")?;
            let count = &row[if code.is_some() { "refused" } else { "silent" }];
            ensure!(count.as_u64() > Some(0), "D15: {row}");
            Ok(())
        })?;
    }
    // Docker's resolver as its own upstream would ask itself for ever (moby #47716).
    let itself = Spec::workload("itself").option(&net.option()).option("--dns=127.0.0.11");
    let itself = itself.option(&format!("--dns={CLIENT}")).create(lab)?;
    let place = &Inside::tasks(lab, &itself)?[0];
    told(place, "itself", &[vip(lab, "itself", &net.name)?])?;
    let dig = Dig::ask(place, &["www.example"])?;
    ensure!(dig.data() == ["192.0.2.1"], "B11: {dig:?}");
    Ok(())
}

fn internal(lab: &Lab) -> Result<()> {
    let _upstream = Upstream::start()?;
    let inner = Network::create(lab, "within-net", &["--internal"])?;
    let outer = Network::create(lab, "outer-net", &[])?;
    let join = format!("--network=name={},alias=within", inner.name);
    let dns = format!("--dns={CLIENT}");
    let only_inner = Spec::workload("insider").replicas(2).option(&join).option(&dns).create(lab)?;
    let both = Spec::workload("edge").option(&inner.option()).option(&outer.option()).option(&dns);
    let both = both.create(lab)?;
    let address = vip(lab, "insider", &inner.name)?;
    // It has no way to its node: the agent answers inside of it.
    for place in Inside::tasks(lab, &only_inner)? {
        for transport in [&[][..], &["+tcp"]] {
            let ask = |name| Dig::ask(&place, &[transport, &[name]].concat());
            wait::for_up_to(PROMPT, "names of the network are told", || {
                let dig = ask("within")?;
                ensure!(dig.data() == [&address], "D14: {dig:?}");
                // Docker's resolver says 600.
                ensure!(dig.answers.iter().all(|answer| answer.ttl == 30), "not the mesh: {dig:?}");
                let dig = ask("tasks.within")?;
                ensure!(dig.answers.len() == 2, "D14: {dig:?}");
                ensure!(dig.answers.iter().all(|answer| answer.ttl == 5), "not the mesh: {dig:?}");
                Ok(())
            })?;
            let dig = ask("www.example")?;
            ensure!(dig.status == "SERVFAIL" && dig.answers.is_empty(), "D14: {dig:?}");
        }
    }
    let place = &Inside::tasks(lab, &both)?[0];
    told(place, "within", &[address]).context("a name on the internal network, for who has another too")?;
    let dig = Dig::ask(place, &["www.example"])?;
    ensure!(dig.data() == ["192.0.2.1"], "for who has a way out: {dig:?}");
    Ok(())
}

fn without_tasks(lab: &Lab) -> Result<()> {
    let _upstream = Upstream::start()?;
    let net = Network::create(lab, "empty-net", &[])?;
    let dns = format!("--dns={CLIENT}");
    let asker = Spec::workload("waiting").option(&net.option()).option(&dns).create(lab)?;
    let place = &Inside::tasks(lab, &asker)?[0];
    let join = format!("--network=name={},alias=soon", net.name);
    let service = Spec::workload("emptied").replicas(2).option(&join).create(lab)?;
    let address = vip(lab, "emptied", &net.name)?;
    told(place, "soon", std::slice::from_ref(&address))?;
    let nobody = |place: &Inside<'_>| {
        wait::for_up_to(PROMPT, "no task is told any more", || {
            let dig = empty(place, &["tasks.soon"], "NOERROR")?;
            ensure!(dig.authorities.iter().any(|record| record.kind == "SOA"), "D12: {dig:?}");
            Ok(())
        })
    };
    service.scale(0)?;
    nobody(place)?;
    for name in ["soon", "emptied"] {
        told(place, name, std::slice::from_ref(&address)).context("D12: scaled to zero")?;
    }
    // Tasks that find no node never get beyond their start.
    service.update(&["--constraint-add=node.hostname==nowhere", "--replicas=2"])?;
    nobody(place)?;
    told(place, "soon", &[address]).context("D12: all tasks are on their way")?;
    Ok(())
}

fn search(lab: &Lab) -> Result<()> {
    let _upstream = Upstream::start()?;
    let net = Network::create(lab, "search-net", &[])?;
    let spec = Spec::workload("searching").option(&net.option()).option(&format!("--dns={CLIENT}"));
    let spec = ["test", "example"].into_iter().fold(spec, |spec, domain| {
        // The first domain has nothing; the second has `www`.
        spec.option(&format!("--dns-search={domain}"))
    });
    let service = spec.option("--dns-option=ndots:5").create(lab)?;
    let place = &Inside::tasks(lab, &service)?[0];
    told(place, "searching", &[vip(lab, "searching", &net.name)?])?;
    let dig = empty(place, &["nosuch"], "NXDOMAIN").context("D13")?;
    let kept = dig.authorities.iter().any(|soa| soa.kind == "SOA" && soa.name == "." && soa.ttl <= 5);
    ensure!(kept, "D13: {dig:?}");
    let musl: Vec<String> = place.exec(&["resolve", "www"])?;
    ensure!(musl == ["192.0.2.1"], "D13: musl finds {musl:?}");
    let glibc = place.getent(&["ahostsv4", "www"])?;
    ensure!(glibc.starts_with("192.0.2.1 "), "D13: glibc finds {glibc}");
    Ok(())
}

/// D19: messages that no ordinary client sends.
fn questions(lab: &Lab) -> Result<()> {
    const FORMERR: u8 = 1;
    let net = Network::create(lab, "odd-net", &[])?;
    let service = Spec::workload("odd").option(&net.option()).option(&only_on(&lab.nodes[1])).create(lab)?;
    let place = &Inside::tasks(lab, &service)?[0];
    told(place, "odd", &[vip(lab, "odd", &net.name)?])?;
    let question = b"\x03odd\x00\x00\x01\x00\x01";
    for count in [0, 1, 2] {
        let header = [0x12, 0x34, 1, 0, 0, count, 0, 0, 0, 0, 0, 0];
        let message = [&header[..], &question.repeat(usize::from(count))].concat();
        let reply = dig::exchange(place, &message)?;
        ensure!(reply.len() >= 12 && reply[..2] == [0x12, 0x34], "{count} questions: {reply:?}");
        let code = reply[3] & 15;
        ensure!(code == if count == 1 { 0 } else { FORMERR }, "D19: {count} questions: code {code}");
    }
    told(place, "odd", &[vip(lab, "odd", &net.name)?]).context("after that")?;
    Ok(())
}
