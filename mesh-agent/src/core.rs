//! The heart of the agent: whenever something it follows has changed, it computes what must be true and makes it so.

mod inquiry;
mod naming;
mod overlays;
mod served;
mod succession;
mod uplinks;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_common::settings::FRAME_TAKERS;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::warn;

use naming::Naming;
use served::Served;
use succession::Succession;
use uplinks::UplinkChoice;

use crate::args::{RunArguments, Switch};
use crate::cgroup;
use crate::dataplane::DataplaneError;
use crate::dataplane::answers::Answers;
use crate::dataplane::attachments::{Attachments, Hooked};
use crate::dataplane::kernel::{self, Kernel};
use crate::dataplane::overlays::Overlays;
use crate::dataplane::pins::Pins;
use crate::dataplane::unread_ports::UnreadPorts;
use crate::dataplane::xdp::XdpMode;
use crate::desired::drains::Drains;
use crate::desired::names::Names;
use crate::desired::{self, Desired, Follower, Surroundings};
use crate::dns::inside;
use crate::firewall::Observed;
use crate::handover::{Balancers, Handover};
use crate::health::{self, Vitals};
use crate::node::namespaces::Namespaces;
use crate::node::sandboxes::Sandboxes;
use crate::node::{self, Interface, NodeView, Told};
use crate::reach::{self, Paths, Pulses, Wanted, Way};
use crate::reconcile::plan::NodeFacts;
use crate::reconcile::reconciler::Reconciler;
use crate::status::collect::Inquiry;
use crate::status::published::Published;
use crate::swarm::snapshot::{LocalView, Snapshot};

/// How long packets that have looked at a table may still be on their way: far longer than any takes.
const PACKETS_PASS: Duration = Duration::from_millis(20);
/// How often the kernel's tables are compared with what was written.
const FULL_ROUND: Duration = Duration::from_secs(30);
/// How long after a change that failed it is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What the tables are made from.
pub struct Inputs {
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub local: watch::Receiver<Option<Arc<LocalView>>>,
    pub node: watch::Receiver<Option<Arc<NodeView>>>,
    pub namespaces: watch::Receiver<Arc<Namespaces>>,
    pub pulses: watch::Receiver<Arc<Pulses>>,
    pub paths: watch::Receiver<Arc<Paths>>,
    pub inside: watch::Receiver<inside::Open>,
    /// This node's packet filters.
    pub rules: watch::Receiver<Option<Arc<Observed>>>,
    pub inquiries: mpsc::Receiver<Inquiry>,
}

/// What others read of the core's work.
#[derive(Clone)]
pub struct Outputs {
    pub published: Arc<Mutex<Arc<Published>>>,
    /// What containers here may ask for.
    pub names: watch::Sender<Arc<Names>>,
    /// Where the resolver is to listen; `None` while there is no bridge.
    pub resolver: watch::Sender<Option<SocketAddrV4>>,
    /// Which nodes are to be asked for signs of life.
    pub wanted: watch::Sender<Option<Wanted>>,
    /// How this loop is.
    pub vitals: watch::Sender<Vitals>,
}

/// What the tables were last made from.
struct Last {
    snapshot: Arc<Snapshot>,
    local: Arc<LocalView>,
    desired: Desired,
    facts: NodeFacts,
}

/// The agent's one writer of the kernel's tables.
pub struct Core {
    arguments: RunArguments,
    netns_cookie: u64,
    uplinks: UplinkChoice,
    attachments: Attachments,
    overlays: Overlays,
    unread: Arc<UnreadPorts>,
    sandboxes: Sandboxes,
    reconciler: Reconciler<Kernel>,
    outputs: Outputs,
    naming: Naming,
    follower: Follower,
    /// What the tables were last made from.
    last: Option<Last>,
    succession: Succession,
    drains: Drains,
    /// When the next draining task will have had its time.
    drain_over: Option<Instant>,
    served: Served,
    handover: Handover,
    balancers: Balancers,
    /// What is wrong with the node, as it was last told.
    warnings: Vec<String>,
}

impl Core {
    /// Loads the programs, takes over what is pinned, and attaches to the node's own sockets.
    pub fn start(arguments: &RunArguments, pins: &Pins, outputs: Outputs) -> Result<Self> {
        let netns_cookie = node::netns_cookie()
            .context("ask the kernel for this network namespace's cookie (Linux 5.14)")?;
        let (kernel, ebpf, migration) = kernel::load(pins, arguments.sizes())?;
        let reconciler = Reconciler::new(kernel, arguments.backends)?;
        let naming = Naming::new(arguments, Answers::open(pins)?, &outputs);
        let served = Served::begin(arguments, pins, reconciler.tables());
        let unread = Arc::new(UnreadPorts::open(pins)?);
        let mut attachments = Attachments::new(ebpf, pins.clone(), arguments.tc, unread.clone())
            .with_xdp(arguments.xdp, arguments.sizes());
        let cgroup = match &arguments.cgroup {
            Some(path) => path.clone(),
            None => found_cgroup()?,
        };
        attachments.attach_cgroup(&cgroup)?;
        Ok(Self {
            arguments: arguments.clone(),
            overlays: Overlays::new(pins.clone(), arguments.tc, unread.clone()),
            unread,
            sandboxes: Sandboxes::default(),
            netns_cookie,
            uplinks: UplinkChoice::new(arguments),
            attachments,
            reconciler,
            outputs,
            naming,
            follower: Follower::default(),
            last: None,
            succession: Succession::of(migration, pins.clone()),
            drains: Drains::default(),
            drain_over: None,
            served,
            handover: Handover::default(),
            balancers: Balancers::new(),
            warnings: Vec::new(),
        })
    }

    /// What the kernel answers by itself.
    pub fn answers(&self) -> Arc<Answers> {
        self.naming.answers()
    }

    /// Follows the inputs until a signal ends the agent.
    pub async fn follow(&mut self, mut inputs: Inputs) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut full_round = interval(FULL_ROUND);
        full_round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        full_round.reset();
        let mut pulse = interval(health::PULSE);
        let mut failed = self.round(&inputs).await;
        loop {
            self.outputs.vitals.send_modify(|vitals| vitals.turned(Instant::now()));
            let (look_again, flows_due) = (self.handover.due(), self.succession.due());
            tokio::select! {
                _ = pulse.tick() => continue,
                Some(inquiry) = inputs.inquiries.recv() => {
                    if let Some(last) = &self.last {
                        inquiry::answer(inquiry, last, &self.reconciler, &self.arguments);
                    }
                    continue;
                }
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                changed = inputs.snapshot.changed() => changed.context("the source of the Swarm's state ended")?,
                changed = inputs.local.changed() => changed.context("the source of this node's containers ended")?,
                changed = inputs.node.changed() => changed.context("the source of this node's interfaces ended")?,
                changed = inputs.namespaces.changed() => changed.context("the source of Docker's namespaces ended")?,
                changed = inputs.inside.changed() => changed.context("the resolver ended")?,
                changed = inputs.rules.changed() => changed.context("the source of this node's firewall rules ended")?,
                reading = self.handover.read() => {
                    self.handover.finish(&mut self.reconciler, &self.unread, reading);
                    // What came meanwhile.
                    self.read_dockers_connections();
                    continue;
                }
                () = self.unread.wait() => {
                    self.read_dockers_connections();
                    continue;
                }
                () = until(look_again), if look_again.is_some() => {
                    self.read_dockers_connections();
                    continue;
                }
                changed = inputs.pulses.changed() => changed.context("the probing of other nodes ended")?,
                changed = inputs.paths.changed() => changed.context("the probing of other nodes ended")?,
                _ = full_round.tick() => {
                    self.attachments.look_again();
                    self.reconciler.refresh();
                }
                () = until(self.drain_over), if self.drain_over.is_some() => {}
                () = until(flows_due), if flows_due.is_some() => {
                    let settled = self.overlays.states().values().all(|overlay| overlay.is_followed);
                    self.succession.go_on(settled);
                    continue;
                }
                () = sleep(RETRY), if failed => {}
            }
            failed = self.round(&inputs).await;
        }
    }

    /// Makes the kernel's tables what the inputs say. Without a complete view nothing is changed. Returns whether
    /// something failed.
    async fn round(&mut self, inputs: &Inputs) -> bool {
        let view =
            (inputs.snapshot.borrow().clone(), inputs.local.borrow().clone(), inputs.node.borrow().clone());
        let (Some(snapshot), Some(local), Some(node)) = view else { return false };
        let Some(rules) = inputs.rules.borrow().clone() else { return false };
        let address = local.node.address;
        let mut warnings = Vec::new();
        let uplinks = self.uplinks.round(&node, address.map(IpAddr::from), Instant::now(), &mut warnings);
        let bridge = node.by_name(&self.arguments.bridge);
        warnings.extend(desired::node_warnings(&snapshot));
        self.succession.before_programs();
        let (uplink_ports, ports) = (node::uplink_ports(&node, &uplinks), node::ports(&node, bridge));
        let hooked = Hooked { uplinks: &uplinks, uplink_ports: &uplink_ports, bridge, ports: &ports };
        let errors = self.attachments.sync(hooked);
        self.succession.after_programs();
        warnings.extend(errors.iter().map(|error| format!("{error:#}")));

        let serving = self.served.round(&snapshot, &rules, &node, &uplinks, &mut warnings);

        let overlays = overlays::here(&snapshot, &inputs.namespaces.borrow(), &self.arguments);
        self.balancers = overlays.values().map(|overlay| (overlay.vni, overlay.balancer.clone())).collect();
        self.overlays.sync(&overlays);
        let now = Instant::now();
        let surroundings = Surroundings {
            overlays: overlays.into_keys().collect(),
            reach: reach::reach(&inputs.pulses.borrow()),
            drained: self.drains.over(now),
            ports: node::ports_by_namespace(&ports),
            serving,
        };
        let (desired, names) = self.follower.follow(&snapshot, &local, &surroundings);
        let (desired, names) = (desired.clone(), names.clone());
        self.drain_over = self.drains.note(&desired, &snapshot, now);
        let names = self.naming.round(names, bridge);
        let mut failed = !errors.is_empty() || self.naming.is_outdated();
        if let Some(address) = address {
            let told = Told {
                address,
                netns_cookie: self.netns_cookie,
                tunnel_port: self.arguments.tunnel_port,
                vni: self.arguments.tunnel_vni,
                resolver_port: (self.arguments.dns == Switch::On).then_some(self.arguments.dns_port),
                frame_takers: self.frame_takers(&uplinks, &mut warnings),
                flood: self.arguments.flood(),
                mtu: self.arguments.mtu,
            };
            let wanted = naming::answered(&names, &inputs.inside.borrow());
            let askers =
                self.sandboxes.find(&self.arguments.docker_run, &inputs.namespaces.borrow(), &wanted);
            let paths = inputs.paths.borrow().clone();
            let facts = node::facts(&node, &uplinks, bridge, told, &desired.peers, &paths, askers.cookies);
            failed |= !askers.complete;
            let before = self.last.as_ref().map(|last| &last.desired);
            self.handover.prepare(&mut self.reconciler, &desired, before, &self.balancers).await;
            let rest = self.reconciler.begin(&desired, &facts, now);
            self.ask_for_signs_of_life(address, &facts);
            self.publish(&snapshot, &local, &desired, &warnings, &inputs.pulses.borrow());
            if !rest.is_empty() {
                sleep(PACKETS_PASS).await;
                self.reconciler.finish(&rest);
            }
            self.read_dockers_connections();
            self.served.is_written();
            failed |= !self.reconciler.problems().is_empty();
            if !failed {
                self.succession.is_complete();
            }
            let (snapshot, local) = (snapshot.clone(), local.clone());
            self.last = Some(Last { snapshot, local, desired: desired.clone(), facts });
        } else {
            warnings.push("Docker does not say which address this node has in the Swarm".into());
        }
        self.publish(&snapshot, &local, &desired, &warnings, &inputs.pulses.borrow());
        let made = self.came_to(&uplinks, &errors);
        self.outputs.vitals.send_modify(|vitals| vitals.made(made, now));
        self.tell(warnings);
        failed
    }

    /// Where it is not known which connections Docker's mesh carries, begins to find out.
    fn read_dockers_connections(&mut self) {
        self.handover.begin(&self.reconciler, &self.unread, &self.balancers);
    }

    /// What a round came to, with what could not be attached.
    fn came_to(&self, uplinks: &[Interface], errors: &[DataplaneError]) -> health::Round {
        let attached = self.attachments.interfaces();
        let is_nowhere = !uplinks.iter().any(|uplink| attached.contains_key(&uplink.index));
        health::Round {
            nowhere: errors.first().filter(|_| is_nowhere).map(|error| format!("{error:#}")),
            is_complete: self.last.is_some(),
            unwritten: self.reconciler.problems().node.clone(),
            is_removed: self.attachments.is_removed(),
        }
    }

    /// Uplinks that XDP can send to from other ones.
    fn frame_takers(&self, uplinks: &[Interface], warnings: &mut Vec<String>) -> [u32; FRAME_TAKERS] {
        if self.arguments.xdp == XdpMode::Off {
            return Default::default();
        }
        node::frame_takers(uplinks).unwrap_or_else(|error| {
            warnings.push(format!("not known which uplinks take what XDP sends, TC will do it: {error}"));
            Default::default()
        })
    }

    fn ask_for_signs_of_life(&self, from: Ipv4Addr, facts: &NodeFacts) {
        let way = Way { from, tunnel_port: self.arguments.tunnel_port, vni: self.arguments.tunnel_vni };
        let wanted = Some(Wanted { way, nodes: facts.mtus.clone() });
        self.outputs.wanted.send_if_modified(|known| {
            let differs = *known != wanted;
            *known = wanted;
            differs
        });
    }

    fn publish(
        &self,
        snapshot: &Arc<Snapshot>,
        local: &Arc<LocalView>,
        desired: &Desired,
        warnings: &[String],
        pulses: &Arc<Pulses>,
    ) {
        let attached = self.attachments.interfaces().values().cloned().collect();
        let mut published = Published::new(
            snapshot,
            local,
            desired,
            &self.reconciler,
            attached,
            self.overlays.states(),
            warnings,
        );
        published.pulses = pulses.clone();
        *self.outputs.published.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(published);
    }

    /// Each warning once, when it begins.
    fn tell(&mut self, warnings: Vec<String>) {
        for warning in warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            warn!("{warning}");
        }
        self.warnings = warnings;
    }
}

/// Waits for a moment; forever, if there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

fn found_cgroup() -> Result<PathBuf> {
    cgroup::root().context("read /proc/mounts")?.context(
        "no cgroup2 hierarchy is mounted here: give the agent the host's /sys/fs/cgroup, or name another place with --cgroup",
    )
}
