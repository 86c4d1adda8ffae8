//! `mesh-agent preflight`: can this node run the mesh, and what to do where it cannot.

mod confinement;
mod docker;

use std::ffi::CStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use crate::args::RunArguments;
use crate::dataplane::kernel;
use crate::dataplane::xdp::{self, XdpMode, XdpState};
use crate::firewall::inspection::{self, Inspection};
use crate::node::{self, Interface, NodeView, Unusable};
use crate::peers::certificates::Certificates;
use crate::swarm::source::Source;
use crate::swarm::survey::survey;
use crate::{cgroup, single, status};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    Good(String),
    /// Works, but somebody should know.
    Note(String),
    /// Does not work, and what to do.
    Bad(String),
}

use Finding::{Bad, Good, Note};

impl From<Inspection> for Finding {
    fn from(found: Inspection) -> Self {
        match found {
            Inspection::Good(detail) => Good(detail),
            Inspection::Note(detail) => Note(detail),
            Inspection::Bad(detail) => Bad(detail),
        }
    }
}

/// Prints a line for each check; fails if any of them does.
pub async fn run(arguments: &RunArguments) -> ExitCode {
    let node = node::look().await;
    let swarm = swarm_address(arguments).await;
    let agent = Agent::find(arguments).await;
    let mut findings = vec![
        ("kernel", kernel_version()),
        ("privileges", privileges()),
        ("security module", confinement::security_module()),
        ("BPF file system", confinement::bpffs(&arguments.bpffs)),
        ("programs", programs(arguments, &agent)),
        ("cgroup2", cgroup2(arguments)),
    ];
    match &node {
        Ok(view) => {
            let (uplinks, unusable) = node::uplinks(view, &arguments.uplinks(), &arguments.bridge, swarm);
            findings.push(("uplinks", self::uplinks(arguments, view, &uplinks, &unusable)));
            findings.push(("XDP", xdp(arguments, &uplinks)));
            findings.extend(swarm.map(|swarm| ("Swarm address", address(view, &uplinks, swarm))));
            findings.push(("bridge", bridge(arguments, view)));
            findings.push(("firewall", inspection::rules(arguments, view).await.into()));
            findings.push(("IPv6", Note("clients that come by IPv6 are left to Docker, as before".into())));
        }
        Err(error) => findings.push(("interfaces", Bad(format!("{error:#}")))),
    }
    findings.push(("tunnel port", tunnel_port(arguments)));
    if arguments.source == Source::Swarm {
        findings.push(("Docker", docker::docker(arguments).await));
        findings.push(("certificates", certificates(arguments)));
        findings.extend(inspection::ingress(arguments).await.map(|found| ("ingress network", found.into())));
    }
    findings.push(("agent", agent.into()));
    let mut text = String::new();
    for (name, finding) in &findings {
        let (mark, detail) = match finding {
            Good(detail) => ("ok", detail),
            Note(detail) => ("note", detail),
            Bad(detail) => ("FAIL", detail),
        };
        // Writing into a string does not fail.
        let _ = writeln!(text, "{mark:<5} {name:<16} {detail}");
    }
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    if findings.iter().any(|(_, finding)| matches!(finding, Bad(_))) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Whether an agent runs on this node.
enum Agent {
    None,
    /// In this container.
    Here {
        version: String,
    },
    Elsewhere,
}

impl Agent {
    async fn find(arguments: &RunArguments) -> Self {
        match (single::is_held(&arguments.bpffs), status::client::fetch(&arguments.socket).await) {
            (true, Ok(report)) => Self::Here { version: report.agent_version },
            (true, Err(_)) => Self::Elsewhere,
            (false, _) => Self::None,
        }
    }
}

impl From<Agent> for Finding {
    fn from(agent: Agent) -> Self {
        match agent {
            Agent::Here { version } => Note(format!("version {version} runs on this node already")),
            Agent::Elsewhere => Note("one runs on this node already, in another container".into()),
            Agent::None => Good("none runs on this node yet".into()),
        }
    }
}

/// By which the Swarm knows this node; `None` if Docker does not say, which has a check of its own.
async fn swarm_address(arguments: &RunArguments) -> Option<IpAddr> {
    if arguments.source == Source::Swarm { survey(&arguments.docker_sock).await.ok()?.address } else { None }
}

fn kernel_version() -> Finding {
    let mut names = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: the call fills the struct, whose fields are strings that end with a zero byte.
    let release = unsafe {
        if libc::uname(names.as_mut_ptr()) != 0 {
            return Bad("the kernel does not tell its version".into());
        }
        CStr::from_ptr(names.assume_init_ref().release.as_ptr()).to_string_lossy().into_owned()
    };
    judge_version(&release)
}

fn judge_version(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 6) => {
            Good(format!("{release}: programs attach by tcx"))
        }
        (Some(major), Some(minor)) if (major, minor) >= (6, 1) => {
            Good(format!("{release}: programs attach by clsact, tcx came with 6.6"))
        }
        (Some(_), Some(_)) => Bad(format!("{release} is too old: the programs need Linux 6.1 or later")),
        _ => Note(format!("{release}: cannot tell whether this is 6.1 or later")),
    }
}

fn privileges() -> Finding {
    /// Bits of capability numbers in linux/capability.h.
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;

    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        return Note("/proc/self/status does not tell the capabilities".into());
    };
    let loads = effective & SYS_ADMIN != 0 || effective & (BPF | PERFMON) == BPF | PERFMON;
    match (effective & NET_ADMIN != 0, loads) {
        (true, true) => Good("programs may be loaded and attached".into()),
        (false, true) => Bad("NET_ADMIN is missing: add it to cap_add".into()),
        (true, false) => Bad("SYS_ADMIN (or BPF and PERFMON) is missing: add it to cap_add".into()),
        (false, false) => {
            Bad("NET_ADMIN and SYS_ADMIN are missing: run as root, or add them to cap_add".into())
        }
    }
}

/// Where the agent serves, they are not tried: what the kernel takes to check them is charged to its container, which has no room
/// for that beside an agent, and the kernel ends the largest process first.
fn programs(arguments: &RunArguments, agent: &Agent) -> Finding {
    if let Agent::Here { version } = agent {
        return Good(format!("the agent of this container, version {version}, runs them"));
    }
    let count = match kernel::try_load() {
        Ok(count) => count,
        Err(error) => return Bad(format!("{error:#}")),
    };
    if arguments.xdp == XdpMode::Off {
        return Good(format!("the kernel takes all {count}"));
    }
    match xdp::try_load() {
        Ok(()) => Good(format!("the kernel takes all {}", count + 1)),
        Err(error) => {
            Note(format!("the kernel takes all {count} for TC, but not the one for XDP: {error:#}"))
        }
    }
}

/// How each uplink is served. Whether a driver takes the program shows when the agent attaches it: some stop their
/// hardware for a moment, so it is not tried here.
fn xdp(arguments: &RunArguments, uplinks: &[Interface]) -> Finding {
    let mut has_tc_alone = false;
    let ways = uplinks.iter().map(|uplink| {
        let way = match xdp::wanted(arguments.xdp, uplink) {
            XdpState::Native => format!("by {}, else by TC alone", driver(&uplink.name)),
            XdpState::Generic => "by the kernel (generic)".into(),
            XdpState::TcAlone(why) => {
                has_tc_alone = true;
                format!("by TC alone: {why}")
            }
            XdpState::Off => "by TC alone, as --xdp=off says".into(),
        };
        format!("{} {way}", uplink.name)
    });
    let text = ways.collect::<Vec<_>>().join("; ");
    if has_tc_alone { Note(text) } else { Good(text) }
}

fn driver(interface: &str) -> String {
    let link = fs::read_link(format!("/sys/class/net/{interface}/device/driver"));
    let name = link.ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    name.map_or_else(|| "its driver".to_owned(), |name| format!("its driver {name}"))
}

fn cgroup2(arguments: &RunArguments) -> Finding {
    let found: Option<PathBuf> = arguments.cgroup.clone().or_else(|| cgroup::root().ok().flatten());
    match found {
        Some(path) if path.is_dir() => Good(format!("at {}", path.display())),
        Some(path) => Bad(format!("there is no folder {}: give the right one with --cgroup", path.display())),
        None => Bad("none is mounted here: mount the host's /sys/fs/cgroup into the container".into()),
    }
}

fn uplinks(
    arguments: &RunArguments,
    view: &NodeView,
    uplinks: &[Interface],
    unusable: &[Unusable],
) -> Finding {
    if !unusable.is_empty() {
        let problems: Vec<String> = unusable.iter().map(ToString::to_string).collect();
        return Bad(format!("{}: name others with --uplink", problems.join("; ")));
    }
    if uplinks.is_empty() {
        return Bad("no interface with an address that leads somewhere: name one with --uplink".into());
    }
    let names: Vec<_> =
        uplinks.iter().map(|uplink| format!("{} (MTU {})", uplink.name, uplink.mtu)).collect();
    let taken = node::taken_by_netfilter(uplinks);
    if !taken.is_empty() {
        return Note(format!("{}; {}", names.join(", "), taken.join("; ")));
    }
    let left_out = node::left_out(view, uplinks, &arguments.bridge);
    if left_out.is_empty() || !arguments.uplinks().auto {
        return Good(names.join(", "));
    }
    Note(format!(
        "{}; clients that come in by {} are left to Docker: add what nodes or clients are behind with --uplink auto,{}",
        names.join(", "),
        left_out.join(" or "),
        left_out.join(",")
    ))
}

/// Where other nodes' tunnel packets come to.
fn address(view: &NodeView, uplinks: &[Interface], swarm: IpAddr) -> Finding {
    match node::uplink_of(swarm, view, uplinks) {
        Ok(uplink) => Good(format!("{swarm} on {}", uplink.name)),
        Err(problem) => Bad(problem.to_string()),
    }
}

fn bridge(arguments: &RunArguments, view: &NodeView) -> Finding {
    match view.by_name(&arguments.bridge) {
        Some(bridge) => Good(format!("{} is there", bridge.name)),
        None => Note(format!(
            "{} is not there yet: Docker makes it when the node joins a Swarm",
            arguments.bridge
        )),
    }
}

/// Nobody else may listen there: what arrives is taken before it gets to a socket.
fn tunnel_port(arguments: &RunArguments) -> Finding {
    let port = arguments.tunnel_port;
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Good(format!("UDP {port} is free; the nodes' firewalls must let it pass between them")),
        Err(error) => {
            Bad(format!("UDP {port} is in use ({error}): choose another with --tunnel-port on every node"))
        }
    }
}

/// They also tell whether the clock is right.
fn certificates(arguments: &RunArguments) -> Finding {
    match Certificates::in_swarm_state(&arguments.swarm_state).identity() {
        Ok(identity) if identity.expires <= SystemTime::now() => {
            Bad("this node's certificate has expired: is the clock right, and does the node reach a manager?"
                .into())
        }
        Ok(identity) => Good(format!("node {} of the cluster {}", identity.node_id, identity.cluster_id)),
        Err(error) => Bad(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged_by_what_the_programs_need() {
        assert!(matches!(judge_version("6.18.44-fc"), Good(_)));
        assert!(matches!(judge_version("6.1.0-42-amd64"), Good(_)));
        assert!(matches!(judge_version("5.15.0"), Bad(_)));
        assert!(matches!(judge_version("unknown"), Note(_)));
    }
}
