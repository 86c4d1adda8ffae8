//! The overlay programs on the port of a bridge: by which port packets leave, and checksums that are left to a device.

use mesh_common::outcome::Outcome;

use crate::support::cast::{CLIENT_PORT, PUBLISHED};
use crate::support::checks;
use crate::support::overlay::{CALLER, answer, call, from_vip, given, sctp, straight, turned};
use crate::support::packet::Packet;
use crate::support::payload::{
    ACK, Icmp, PSH, Payload, RST, SYN, Tcp, Udp, between, data, icmp_error, linux_options, syn, tcp, udp,
};
use crate::support::wire::{Frame, Wire};
use crate::support::world::World;

/// Complete checksums, and checksums left to the device.
const WAYS: [fn(Vec<u8>) -> Frame; 2] = [Frame::finished, Frame::unfinished];

#[test]
fn a_call_leaves_by_the_bridge_and_its_answer_comes_from_the_virtual_address() {
    for way in WAYS {
        let mut world = World::calling(&[1]);
        let [caller, rest] = world.attach_overlay();
        for payload in [syn(), data(b"odd"), data(b"even"), Payload::Udp(udp(b"odd"))] {
            let call = call(payload);
            caller.send(&way(call.bytes()));
            rest.carries(&given(&call, 1).bytes());
        }
        let greeting = Payload::Tcp(Tcp { options: linux_options(1400), ..tcp(SYN | ACK) });
        for payload in [greeting, data(b"odd"), Payload::Udp(udp(b"even"))] {
            let answer = answer(1, between(payload, PUBLISHED, CLIENT_PORT));
            rest.send(&way(answer.bytes()));
            caller.carries(&from_vip(&answer).bytes());
        }
    }
}

#[test]
fn what_has_no_checksum_gets_none() {
    let mut world = World::calling(&[1]);
    let [caller, rest] = world.attach_overlay();
    for payload in
        [Payload::Udp(Udp { checked: false, ..udp(b"none") }), sctp(CLIENT_PORT, PUBLISHED, b"init")]
    {
        let call = call(payload);
        caller.send(&Frame::finished(call.bytes()));
        rest.carries(&given(&call, 1).bytes());
    }
}

#[test]
fn a_task_that_is_given_to_itself_gets_its_packets_back_by_its_port() {
    for way in WAYS {
        let mut world = World::calling(&[CALLER]);
        let [caller, _rest] = world.attach_overlay();
        for payload in [syn(), data(b"odd"), Payload::Udp(udp(b"even"))] {
            let asked = call(payload.clone());
            let said = call(between(payload, PUBLISHED, CLIENT_PORT));
            for packet in [asked, said] {
                if matches!(&packet.payload, Payload::Tcp(tcp) if tcp.flags == SYN && tcp.source == PUBLISHED)
                {
                    continue;
                }
                caller.send(&way(packet.bytes()));
                caller.carries(&turned(&packet).bytes());
            }
        }
    }
}

#[test]
fn refusals_go_back_by_the_port_that_the_call_came_by() {
    for way in WAYS {
        let mut world = World::calling(&[]);
        let [caller, _rest] = world.attach_overlay();
        for (payload, sequence, acknowledgement, flags) in
            [(syn(), 0, 0x1122_3345, RST | ACK), (data(b"data"), 0x1122_4455, 0, RST)]
        {
            let call = call(payload);
            caller.send(&way(call.bytes()));
            let segment = Tcp { sequence, acknowledgement, window: 0, ..tcp(flags) };
            caller.carries(&refusal(&call, between(Payload::Tcp(segment), PUBLISHED, CLIENT_PORT)).bytes());
        }
        let call = call(Payload::Udp(udp(b"datagram")));
        caller.send(&way(call.bytes()));
        let bytes = caller.receive().finish();
        checks::assert_checksums(&bytes);
        // A device completes the quoted checksum for the quote alone.
        let expected = refusal(&call, icmp_error(3, 3, 0, call.quote())).bytes();
        checks::assert_same(&expected[..36], &bytes[..36]);
        checks::assert_same(&expected[38..68], &bytes[38..68]);
    }
}

#[test]
fn a_segment_with_ip_options_is_reset_wherever_its_checksum_is_left() {
    let mut world = World::calling(&[]);
    let [caller, _rest] = world.attach_overlay();
    for words in 1..=10 {
        let call = call(syn()).with(|packet| packet.options = vec![1; 4 * words]);
        let segment = Tcp { sequence: 0, acknowledgement: 0x1122_3345, window: 0, ..tcp(RST | ACK) };
        let expected = refusal(&call, between(Payload::Tcp(segment), PUBLISHED, CLIENT_PORT))
            .with(|packet| packet.options.clear());
        caller.send(&Frame::finished(call.bytes()));
        caller.carries(&expected.bytes());
        caller.send(&Frame::unfinished(call.bytes()));
        caller.carries(&expected.bytes());
    }
    assert_eq!(world.count(Outcome::RefusedWithReset), 20);
}

#[test]
fn a_ping_is_answered_by_the_port_that_it_came_by() {
    let mut world = World::calling(&[1]);
    let [caller, _rest] = world.attach_overlay();
    let echo = |kind| Payload::Icmp(Icmp { kind, code: 0, word: [0, 1, 0, 2], data: b"ping".to_vec() });
    let ping = call(echo(8));
    caller.send(&Frame::finished(ping.bytes()));
    caller.carries(&turned(&ping).with(|packet| packet.payload = echo(0)).bytes());
}

#[test]
fn an_aggregate_is_cut_into_packets_for_the_task_and_for_the_caller() {
    let mut world = World::calling(&[1]);
    let [caller, rest] = world.attach_overlay();
    let text: Vec<u8> = (0..4 * SEGMENT + 333).map(|place| (place % 251) as u8).collect();
    let sent = call(data(&text));
    caller.send(&as_aggregate(&sent));
    for (place, frame) in received(&rest, 5).iter().enumerate() {
        let expected = given(&sent, 1).with(|packet| one_of(packet, place, &text));
        checks::assert_same(&expected.bytes(), frame);
    }
    let said = answer(1, between(data(&text), PUBLISHED, CLIENT_PORT));
    rest.send(&as_aggregate(&said));
    for (place, frame) in received(&caller, 5).iter().enumerate() {
        let expected = from_vip(&said).with(|packet| one_of(packet, place, &text));
        checks::assert_same(&expected.bytes(), frame);
    }
}

#[test]
fn a_packet_of_a_vlan_is_not_ours() {
    let mut world = World::calling(&[CALLER]);
    let [caller, _rest] = world.attach_overlay();
    let mut tagged = call(syn()).bytes();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    caller.send(&Frame::finished(tagged));
    let mut asked = vec![0xff; 6];
    asked.extend(call(syn()).source_mac);
    asked.extend([0x81, 0x00, 0x00, 0x07, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    asked.extend(call(syn()).source_mac);
    asked.extend(call(syn()).source);
    asked.extend([0; 6]);
    asked.extend(call(syn()).destination);
    caller.send(&Frame::finished(asked));
    // The next packet shows that the others have been dealt with.
    let packet = call(syn());
    caller.send(&Frame::finished(packet.bytes()));
    caller.carries(&turned(&packet).bytes());
    assert_eq!([world.count(Outcome::VipToSelf), world.count(Outcome::VipResolved)], [1, 0]);
}

#[test]
fn what_is_for_no_virtual_address_crosses_the_bridge_as_it_is() {
    for way in WAYS {
        let mut world = World::calling(&[1]);
        let [caller, rest] = world.attach_overlay();
        let packet = straight(1, data(b"straight"));
        caller.send(&way(packet.bytes()));
        rest.carries(&packet.bytes());
        let packet = answer(1, between(data(b"straight"), PUBLISHED, CLIENT_PORT));
        rest.send(&way(packet.bytes()));
        caller.carries(&packet.bytes());
    }
}

/// The payload of each packet of an aggregate.
const SEGMENT: usize = 1400;

fn as_aggregate(packet: &Packet) -> Frame {
    Frame { segment: Some(SEGMENT as u16), ..Frame::unfinished(packet.bytes()) }
}

/// The next frames, as they go over the wire.
fn received(wire: &Wire, count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|_| {
            let frame = wire.receive();
            assert_eq!(frame.segment, None, "an aggregate");
            frame.finish()
        })
        .collect()
}

/// Makes an aggregate the packet at `place` of those that it stands for.
fn one_of(packet: &mut Packet, place: usize, text: &[u8]) {
    let last = (place + 1) * SEGMENT >= text.len();
    packet.identification += place as u16;
    if let Payload::Tcp(tcp) = &mut packet.payload {
        tcp.sequence += (place * SEGMENT) as u32;
        tcp.flags = if last { tcp.flags } else { tcp.flags & !PSH };
        tcp.data = text[place * SEGMENT..].iter().take(SEGMENT).copied().collect();
    }
}

/// What the caller is told instead, as the node makes it.
fn refusal(call: &Packet, payload: Payload) -> Packet {
    turned(call).with(|packet| {
        packet.identification = 0;
        packet.dont_fragment = true;
        packet.payload = payload;
    })
}
