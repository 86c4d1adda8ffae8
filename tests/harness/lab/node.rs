//! One node of the lab: its namespaces, its dockerd, and running things in it.

use std::{
    cmp::Reverse,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{BASE, Docker, cgroups, fabric};
use crate::{cmd::Cmd, wait};

const NODE_SCRIPT: &str = include_str!("node.sh");

/// A machine of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its host name: `node1`…
    pub name: String,
    /// Its address on the fabric.
    pub address: String,
    pub manager: bool,
    docker: Docker,
    /// Process 1 of the node, by the host's count.
    pid: i32,
}

impl Node {
    /// Makes the namespaces of node `index` and starts its dockerd, without waiting for that.
    pub(super) fn boot(index: usize, manager: bool, docker: Docker) -> Result<Self> {
        let name = format!("node{index}");
        cgroups::create(&name)?;
        let dir = Path::new(BASE).join(&name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let script = dir.join("node.sh");
        fs::write(&script, NODE_SCRIPT)?;
        detach(Cmd::new("bash").arg(script).args(["enter", &name]), &dir.join("boot.log"))?;
        let pid = wait::until(
            &format!("namespaces of {name}"),
            Duration::from_secs(15),
            Duration::from_millis(10),
            || {
                let pid = fs::read_to_string(dir.join("pid")).with_context(|| tail(&dir.join("boot.log")))?;
                Ok(pid.trim().parse()?)
            },
        )?;
        fabric::connect(&name, index, pid)?;
        let node = Self { name, address: fabric::address(index), manager, docker, pid };
        node.start_docker()?;
        Ok(node)
    }

    /// The dockerd's socket, on the host.
    pub fn docker_socket(&self) -> PathBuf {
        self.dir().join("docker.sock")
    }

    /// A command on this node: in its namespaces, its cgroup, and with the host's files.
    pub fn command(&self, program: &str) -> Cmd {
        // The cgroup is joined before its namespace is entered: from inside, a stranger cannot be moved in.
        const ENTER: &str =
            r#"while [ "$1" != -- ]; do echo 0 >"$1" || exit 125; shift; done; shift; exec "$@""#;
        let files = cgroups::membership(&self.name).unwrap_or_default();
        self.with_its_docker("sh")
            .args(["-c", ENTER, "sh"])
            .args(files)
            .args(["--", "nsenter", "--target", &self.pid.to_string()])
            .args(["--mount", "--uts", "--net", "--pid", "--ipc", "--cgroup", "--", program])
            .shown_as(format!("{}: {program}", self.name))
    }

    /// A command in the node's network namespace only: quick to start, and a signal reaches it.
    pub fn network_command(&self, program: &str) -> Cmd {
        Cmd::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.pid))
            .args(["--", program])
            .shown_as(format!("{}: {program}", self.name))
    }

    /// The docker client of this node's version, speaking to this node's dockerd. What it changes in the Swarm it has read before, and
    /// swarmkit refuses it when the Swarm itself was faster (`manager/state/store`, `ErrSequenceConflict`).
    pub fn docker<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.with_its_docker("docker")
            .again_when("update out of sequence")
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_HOST", format!("unix://{}", self.docker_socket().display()))
            .shown_as(format!("{}: docker", self.name))
            .args(args)
    }

    /// A program that finds this node's Docker first.
    fn with_its_docker(&self, program: &str) -> Cmd {
        let cmd = Cmd::new(program);
        match self.docker.path() {
            Some(path) => cmd.env("PATH", path),
            None => cmd,
        }
    }

    /// Starts dockerd; [`Node::wait_for_docker`] says when it answers.
    pub fn start_docker(&self) -> Result<()> {
        let socket = format!("unix://{}", self.docker_socket().display());
        let dockerd = self
            .command("dockerd")
            .args(["--config-file", "/run/docker.json", "--data-root", "/var/lib/docker"])
            .args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"])
            .args(["--storage-driver", "overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--host", "unix:///run/docker.sock", "--host", &socket]);
        detach(dockerd, &self.dir().join("dockerd.log"))
    }

    /// Ends dockerd; its containers end with it if it is asked, and live on if it is killed.
    pub fn stop_docker(&self, signal: &str) -> Result<()> {
        self.signal_docker(signal)?;
        wait::for_up_to(Duration::from_secs(30), "dockerd ends", || {
            // It stops answering long before it has ended its containers.
            const GONE: &str = "! { [ -e /run/docker.pid ] && kill -0 $(cat /run/docker.pid); }";
            ensure!(!self.docker_answers(), "it still answers");
            ensure!(self.command("sh").args(["-c", GONE]).succeeds(), "it is still there");
            Ok(())
        })
    }

    /// Sends its dockerd a signal; STOP and CONT make it freeze and go on, with its containers untouched.
    pub fn signal_docker(&self, signal: &str) -> Result<()> {
        let kill = format!("kill -{signal} $(cat /run/docker.pid)");
        self.command("sh").args(["-c", &kill]).quiet().read()?;
        if signal == "CONT" {
            wake_waiting(&self.name)?;
        }
        Ok(())
    }

    pub fn wait_for_docker(&self) -> Result<()> {
        let what = format!("dockerd of {}", self.name);
        wait::until(&what, Duration::from_secs(30), Duration::from_millis(20), || {
            ensure!(self.docker_answers(), "{}", tail(&self.dir().join("dockerd.log")));
            Ok(())
        })
    }

    /// Whether its dockerd answers on its socket.
    pub fn docker_answers(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut socket = UnixStream::connect(self.docker_socket())?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
            let mut status = [0; 12];
            socket.read_exact(&mut status)?;
            Ok(status.ends_with(b"200"))
        };
        ask().unwrap_or(false)
    }

    /// Whether its cable is like a wire: packets that come by it have complete checksums, because XDP sends them on as they
    /// are, and what XDP sends arrives.
    pub fn make_wire(&self, wire: bool) -> Result<()> {
        fabric::make_wire(&self.name, self.pid, wire)
    }

    /// Lays a second cable from the client to this node alone, as its `eth1`, with addresses of their own.
    pub fn lay_second_cable(&self) -> Result<()> {
        fabric::lay_second_cable(self.pid)
    }

    /// How many packets its driver has sent for XDP programs, by `eth0`.
    pub fn sent_by_xdp(&self) -> Result<u64> {
        self.counted_by_driver("eth0", "xdp_tx")
    }

    /// What the driver of an interface counts, by all its queues.
    pub fn counted_by_driver(&self, interface: &str, what: &str) -> Result<u64> {
        let statistics = self.network_command("ethtool").args(["-S", interface]).quiet().read()?;
        let counts = statistics.lines().filter_map(|line| line.trim().split_once(": "));
        let of_it = counts.filter(|(name, _)| name.starts_with("rx_queue") && name.ends_with(what));
        of_it.map(|(_, count)| Ok(count.trim().parse::<u64>()?)).sum()
    }

    /// Pulls the cable of its `eth0`.
    pub fn unplug(&self) -> Result<()> {
        fabric::cable(&self.name, false)
    }

    pub fn plug_in(&self) -> Result<()> {
        fabric::cable(&self.name, true)
    }

    /// The process of the host that is process 1 of a container here.
    pub fn container_process(&self, container: &str) -> Result<i32> {
        let pids = fs::read_dir("/proc").context("cannot read /proc")?.flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let first_in = |pid: &i32| {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let numbers = read("status");
            let numbers = numbers.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            numbers.split_whitespace().next_back() == Some("1") && read("cgroup").contains(container)
        };
        pids.into_iter().find(first_in).with_context(|| format!("no process of {container} on {}", self.name))
    }

    /// The processes here whose command line begins with these words, by the host's count, the latest first.
    pub fn processes(&self, words: &[&str]) -> Result<Vec<i32>> {
        let begins = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut found = line.split(|byte| *byte == 0);
            words.iter().all(|word| found.next().is_some_and(|found| found == word.as_bytes()))
        };
        let mut found: Vec<i32> = cgroups::processes(&self.name)?.into_iter().filter(begins).collect();
        found.sort_by_key(|pid| Reverse(started(*pid)));
        Ok(found)
    }

    /// A file of the node, for the host.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// Whether the node's process 1 is there.
    pub fn is_alive(&self) -> bool {
        let proc = format!("/proc/{}/cmdline", self.pid);
        fs::read_to_string(proc).is_ok_and(|line| line.contains(BASE) && line.contains(&self.name))
    }

    /// The last words of the node's dockerd.
    pub fn docker_log(&self) -> String {
        tail(&self.dir().join("dockerd.log"))
    }

    fn dir(&self) -> PathBuf {
        Path::new(BASE).join(&self.name)
    }
}

/// When a process was started, in ticks since the machine was: field 22 of `/proc/PID/stat`, the 20th after its name, which may
/// have spaces.
fn started(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().nth(19).and_then(|ticks| ticks.parse().ok()).unwrap_or_default()
}

/// nsenter stops when what it has started stops, and would not go on with it.
fn wake_waiting(node: &str) -> Result<()> {
    for file in cgroups::membership(node)? {
        for pid in fs::read_to_string(&file)?.lines() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if let ("nsenter", Ok(pid)) = (name.trim(), pid.parse()) {
                // SAFETY: `kill` takes two integers; the process is one of this node's.
                unsafe { libc::kill(pid, libc::SIGCONT) };
            }
        }
    }
    Ok(())
}

/// Starts a program that outlives this process, in a session of its own.
fn detach(cmd: Cmd, log: &Path) -> Result<()> {
    let output: File = OpenOptions::new().create(true).append(true).open(log)?;
    let line = cmd.line();
    let mut command = cmd.into_inner();
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).current_dir("/");
    command.process_group(0);
    let child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
    // Reaps it if it ends while this process lives.
    std::thread::spawn(move || child.wait_with_output());
    Ok(())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(15)..].join("\n");
    format!("the end of {}:\n{last}", log.display())
}

/// Fails early where the lab cannot work, with what to do about it.
pub(super) fn check_machine() -> Result<()> {
    // SAFETY: `geteuid` has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the lab makes network namespaces and runs dockerd: run this as root");
    }
    let missing: Vec<&str> = ["dockerd", "docker", "ip", "nsenter", "unshare"]
        .into_iter()
        .filter(|program| !crate::cmd::on_path(program))
        .collect();
    ensure!(missing.is_empty(), "{} missing: run `cargo xtask setup`", missing.join(", "));
    Ok(())
}
