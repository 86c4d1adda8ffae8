//! Names: what tasks ask Docker's resolver at 127.0.0.11 goes to the agent's, for as long as that one lives. Maps `ASKERS`
//! and `HEARTBEAT`.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::SockAddrContext;
use mesh_common::asker::{self, DOCKERS_RESOLVER};
use mesh_common::maps;
use mesh_common::net::{Address, Port};
use mesh_common::outcome::Outcome;
use mesh_common::settings::{HEARTBEAT_NANOSECONDS, Settings};

use crate::clock;
use crate::tables::{counters, node};

#[map]
static ASKERS: HashMap<u64, u32> = HashMap::with_max_entries(maps::ASKERS, BPF_F_NO_PREALLOC);

#[map]
static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);

const DOMAIN: Port = Port::new(53);

/// Turns a call for Docker's resolver into one for the agent's. False if it is none of those.
#[inline(always)]
pub fn redirect(context: &SockAddrContext) -> bool {
    let pointer = context.sock_addr;
    if destination(pointer) != (DOCKERS_RESOLVER, DOMAIN) {
        return false;
    }
    let Some((address, port)) = node::settings().and_then(|settings| resolver(pointer, settings)) else {
        return false;
    };
    if !is_alive() {
        counters::count(Outcome::ResolverSilent);
        return true;
    }
    counters::count(Outcome::SocketToResolver);
    write(pointer, address, port);
    true
}

/// Makes what comes from the agent's resolver look as if it came from Docker's. False if it does not.
#[inline(always)]
pub fn restore(context: &SockAddrContext) -> bool {
    let pointer = context.sock_addr;
    let Some(settings) = node::settings() else { return false };
    let from = destination(pointer);
    // Few answers are the resolver's: a look at the port spares the rest.
    if from.1 != settings.resolver_port || resolver(pointer, settings) != Some(from) {
        return false;
    }
    write(pointer, DOCKERS_RESOLVER, DOMAIN);
    true
}

/// Where the resolver answers the namespace that the socket is in, if it does.
#[inline(always)]
fn resolver(pointer: *mut bpf_sock_addr, settings: &Settings) -> Option<(Address, Port)> {
    if settings.resolver_port.number() == 0 {
        return None;
    }
    // SAFETY: the context is valid for the whole program.
    let cookie = unsafe { bpf_get_netns_cookie(pointer.cast()) };
    let place = ASKERS.get_ptr(cookie)?;
    // SAFETY: entries of this map are written whole, by the agent.
    let address = if unsafe { *place } == asker::INSIDE { DOCKERS_RESOLVER } else { settings.resolver };
    Some((address, settings.resolver_port))
}

/// Whether the agent's resolver has given a sign of life lately.
#[inline(always)]
pub(crate) fn is_alive() -> bool {
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    HEARTBEAT.get(0).is_some_and(|last| clock::elapsed(*last, now) < HEARTBEAT_NANOSECONDS)
}

#[inline(always)]
fn destination(pointer: *mut bpf_sock_addr) -> (Address, Port) {
    // SAFETY: the context is valid for the whole program.
    unsafe { (Address::from_wire((*pointer).user_ip4), Port::from_wire((*pointer).user_port as u16)) }
}

#[inline(always)]
fn write(pointer: *mut bpf_sock_addr, address: Address, port: Port) {
    // SAFETY: the context is valid for the whole program; these are fields that the hooks may write.
    unsafe {
        (&raw mut (*pointer).user_ip4).write_volatile(address.wire());
        (&raw mut (*pointer).user_port).write_volatile(u32::from(port.wire()));
    }
}
