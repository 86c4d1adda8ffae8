//! What the design promises and the programs do not keep yet. Each case fails for the reason that it names; the packet path's second
//! edition makes it pass, and then loses its `should_panic`: a promise that is kept fails here.

use mesh_common::net::protocol;
use mesh_common::outcome::Outcome;

use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Payload, RST, SYN, Tcp, answer, syn, tcp};
use crate::support::world::{World, flow_key, local};

/// The sequence number of all segments that say nothing else.
const SEQUENCE: u32 = 0x1122_3344;

#[test]
#[should_panic(expected = "B5: a reset with any number ends a connection")]
fn a_reset_or_an_end_counts_only_with_a_number_that_can_be_true() {
    let world = World::serving(&[local(5)]);
    shake_hands(&world);
    for ends in [RST, FIN | ACK] {
        let forged = Tcp { sequence: SEQUENCE ^ 0x4000_0000, ..tcp(ends) };
        let _ = world.uplink_in(&Packet::from_client(Payload::Tcp(forged)));
    }
    let is_established = world.established(&flow_key(protocol::TCP)).is_some();
    assert!(is_established, "B5: a reset with any number ends a connection");
}

fn shake_hands(world: &World) {
    let _ = world.uplink_in(&Packet::from_client(syn())).leaves(Outcome::Delivered);
    let _ = world.bridge_in(&Packet::from_task(5, answer(SYN | ACK, b""))).leaves(Outcome::Replied);
    let _ = world.uplink_in(&Packet::from_client(acknowledgement())).leaves(Outcome::Delivered);
    assert!(world.established(&flow_key(protocol::TCP)).is_some());
}

/// The client's segment after its SYN. The task's SYN has [`SEQUENCE`] as well.
fn acknowledgement() -> Payload {
    Payload::Tcp(Tcp { sequence: SEQUENCE + 1, acknowledgement: SEQUENCE + 1, ..tcp(ACK) })
}
