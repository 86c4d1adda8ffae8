//! The command line. Each setting is also an environment variable, for a service definition.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mesh_common::maps::{self, Sizes};
use tracing_subscriber::EnvFilter;

use crate::dataplane::kernel::default_backends;
use crate::dataplane::tc::TcMode;
use crate::dataplane::xdp::XdpMode;
use crate::firewall;
use crate::node::Uplinks;
use crate::peers;
use crate::swarm::source::{Source, SourceSettings};

/// A routing mesh for Docker Swarm, in eBPF.
#[derive(Clone, Debug, Parser)]
#[command(name = "mesh-agent", version)]
pub struct Arguments {
    #[command(flatten)]
    pub log: LogArguments,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve the mesh on this node until stopped; what was set up keeps forwarding after that
    Run(RunArguments),
    /// Show what the agent on this node knows and does
    Status(StatusArguments),
    /// Compare the Swarm, the kernel's tables and the names; print differences and fail if there are any
    Check(CheckArguments),
    /// Say in a sentence how the agent on this node is; fail if programs or tables are not in place, or if it has done nothing
    /// for 30 s
    Health(HealthArguments),
    /// Check whether this node can run the mesh, and say what to do where it cannot
    Preflight(RunArguments),
    /// Remove every program, link and map of the mesh from this node and give it back to Docker
    Uninstall(UninstallArguments),
}

#[derive(Clone, Debug, Args)]
pub struct LogArguments {
    /// `human` for people, `json` for machines
    #[arg(long, env = "MESH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human, global = true)]
    pub log_format: LogFormat,
    /// error, warn, info, debug or trace; or filters as in `mesh_agent::peers=debug`
    #[arg(long, env = "MESH_LOG", default_value = "info", value_parser = log_level, global = true)]
    pub log_level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    /// Interfaces over which clients and other nodes reach this node. `auto` takes hardware, bonds and VLANs on them, and whatever
    /// has this node's address in the Swarm or a default route; `auto,wg0` adds one, `eth0` alone is the only one
    #[arg(
        long,
        env = "MESH_UPLINK",
        default_value = "auto",
        value_delimiter = ',',
        value_name = "INTERFACE"
    )]
    pub uplink: Vec<String>,
    /// UDP port of the tunnel between nodes; the same on every node
    #[arg(long, env = "MESH_TUNNEL_PORT", default_value_t = 4799, value_parser = clap::value_parser!(u16).range(1..))]
    pub tunnel_port: u16,
    /// VXLAN network identifier of the tunnel; the same on every node
    #[arg(long, env = "MESH_TUNNEL_VNI", default_value = "0x6d6573", value_parser = network_identifier)]
    pub tunnel_vni: u32,
    /// TCP port where the agents on managers tell the others about the Swarm; the same on every node
    #[arg(long, env = "MESH_PEER_PORT", default_value_t = peers::DEFAULT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub peer_port: u16,
    /// Docker's socket
    #[arg(long, env = "MESH_DOCKER_SOCK", default_value = "/var/run/docker.sock", value_name = "PATH")]
    pub docker_sock: PathBuf,
    /// Docker's folder of run-time state, with the network namespaces in it
    #[arg(long, env = "MESH_DOCKER_RUN", default_value = "/var/run/docker", value_name = "PATH")]
    pub docker_run: PathBuf,
    /// Docker's folder of the Swarm's state, with this node's certificates in it
    #[arg(long, env = "MESH_SWARM_STATE", default_value = "/var/lib/docker/swarm", value_name = "PATH")]
    pub swarm_state: PathBuf,
    /// The root of the cgroup2 hierarchy [default: found in /proc/mounts]
    #[arg(long, env = "MESH_CGROUP", value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// Where the BPF file system is mounted
    #[arg(long, env = "MESH_BPFFS", default_value = DEFAULT_BPFFS, value_name = "PATH")]
    pub bpffs: PathBuf,
    /// Where `mesh-agent status` finds this agent
    #[arg(long, env = "MESH_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// Where services, tasks and nodes come from: `swarm`, or `file:PATH` for a YAML file that replaces it
    #[arg(long, env = "MESH_SOURCE", default_value = "swarm", value_parser = source, value_name = "swarm|file:PATH")]
    pub source: Source,
    /// The bridge between containers and this node
    #[arg(long, env = "MESH_BRIDGE", default_value = "docker_gwbridge", value_name = "INTERFACE")]
    pub bridge: String,
    /// How programs are attached to interfaces: `tcx` needs Linux 6.6
    #[arg(long, env = "MESH_TC", value_enum, default_value_t = TcMode::Auto)]
    pub tc: TcMode,
    /// Whether published ports are served by XDP, before TC, on the uplinks: `native` by their drivers, `generic` by the
    /// kernel, only to try it out; `auto` is native where the driver of hardware can
    #[arg(long, env = "MESH_XDP", value_enum, default_value_t = XdpMode::Auto)]
    pub xdp: XdpMode,
    /// Whether tasks reach services at their virtual addresses through the mesh; `off` leaves them to Docker
    #[arg(long, env = "MESH_VIP", value_enum, default_value_t = Switch::On)]
    pub vip: Switch,
    /// Whether published ports are served by the mesh; `off` leaves them to Docker
    #[arg(long, env = "MESH_PUBLISHED", value_enum, default_value_t = Switch::On)]
    pub published: Switch,
    /// Which services are served, at their published ports and virtual addresses; others are left to Docker
    #[arg(long, env = "MESH_SERVE", value_enum, default_value_t = Serve::All)]
    pub serve: Serve,
    /// What becomes of rules of this node's firewall that Docker's mesh obeys at published ports, which the mesh's packets pass
    /// by
    #[arg(long, env = "MESH_FIREWALL", value_enum, default_value_t = firewall::Mode::Respect)]
    pub firewall: firewall::Mode,
    /// Whether published ports are served though the ingress network is encrypted, which the mesh's tunnel is not; `off` leaves
    /// them to Docker
    #[arg(long, env = "MESH_TUNNEL_PLAINTEXT", value_enum, default_value_t = Switch::Off)]
    pub tunnel_plaintext: Switch,
    /// Largest packet of the tunnel, its headers included; by default what uplinks and routes to each node take. Paths that take less
    /// are found by asking the nodes with packets of that size
    #[arg(long, env = "MESH_MTU", value_parser = clap::value_parser!(u16).range(576..))]
    pub mtu: Option<u16>,
    /// Whether tasks' queries for names go to the mesh's resolver; `off` leaves them to Docker's
    #[arg(long, env = "MESH_DNS", value_enum, default_value_t = Switch::On)]
    pub dns: Switch,
    /// UDP and TCP port of the resolver, on docker_gwbridge's address
    #[arg(long, env = "MESH_DNS_PORT", default_value_t = 4796, value_parser = clap::value_parser!(u16).range(1..))]
    pub dns_port: u16,
    /// Where `/metrics` for Prometheus and `/healthz` are served: `swarm:PORT` is at this node's own address in the Swarm; `off`
    /// serves none. Whoever reaches it may read it
    #[arg(long, env = "MESH_HTTP", default_value = "swarm:4797", value_parser = http_place, value_name = "swarm:PORT|ADDRESS:PORT|off")]
    http: HttpPlace,
    /// The older name of `--http`, which counts where that has its default
    #[arg(long, env = "MESH_METRICS", value_parser = http_place, hide = true)]
    metrics: Option<HttpPlace>,
    /// How many established TCP connections the tables remember; of half-open ones and of UDP half as many each, before
    /// the oldest make room
    #[arg(long, env = "MESH_FLOWS", default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(1024..=1 << 26))]
    pub flows: u32,
    /// More TCP connections than this that begin in a second are a flood: tasks are given by a hash of the addresses then, and
    /// nothing is remembered before a handshake is proven; 0 is never. By default a quarter of `--flows`, 50,000 at most
    #[arg(long, env = "MESH_FLOOD", value_name = "PER-SECOND")]
    flood: Option<u32>,
    /// How many tasks the tables can hold, counted once for each published port and virtual address that leads to them; each
    /// costs 24 bytes on every processor, and the default no more than 32 MB
    #[arg(long, env = "MESH_BACKENDS", default_value_t = default_backends(), value_parser = clap::value_parser!(u32).range(256..=1 << 24))]
    pub backends: u32,
    /// How long a manager goes without asking Docker for everything, at most
    #[arg(long, env = "MESH_RESYNC", default_value = "2s", value_parser = duration, value_name = "DURATION")]
    pub resync: Duration,
}

/// Where HTTP is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpPlace {
    /// At this node's address in the Swarm.
    Swarm {
        port: u16,
    },
    At(SocketAddr),
    Off,
}

const DEFAULT_HTTP: HttpPlace = HttpPlace::Swarm { port: 4797 };

/// A part of the mesh that can be left to Docker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// Which services the mesh serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Serve {
    /// All but those with the label mesh.enable=false
    All,
    /// Only those with the label mesh.enable=true
    Labelled,
}

#[derive(Clone, Debug, Args)]
pub struct StatusArguments {
    /// One table instead of all
    #[arg(value_enum)]
    pub section: Option<Section>,
    /// Tables for people, JSON for scripts
    #[arg(long, value_enum, default_value_t = StatusFormat::Table)]
    pub format: StatusFormat,
    /// Show it again every second
    #[arg(long)]
    pub watch: bool,
    /// Where the agent listens
    #[arg(long, env = "MESH_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    Services,
    Backends,
    Nodes,
    Networks,
    Dns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    Table,
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct CheckArguments {
    /// Where the agent listens
    #[arg(long, env = "MESH_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct HealthArguments {
    /// Where the agent listens
    #[arg(long, env = "MESH_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct UninstallArguments {
    /// Docker's folder of run-time state, with the network namespaces in it
    #[arg(long, env = "MESH_DOCKER_RUN", default_value = "/var/run/docker", value_name = "PATH")]
    pub docker_run: PathBuf,
    /// Where the BPF file system is mounted
    #[arg(long, env = "MESH_BPFFS", default_value = DEFAULT_BPFFS, value_name = "PATH")]
    pub bpffs: PathBuf,
}

const DEFAULT_SOCKET: &str = "/run/mesh-agent/agent.sock";
const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

impl RunArguments {
    pub fn uplinks(&self) -> Uplinks {
        let named: Vec<String> =
            self.uplink.iter().filter(|name| *name != "auto" && !name.is_empty()).cloned().collect();
        Uplinks { auto: named.is_empty() || self.uplink.iter().any(|name| name == "auto"), named }
    }

    pub fn http(&self) -> HttpPlace {
        self.metrics.filter(|_| self.http == DEFAULT_HTTP).unwrap_or(self.http)
    }

    /// So many TCP connections may begin in a second; 0 is any number.
    pub fn flood(&self) -> u32 {
        self.flood.unwrap_or_else(|| maps::flood(self.flows))
    }

    pub fn sizes(&self) -> Sizes {
        Sizes { flows: self.flows, backends: self.backends }
    }

    pub fn source_settings(&self) -> SourceSettings {
        SourceSettings {
            source: self.source.clone(),
            docker_socket: self.docker_sock.clone(),
            docker_run: self.docker_run.clone(),
            control_socket: self.docker_run.join("swarm/control.sock"),
            swarm_state: self.swarm_state.clone(),
            bridge: self.bridge.clone(),
            resync: self.resync,
            peer_port: self.peer_port,
        }
    }
}

fn http_place(text: &str) -> Result<HttpPlace, String> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    let place = match text.strip_prefix("swarm:") {
        _ if text == "off" => Some(HttpPlace::Off),
        Some(text) => port(text).map(|port| HttpPlace::Swarm { port }),
        None => text.parse().ok().map(HttpPlace::At),
    };
    place.ok_or_else(|| "expected swarm:PORT, ADDRESS:PORT, or `off`".into())
}

fn source(text: &str) -> Result<Source, String> {
    match text.split_once(':') {
        None if text == "swarm" => Ok(Source::Swarm),
        Some(("file", path)) if !path.is_empty() => Ok(Source::File(path.into())),
        _ => Err("expected `swarm` or `file:PATH`".into()),
    }
}

fn network_identifier(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match number {
        Ok(number @ 1..=0x00ff_ffff) => Ok(number),
        _ => Err("expected a number from 1 to 0xffffff".into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let milliseconds = match &text[number.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => 0,
    };
    match number.parse::<u32>() {
        Ok(number) if number > 0 && milliseconds > 0 => {
            Ok(Duration::from_millis(u64::from(number) * milliseconds))
        }
        _ => Err("expected a duration like 500ms, 2s or 1m".into()),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(arguments: &[&str]) -> RunArguments {
        let all = ["mesh-agent", "run"].iter().chain(arguments);
        match Arguments::try_parse_from(all).unwrap().command {
            Command::Run(arguments) => arguments,
            other @ (Command::Status(_)
            | Command::Check(_)
            | Command::Health(_)
            | Command::Preflight(_)
            | Command::Uninstall(_)) => {
                panic!("{other:?}")
            }
        }
    }

    fn refusal(arguments: &[&str]) -> clap::Error {
        Arguments::try_parse_from(["mesh-agent"].iter().chain(arguments)).unwrap_err()
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn defaults_suit_an_ordinary_node() {
        let arguments = run(&[]);
        assert_eq!(arguments.uplinks(), Uplinks { auto: true, named: Vec::new() });
        assert_eq!(arguments.tunnel_vni, 0x006d_6573);
        assert_eq!((arguments.tunnel_port, arguments.peer_port), (4799, 4798));
        assert_eq!(arguments.resync, Duration::from_secs(2));
        assert_eq!(arguments.source, Source::Swarm);
        assert_eq!((arguments.flows, arguments.flood()), (131_072, 32_768));
        assert_eq!(run(&["--flows", "1000000"]).flood(), 50_000);
        assert_eq!(run(&["--flood", "0"]).flood(), 0);
    }

    #[test]
    fn uplinks_are_given_one_by_one_or_as_a_list() {
        let uplinks = |auto, names: &[&str]| Uplinks {
            auto,
            named: names.iter().map(|&name| name.to_owned()).collect(),
        };
        assert_eq!(run(&["--uplink", "eth0,eth1"]).uplinks(), uplinks(false, &["eth0", "eth1"]));
        assert_eq!(
            run(&["--uplink", "eth0", "--uplink", "eth1"]).uplinks(),
            uplinks(false, &["eth0", "eth1"])
        );
        assert_eq!(run(&["--uplink", "auto,wg0"]).uplinks(), uplinks(true, &["wg0"]));
    }

    #[test]
    fn values_are_understood() {
        assert_eq!(run(&["--tunnel-vni", "0xff"]).tunnel_vni, 255);
        assert_eq!(run(&["--tunnel-vni", "42"]).tunnel_vni, 42);
        assert_eq!(run(&[]).http(), HttpPlace::Swarm { port: 4797 });
        assert_eq!(run(&["--metrics", "off"]).http(), HttpPlace::Off);
        let both = run(&["--metrics", "off", "--http", "[::]:80"]).http();
        assert_eq!(both, HttpPlace::At("[::]:80".parse().unwrap()));
        assert_eq!(run(&["--resync", "500ms"]).resync, Duration::from_millis(500));
        assert_eq!(run(&["--source", "file:/etc/mesh.yaml"]).source, Source::File("/etc/mesh.yaml".into()));
    }

    #[test]
    fn wrong_values_are_wrong_usage() {
        for arguments in [
            &["run", "--tunnel-vni", "0x1000000"][..],
            &["run", "--tunnel-vni", "0"],
            &["run", "--peer-port", "0"],
            &["run", "--resync", "2"],
            &["run", "--resync", "0s"],
            &["run", "--source", "consul"],
            &["run", "--flows", "1"],
            &["run", "--backends", "1"],
            &["run", "--metrics", "here"],
            &["run", "--http", "swarm:0"],
            &["run", "--firewall", "import"],
            &["run", "--serve", "some"],
            &["run", "--log-level", "mesh=loudly"],
            &["status", "everything"],
            &[],
        ] {
            assert_eq!(refusal(arguments).exit_code(), 2, "{arguments:?}");
        }
    }

    #[test]
    fn every_setting_is_an_environment_variable_too_and_shows_its_default() {
        let mut command = Arguments::command();
        let run = command.find_subcommand_mut("run").unwrap();
        let help = run.render_long_help().to_string();
        for argument in run.get_arguments().filter(|argument| argument.get_long() != Some("help")) {
            let long = argument.get_long().unwrap();
            let expected = format!("MESH_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(expected.as_str()));
        }
        assert_eq!(help.matches("[default: ").count(), 25, "{help}");
    }
}
