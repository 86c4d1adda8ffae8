//! A node that forwards what comes in by an interface without programs, as a container's packets do behind the node's address.

use std::fs;
use std::path::Path;

use super::cast;
use super::packet::Packet;
use super::wire::{Frame, Wire};
use super::world::World;

/// Hardware address of the interface that no program of ours is on.
const PORT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0c];

pub(crate) struct Forwarding {
    pub(crate) world: World,
    pub(crate) uplink: Wire,
    pub(crate) bridge: Wire,
    pub(crate) port: Wire,
}

impl Forwarding {
    pub(crate) fn new(mut world: World) -> Self {
        let [uplink, bridge] = world.attach();
        // Sources are the packets' own matter here.
        for interface in ["all", "port"] {
            let settings = Path::new("/proc/sys/net/ipv4/conf").join(interface);
            fs::write(settings.join("rp_filter"), "0").expect("it is a setting");
            fs::write(settings.join("accept_local"), "1").expect("it is a setting");
        }
        Self { world, uplink, bridge, port: Wire::at_far_end_of("port") }
    }

    /// The packet on its way to the interface without programs.
    pub(crate) fn to_forward(packet: &Packet) -> Packet {
        packet.clone().macs(PORT_MAC, cast::CLIENT_MAC)
    }

    /// What leaves by the uplink once the packet has come in.
    #[track_caller]
    pub(crate) fn forwards(&self, packet: &Packet) -> Vec<u8> {
        self.port.send(&Frame::finished(packet.bytes()));
        self.uplink.receive().finish()
    }
}
