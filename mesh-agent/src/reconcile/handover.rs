//! Which connections stay Docker's when the mesh takes a frontend from it. Pure.
//!
//! A frontend that the mesh begins to serve is [`flags::UNREAD`] first: what belongs to no known flow and begins none is left to
//! Docker. Then Docker's connections are read; those of the frontend get into the tables, where the programs look for what
//! they do not know ([`flags::SHARED`]), and leave them when they are over. A frontend without any is the mesh's alone.

use std::collections::BTreeSet;

use mesh_common::frontend::{Frontend, flags};
use mesh_common::unread::UnreadPort;

use super::tables::{DockerFlow, Operation, Tables};
use crate::desired::FrontendId;

/// Frontends whose connections have to be read.
pub fn unread(tables: &Tables) -> BTreeSet<FrontendId> {
    with_flag(tables, flags::UNREAD)
}

/// Frontends of which Docker carries connections.
pub fn shared(tables: &Tables) -> BTreeSet<FrontendId> {
    with_flag(tables, flags::SHARED)
}

/// Frontends that were dialled by these interfaces before they had the programs.
pub fn behind(tables: &Tables, ports: &BTreeSet<UnreadPort>) -> BTreeSet<FrontendId> {
    let networks: BTreeSet<u32> = ports.iter().map(|port| port.network).collect();
    let is_behind = |id: &&FrontendId| match id {
        FrontendId::Published { .. } => networks.contains(&0),
        FrontendId::Vip { network, .. } => networks.contains(network),
    };
    tables.frontends.keys().filter(is_behind).copied().collect()
}

fn with_flag(tables: &Tables, flag: u8) -> BTreeSet<FrontendId> {
    let flagged = tables.frontends.iter().filter(|(_, frontend)| frontend.flags & flag != 0);
    flagged.map(|(id, _)| *id).collect()
}

/// What is to be done when Docker carries these connections. `read` are the frontends for which that is now known for good;
/// `arriving` those that come into the tables next, or that interfaces have just got the programs for.
pub fn plan(
    tables: &Tables,
    carried: &BTreeSet<DockerFlow>,
    read: &BTreeSet<FrontendId>,
    arriving: &BTreeSet<FrontendId>,
) -> Vec<Operation> {
    let unread = unread(tables);
    let is_new = |flow: &&DockerFlow| {
        flow.frontend().is_some_and(|frontend| unread.contains(&frontend) || arriving.contains(&frontend))
    };
    // Connections that Docker gets later are none that the mesh would have had.
    let new: Vec<DockerFlow> = carried.difference(&tables.docker_flows).filter(is_new).copied().collect();
    let over = tables.docker_flows.difference(carried).copied();
    let mut operations: Vec<Operation> = new.iter().copied().map(Operation::AddDockerFlow).collect();
    let stay = tables.docker_flows.intersection(carried).chain(&new);
    let shared: BTreeSet<FrontendId> = stay.filter_map(DockerFlow::frontend).collect();
    for (id, frontend) in &tables.frontends {
        let is_asked_for = frontend.flags & (flags::UNREAD | flags::SHARED) != 0 || shared.contains(id);
        if frontend.flags & flags::LEFT != 0 || !is_asked_for {
            continue;
        }
        let stays_unread = frontend.flags & flags::UNREAD != 0 && !read.contains(id);
        let kept = if stays_unread { flags::UNREAD | flags::SHARED } else { 0 };
        let known = if shared.contains(id) { flags::SHARED } else { 0 };
        let next = Frontend { flags: kept | known, ..*frontend };
        if next != *frontend {
            operations.push(Operation::SetFrontend(*id, next));
        }
    }
    operations.extend(over.map(Operation::DeleteDockerFlow));
    operations
}

#[cfg(test)]
mod tests {
    use mesh_common::flow::FlowKey;
    use mesh_common::net::{Address, Port, protocol};

    use super::*;
    use crate::swarm::snapshot::Protocol;

    const WEB: FrontendId = FrontendId::Published { port: 80, protocol: Protocol::Tcp };
    const OTHER: FrontendId = FrontendId::Published { port: 81, protocol: Protocol::Tcp };

    fn flow(client_port: u16, port: u16) -> DockerFlow {
        DockerFlow::Published(FlowKey {
            client: Address::new([203, 0, 113, 9]),
            frontend: Address::new([10, 99, 0, 1]),
            client_port: Port::new(client_port),
            frontend_port: Port::new(port),
            protocol: protocol::TCP,
            padding: [0; 3],
        })
    }

    fn tables(flags: u8) -> Tables {
        let frontend = Frontend { flags, set: 7, ..Frontend::default() };
        Tables { frontends: [(WEB, frontend), (OTHER, Frontend::default())].into(), ..Tables::default() }
    }

    fn carry_out(tables: &mut Tables, carried: &[DockerFlow], read: &[FrontendId]) -> u8 {
        carry_out_behind(tables, carried, read, &[])
    }

    fn carry_out_behind(
        tables: &mut Tables,
        carried: &[DockerFlow],
        read: &[FrontendId],
        ports: &[UnreadPort],
    ) -> u8 {
        let (carried, read) = (carried.iter().copied().collect(), read.iter().copied().collect());
        let behind = behind(tables, &ports.iter().copied().collect());
        for operation in plan(tables, &carried, &read, &behind) {
            tables.apply(&operation);
        }
        tables.frontends[&WEB].flags
    }

    #[test]
    fn what_docker_carries_is_its_until_it_ends() {
        let mut tables = tables(flags::UNREAD | flags::SHARED);
        let (one, two) = (flow(1000, 80), flow(1001, 80));
        assert_eq!(carry_out(&mut tables, &[one, two, flow(1002, 81)], &[WEB]), flags::SHARED);
        assert_eq!(tables.docker_flows, [one, two].into(), "the other port was the mesh's before");
        assert_eq!(tables.frontends[&WEB].set, 7, "nothing else changes");
        assert_eq!(carry_out(&mut tables, &[two, flow(1003, 80)], &[]), flags::SHARED);
        assert_eq!(tables.docker_flows, [two].into());
        assert_eq!(carry_out(&mut tables, &[], &[]), 0);
        assert!(tables.docker_flows.is_empty());
        assert!(plan(&tables, &BTreeSet::new(), &[WEB].into(), &BTreeSet::new()).is_empty());
    }

    #[test]
    fn a_frontend_that_came_after_the_reading_began_stays_unread() {
        let mut tables = tables(flags::UNREAD | flags::SHARED);
        assert_eq!(carry_out(&mut tables, &[], &[]), flags::UNREAD | flags::SHARED);
        assert_eq!(carry_out(&mut tables, &[], &[WEB]), 0);
    }

    #[test]
    fn what_is_known_before_a_frontend_comes_is_there_when_it_does() {
        let mut tables = Tables::default();
        let carried = [flow(1000, 80), flow(1000, 81)].into();
        for operation in plan(&tables, &carried, &BTreeSet::new(), &[WEB].into()) {
            tables.apply(&operation);
        }
        assert_eq!(tables.docker_flows, [flow(1000, 80)].into());
    }

    #[test]
    fn what_is_left_to_docker_stays_left() {
        let mut tables = tables(flags::LEFT);
        assert_eq!(carry_out(&mut tables, &[flow(1000, 80)], &[WEB]), flags::LEFT);
        assert!(tables.docker_flows.is_empty());
        let uplink = UnreadPort { network: 0, interface: 9 };
        assert_eq!(carry_out_behind(&mut tables, &[flow(1000, 80)], &[], &[uplink]), flags::LEFT);
    }

    #[test]
    fn what_came_in_by_an_interface_before_it_had_the_programs_is_dockers_until_it_ends() {
        let mut tables = tables(0);
        let (overlay, uplink) =
            (UnreadPort { network: 7, interface: 9 }, UnreadPort { network: 0, interface: 9 });
        assert_eq!(carry_out_behind(&mut tables, &[flow(1000, 80)], &[], &[overlay]), 0);
        assert!(tables.docker_flows.is_empty(), "it came in elsewhere");
        assert_eq!(carry_out_behind(&mut tables, &[flow(1000, 80)], &[], &[uplink]), flags::SHARED);
        assert_eq!(tables.docker_flows, [flow(1000, 80)].into());
        assert_eq!(carry_out(&mut tables, &[], &[]), 0);
    }
}
