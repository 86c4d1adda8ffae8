//! Other nodes: values of `PEERS`.

/// Packets of the node's are taken by every uplink. It is not known which one leads there, or several do.
pub const ANY_UPLINK: u32 = 0;
/// The same from agents that know nothing of uplinks: the index of `lo`, which is none.
const ANY_UPLINK_BEFORE: u32 = 1;

/// How another node is reached, and how it reaches this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Peer {
    /// The interface that its packets come in by, or [`ANY_UPLINK`].
    pub uplink: u32,
    /// Largest IP packet that the tunnel carries there; 0, as from agents that know nothing of it, for
    /// [`Settings::inner_mtu`](crate::settings::Settings::inner_mtu).
    pub inner_mtu: u16,
    /// Bits of [`flags`].
    pub flags: u16,
}

/// Flags of a [`Peer`].
pub mod flags {
    /// Its packets are taken only with one of the cluster's cookies ([`crate::cookie`]).
    pub const COOKIE_REQUIRED: u16 = 1;
}

impl Peer {
    /// Whether packets of the node are taken only with one of the cluster's cookies.
    #[inline(always)]
    pub const fn has_to_have_cookie(self) -> bool {
        self.flags & flags::COOKIE_REQUIRED != 0
    }

    /// Whether packets of the node may come in by an interface.
    #[inline(always)]
    pub const fn may_come_by(self, interface: u32) -> bool {
        self.uplink == interface || self.uplink == ANY_UPLINK || self.uplink == ANY_UPLINK_BEFORE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uplink_is_the_only_one_and_no_uplink_is_all() {
        let by = |uplink| Peer { uplink, ..Peer::default() };
        assert!(by(2).may_come_by(2));
        assert!(!by(2).may_come_by(3));
        assert!(by(ANY_UPLINK).may_come_by(3) && by(1).may_come_by(3));
    }
}
