//! Which packets are looked at.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::frontend::PortBit;
use mesh_common::net::{Port, protocol};

use super::{NodeFacts, Plan, is_in_tables};
use crate::desired::{Desired, FrontendId, protocol_number};
use crate::reconcile::tables::{Operation, Tables};

/// A port's bit is set when there is a frontend behind it. The tunnel's own port is among them: one test is enough for
/// the packets that are not ours.
pub(super) fn plan_ports(plan: &mut Plan, desired: &Desired, node: &NodeFacts, tables: &Tables) {
    let mut words = BTreeMap::<u32, u64>::new();
    let there = desired.frontends.iter().filter(|(id, frontend)| is_in_tables(**id, frontend, tables));
    let published = there.filter_map(|(id, _)| match id {
        FrontendId::Published { port, protocol } => Some((protocol_number(*protocol), Port::new(*port))),
        FrontendId::Vip { .. } => None,
    });
    for (protocol, port) in published.chain([(protocol::UDP, node.settings.tunnel_port)]) {
        let bit = PortBit::of(protocol, port);
        *words.entry(bit.word).or_default() |= bit.mask;
    }
    for word in tables.ports.keys().chain(words.keys()).copied().collect::<BTreeSet<_>>() {
        let (now, then) = (tables.ports.get(&word).copied(), words.get(&word).copied());
        if now != then {
            plan.ports.push(Operation::SetPorts(word, then.unwrap_or(0)));
        }
    }
}

/// [`plan_ports`] for the bits of these frontends.
pub(super) fn plan_ports_of(
    plan: &mut Plan,
    ids: &BTreeSet<FrontendId>,
    desired: &Desired,
    node: &NodeFacts,
    tables: &Tables,
) {
    let tunnel = (protocol::UDP, node.settings.tunnel_port);
    let mut words = BTreeMap::<u32, u64>::new();
    for id in ids {
        let FrontendId::Published { port, protocol } = id else { continue };
        let place = (protocol_number(*protocol), Port::new(*port));
        let bit = PortBit::of(place.0, place.1);
        let word = words.entry(bit.word).or_insert_with(|| tables.ports.get(&bit.word).copied().unwrap_or(0));
        *word &= !bit.mask;
        let is_there = desired.frontends.get(id).is_some_and(|frontend| is_in_tables(*id, frontend, tables));
        if is_there || place == tunnel {
            *word |= bit.mask;
        }
    }
    for (word, bits) in words {
        if tables.ports.get(&word).copied().unwrap_or(0) != bits {
            plan.ports.push(Operation::SetPorts(word, bits));
        }
    }
}
