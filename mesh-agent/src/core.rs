//! The heart of the agent: whenever something it follows has changed, it computes what must be true and makes it so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_common::frontend::flags;
use mesh_common::settings::FRAME_TAKERS;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, warn};

use crate::args::{RunArguments, Serve, Switch};
use crate::cgroup;
use crate::dataplane::DataplaneError;
use crate::dataplane::answers::Answers;
use crate::dataplane::attachments::Attachments;
use crate::dataplane::kernel::{self, Kernel};
use crate::dataplane::migration::{self, Migration};
use crate::dataplane::overlays::{Overlay, Overlays};
use crate::dataplane::pins::Pins;
use crate::dataplane::unread_ports::UnreadPorts;
use crate::dataplane::xdp::XdpMode;
use crate::desired::drains::Drains;
use crate::desired::names::{Names, Sandbox, Seat};
use crate::desired::{self, Desired, Follower, FrontendId, Serving, Surroundings, protocol_number};
use crate::dns::check::{self, Question};
use crate::dns::inside;
use crate::firewall::{self, Firewall, Observed, PublishedPort, Scene};
use crate::handover::{Balancers, Handover};
use crate::health::{self, Vitals};
use crate::node::namespaces::{self, Namespaces};
use crate::node::sandboxes::{self, Sandboxes};
use crate::node::{self, Interface, NodeView, Told};
use crate::reach::{self, Heard, Pulses, Wanted, Way};
use crate::reconcile::plan::NodeFacts;
use crate::reconcile::reconciler::Reconciler;
use crate::reconcile::tables::Tables;
use crate::shared_map::SharedMap;
use crate::status::collect::Inquiry;
use crate::status::published::Published;
use crate::swarm::snapshot::{LocalView, PublishMode, Service, Snapshot};

/// How long packets that have looked at a table may still be on their way: far longer than any takes.
const PACKETS_PASS: Duration = Duration::from_millis(20);
/// How often the kernel's tables are compared with what was written.
const FULL_ROUND: Duration = Duration::from_secs(30);
/// How long after the first good round it is still waited for overlays that have no programs yet: a thread in each of their
/// namespaces attaches them.
const SETTLED_AT_LAST: Duration = Duration::from_secs(30);
/// How often flows are taken over in the meantime.
const MIGRATION_TURN: Duration = Duration::from_millis(50);
/// How long after a change that failed it is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What the tables are made from.
pub struct Inputs {
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub local: watch::Receiver<Option<Arc<LocalView>>>,
    pub node: watch::Receiver<Option<Arc<NodeView>>>,
    pub namespaces: watch::Receiver<Arc<Namespaces>>,
    pub pulses: watch::Receiver<Arc<Pulses>>,
    pub heard: watch::Receiver<Arc<Heard>>,
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
    attachments: Attachments,
    overlays: Overlays,
    unread: Arc<UnreadPorts>,
    sandboxes: Sandboxes,
    reconciler: Reconciler<Kernel>,
    outputs: Outputs,
    answers: Arc<Answers>,
    /// Whether the answers that the kernel gives by itself are of names that have changed.
    outdated: bool,
    follower: Follower,
    /// What the tables were last made from.
    last: Option<Last>,
    /// Tables of another shape that are still to be given up.
    migration: Option<Migration>,
    /// When their flows are to be looked at again.
    migrated: Option<Instant>,
    /// When the programs that may use them are surely gone.
    migration_ends: Option<Instant>,
    drains: Drains,
    /// When the next draining task will have had its time.
    drain_over: Option<Instant>,
    firewall: Firewall,
    /// A sign that rules were passed by as the operator wanted; it goes when he does not any more.
    bypass: Option<PathBuf>,
    published: PublishedPorts,
    handover: Handover,
    balancers: Balancers,
    /// What is wrong with the node, as it was last told.
    warnings: Vec<String>,
    pins: Pins,
    /// Whether the programs know that they are alone.
    has_all_hooks: bool,
}

impl Core {
    /// Loads the programs, takes over what is pinned, and attaches to the node's own sockets.
    pub fn start(arguments: &RunArguments, pins: &Pins, outputs: Outputs) -> Result<Self> {
        let netns_cookie = node::netns_cookie()
            .context("ask the kernel for this network namespace's cookie (Linux 5.14)")?;
        let (kernel, ebpf, migration) = kernel::load(pins, arguments.sizes())?;
        let reconciler = Reconciler::new(kernel, arguments.backends)?;
        let (firewall, bypass) = begin_firewall(arguments, pins, reconciler.tables());
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
            attachments,
            reconciler,
            outputs,
            answers: Arc::new(Answers::open(pins)?),
            outdated: false,
            follower: Follower::default(),
            last: None,
            migration: Some(migration).filter(Migration::is_pending),
            migrated: None,
            migration_ends: None,
            drains: Drains::default(),
            drain_over: None,
            firewall,
            bypass,
            published: PublishedPorts::default(),
            handover: Handover::default(),
            balancers: Balancers::new(),
            warnings: Vec::new(),
            pins: pins.clone(),
            has_all_hooks: false,
        })
    }

    /// What the kernel answers by itself.
    pub fn answers(&self) -> Arc<Answers> {
        self.answers.clone()
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
            let look_again = self.handover.due();
            tokio::select! {
                _ = pulse.tick() => continue,
                Some(inquiry) = inputs.inquiries.recv() => {
                    self.answer(inquiry);
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
                    self.handover.begin(&self.reconciler, &self.unread, &self.balancers);
                    continue;
                }
                () = self.unread.wait() => {
                    self.handover.begin(&self.reconciler, &self.unread, &self.balancers);
                    continue;
                }
                () = until(look_again), if look_again.is_some() => {
                    self.handover.begin(&self.reconciler, &self.unread, &self.balancers);
                    continue;
                }
                changed = inputs.pulses.changed() => changed.context("the probing of other nodes ended")?,
                changed = inputs.heard.changed() => changed.context("the probing of other nodes ended")?,
                _ = full_round.tick() => self.reconciler.refresh(),
                () = until(self.drain_over), if self.drain_over.is_some() => {}
                () = until(self.migrated), if self.migrated.is_some() => {
                    self.go_on_migrating();
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
        if self.last.is_some()
            && let Err(error) = self.reconciler.add_addresses(&node::addresses(&node))
        {
            // The rest of the round tries it again.
            warn!("new addresses of this node are served later: {error:#}");
        }
        let (uplinks, missing) = node::uplinks(&node, &self.arguments.uplinks(), &self.arguments.bridge);
        let bridge = node.by_name(&self.arguments.bridge);
        let mut warnings: Vec<String> =
            missing.iter().map(|name| format!("there is no interface {name} to be an uplink")).collect();
        if uplinks.is_empty() {
            warnings.push(
                "no interface is an uplink: clients do not reach this node; name one with --uplink".into(),
            );
        }
        warnings.extend(desired::node_warnings(&snapshot));
        let mut flows = self.migration.as_mut().filter(|_| self.migrated.is_none());
        if let Some(migration) = &mut flows {
            migration.prepare();
        }
        let ports = node::ports(&node, bridge);
        let errors = self.attachments.sync(&uplinks, bridge, &ports);
        if let Some(migration) = flows {
            migration.copy_flows();
        }
        warnings.extend(errors.iter().map(|error| format!("{error:#}")));

        let published = self.published.of(&snapshot);
        let scene = scene(published, &node, &uplinks, &self.arguments.bridge);
        let serving = self.serving(&snapshot, &rules, scene, &mut warnings);

        let overlays = self.overlays_here(&snapshot, &inputs.namespaces.borrow());
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
        let names = self.names(names, bridge);
        let mut failed = !errors.is_empty() || self.outdated;
        if let Some(address) = local.node.address {
            let told = Told {
                address,
                netns_cookie: self.netns_cookie,
                tunnel_port: self.arguments.tunnel_port,
                vni: self.arguments.tunnel_vni,
                resolver_port: (self.arguments.dns == Switch::On).then_some(self.arguments.dns_port),
                frame_takers: self.frame_takers(&uplinks, &mut warnings),
            };
            let wanted = answered(&names, &inputs.inside.borrow());
            let askers =
                self.sandboxes.find(&self.arguments.docker_run, &inputs.namespaces.borrow(), &wanted);
            let heard = inputs.heard.borrow().clone();
            let facts = node::facts(&node, &uplinks, bridge, told, &desired.peers, &heard, askers.cookies);
            failed |= !askers.complete;
            let before = self.last.as_ref().map(|last| &last.desired);
            self.handover.prepare(&mut self.reconciler, &desired, before, &self.balancers).await;
            let rest = self.reconciler.begin(&desired, &facts);
            self.ask_for_signs_of_life(address, &desired);
            self.publish(&snapshot, &local, &desired, &warnings, &inputs.pulses.borrow());
            if !rest.is_empty() {
                sleep(PACKETS_PASS).await;
                self.reconciler.finish(&rest);
            }
            self.handover.begin(&self.reconciler, &self.unread, &self.balancers);
            if let Some(sign) = self.bypass.take() {
                // Others may have been faster.
                let _ = fs::remove_dir(sign);
            }
            failed |= !self.reconciler.problems().is_empty();
            if !failed && self.migration.is_some() && self.migrated.is_none() {
                self.migrated = Some(Instant::now() + MIGRATION_TURN);
                self.migration_ends = Some(Instant::now() + SETTLED_AT_LAST);
            }
            if !failed {
                self.claim_hooks();
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

    /// What this node's mesh is to serve, and what is to be said about it.
    fn serving(
        &mut self,
        snapshot: &Snapshot,
        rules: &Arc<Observed>,
        scene: Scene,
        warnings: &mut Vec<String>,
    ) -> Serving {
        let is_encrypted = snapshot.networks.values().any(|network| network.ingress && network.encrypted);
        let leaves_encrypted = is_encrypted && self.arguments.tunnel_plaintext == Switch::Off;
        if leaves_encrypted {
            warnings.push(
                "the ingress network is encrypted and the mesh's tunnel is not: published ports stay Docker's; \
                 --tunnel-plaintext=on serves them all the same"
                    .into(),
            );
        }
        let filtered = self.firewall.round(rules, scene);
        warnings.extend(self.firewall.warnings());
        Serving {
            leaves_published: self.arguments.published == Switch::Off,
            labelled_only: self.arguments.serve == Serve::Labelled,
            leaves_encrypted,
            filtered,
        }
    }

    /// Follows the flows that come in while programs are replaced, until they surely are.
    fn go_on_migrating(&mut self) {
        let now = Instant::now();
        let settled = self.overlays.states().values().all(|overlay| overlay.is_followed);
        if !settled && self.migration_ends.is_some_and(|end| now < end) {
            self.migration.iter_mut().for_each(Migration::copy_flows);
            self.migrated = Some(now + MIGRATION_TURN);
        } else {
            self.migrated = None;
            self.migration.take().into_iter().for_each(Migration::finish);
            self.claim_hooks();
        }
    }

    /// Once programs of this version are on all hooks, they may stop what none of them has sent.
    fn claim_hooks(&mut self) {
        if self.has_all_hooks || self.migration.is_some() {
            return;
        }
        match migration::claim_hooks(&self.pins) {
            Ok(()) => self.has_all_hooks = true,
            Err(error) => debug!("{error:#}"),
        }
    }

    /// Without a complete view there is no answer, and the asker is told so.
    fn answer(&self, inquiry: Inquiry) {
        let Some(last) = &self.last else { return };
        let mut differences = match self.reconciler.differences(&last.desired, &last.facts) {
            Ok(differences) => differences,
            Err(error) => vec![format!("{error:#}")],
        };
        let questions = if self.arguments.dns == Switch::On { self.questions(last) } else { Vec::new() };
        thread::spawn(move || {
            differences.extend(check::differences(&questions));
            // Whoever asked may have gone.
            let _ = inquiry.send(differences);
        });
    }

    /// For one container on each network: every service that has a virtual address there, by name.
    fn questions(&self, last: &Last) -> Vec<Question> {
        let mut questions = Vec::new();
        for network in last.snapshot.networks.values().filter(|network| !network.ingress) {
            let mut containers = last.local.containers.values();
            let asker = containers.find(|container| container.addresses.contains_key(&network.id));
            let Some(asker) = asker else { continue };
            let details = asker.details.as_ref();
            let Some(sandbox) = details.and_then(|details| Sandbox::of(Path::new(&details.sandbox))) else {
                continue;
            };
            for service in last.snapshot.services.values() {
                let here =
                    service.virtual_ips.iter().filter(|vip| asker.addresses.contains_key(&vip.network_id));
                let expected: BTreeSet<_> = here.map(|vip| vip.address).collect();
                if service.virtual_ips.iter().any(|vip| vip.network_id == network.id) {
                    questions.push(Question {
                        namespace: namespaces::of_sandbox(&self.arguments.docker_run, &sandbox.to_string()),
                        asker: asker.name.clone(),
                        name: service.name.clone(),
                        expected,
                    });
                }
            }
        }
        questions
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

    /// Tells the resolver what it may answer, and where it is to listen. With `--dns=off` that is nothing, nowhere.
    fn names(&mut self, names: Names, bridge: Option<&Interface>) -> Arc<Names> {
        if self.arguments.dns == Switch::Off {
            return Arc::default();
        }
        let names = Arc::new(names);
        self.outdated |= self.outputs.names.send_if_modified(|known| {
            let differs = *known != names;
            if differs {
                *known = names.clone();
            }
            differs
        });
        if self.outdated {
            match self.answers.renew() {
                Ok(()) => self.outdated = false,
                Err(error) => warn!("containers may get outdated answers about names: {error:#}"),
            }
        }
        let address =
            node::resolver_address(bridge).map(|address| SocketAddrV4::new(address, self.arguments.dns_port));
        self.outputs.resolver.send_if_modified(|known| {
            let differs = *known != address;
            *known = address;
            differs
        });
        names
    }

    /// The overlays whose namespaces are on this node, by network id.
    fn overlays_here(&self, snapshot: &Snapshot, namespaces: &Namespaces) -> BTreeMap<String, Overlay> {
        let docker_run = &self.arguments.docker_run;
        if self.arguments.vip == Switch::Off {
            return BTreeMap::new();
        }
        let mut overlays = BTreeMap::new();
        for network in snapshot.networks.values().filter(|network| !network.ingress && network.vni != 0) {
            let Some(identity) = namespaces::overlay_identity(namespaces, &network.id) else { continue };
            let overlay = Overlay {
                name: network.name.clone(),
                vni: network.vni,
                identity,
                namespace: namespaces::of_overlay(docker_run, &network.id),
                balancer: namespaces::of_balancer(docker_run, &network.id),
            };
            overlays.insert(network.id.clone(), overlay);
        }
        overlays
    }

    fn ask_for_signs_of_life(&self, from: Ipv4Addr, desired: &Desired) {
        let way = Way { from, tunnel_port: self.arguments.tunnel_port, vni: self.arguments.tunnel_vni };
        let wanted = Some(Wanted { way, nodes: desired.peers.clone() });
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

/// What there is of operators' filters to go on with. A sign is left where they are passed by on purpose.
fn begin_firewall(arguments: &RunArguments, pins: &Pins, tables: &Tables) -> (Firewall, Option<PathBuf>) {
    let serves = tables.frontends.iter().any(|(id, frontend)| {
        matches!(id, FrontendId::Published { .. }) && frontend.flags & flags::LEFT == 0
    });
    let sign = pins.bypass();
    let was_bypass = sign.is_dir();
    if arguments.firewall == firewall::Mode::Bypass {
        // Without it an agent that is told otherwise goes on serving, as one does that is exchanged.
        let _ = fs::create_dir(&sign);
        return (Firewall::new(arguments.firewall, serves), None);
    }
    (Firewall::new(arguments.firewall, serves && !was_bypass), was_bypass.then_some(sign))
}

/// What the rules of this node are judged for.
fn scene(
    published: Arc<BTreeSet<PublishedPort>>,
    node: &NodeView,
    uplinks: &[Interface],
    bridge: &str,
) -> Scene {
    let interfaces = node.interfaces.values().filter(|interface| !interface.is_loopback);
    Scene {
        uplinks: uplinks.iter().map(|uplink| (uplink.name.clone(), uplink.index)).collect(),
        bridge: bridge.to_owned(),
        bridge_subnet: firewall::subnet_of(bridge),
        addresses: interfaces.flat_map(|interface| interface.addresses.iter().copied()).collect(),
        published,
    }
}

/// The ports that the Swarm publishes on every node, gathered anew when a service has changed.
#[derive(Default)]
struct PublishedPorts {
    services: SharedMap<String, Service>,
    ports: Arc<BTreeSet<PublishedPort>>,
}

impl PublishedPorts {
    fn of(&mut self, snapshot: &Snapshot) -> Arc<BTreeSet<PublishedPort>> {
        if !snapshot.services.differences(&self.services).is_empty() {
            self.services = snapshot.services.clone();
            let ports = self.services.values().flat_map(|service| &service.ports);
            let ports = ports.filter(|port| port.mode == PublishMode::Ingress);
            let ports = ports.map(|port| (protocol_number(port.protocol), port.published)).collect();
            if *self.ports != ports {
                self.ports = Arc::new(ports);
            }
        }
        self.ports.clone()
    }
}

/// Whose questions the hooks may send to the resolver: inside of containers not before somebody listens there.
fn answered(names: &Names, inside: &inside::Open) -> sandboxes::Wanted {
    let mut wanted = sandboxes::Wanted::default();
    for seat in names.askers().keys() {
        match seat {
            Seat::Bridge(address) => drop(wanted.addresses.insert(*address)),
            Seat::Sandbox(sandbox) if inside.contains(sandbox) => {
                wanted.sandboxes.insert(*sandbox);
            }
            Seat::Sandbox(_) => {}
        }
    }
    wanted
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
