//! This node's place in a Swarm, as `GET /info` tells it. Pure.

use std::net::{IpAddr, Ipv4Addr};

use bollard::models::{LocalNodeState, SystemInfo};

use super::api::host_of;
use super::snapshot::ThisNode;

/// Whether there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    NotInSwarm {
        why: String,
    },
    Member {
        /// `cluster_id` is empty on workers: they are not told.
        node: ThisNode,
        /// Where the managers are.
        managers: Vec<IpAddr>,
    },
}

pub(super) fn membership(info: &SystemInfo) -> Membership {
    let Some(swarm) = info.swarm.as_ref() else {
        return Membership::NotInSwarm { why: "Docker says nothing about a Swarm".into() };
    };
    let state = swarm.local_node_state.unwrap_or(LocalNodeState::EMPTY);
    let why = match state {
        LocalNodeState::ACTIVE => None,
        LocalNodeState::EMPTY | LocalNodeState::INACTIVE => Some(
            "this node is in no Swarm; `docker swarm init` or `docker swarm join` changes that".to_owned(),
        ),
        LocalNodeState::PENDING => Some("this node is joining a Swarm".to_owned()),
        LocalNodeState::LOCKED => {
            Some("this node's Swarm state is locked; `docker swarm unlock` opens it".to_owned())
        }
        LocalNodeState::ERROR => Some(format!(
            "this node's membership has an error: {}",
            swarm.error.as_deref().unwrap_or("unknown")
        )),
    };
    if let Some(why) = why {
        return Membership::NotInSwarm { why };
    }
    let node = ThisNode {
        id: swarm.node_id.clone().unwrap_or_default(),
        hostname: info.name.clone().unwrap_or_default(),
        address: swarm.node_addr.as_deref().and_then(usable_ipv4),
        cluster_id: swarm.cluster.as_ref().and_then(|cluster| cluster.id.clone()).unwrap_or_default(),
        manager: swarm.control_available.unwrap_or_default(),
    };
    let managers = swarm.remote_managers.iter().flatten();
    let managers = managers.filter_map(|manager| host_of(manager.addr.as_deref()?)).collect();
    Membership::Member { node, managers }
}

fn usable_ipv4(text: &str) -> Option<Ipv4Addr> {
    match host_of(text)? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_learns_who_it_is_and_where_the_managers_are() {
        let info = serde_json::from_slice(include_bytes!("testdata/info_worker.json")).unwrap();
        let expected = Membership::Member {
            node: ThisNode {
                id: "node2".into(),
                hostname: "two".into(),
                address: Some([10, 99, 0, 2].into()),
                cluster_id: String::new(),
                manager: false,
            },
            managers: vec![IpAddr::from([10, 99, 0, 1])],
        };
        assert_eq!(membership(&info), expected);
    }

    #[test]
    fn a_manager_learns_the_clusters_id_too() {
        let info = serde_json::from_slice(include_bytes!("testdata/info_manager.json")).unwrap();
        let Membership::Member { node, .. } = membership(&info) else { panic!("{info:?}") };
        assert!(node.manager);
        assert_eq!(node.cluster_id, "clusterid");
    }

    #[test]
    fn a_node_in_no_swarm_is_told_what_to_do() {
        for (state, text) in [("inactive", "docker swarm join"), ("locked", "docker swarm unlock")] {
            let info = serde_json::json!({"Name": "x", "Swarm": {"NodeID": "", "LocalNodeState": state}});
            let info: SystemInfo = serde_json::from_value(info).unwrap();
            let Membership::NotInSwarm { why } = membership(&info) else { panic!("{info:?}") };
            assert!(why.contains(text), "{why}");
        }
    }
}
