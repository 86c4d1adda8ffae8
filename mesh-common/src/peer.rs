//! Other nodes: values of `PEERS`.

/// Packets of the node's are taken by every uplink. It is not known which one leads there, or several do.
pub const ANY_UPLINK: u32 = 0;
/// The same from agents that know nothing of uplinks: the index of `lo`, which is none.
const ANY_UPLINK_BEFORE: u32 = 1;

/// Whether packets of a node with this value may come in by an interface.
#[inline(always)]
pub const fn may_come_by(uplink: u32, interface: u32) -> bool {
    uplink == interface || uplink == ANY_UPLINK || uplink == ANY_UPLINK_BEFORE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uplink_is_the_only_one_and_no_uplink_is_all() {
        assert!(may_come_by(2, 2));
        assert!(!may_come_by(2, 3));
        assert!(may_come_by(ANY_UPLINK, 3) && may_come_by(1, 3));
    }
}
