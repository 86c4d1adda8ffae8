//! By which uplink another node's packets are to be taken. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use mesh_common::net::Address;

use super::Interface;
use crate::reach::Paths;

/// The one uplink of each peer that has one: the one that this node's routes lead `towards` it by, that has this node's own
/// address in the Swarm, and that the peer's answers come in by. Where these are several, where nothing has been heard, and
/// where another uplink is in the same network, so that neighbours may take either for this node, it is not known which one the
/// peer's packets come in by.
pub(super) fn arrivals(
    uplinks: &[Interface],
    own: Ipv4Addr,
    towards: &BTreeMap<Address, u32>,
    paths: &Paths,
) -> BTreeMap<Address, u32> {
    let owner = uplinks.iter().find(|uplink| uplink.addresses.contains(&own));
    let Some(owner) = owner.filter(|owner| is_alone(owner, uplinks)) else { return BTreeMap::new() };
    let by_owner = |peer: &Ipv4Addr, interfaces: &BTreeSet<u32>| {
        interfaces.iter().eq([&owner.index]) && towards.get(&Address::from(*peer)) == Some(&owner.index)
    };
    let peers = paths.iter().filter(|(peer, path)| by_owner(peer, &path.interfaces));
    peers.map(|(peer, _)| (Address::from(*peer), owner.index)).collect()
}

/// Whether no other uplink is in a network of this one.
fn is_alone(one: &Interface, uplinks: &[Interface]) -> bool {
    let others = uplinks.iter().filter(|other| other.index != one.index);
    let mut theirs = others.flat_map(|other| &other.networks);
    !theirs.any(|their| one.networks.iter().any(|our| overlap(*our, *their)))
}

/// Whether one of two networks holds the other one.
fn overlap((one, prefix): (Ipv4Addr, u8), (other, other_prefix): (Ipv4Addr, u8)) -> bool {
    let bits = u32::from(prefix.min(other_prefix).min(32));
    let network = |address: Ipv4Addr| u64::from(address.to_bits()) >> (32 - bits);
    network(one) == network(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::Path;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

    fn uplink(index: u32, networks: &[([u8; 4], u8)]) -> Interface {
        let networks: Vec<_> =
            networks.iter().map(|(address, prefix)| (Ipv4Addr::from(*address), *prefix)).collect();
        let addresses = networks.iter().map(|(address, _)| *address).collect();
        Interface { index, addresses, networks, ..Interface::default() }
    }

    fn two() -> Vec<Interface> {
        vec![uplink(2, &[([10, 99, 0, 1], 24)]), uplink(3, &[([192, 168, 7, 1], 24)])]
    }

    fn of(uplinks: &[Interface], towards: u32, heard: &[u32]) -> Option<u32> {
        let towards = BTreeMap::from([(PEER.into(), towards)]);
        let path = Path { interfaces: heard.iter().copied().collect(), narrow: None };
        arrivals(uplinks, OWN, &towards, &Paths::from([(PEER, path)])).get(&PEER.into()).copied()
    }

    #[test]
    fn where_all_say_the_same_it_is_that_uplink() {
        assert_eq!(of(&two(), 2, &[2]), Some(2));
        assert_eq!(of(&two()[..1], 2, &[2]), Some(2));
    }

    #[test]
    fn who_has_not_been_heard_may_come_by_any() {
        assert_eq!(of(&two(), 2, &[]), None);
    }

    #[test]
    fn where_the_way_there_is_another_one_than_the_way_back_it_is_any() {
        assert_eq!(of(&two(), 3, &[2]), None);
        assert_eq!(of(&two(), 2, &[3]), None);
        assert_eq!(of(&two(), 2, &[2, 3]), None);
        assert_eq!(of(&two(), 3, &[3]), None, "others send to the address, which is the first one's");
    }

    #[test]
    fn where_neighbours_may_take_either_uplink_for_the_node_it_is_any() {
        for other in [([10, 99, 0, 5], 24), ([10, 99, 0, 5], 32), ([10, 1, 0, 1], 8), ([1, 2, 3, 4], 0)] {
            assert_eq!(of(&[uplink(2, &[([10, 99, 0, 1], 24)]), uplink(3, &[other])], 2, &[2]), None);
        }
        let apart = [uplink(2, &[([10, 99, 0, 1], 24)]), uplink(3, &[([10, 99, 1, 1], 24)])];
        assert_eq!(of(&apart, 2, &[2]), Some(2));
    }

    #[test]
    fn an_address_that_no_uplink_has_comes_in_by_any() {
        assert_eq!(of(&[uplink(2, &[([10, 99, 7, 1], 24)])], 2, &[2]), None);
    }
}
