//! The agent puts the XDP program on uplinks, replaces it there, and takes it off again.

use std::ffi::CString;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aya::EbpfLoader;
use aya::programs::XdpMode as Kind;
use mesh_agent::dataplane::attachments::{Attachments, Hooked};
use mesh_agent::dataplane::kernel;
use mesh_agent::dataplane::object::XDP_OBJECT;
use mesh_agent::dataplane::pins::Pins;
use mesh_agent::dataplane::tc::TcMode;
use mesh_agent::dataplane::unread_ports::UnreadPorts;
use mesh_agent::dataplane::xdp::{XdpMode, XdpState};
use mesh_agent::node::{self, Interface, LinkLayer};
use mesh_common::maps::Sizes;

use crate::support::bpffs::BpfFs;
use crate::support::kernel::{Feature, lacks};
use crate::support::namespace::Namespace;
use crate::support::xdp::uplink_xdp;

const SIZES: Sizes = Sizes { flows: 1024, backends: 1024 };

#[test]
fn an_agent_attaches_and_its_successor_replaces_in_place() {
    let node = Node::new();
    let first = node.agent(XdpMode::Native);
    assert_eq!(first.state(), XdpState::Native);
    let (kind, old) = node.attached().expect("it is attached");
    assert_eq!(kind, "xdp");
    drop(first);
    assert_eq!(node.attached(), Some((kind, old)), "it stays when the agent goes");

    let second = node.agent(XdpMode::Native);
    assert_eq!(second.state(), XdpState::Native);
    let (_, new) = node.attached().expect("it is attached");
    assert_ne!(new, old);
    drop(second);
    assert_eq!(node.attached().map(|(_, program)| program), Some(new));
}

#[test]
fn another_way_takes_the_place_of_the_first() {
    let node = Node::new();
    drop(node.agent(XdpMode::Native));
    assert_eq!(node.agent(XdpMode::Generic).state(), XdpState::Generic);
    assert_eq!(node.attached().expect("it is attached").0, "xdpgeneric");
    assert_eq!(node.agent(XdpMode::Native).state(), XdpState::Native);
    assert_eq!(node.attached().expect("it is attached").0, "xdp");
    assert_eq!(node.agent(XdpMode::Off).state(), XdpState::Off);
    node.is_freed();
}

#[test]
fn of_itself_no_agent_puts_it_on_a_veth() {
    let node = Node::new();
    drop(node.agent(XdpMode::Native));
    let agent = node.agent(XdpMode::Auto);
    assert!(matches!(agent.state(), XdpState::TcAlone(why) if why.contains("checksums")));
    node.is_freed();
}

#[test]
fn what_is_no_uplink_any_more_loses_it() {
    let node = Node::new();
    let mut agent = node.agent(XdpMode::Native);
    assert!(node.attached().is_some());
    let errors = agent.0.sync(Hooked::default());
    assert!(errors.is_empty(), "{errors:?}");
    node.is_freed();
    // And one that was replaced in place, too.
    drop(node.agent(XdpMode::Native));
    let mut agent = node.agent(XdpMode::Native);
    let _ = agent.0.sync(Hooked::default());
    node.is_freed();
}

#[test]
fn an_uplink_whose_driver_cannot_or_that_is_taken_has_tc_alone() {
    let node = Node::new();
    let mut others = EbpfLoader::new().load(XDP_OBJECT).expect("the object is accepted");
    let other = uplink_xdp(&mut others);
    other.load().expect("the verifier accepts it");
    let link = other.attach_to_if_index(node.uplink.index, Kind::Driver).expect("veth takes XDP programs");
    let agent = node.agent(XdpMode::Native);
    assert_eq!(agent.state(), XdpState::TcAlone("another XDP program is there".into()));
    drop(agent);
    other.detach(link).expect("it is attached");

    // The kernel's loopback has none; its index is 1 everywhere.
    let lo = Interface { index: 1, name: "lo".into(), mtu: 65_536, ..Interface::default() };
    let agent = node.agent_on(lo, XdpMode::Native);
    assert_eq!(agent.state(), XdpState::TcAlone("its driver has no native XDP".into()));

    node.namespace.ip("link set wire mtu 9000\nlink set uplink mtu 9000\n");
    let wide = Interface { mtu: 9000, ..node.uplink.clone() };
    let agent = node.agent_on(wide, XdpMode::Native);
    assert_eq!(agent.state(), XdpState::TcAlone("its MTU, 9000, is too large for XDP".into()));
}

#[test]
fn an_uplink_takes_frames_once_its_driver_can_send_them() {
    if lacks(Feature::XdpFeatures) {
        return;
    }
    let node = Node::new();
    node.namespace.ip("link add other type veth peer name far\nlink set other up\nlink set far up\n");
    let other = Interface { index: index("other"), name: "other".into(), ..Interface::default() };
    let gone = Interface { index: 999, name: "gone".into(), ..Interface::default() };
    let uplinks = [gone, node.uplink.clone(), other.clone()];
    let takers = |uplinks: &[Interface]| node::frame_takers(uplinks).expect("the kernel answers");
    assert_eq!(takers(&uplinks), [0; 3]);
    // A veth takes them when there is a program at its far end.
    let wire = Interface { index: index("wire"), name: "wire".into(), ..node.uplink.clone() };
    let _agent = node.agent_on(wire, XdpMode::Native);
    assert_eq!(takers(&uplinks), [node.uplink.index, 0, 0]);
    assert_eq!(takers(&uplinks[1..2]), [0; 3], "there is none to send from");
    let plain = Interface { link_layer: LinkLayer::None, ..node.uplink.clone() };
    assert_eq!(takers(&[plain, other]), [0; 3], "it takes no frames");
}

fn index(name: &str) -> u32 {
    let name = CString::new(name).expect("a name");
    // SAFETY: the name ends with a zero byte.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// A node with an uplink.
struct Node {
    uplink: Interface,
    pins: Pins,
    namespace: Namespace,
    _bpffs: BpfFs,
}

struct Agent(Attachments);

impl Node {
    fn new() -> Self {
        let namespace = Namespace::new();
        namespace.ip("link add uplink type veth peer name wire\nlink set uplink up\nlink set wire up\n");
        let kind = Some("veth".to_owned());
        let uplink = Interface {
            index: index("uplink"),
            name: "uplink".into(),
            mtu: 1500,
            kind,
            ..Interface::default()
        };
        let bpffs = BpfFs::new();
        Self { uplink, pins: Pins::under(&bpffs.path("")), namespace, _bpffs: bpffs }
    }

    fn agent(&self, mode: XdpMode) -> Agent {
        self.agent_on(self.uplink.clone(), mode)
    }

    fn agent_on(&self, uplink: Interface, mode: XdpMode) -> Agent {
        let (_, ebpf, _) = kernel::load(&self.pins, SIZES).expect("an agent starts");
        let unread = Arc::new(UnreadPorts::open(&self.pins).expect("the table is pinned"));
        let attachments = Attachments::new(ebpf, self.pins.clone(), TcMode::Auto, unread);
        let mut attachments = attachments.with_xdp(mode, SIZES);
        let errors = attachments.sync(Hooked { uplinks: &[uplink], ..Hooked::default() });
        assert!(errors.is_empty(), "{errors:?}");
        Agent(attachments)
    }

    /// The uplink has no XDP program any more: the kernel takes it off a moment after its link has gone.
    #[track_caller]
    fn is_freed(&self) {
        // Only so that one that stays fails the test.
        for _ in 0..1000 {
            if self.attached().is_none() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the program stays");
    }

    /// How the uplink's XDP program is attached, as `ip` says it, and its id.
    fn attached(&self) -> Option<(&'static str, u32)> {
        let text = self.namespace.ask(&["link", "show", "dev", "uplink"]);
        let kind =
            ["xdp", "xdpgeneric"].into_iter().find(|kind| text.split(' ').any(|word| word == *kind))?;
        let id = text.split("prog/xdp id ").nth(1)?.split(' ').next()?;
        Some((kind, id.parse().expect("a number")))
    }
}

impl Agent {
    fn state(&self) -> XdpState {
        self.0.interfaces().values().next().expect("the uplink has programs").xdp.clone()
    }
}
