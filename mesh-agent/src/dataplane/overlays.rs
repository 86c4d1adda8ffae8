//! Programs on the bridge ports inside Docker's overlay namespaces, where tasks call virtual addresses.
//!
//! Each overlay has a thread of its own that lives in its namespace: it follows the bridge's ports, and attaches the programs to
//! a port the moment it appears, before the container behind it runs. The port that faces Docker's own load balancer is left
//! alone, so that what we miss is still served by it.
//!
//! The kernel takes two seconds to check the programs, so all overlays share them. What network a port is on they are told by a
//! small one ahead of them, which is loaded for each network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use futures::StreamExt;
use mesh_common::overlay::NetworkTag;
use mesh_common::unread::UnreadPort;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::object::{self, NETWORK_OBJECT, program};
use super::pins::{self, Pins};
use super::tc::{self, Place, TcMode};
use super::unread_ports::UnreadPorts;
use crate::node::namespaces::{self, Identity};
use crate::node::{self, Interface, NodeView};

/// How long until a namespace that could not be followed is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Should a message be lost, this is how long it goes unnoticed.
const FULL_ROUND: Duration = Duration::from_secs(5);

/// An overlay that is on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    pub name: String,
    /// Its VXLAN network identifier.
    pub vni: u32,
    pub namespace: PathBuf,
    /// Which namespace that is: an overlay that comes back has another.
    pub identity: Identity,
    /// The namespace of Docker's load balancer on it.
    pub balancer: PathBuf,
}

/// What is attached on an overlay, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayState {
    /// Whether its ports have been looked at.
    pub is_followed: bool,
    /// Names of the bridge's ports with our programs.
    pub ports: BTreeSet<String>,
    /// Why it cannot be followed at present.
    pub error: Option<String>,
}

/// The overlays that have our programs.
pub struct Overlays {
    common: Common,
    workers: BTreeMap<String, Worker>,
}

/// What all of them have in common.
#[derive(Clone)]
struct Common {
    pins: Pins,
    mode: TcMode,
    unread: Arc<UnreadPorts>,
    /// The kernel gets them when there is the first port for them.
    programs: Arc<Mutex<Option<Ebpf>>>,
}

struct Worker {
    overlay: Overlay,
    state: Arc<Mutex<OverlayState>>,
    /// Dropping it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Overlays {
    pub fn new(pins: Pins, mode: TcMode, unread: Arc<UnreadPorts>) -> Self {
        let common = Common { pins, mode, unread, programs: Arc::default() };
        Self { common, workers: BTreeMap::new() }
    }

    /// Follows the overlays in `wanted`, by network id, and no others.
    pub fn sync(&mut self, wanted: &BTreeMap<String, Overlay>) {
        self.workers.retain(|id, worker| wanted.get(id) == Some(&worker.overlay));
        for (id, overlay) in wanted {
            if self.workers.contains_key(id) {
                continue;
            }
            match start(overlay.clone(), self.common.clone()) {
                Ok(worker) => {
                    self.workers.insert(id.clone(), worker);
                }
                Err(error) => warn!(network = overlay.name, "cannot be followed: {error:#}"),
            }
        }
    }

    /// By network id.
    pub fn states(&self) -> BTreeMap<String, OverlayState> {
        let state = |worker: &Worker| worker.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.workers.iter().map(|(id, worker)| (id.clone(), state(worker))).collect()
    }
}

fn start(overlay: Overlay, common: Common) -> Result<Worker> {
    let (stop, stopped) = oneshot::channel();
    let state = Arc::<Mutex<OverlayState>>::default();
    let shared = state.clone();
    let follower = overlay.clone();
    thread::Builder::new()
        .name(format!("overlay-{}", overlay.vni))
        .spawn(move || live(&follower, &common, &shared, stopped))
        .context("start a thread")?;
    Ok(Worker { overlay, state, _stop: stop })
}

/// The thread of an overlay.
fn live(overlay: &Overlay, common: &Common, state: &Mutex<OverlayState>, mut stopped: oneshot::Receiver<()>) {
    loop {
        let error = match follow(overlay, common, state, &mut stopped) {
            Ok(()) => {
                debug!(network = overlay.name, "the overlay is not on this node any more");
                return;
            }
            Err(error) => format!("{error:#}"),
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.error.as_ref() != Some(&error) {
            // A namespace's file is there a moment before the namespace is mounted on it.
            debug!(network = overlay.name, "cannot be followed, trying again: {error}");
        }
        state.error = Some(error);
        drop(state);
        thread::sleep(RETRY);
        if !matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            return;
        }
    }
}

/// Returns when the overlay is to be followed no more.
fn follow(
    overlay: &Overlay,
    common: &Common,
    state: &Mutex<OverlayState>,
    stopped: &mut oneshot::Receiver<()>,
) -> Result<()> {
    namespaces::enter(&overlay.namespace)?;
    let mut ports = Ports::new(overlay, common.clone())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(async {
        let (mut connection, handle, mut messages) = new_multicast_connection(&[MulticastGroup::Link])
            .context("open a netlink socket in the namespace")?;
        node::enlarge(&mut connection);
        tokio::spawn(connection);
        loop {
            let names = ports.sync(&handle).await?;
            {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                *state = OverlayState { is_followed: true, ports: names, error: None };
            }
            tokio::select! {
                _ = &mut *stopped => return Ok(()),
                message = timeout(FULL_ROUND, messages.next()) => if let Ok(None) = message {
                    bail!("the netlink socket was closed");
                },
            }
        }
    })
}

/// The ports of one overlay. Lives in its namespace.
struct Ports {
    common: Common,
    tag: Option<Tag>,
    name: String,
    vni: u32,
    /// Where Docker's load balancer is, and what is known of it.
    balancer_namespace: PathBuf,
    balancer: NodeView,
    attached: BTreeMap<u32, String>,
}

/// The programs that say what network it is, as they were loaded.
struct Tag {
    programs: Ebpf,
    content: NetworkTag,
}

impl Ports {
    fn new(overlay: &Overlay, common: Common) -> Result<Self> {
        let folder = common.pins.overlay(overlay.vni);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self {
            common,
            tag: None,
            name: overlay.name.clone(),
            vni: overlay.vni,
            balancer_namespace: overlay.balancer.clone(),
            balancer: NodeView::default(),
            attached: BTreeMap::new(),
        })
    }

    /// Attaches to new ports and forgets gone ones. Returns the names of those that have our programs.
    async fn sync(&mut self, handle: &Handle) -> Result<BTreeSet<String>> {
        let links = node::links(handle).await?;
        let Some(bridge) = links.iter().find(|link| link.name == "br0").map(|link| link.index) else {
            return Ok(BTreeSet::new());
        };
        if !self.common.pins.overlays().is_dir() {
            // As in `Attachments::sync`.
            return Ok(BTreeSet::new());
        }
        let ports: Vec<&Interface> = links
            .iter()
            .filter(|link| link.bridge == Some(bridge) && link.name.starts_with("veth"))
            .collect();
        if !ports.iter().any(|port| self.faces_balancer(port)) {
            // Docker makes its load balancer at about the same time as the first port.
            self.balancer =
                namespaces::visit(&self.balancer_namespace).map(|seen| seen.view).unwrap_or_default();
        }
        let balancer = ports.iter().find_map(|port| self.balancer_behind(port));
        let reloaded = self.load_tag(balancer)?;
        let wanted: BTreeMap<u32, String> = ports
            .iter()
            .filter(|port| !self.faces_balancer(port))
            .map(|port| (port.index, port.name.clone()))
            .collect();
        for (index, port) in &wanted {
            // Ports that have the programs already are told of the load balancer's address.
            if reloaded || !self.attached.contains_key(index) {
                self.attach(*index, port).with_context(|| format!("attach to {port}"))?;
                debug!(network = self.name, port, "attached");
            }
        }
        for index in self.attached.keys().filter(|index| !wanted.contains_key(index)) {
            for name in program::OVERLAY.into_iter().chain(program::NETWORK) {
                pins::unpin(&self.common.pins.overlay_link(self.vni, name, *index))?;
            }
            if let Some(port) = links.iter().find(|link| link.index == *index) {
                tc::detach_clsact(&port.name);
            }
            // There is one only where the port had a qdisc of ours, which has gone with it.
            let _ = fs::remove_dir(marker(&self.common.pins, self.vni, *index));
        }
        if self.attached.is_empty() && !wanted.is_empty() {
            info!(network = self.name, "virtual addresses are served");
        }
        self.attached = wanted;
        Ok(self.attached.values().cloned().collect())
    }

    /// Loads the tag if there is none yet, or none that knows the load balancer's address. Returns whether it did.
    fn load_tag(&mut self, balancer: Option<[u8; 6]>) -> Result<bool> {
        let known = self.tag.as_ref().map(|tag| tag.content);
        let balancer = balancer.or(known.map(|known| known.balancer)).unwrap_or_default();
        let content = NetworkTag { network: self.vni, balancer };
        if known == Some(content) {
            return Ok(false);
        }
        self.tag = Some(Tag { programs: load_tag(content)?, content });
        Ok(true)
    }

    /// Whether the other end of a port is in the load balancer's namespace. Indexes are unique in one namespace only, so
    /// both ends must name each other.
    fn faces_balancer(&self, port: &Interface) -> bool {
        self.balancer_behind(port).is_some()
    }

    /// The load balancer's hardware address, if it is behind this port.
    fn balancer_behind(&self, port: &Interface) -> Option<[u8; 6]> {
        let mut others = self.balancer.interfaces.values();
        let other = others.find(|other| port.peer == Some(other.index) && other.peer == Some(port.index))?;
        Some(other.mac)
    }

    fn attach(&mut self, index: u32, port: &str) -> Result<()> {
        let tag = &mut self.tag.as_mut().context("no programs are loaded")?.programs;
        let Common { pins, mode, unread, programs } = &self.common;
        let mut programs = programs.lock().unwrap_or_else(PoisonError::into_inner);
        let programs = match &mut *programs {
            Some(programs) => programs,
            none => none.insert(
                object::load_beside(pins, &program::OVERLAY).context("load the programs for overlays")?,
            ),
        };
        let marker = marker(pins, self.vni, index);
        let place = |name, ahead: Option<&str>| Place {
            interface: port,
            link: pins.overlay_link(self.vni, name, index),
            behind: ahead.map(|ahead| pins.overlay_link(self.vni, ahead, index)),
            marker: marker.clone(),
            pins,
        };
        let is_new = !program::OVERLAY.iter().any(|name| place(name, None).is_taken());
        if is_new {
            unread.add(UnreadPort { network: self.vni, interface: index })?;
        }
        for (ahead, name) in program::NETWORK.into_iter().zip(program::OVERLAY) {
            tc::attach(program(tag, ahead)?, ahead, &place(ahead, None), *mode)?;
            tc::attach(program(programs, name)?, name, &place(name, Some(ahead)), *mode)?;
        }
        if is_new {
            unread.attached();
        }
        Ok(())
    }
}

/// There while a port has a clsact qdisc of ours.
fn marker(pins: &Pins, vni: u32, port: u32) -> PathBuf {
    pins.overlay(vni).join(format!("qdisc-{port}"))
}

/// Loads the programs that say what network it is.
fn load_tag(content: NetworkTag) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    let words = content.words();
    loader.override_global("TAG", &words, true);
    let mut ebpf = loader.load(NETWORK_OBJECT).context("load the programs for the overlay")?;
    object::load(&mut ebpf, &program::NETWORK)?;
    Ok(ebpf)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).context("no such program")?.try_into()?)
}
