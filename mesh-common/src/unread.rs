//! Interfaces that have had our programs for a moment only: connections that came in by them before may be Docker's.

/// Key of `UNREAD_PORTS`. While it is there, segments of unknown connections that come in by the interface are left to Docker:
/// from before the programs are attached until it has been read which connections Docker carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct UnreadPort {
    /// The overlay's VXLAN network identifier; 0 for the node's own interfaces.
    pub network: u32,
    /// Interface index, in the namespace of that network.
    pub interface: u32,
}
