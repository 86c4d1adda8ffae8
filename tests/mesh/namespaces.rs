//! An agent as it runs on a node, in network namespaces made for it: `mesh-agent run --source file:`, without Docker. Whatever leaves the
//! node is caught at the far ends of its cables.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Map, MapData};
use mesh_agent::{
    dataplane::pins::Pins,
    node::namespaces,
    swarm::snapshot::{LocalView, Network},
};
use mesh_tests::{cmd::Cmd, mesh, paths, wait};
use serde_json::Value;

use crate::{
    core::Core,
    files::{self, Files, Mount},
    level::{Level, Views, Went},
    packets::{Coming, Door, is_probe, outside},
    scenario::{Becomes, Tables},
    support::{
        cast::{self, Ip},
        checks::mac,
        namespace::Namespace,
        packet::Packet,
        payload::{Payload, Udp},
        tables as any_table,
        wire::{Frame, Wire},
    },
};

/// Within what time an agent answers.
const STARTS: Duration = Duration::from_secs(30);
/// Within what time the agent must have followed a change of its file, which it looks at every half second.
const FOLLOWED: Duration = Duration::from_secs(5);
/// How long nothing must come for nothing to have come.
const SILENCE: Duration = Duration::from_millis(150);
/// Within what time what comes must have come.
const PROMPT: Duration = Duration::from_secs(2);
/// A container asks by this port.
const ASKING_PORT: u16 = 5353;
const RESOLVER_PORT: u16 = 4796;

pub(crate) struct Agent {
    process: Running,
    overlays: BTreeMap<String, Overlay>,
    pins: Pins,
    files: Files,
    _node: Namespace,
    /// All far ends are here.
    world: Namespace,
    uplink: Wire,
    tasks: Wire,
    /// Interfaces that have had a name.
    named: usize,
}

/// Ends with its user.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network as Docker makes it on a node: a bridge, a port for each task here, and one towards the other nodes.
struct Overlay {
    _namespace: Namespace,
    /// The namespace where Docker has it.
    file: Mount,
    ports: BTreeMap<String, Wire>,
    elsewhere: Wire,
}

impl Agent {
    /// Starts one that reads this file. Nobody else sees what is mounted for it, not even other threads.
    pub(crate) fn start(binary: &Path, file: &Path) -> Result<Self> {
        files::own_mounts()?;
        let files = Files::make()?;
        let node = Namespace::new();
        let world = Namespace::new();
        node.ip(&node_lines(&world));
        node.forward();
        world.ip("link set uplink-far up\nlink set tasks-far up\n");
        let (uplink, tasks) = (Wire::at_far_end_of("uplink"), Wire::at_far_end_of("tasks"));
        fs::write(file, "node: one\nnodes: { one: { address: 10.99.0.1 } }\n")?;
        node.enter();
        let log = File::create(files.log())?;
        let process = Command::new(binary)
            .args(["run", "--uplink=uplink", "--http=off", "--xdp=off", "--firewall=bypass"])
            .arg(format!("--source=file:{}", file.display()))
            .arg(format!("--bpffs={}", files.bpffs().display()))
            .arg(format!("--cgroup={}", files.cgroup().display()))
            .arg(format!("--docker-run={}", files.docker().display()))
            .arg(format!("--socket={}", files.socket().display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the agent")?;
        let mut agent = Self {
            process: Running(process),
            pins: Pins::under(files.bpffs()),
            files,
            _node: node,
            world,
            uplink,
            tasks,
            overlays: BTreeMap::new(),
            named: 0,
        };
        agent.until("the agent answers", STARTS, |agent| agent.report().map(drop))?;
        Ok(agent)
    }

    /// What the agent says of itself.
    fn report(&self) -> Result<Value> {
        mesh::report(&self.files.socket())
    }

    fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let log = self.files.log();
        let told = || fs::read_to_string(&log).unwrap_or_default();
        wait::until(what, limit, Duration::from_millis(20), || ask(self))
            .with_context(|| format!("the agent has logged:\n{}", told()))
    }

    /// The networks that the Swarm has are there as Docker makes them, and no others.
    fn make_overlays(&mut self, views: &Views) -> Result<()> {
        let wanted: Vec<Network> =
            views.snapshot.networks.values().filter(|network| network.vni != 0).cloned().collect();
        let gone: Vec<String> = self
            .overlays
            .keys()
            .filter(|id| !wanted.iter().any(|network| network.id == **id))
            .cloned()
            .collect();
        gone.iter().try_for_each(|id| self.remove_overlay(id))?;
        for network in wanted {
            if !self.overlays.contains_key(&network.id) {
                let overlay = self.make_overlay(&network)?;
                self.overlays.insert(network.id.clone(), overlay);
            }
            for container in views.local.containers.values() {
                if container.addresses.contains_key(&network.id) {
                    self.make_port(&network.id, &container.name)?;
                }
            }
        }
        Ok(())
    }

    fn make_overlay(&mut self, network: &Network) -> Result<Overlay> {
        let namespace = Namespace::new();
        namespace.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n");
        let far = self.cable(&namespace, "vxlan0")?;
        let file = namespaces::of_overlay(&self.files.docker(), &network.id);
        File::create(&file)?;
        let file = Mount::make(&["--bind", &namespace.path()], &file)?;
        Ok(Overlay { _namespace: namespace, file, ports: BTreeMap::new(), elsewhere: far })
    }

    fn make_port(&mut self, network: &str, task: &str) -> Result<()> {
        let overlay = self.overlays.get(network).context("the network is there")?;
        if overlay.ports.contains_key(task) {
            return Ok(());
        }
        let namespace = overlay.file.at().to_owned();
        let name = format!("veth{}", overlay.ports.len());
        let far = self.cable_at(&namespace, &name)?;
        let overlay = self.overlays.get_mut(network).context("the network is there")?;
        overlay.ports.insert(task.to_owned(), far);
        Ok(())
    }

    fn cable(&mut self, namespace: &Namespace, name: &str) -> Result<Wire> {
        self.cable_at(Path::new(&namespace.path()), name)
    }

    /// A port of `br0` there; returns its far end.
    fn cable_at(&mut self, namespace: &Path, name: &str) -> Result<Wire> {
        self.named += 1;
        let far = format!("cable{}", self.named);
        let lines = [
            format!("link add name {name} type veth peer name {far}-far netns {}", self.world.path()),
            format!("link set {name} gso_max_size 1500 master br0"),
            format!("link set {name} up"),
        ];
        for line in lines {
            let mut ip = Command::new("nsenter");
            ip.arg(format!("--net={}", namespace.display())).arg("ip").args(line.split(' '));
            let output = ip.output().context("nsenter and ip can be run")?;
            ensure!(output.status.success(), "`ip {line}`: {}", String::from_utf8_lossy(&output.stderr));
        }
        self.world.ip(&format!("link set {far}-far up\n"));
        Ok(Wire::at_far_end_of(&far))
    }

    fn remove_overlay(&mut self, id: &str) -> Result<()> {
        let Some(overlay) = self.overlays.remove(id) else { return Ok(()) };
        drop(overlay);
        let file = namespaces::of_overlay(&self.files.docker(), id);
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    /// The agent's programs are at the ports of all overlays.
    fn has_ports(&self, report: &Value) -> Result<()> {
        for (id, overlay) in &self.overlays {
            let rows = report["networks"].as_array().context("a report has networks")?;
            let row = rows.iter().find(|row| row["network"] == id.as_str());
            let ports = row.and_then(|row| row["ports"].as_array()).map_or(0, Vec::len);
            ensure!(
                ports == overlay.ports.len(),
                "{} of {} ports of {id} have programs",
                ports,
                overlay.ports.len()
            );
        }
        Ok(())
    }

    fn wire(&self, door: &Door) -> Result<&Wire> {
        let overlay = |network: &String| {
            self.overlays.get(network).with_context(|| format!("there is no network {network:?}"))
        };
        Ok(match door {
            Door::Uplink => &self.uplink,
            Door::Bridge => &self.tasks,
            Door::Port { network, task } => overlay(network)?
                .ports
                .get(task)
                .with_context(|| format!("{task} has no port on {network}"))?,
            Door::Overlay { network } => &overlay(network)?.elsewhere,
        })
    }

    fn wires(&self) -> impl Iterator<Item = &Wire> {
        let overlays = self.overlays.values();
        let overlays = overlays.flat_map(|overlay| overlay.ports.values().chain([&overlay.elsewhere]));
        [&self.uplink, &self.tasks].into_iter().chain(overlays)
    }

    /// What has left the node since, by whichever cable, but for what agents say to each other.
    fn caught(&self) -> Vec<Vec<u8>> {
        self.wires().flat_map(Wire::received).map(Frame::finish).filter(|frame| !is_probe(frame)).collect()
    }
}

impl Level for Agent {
    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn begin(&mut self) -> Result<()> {
        let all: Vec<String> = self.overlays.keys().cloned().collect();
        all.iter().try_for_each(|id| self.remove_overlay(id))?;
        // A scenario knows nothing of those before.
        for name in any_table::left_by_packets() {
            let map = Map::from_map_data(MapData::from_pin(self.pins.map(name))?)?;
            any_table::empty(&map).with_context(|| format!("{name} cannot be emptied"))?;
        }
        Ok(())
    }

    fn follow(&mut self, views: &Views) -> Result<()> {
        ensure!(self.process.0.try_wait()?.is_none(), "the agent has ended");
        self.make_overlays(views)?;
        // The file has been written a moment ago.
        thread::sleep(Duration::from_millis(600));
        let wanted = Core.tables(views)?;
        self.until("the agent follows", FOLLOWED, |agent| {
            let found = agent.tables(views)?;
            ensure!(found == wanted, "its tables hold {found:?}, not {wanted:?}");
            let report = agent.report()?;
            agent.has_ports(&report)
        })
    }

    fn tables(&mut self, views: &Views) -> Result<Tables> {
        let report = self.report()?;
        let mut tables: Tables =
            views.frontends().map(|(id, _)| (views.frontend_name(id), BTreeMap::new())).collect();
        for row in report["backends"].as_array().context("a report has backends")? {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            let frontend = text("frontend");
            let frontend =
                frontend.parse::<std::net::Ipv4Addr>().map_or(frontend, |vip| views.names.name(vip.octets()));
            tables.entry(frontend).or_default().insert(text("task"), text("state"));
        }
        Ok(tables)
    }

    fn packet(&mut self, coming: &Coming, expected: &Becomes, views: &Views) -> Result<Option<Went>> {
        let _ = self.caught();
        self.wire(&coming.door)?.send(&Frame::finished(coming.frame.clone()));
        let limit = if matches!(expected, Becomes::Packet(_)) { PROMPT } else { SILENCE };
        let begin = Instant::now();
        loop {
            let mut caught = self.caught();
            // What the mesh leaves, the node answers or sends on by itself: by the door that it came in by.
            if matches!(expected, Becomes::Left) {
                caught.retain(|frame| is_for_a_task(frame, &views.local));
            }
            // A bridge that does not know yet who is where sends to all.
            caught.retain(|frame| *frame != coming.frame || matches!(expected, Becomes::Left));
            if let Some(frame) = caught.into_iter().next() {
                return Ok(Some(Went::Packet(frame)));
            }
            if begin.elapsed() >= limit {
                return Ok(Some(if matches!(expected, Becomes::Left) { Went::Left } else { Went::Nothing }));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn ask(&mut self, by: Ip, message: &[u8], _: &Views) -> Result<Vec<u8>> {
        let datagram =
            Udp { source: ASKING_PORT, destination: RESOLVER_PORT, checked: true, data: message.to_vec() };
        let [a, b, c, d] = by;
        let question =
            Packet { source: by, destination: RESOLVER, ..Packet::from_client(Payload::Udp(datagram)) };
        let question = question.macs(cast::BRIDGE_MAC, [0x02, 0x42, a, b, c, d]);
        let mut answer = None;
        self.until("the resolver answers", FOLLOWED, |agent| {
            agent.tasks.send(&Frame::finished(question.bytes()));
            thread::sleep(Duration::from_millis(20));
            let is_answer = |frame: &Vec<u8>| frame.get(34..36) == Some(&RESOLVER_PORT.to_be_bytes());
            answer = agent.caught().into_iter().find(is_answer);
            ensure!(answer.is_some(), "nothing has come");
            Ok(())
        })?;
        let message = answer.and_then(|frame| frame.get(42..).map(<[u8]>::to_vec));
        message.context("the answer is no datagram")
    }
}

/// docker_gwbridge's own address.
const RESOLVER: Ip = [172, 18, 0, 1];

fn is_for_a_task(frame: &[u8], local: &LocalView) -> bool {
    let to = frame.get(30..34);
    local
        .containers
        .values()
        .filter_map(|container| container.bridge)
        .any(|bridge| to == Some(&bridge.address.octets()))
}

/// The agent as it is built for tests.
pub(crate) fn built() -> Result<PathBuf> {
    let build = ["--workspace", "--exclude", "mesh-ebpf", "--bin", "mesh-agent"];
    Cmd::cargo("build").args(build).quiet().read()?;
    let binary = paths::target().join("debug/mesh-agent");
    ensure!(binary.is_file(), "cargo has made no {}", binary.display());
    Ok(binary)
}

/// What `ip` is told on the node: an uplink and docker_gwbridge with a port, and neighbours that are known for good.
fn node_lines(world: &Namespace) -> String {
    let world = world.path();
    let mut lines = format!(
        "link set lo up\n\
         link add uplink address {} type veth peer name uplink-far netns {world}\n\
         addr add 10.99.0.1/24 dev uplink\nlink set uplink up\n\
         link add docker_gwbridge address {} type bridge mcast_snooping 0\n\
         addr add 172.18.0.1/16 dev docker_gwbridge\nlink set docker_gwbridge up\n\
         link add tasks type veth peer name tasks-far netns {world}\n\
         link set tasks master docker_gwbridge\nlink set tasks up\n",
        mac(&cast::NODE_MAC),
        mac(&cast::BRIDGE_MAC)
    );
    for last in 2..=254 {
        let (node, task) = (outside([10, 99, 0, last]), [0x02, 0x42, 172, 18, 0, last]);
        let _ =
            writeln!(lines, "neigh replace 10.99.0.{last} lladdr {} nud permanent dev uplink", mac(&node));
        let on_bridge = format!("neigh replace 172.18.0.{last} lladdr {} nud permanent", mac(&task));
        let _ = writeln!(lines, "{on_bridge} dev docker_gwbridge");
    }
    lines
}
