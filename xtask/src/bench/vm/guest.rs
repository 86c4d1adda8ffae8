//! In the virtual machine: a lab, a published nginx, and requests through a node that has no task of it. First Docker's own
//! mesh serves them, then ours by TC, then Docker's after it was uninstalled, then ours by XDP, and at the end Docker's. What
//! the same requests cost without any mesh is measured before all that: no mesh can do better.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    images::NGINX,
    lab::{Lab, Node, Shape},
    mesh, paths,
    service::Spec,
    vm, wait,
};
use serde_json::{Value, json};

use super::ab::{self, Connections};
use crate::bench::machine;

const NAME: &str = "bench-vm";
const PORT: u16 = 8392;
/// The node through which clients come; it has no task.
const ENTRY: &str = "node2";
/// A node with tasks, and with the nginx that is dialled directly.
const HOME: &str = "node3";
/// Requests that tell whose mesh serves.
const PROOF: usize = 20;

/// How much is done.
struct Extent {
    tasks: usize,
    requests: usize,
    rounds: usize,
}

const FULL: Extent = Extent { tasks: 4, requests: 2000, rounds: 3 };
const QUICK: Extent = Extent { tasks: 2, requests: 500, rounds: 1 };

pub(super) fn run(quick: bool) -> Result<Value> {
    let begin = Instant::now();
    let extent = if quick { QUICK } else { FULL };
    let step = |text: &str| println!("[{:4.0} s] {text}", begin.elapsed().as_secs_f64());
    let machine = machine::describe();
    step(&machine);
    vm::prepare()?;
    step("a Swarm of three nodes");
    let lab = Lab::fresh(Shape::default())?;
    step("the images, on all nodes");
    mesh::load(&lab, &["mesh-lab-nginx.tar", "mesh-agent.tar"].map(|name| paths::target().join(name)))?;
    step("a published nginx, with no task on the node that is dialled");
    let spec = Spec::nginx(NAME).replicas(extent.tasks).publish(&format!("{PORT}:80"));
    let service = spec.option(&format!("--constraint=node.hostname!={ENTRY}")).create(&lab)?;
    let entry = lab.node(ENTRY)?;
    let bench = Bench { lab: &lab, entry, begin, extent };
    let mut result = bench.all()?;
    result["machine"] = json!(machine);
    step("done");
    service.remove()?;
    Lab::down()?;
    Ok(result)
}

/// Whose mesh serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mesh {
    Dockers,
    Ours,
    /// Nobody's: an nginx in a node's own namespace is dialled at that node.
    None,
}

struct Bench<'a> {
    lab: &'a Lab,
    entry: &'a Node,
    begin: Instant,
    extent: Extent,
}

impl Bench<'_> {
    fn all(&self) -> Result<Value> {
        let direct = self.without_mesh()?;
        self.serves(Mesh::Dockers)?;
        let mut docker = self.measure("Docker's mesh", Mesh::Dockers)?;

        self.step("the agents, by clsact and without XDP");
        mesh::deploy(self.lab)?;
        self.serves(Mesh::Ours)?;
        let ours = self.measure("mesh by TC", Mesh::Ours)?;
        self.without_agents()?;

        self.step("the agents again, with XDP");
        mesh::deploy_with_xdp(self.lab)?;
        self.serves(Mesh::Ours)?;
        let by_xdp = self.measure("mesh by XDP", Mesh::Ours)?;
        self.without_agents()?;
        self.lab.on_every_node(|node| node.make_wire(false))?;
        self.serves(Mesh::Dockers)?;
        for (key, again) in self.measure("Docker's mesh again", Mesh::Dockers)? {
            docker.entry(key).or_default().extend(again);
        }
        Ok(json!({
            "meshes": { "docker": docker, "mesh_tc": ours, "mesh_xdp": by_xdp, "none": direct },
        }))
    }

    /// Takes the mesh off.
    fn without_agents(&self) -> Result<()> {
        mesh::withdraw(self.lab)?;
        self.lab.on_every_node(mesh::uninstall_without_agent).map(drop)
    }
}

impl Bench<'_> {
    fn step(&self, text: &str) {
        println!("[{:4.0} s] {text}", self.begin.elapsed().as_secs_f64());
    }

    fn url(&self, mesh: Mesh) -> Result<String> {
        Ok(match mesh {
            Mesh::Dockers | Mesh::Ours => format!("http://{}:{PORT}/quiet", self.entry.address),
            Mesh::None => format!("http://{}/quiet", self.lab.node(HOME)?.address),
        })
    }

    fn without_mesh(&self) -> Result<Samples> {
        let home = self.lab.node(HOME)?;
        let name = format!("{NAME}-direct");
        home.docker(["run", "--detach", "--network=host", "--name", &name, NGINX]).quiet().read()?;
        self.serves(Mesh::None)?;
        let samples = self.measure("no mesh", Mesh::None)?;
        home.docker(["rm", "--force", &name]).quiet().read()?;
        Ok(samples)
    }

    /// Some requests without and with connections of their own, after a few that are not counted.
    fn measure(&self, label: &str, mesh: Mesh) -> Result<Samples> {
        let mut samples = Samples::new();
        for connections in Connections::ALL {
            self.load(PROOF, connections, mesh)?;
            for _ in 0..self.extent.rounds {
                let sample = self.load(self.extent.requests, connections, mesh)?;
                let number = |key: &str| sample[key].as_f64().unwrap_or(f64::NAN);
                self.step(&format!(
                    "{label}, {}: {:.0} requests/s, p50 {:.1} ms, p99 {:.1} ms",
                    connections.label(),
                    number("per_second"),
                    number("p50_ms"),
                    number("p99_ms")
                ));
                samples.entry(connections.key()).or_default().push(sample);
            }
        }
        Ok(samples)
    }

    /// Requests that this mesh must serve, and no other: Docker's balances with IPVS, and counts each connection.
    fn load(&self, requests: usize, connections: Connections, mesh: Mesh) -> Result<Value> {
        let before = vm::ipvs_connections(self.entry)?;
        let sample = ab::load(&self.url(mesh)?, requests, connections, Path::new("/run/mesh-vm-times.csv"))?;
        let by_ipvs = vm::ipvs_connections(self.entry)? - before;
        match (mesh, connections) {
            (Mesh::Ours | Mesh::None, _) => {
                ensure!(by_ipvs == 0, "{by_ipvs} of {requests} connections went by Docker's mesh");
            }
            (Mesh::Dockers, Connections::New) => {
                // A client's port that is used again finds the connection that it had: Docker sets `conn_reuse_mode` to 0.
                ensure!(
                    by_ipvs * 2 > requests as u64,
                    "only {by_ipvs} of {requests} connections went by Docker's mesh"
                );
            }
            (Mesh::Dockers, Connections::Kept) => ensure!(by_ipvs > 0, "none went by Docker's mesh"),
        }
        Ok(sample)
    }

    /// Waits until a row of requests is served by this mesh.
    fn serves(&self, mesh: Mesh) -> Result<()> {
        let what = match mesh {
            Mesh::Dockers => "Docker's own mesh serves",
            Mesh::Ours => "the mesh serves",
            Mesh::None => "nginx itself serves",
        };
        let served =
            wait::for_up_to(Duration::from_secs(10), what, || self.load(PROOF, Connections::New, mesh));
        served.map(drop).with_context(|| match mesh {
            Mesh::Dockers | Mesh::None => String::new(),
            Mesh::Ours => mesh::evidence(self.lab),
        })
    }
}

/// What each repetition came to, by whether connections are new or kept.
type Samples = BTreeMap<&'static str, Vec<Value>>;
