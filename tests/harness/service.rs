//! Swarm services of the lab's images.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    deaths::Deaths,
    images::{NGINX, WORKLOAD},
    lab::{Lab, text},
    wait,
};

/// A service to be created.
#[derive(Debug, Clone)]
pub struct Spec {
    name: String,
    image: String,
    options: Vec<String>,
    replicas: usize,
}

impl Spec {
    /// The test server: HTTP on 8080, echo on 9000.
    pub fn workload(name: &str) -> Self {
        Self::new(name, WORKLOAD)
            .option("--env=WORKLOAD_NODE={{.Node.Hostname}}")
            .option("--env=WORKLOAD_TASK_ID={{.Task.ID}}")
            .option("--env=WORKLOAD_SERVICE={{.Service.Name}}")
    }

    /// nginx on port 80; tasks are told apart by their host name.
    pub fn nginx(name: &str) -> Self {
        Self::new(name, NGINX)
    }

    fn new(name: &str, image: &str) -> Self {
        Self { name: name.into(), image: image.into(), options: Vec::new(), replicas: 1 }
            .option("--hostname={{.Service.Name}}.{{.Task.Slot}}")
            .option("--stop-grace-period=2s")
    }

    #[must_use]
    pub fn image(mut self, image: &str) -> Self {
        self.image = image.into();
        self
    }

    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// As `docker service create --publish` takes it.
    #[must_use]
    pub fn publish(self, port: &str) -> Self {
        self.option(&format!("--publish={port}"))
    }

    #[must_use]
    pub fn env(self, setting: &str) -> Self {
        self.option(&format!("--env={setting}"))
    }

    /// Any further option of `docker service create`.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.into());
        self
    }

    /// One task per node.
    #[must_use]
    pub fn global(self) -> Self {
        self.option("--mode=global")
    }

    /// Creates it and waits until all its tasks run.
    pub fn create(self, lab: &Lab) -> Result<Service<'_>> {
        let global = self.options.iter().any(|option| option == "--mode=global");
        let mut docker = lab.docker([
            "service",
            "create",
            "--quiet",
            "--detach",
            "--no-resolve-image",
            "--name",
            &self.name,
        ]);
        if !global {
            docker = docker.arg(format!("--replicas={}", self.replicas));
        }
        docker.args(&self.options).arg(&self.image).read()?;
        let service = Service { lab, name: self.name };
        service.wait_for(if global { lab.nodes.len() } else { self.replicas })?;
        Ok(service)
    }
}

/// A service on the lab; it is removed when this is dropped.
#[derive(Debug)]
pub struct Service<'a> {
    lab: &'a Lab,
    name: String,
}

/// A task that runs, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    pub id: String,
    /// `service.slot`
    pub name: String,
    pub node: String,
}

impl Service<'_> {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks for another number of tasks, without waiting for them.
    pub fn scale(&self, replicas: usize) -> Result<()> {
        self.lab
            .docker(["service", "scale", "--detach", &format!("{}={replicas}", self.name)])
            .read()
            .map(drop)
    }

    /// `docker service update` with these options.
    pub fn update(&self, options: &[&str]) -> Result<()> {
        let update = ["service", "update", "--quiet", "--detach", "--no-resolve-image"];
        self.lab.docker(update).args(options).arg(&self.name).read().map(drop)
    }

    /// Waits until exactly so many tasks run and are meant to.
    pub fn wait_for(&self, count: usize) -> Result<Vec<Task>> {
        wait::for_up_to(Duration::from_secs(40), &format!("{count} tasks of {}", self.name), || {
            let tasks = self.tasks()?;
            ensure!(tasks.len() == count, "{} run:\n{}", tasks.len(), self.history());
            Ok(tasks)
        })
    }

    /// The tasks that run and are meant to.
    pub fn tasks(&self) -> Result<Vec<Task>> {
        let manager = self.lab.manager();
        let tasks =
            manager.list("/tasks", &[("service", self.name.as_str()), ("desired-state", "running")])?;
        let nodes = manager.ask("/nodes")?;
        let nodes = nodes.as_array().context("the nodes are no list")?;
        let task = |task: &Value| {
            let node = text(task, "/NodeID");
            let host = nodes.iter().find(|other| text(other, "/ID") == node)?;
            // Tasks of a global service have no slot.
            let slot = task["Slot"].as_u64().map_or_else(|| node.to_owned(), |slot| slot.to_string());
            let name = format!("{}.{slot}", self.name);
            let node = text(host, "/Description/Hostname").to_owned();
            Some(Task { id: text(task, "/ID").to_owned(), name, node })
        };
        let running = tasks.iter().filter(|task| text(task, "/Status/State") == "running");
        let mut tasks: Vec<Task> = running.filter_map(task).collect();
        tasks.sort();
        Ok(tasks)
    }

    /// The id of the container of a task, on the task's node.
    pub fn container(&self, task: &Task) -> Result<String> {
        let label = format!("com.docker.swarm.task.id={}", task.id);
        let containers = self.lab.node(&task.node)?.list("/containers/json", &[("label", &label)])?;
        let container = containers.first();
        let container =
            container.with_context(|| format!("{} has no container on {}", task.name, task.node))?;
        Ok(text(container, "/Id").to_owned())
    }

    /// `docker service rollback`, without waiting for its end.
    pub fn rollback(&self) -> Result<()> {
        self.lab.docker(["service", "rollback", "--quiet", "--detach", &self.name]).read().map(drop)
    }

    /// Waits until an update or a rollback has come to this end: `completed`, `rollback_completed`.
    pub fn wait_for_update(&self, end: &str) -> Result<()> {
        wait::for_up_to(Duration::from_secs(90), &format!("the update of {} is {end}", self.name), || {
            let service = self.lab.manager().ask(&format!("/services/{}", self.name))?;
            let state = text(&service, "/UpdateStatus/State");
            ensure!(state == end, "it is {state:?}");
            Ok(())
        })
    }

    /// From now on, notes when its containers end.
    pub fn watch_deaths(&self) -> Result<Deaths> {
        Deaths::of(self.lab, &self.name)
    }

    /// Its virtual address on a network.
    pub fn vip(&self, network: &str) -> Result<String> {
        virtual_address(self.lab, &self.name, network)
    }

    /// All that its containers on all nodes have written.
    pub fn logs(&self) -> Result<String> {
        let mut logs = String::new();
        for task in self.tasks()? {
            let container = self.container(&task)?;
            let output = self.lab.node(&task.node)?.docker(["logs", &container]).quiet().output()?;
            logs.push_str(&crate::cmd::said(&output));
            logs.push('\n');
        }
        Ok(logs)
    }

    fn history(&self) -> String {
        let list =
            ["service", "ps", "--no-trunc", "--format", "{{.Name}} {{.Node}} {{.CurrentState}} {{.Error}}"];
        self.lab.docker(list).arg(&self.name).quiet().read().unwrap_or_default()
    }

    /// Removes it and waits until its containers are gone.
    pub fn remove(self) -> Result<()> {
        self.remove_now().context("cannot remove the service")
    }

    fn remove_now(&self) -> Result<()> {
        self.lab.docker(["service", "rm", &self.name]).quiet().read()?;
        wait::for_up_to(Duration::from_secs(30), &format!("containers of {} end", self.name), || {
            for node in &self.lab.nodes {
                let left = node.containers_of(&self.name)?;
                ensure!(left.is_empty(), "{} still runs {}", node.name, left.len());
            }
            Ok(())
        })
    }
}

/// The virtual address of a service on a network.
pub fn virtual_address(lab: &Lab, service: &str, network: &str) -> Result<String> {
    let manager = lab.manager();
    let network_id = manager.ask(&format!("/networks/{network}"))?;
    let found = manager.ask(&format!("/services/{service}"))?;
    let addresses = found["Endpoint"]["VirtualIPs"].as_array();
    let on_it = |address: &&Value| text(address, "/NetworkID") == text(&network_id, "/Id");
    let address = addresses.and_then(|addresses| addresses.iter().find(on_it));
    let address = address.map(|address| text(address, "/Addr")).and_then(|address| address.split('/').next());
    Ok(address.with_context(|| format!("{service} has no address on {network}: {found}"))?.to_owned())
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        // Already removed is as good.
        let _ = self.remove_now();
    }
}
