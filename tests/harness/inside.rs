//! What a container sees: commands in its network namespace, with the node's programs, or in the container itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    client::Running,
    cmd::Cmd,
    lab::{Lab, Node, text},
    paths::static_binary,
    service::{Service, Task},
    wait,
};

/// A container on a node.
#[derive(Debug, Clone)]
pub struct Inside<'a> {
    pub node: &'a Node,
    pub container: String,
    sandbox: String,
}

impl<'a> Inside<'a> {
    pub fn container(node: &'a Node, container: &str) -> Result<Self> {
        let known = node.ask(&format!("/containers/{container}/json"))?;
        let sandbox = text(&known, "/NetworkSettings/SandboxKey").to_owned();
        ensure!(!sandbox.is_empty(), "{container} on {} has no network namespace", node.name);
        Ok(Self { node, container: container.into(), sandbox })
    }

    pub fn task(lab: &'a Lab, service: &Service<'_>, task: &Task) -> Result<Self> {
        Self::container(lab.node(&task.node)?, &service.container(task)?)
    }

    /// Every task of a service, in the order of their names.
    pub fn tasks(lab: &'a Lab, service: &Service<'_>) -> Result<Vec<Self>> {
        service.tasks()?.iter().map(|task| Self::task(lab, service, task)).collect()
    }

    /// A program of the node in the container's network namespace.
    pub fn command(&self, program: &str) -> Cmd {
        let net = format!("--net={}", self.sandbox);
        let node = &self.node.name;
        self.node
            .command("nsenter")
            .args([&net, "--", program])
            .shown_as(format!("{node}, inside {:.12}: {program}", self.container))
    }

    /// The workload's client in the container's network namespace.
    pub fn run<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let program = static_binary("mesh-workload");
        report(self.command(&program.to_string_lossy()).args(arguments))
    }

    /// The workload's client in the container itself: names are looked up by musl, with the container's resolv.conf.
    pub fn exec<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        report(self.node.docker(["exec", &self.container, "/workload"]).args(arguments))
    }

    /// `getent` as a program that is linked with glibc would look names up in this container.
    pub fn getent(&self, arguments: &[&str]) -> Result<String> {
        const WITH_ITS_RESOLV_CONF: &str = r#"mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec nsenter --net="$1" getent "${@:2}""#;
        let known = self.known()?;
        self.node
            .command("unshare")
            .args(["--mount", "--", "bash", "-c", WITH_ITS_RESOLV_CONF])
            .args([text(&known, "/ResolvConfPath"), &self.sandbox])
            .shown_as(format!("{}, inside {:.12}: getent", self.node.name, self.container))
            .args(arguments)
            .quiet()
            .read()
    }

    /// The workload's client in the container's network namespace, left running.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        Running::begin(self.command(&static_binary("mesh-workload").to_string_lossy()).args(arguments))
    }

    /// The container's whole id.
    pub fn container_id(&self) -> Result<String> {
        Ok(text(&self.known()?, "/Id").to_owned())
    }

    /// Its address on a network.
    pub fn address(&self, network: &str) -> Result<String> {
        let known = self.known()?;
        let address = text(&known, &format!("/NetworkSettings/Networks/{network}/IPAddress"));
        ensure!(!address.is_empty(), "{} is not on {network}: {known}", self.container);
        Ok(address.to_owned())
    }

    /// All that Docker says of it.
    fn known(&self) -> Result<Value> {
        self.node.ask(&format!("/containers/{}/json", self.container))
    }
}

fn report<T: DeserializeOwned>(cmd: Cmd) -> Result<T> {
    let line = cmd.line();
    let text = cmd.quiet().read()?;
    serde_json::from_str(&text).with_context(|| format!("`{line}` said {text}"))
}

/// An attachable overlay network; it is removed when this is dropped.
#[derive(Debug)]
pub struct Network<'a> {
    lab: &'a Lab,
    pub name: String,
}

impl<'a> Network<'a> {
    pub fn create(lab: &'a Lab, name: &str, options: &[&str]) -> Result<Self> {
        let create = ["network", "create", "--driver", "overlay", "--attachable"];
        lab.docker(create).args(options).arg(name).read()?;
        Ok(Self { lab, name: name.into() })
    }

    /// The option with which a service joins it.
    pub fn option(&self) -> String {
        format!("--network={}", self.name)
    }

    /// Its row in a node's `status networks`; null where the node has no part in it.
    pub fn status(&self, node: &Node) -> Result<Value> {
        let status = crate::mesh::status(node)?;
        let rows = status["networks"].as_array().with_context(|| format!("no networks in {status}"))?;
        Ok(rows.iter().find(|row| row["network"] == self.name.as_str()).cloned().unwrap_or_default())
    }

    /// A container that nobody's service is, with the workload's server in it.
    pub fn run(&self, node: &'a Node, name: &str, options: &[&str]) -> Result<Container<'a>> {
        let run = ["run", "--detach", "--rm", "--name", name, "--network", &self.name];
        let start = || node.docker(run).args(options).arg(crate::images::WORKLOAD).read();
        let started = start().or_else(|error| {
            // Now and then a node waits twenty seconds in vain for the managers to attach a container (moby #41841).
            ensure!(format!("{error:#}").contains("attaching to network failed"), "{error:#}");
            eprintln!("{error:#}: trying again");
            let _ = node.docker(["rm", "--force", name]).quiet().read();
            start()
        });
        started?;
        Ok(Container { node, name: name.into() })
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        let gone = wait::for_up_to(Duration::from_secs(20), "the network is free", || {
            self.lab.docker(["network", "rm", &self.name]).quiet().read()
        });
        if let Err(error) = gone {
            eprintln!("the network {} is left behind: {error:#}", self.name);
        }
    }
}

/// A container on one node; it is removed when this is dropped.
#[derive(Debug)]
pub struct Container<'a> {
    node: &'a Node,
    name: String,
}

impl<'a> Container<'a> {
    pub fn inside(&self) -> Result<Inside<'a>> {
        Inside::container(self.node, &self.name)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.node.docker(["rm", "--force", &self.name]).quiet().read();
    }
}
