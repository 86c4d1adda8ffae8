//! Addresses, ports and protocol numbers as they stand in packets. Byte order hides in the types: what is stored is
//! network order, what goes in and out is what people write.

use core::fmt;
use core::net::Ipv4Addr;

/// An IPv4 address in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Address(u32);

impl Address {
    /// 0.0.0.0: none, any, or "this node", as the field that holds it says.
    pub const UNSPECIFIED: Self = Self(0);
    /// 127.0.0.1.
    pub const LOCALHOST: Self = Self::new([127, 0, 0, 1]);

    pub const fn new(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    /// From the four bytes as they stand in a header, read as one native integer.
    pub const fn from_wire(wire: u32) -> Self {
        Self(wire)
    }

    /// The four bytes as they stand in a header, as one native integer.
    pub const fn wire(self) -> u32 {
        self.0
    }

    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    pub const fn is_unspecified(self) -> bool {
        self.0 == 0
    }

    /// 127.0.0.0/8.
    pub const fn is_loopback(self) -> bool {
        self.octets()[0] == 127
    }

    /// Whether a host on the network may have it: it is neither "this host" (0.0.0.0/8), loopback, multicast nor broadcast (RFC 1122
    /// §3.2.1.3). What is reserved (240.0.0.0/4) the kernel takes too.
    pub const fn is_host(self) -> bool {
        let [first, ..] = self.octets();
        first != 0 && first != 127 && first & 0xf0 != 0xe0 && self.0 != u32::MAX
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::new(address.octets())
    }
}

impl From<Address> for Ipv4Addr {
    fn from(address: Address) -> Self {
        Self::from(address.octets())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(formatter)
    }
}

/// A port in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Port(u16);

impl Port {
    pub const fn new(port: u16) -> Self {
        Self(port.to_be())
    }

    /// From the two bytes as they stand in a header, read as one native integer.
    pub const fn from_wire(wire: u16) -> Self {
        Self(wire)
    }

    /// The two bytes as they stand in a header, as one native integer.
    pub const fn wire(self) -> u16 {
        self.0
    }

    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A hardware address.
pub type Mac = [u8; 6];

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const SCTP: u8 = 132;
}

/// `EtherType`s in host byte order.
pub mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const QINQ: u16 = 0x88a8;
}

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_HEADER: usize = 14;
/// Bytes of an IPv4 header without options (RFC 791).
pub const IPV4_HEADER: usize = 20;
/// Bytes of a TCP header without options (RFC 9293).
pub const TCP_HEADER: usize = 20;
/// Bytes of a UDP header (RFC 768).
pub const UDP_HEADER: usize = 8;
/// Bytes of an SCTP common header (RFC 9260 §3.1).
pub const SCTP_HEADER: usize = 12;
/// Bytes of an ICMP header (RFC 792).
pub const ICMP_HEADER: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_keep_network_order_in_memory() {
        assert_eq!(Address::new([10, 99, 0, 1]).wire().to_ne_bytes(), [10, 99, 0, 1]);
        assert_eq!(Port::new(80).wire().to_ne_bytes(), [0, 80]);
        assert_eq!(Port::new(4799).number(), 4799);
        assert!(Address::new([127, 8, 9, 1]).is_loopback());
    }
}
