//! Addresses that come to the node are told to the tables at once.

use std::time::Duration;

use mesh_agent::dataplane::local_addresses::LocalAddresses;
use mesh_agent::node;
use mesh_common::outcome::Outcome;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::namespace::Namespace;
use crate::support::packet::Packet;
use crate::support::payload::syn;
use crate::support::tunnel::Tunnel;
use crate::support::world::{World, remote};

/// Only so that an address that is never told fails the test.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn an_address_that_is_added_is_served() {
    let mut world = World::serving(&[remote(7)]);
    let (_files, pins) = world.pinned();
    let new = Packet::from_client(syn()).with(|packet| packet.destination = [10, 99, 0, 101]);
    world.uplink_in(&new).passes(Outcome::NotOurs);
    LocalAddresses::open(&pins).expect("the table is pinned").add([10, 99, 0, 101].into());
    world.uplink_in(&new).enters_tunnel(Outcome::Tunnelled, Tunnel::to_other(7, &new), &new.ip());
}

#[test]
fn an_address_that_comes_is_told_and_loopbacks_and_those_of_ipv6_are_not() {
    let namespace = Namespace::new();
    namespace.ip(
        "link add uplink type veth peer name uplink-far\nlink set uplink up\nlink set lo up\naddr add 10.99.0.1/24 dev uplink\n",
    );
    namespace.enter();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (tell, mut told) = mpsc::unbounded_channel();
        tokio::spawn(node::watch_new_addresses(move |address| tell.send(address).expect("it is waited for")));
        // Until it listens.
        let first = loop {
            namespace.ip("addr add 10.99.0.100/24 dev uplink\n");
            if let Ok(address) = timeout(Duration::from_millis(100), told.recv()).await {
                break address;
            }
            namespace.ip("addr del 10.99.0.100/24 dev uplink\n");
        };
        assert_eq!(first, Some([10, 99, 0, 100].into()));
        namespace.ip(
            "addr add 127.0.0.53/8 dev lo\naddr add fd00::1/64 dev uplink\naddr del 10.99.0.100/24 dev uplink\naddr add 10.99.0.101/32 dev lo\n",
        );
        let next = async {
            loop {
                let next = told.recv().await;
                if next != first {
                    break next;
                }
            }
        };
        let next = timeout(PATIENCE, next).await.expect("it is told");
        assert_eq!(next, Some([10, 99, 0, 101].into()));
    });
}
