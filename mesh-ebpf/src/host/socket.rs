//! The node's own processes: their sockets are given a backend when they connect or send, because their packets do not
//! come in by the uplink. Map `SOCKETS`.

use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval, bpf_sk_lookup_tcp, bpf_sk_release,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::backend::{Backend, state};
use mesh_common::frontend::{Frontend, flags};
use mesh_common::maps;
use mesh_common::net::{Address, Port, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::settings::UDP_IDLE_NANOSECONDS;
use mesh_common::socket::{SocketFlow, SocketKey};

use crate::clock;
use crate::entry::selection;
use crate::host::guard;
use crate::tables::{counters, frontends, node};

#[map]
static SOCKETS: LruHashMap<SocketKey, SocketFlow> = LruHashMap::with_max_entries(maps::SOCKETS, 0);

/// The call goes on.
pub const ALLOW: i32 = 1;

/// The call fails with the error that was set.
const REFUSE: i32 = 0;

/// The call fails: it is not permitted (EPERM), which is the error if none was set.
const STOP: i32 = 0;

const ECONNREFUSED: i32 = 111;

/// `::ffff:0:0/96`, its third word (RFC 4291 §2.5.5.2).
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// `::1`, its last word.
const LOOPBACK6: u32 = 1_u32.to_be();

/// A socket and the address that a call on it is about.
struct Call {
    context: *mut bpf_sock_addr,
    cookie: u64,
    protocol: u8,
    address: Address,
    port: Port,
    family: Family,
}

/// How the caller wrote the address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Ipv4,
    /// An IPv4 address in IPv6 clothes.
    Mapped,
    /// `::1`.
    Loopback6,
}

/// `connect`: the socket gets a backend for good.
#[inline(always)]
pub fn connect(context: &SockAddrContext, ipv6: bool) -> i32 {
    let Some(call) = Call::read(context, ipv6) else { return ALLOW };
    if call.is_forged() { STOP } else { call.redirect(false) }
}

/// `sendto` and the like on a socket that is not connected: every datagram is a call of its own.
#[inline(always)]
pub fn send(context: &SockAddrContext) -> i32 {
    let Some(call) = Call::read(context, false) else { return ALLOW };
    if call.is_forged() { STOP } else { call.redirect(true) }
}

/// `recvfrom` and `getpeername`: the caller sees the address it dialled.
#[inline(always)]
pub fn restore(context: &SockAddrContext, ipv6: bool) -> i32 {
    let Some(call) = Call::read(context, ipv6) else { return ALLOW };
    if let Some(known) = recall(&call.key(call.address, call.port))
        && known.dialled == 0
    {
        call.write(known.frontend, known.frontend_port, known.loopback6 != 0);
    }
    ALLOW
}

impl Call {
    /// `None` for sockets of other network namespaces, and for what is neither TCP nor UDP over IPv4.
    #[inline(always)]
    fn read(context: &SockAddrContext, ipv6: bool) -> Option<Self> {
        const STREAM: u32 = 1;
        const DATAGRAM: u32 = 2;

        let settings = node::settings()?;
        let pointer = context.sock_addr;
        // SAFETY: the context is valid for the whole program; every field is read as the verifier allows, by its width.
        unsafe {
            if bpf_get_netns_cookie(pointer.cast()) != settings.netns_cookie {
                return None;
            }
            let protocol = match ((*pointer).type_, (*pointer).protocol as u8) {
                (STREAM, protocol::TCP) => protocol::TCP,
                (DATAGRAM, protocol::UDP) => protocol::UDP,
                _ => return None,
            };
            let (address, family) = if ipv6 {
                let words = &raw const (*pointer).user_ip6;
                let first = words.cast::<u32>().read_volatile();
                let second = words.cast::<u32>().add(1).read_volatile();
                let third = words.cast::<u32>().add(2).read_volatile();
                let fourth = words.cast::<u32>().add(3).read_volatile();
                if first != 0 || second != 0 {
                    return None;
                }
                match (third, fourth) {
                    (MAPPED, address) => (Address::from_wire(address), Family::Mapped),
                    (0, LOOPBACK6) => (Address::LOCALHOST, Family::Loopback6),
                    _ => return None,
                }
            } else {
                (Address::from_wire((*pointer).user_ip4), Family::Ipv4)
            };
            Some(Self {
                context: pointer,
                cookie: bpf_get_socket_cookie(pointer.cast()),
                protocol,
                address,
                port: Port::from_wire((*pointer).user_port as u16),
                family,
            })
        }
    }

    /// Whether it is for another node's tunnel, and not the agent's.
    #[inline(always)]
    fn is_forged(&self) -> bool {
        let is_forged = guard::stops_call(self.protocol, self.address, self.port, self.cookie);
        if is_forged {
            counters::count(Outcome::ForgedTunnel);
        }
        is_forged
    }

    /// Gives the call a backend, if it is for a frontend of this node.
    #[inline(always)]
    fn redirect(&self, unconnected: bool) -> i32 {
        if !frontends::is_published(self.protocol, self.port) || !self.is_for_this_node() {
            return ALLOW;
        }
        let Some(frontend) = frontends::find(self.protocol, self.port) else { return ALLOW };
        let now = clock::now();
        let dialled = self.key(self.address, self.port);
        let kept = if unconnected { kept(&dialled, now) } else { None };
        if kept.is_none() && frontend.flags & flags::LEFT != 0 {
            return ALLOW;
        }
        let (id, backend) = if let Some(kept) = kept {
            kept
        } else {
            let Some((id, backend)) = self.pick(&frontend, now) else { return refuse_call() };
            counters::count_flow(id);
            (id, backend)
        };
        let (address, port) = if backend.is_local() {
            counters::count(Outcome::SocketToTask);
            (backend.bridge, backend.port)
        } else {
            counters::count(Outcome::SocketToNode);
            (backend.node, self.port)
        };
        let mut value = SocketFlow {
            last_seen: now,
            backend: id,
            generation: backend.generation,
            frontend: self.address,
            frontend_port: self.port,
            dialled: 0,
            loopback6: u8::from(self.family == Family::Loopback6),
        };
        // Without these entries the call would still arrive, but its answers would come from a stranger.
        if SOCKETS.insert(self.key(address, port), value, u64::from(BPF_ANY)).is_err() {
            return ALLOW;
        }
        if unconnected {
            value.dialled = 1;
            let _ = SOCKETS.insert(dialled, value, u64::from(BPF_ANY));
        }
        self.write(address, port, false);
        ALLOW
    }

    /// The backend for a new flow. What a task here refuses does not come back to be given to another one, so one that listens
    /// is looked for: a task that has just died has not got that far into the tables yet.
    #[inline(always)]
    fn pick(&self, frontend: &Frontend, now: u64) -> Option<(u32, &'static Backend)> {
        const ATTEMPTS: usize = 4;

        let mut first = None;
        for _ in 0..ATTEMPTS {
            // All processes of the node are one client; each socket is a flow.
            let pick = selection::pick(frontend, Address::LOCALHOST, self.cookie as u32, now);
            let (backend, id) = (selection::usable(pick)?, selection::picked(pick));
            if backend.namespace == 0 || self.protocol != protocol::TCP || self.finds_listener(backend) {
                return Some((id, backend));
            }
            first = first.or(Some(id));
        }
        // What is redirected inside the task's namespace is no socket's either.
        let id = first?;
        frontends::backend(id).map(|backend| (id, backend))
    }

    /// Whether a socket in the task's namespace listens on its port.
    #[inline(never)]
    fn finds_listener(&self, backend: &Backend) -> bool {
        let task = backend.bridge.wire();
        // `bpf_sock_tuple`, linux/bpf.h. Who asks makes no difference to a socket that listens; port 0 has no connection.
        let mut tuple = [task, task, u32::from(backend.port.wire()) << 16];
        // SAFETY: the context is valid for the whole program; the tuple is of the size that says it is IPv4's.
        let socket = unsafe {
            bpf_sk_lookup_tcp(
                self.context.cast(),
                tuple.as_mut_ptr().cast(),
                size_of_val(&tuple) as u32,
                u64::from(backend.namespace - 1),
                0,
            )
        };
        if socket.is_null() {
            return false;
        }
        // SAFETY: the lookup has given the reference, which nobody uses any more.
        unsafe { bpf_sk_release(socket.cast()) };
        true
    }

    /// Every address of the node, 127.0.0.0/8, and 0.0.0.0, which the kernel takes for localhost.
    #[inline(always)]
    fn is_for_this_node(&self) -> bool {
        self.address.is_loopback() || self.address.is_unspecified() || node::is_local(self.address)
    }

    #[inline(always)]
    fn key(&self, destination: Address, port: Port) -> SocketKey {
        SocketKey { cookie: self.cookie, destination, port, protocol: self.protocol, padding: 0 }
    }

    #[inline(always)]
    fn write(&self, address: Address, port: Port, loopback6: bool) {
        // SAFETY: the context is valid for the whole program; these are the fields that the hook may write.
        unsafe {
            if self.family == Family::Ipv4 {
                (&raw mut (*self.context).user_ip4).write_volatile(address.wire());
            } else {
                let words = (&raw mut (*self.context).user_ip6).cast::<u32>();
                let (third, fourth) = if loopback6 { (0, LOOPBACK6) } else { (MAPPED, address.wire()) };
                words.add(2).write_volatile(third);
                words.add(3).write_volatile(fourth);
            }
            (&raw mut (*self.context).user_port).write_volatile(u32::from(port.wire()));
        }
    }
}

/// The backend that an unconnected socket has for what it dialled.
#[inline(always)]
fn kept(dialled: &SocketKey, now: u64) -> Option<(u32, &'static Backend)> {
    let known = recall(dialled)?;
    let backend = frontends::backend(known.backend)?;
    let usable = known.dialled == 1
        && backend.generation == known.generation
        && backend.state == state::ACTIVE
        && clock::elapsed(known.last_seen, now) < UDP_IDLE_NANOSECONDS;
    if usable { Some((known.backend, backend)) } else { None }
}

#[inline(always)]
fn refuse_call() -> i32 {
    counters::count(Outcome::SocketRefused);
    // SAFETY: the hooks that come here may set an error.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

/// What a socket was given.
#[inline(always)]
pub(crate) fn recall(key: &SocketKey) -> Option<SocketFlow> {
    // SAFETY: the value is copied at once.
    unsafe { SOCKETS.get(key) }.copied()
}
