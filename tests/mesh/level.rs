//! What scenarios are played on: the agent's pure core, the programs in this machine's kernel, and an agent in a namespace.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use mesh_agent::{
    desired::{Desired, Frontend, FrontendId, Names as ServiceNames, State, Surroundings},
    swarm::{
        file,
        snapshot::{LocalView, Snapshot},
    },
};
use serde_yaml_ng::Value;

use crate::{
    packets::{Coming, Names},
    scenario::{Becomes, Tables},
    support::cast::Ip,
};

/// One that has no answer to a question says `None`, and the step is not looked at there.
pub(crate) trait Level {
    fn name(&self) -> &'static str;

    /// A scenario begins: nothing is known of those before.
    fn begin(&mut self) -> Result<()>;

    /// The Swarm is so from now on.
    fn follow(&mut self, views: &Views) -> Result<()>;

    fn tables(&mut self, views: &Views) -> Result<Tables>;

    fn packet(&mut self, coming: &Coming, expected: &Becomes, views: &Views) -> Result<Option<Went>>;

    /// A DNS message from the container at this address of docker_gwbridge; the answer's message.
    fn ask(&mut self, by: Ip, message: &[u8], views: &Views) -> Result<Vec<u8>>;
}

/// What became of a packet.
#[derive(Debug)]
pub(crate) enum Went {
    /// It left the node as this frame.
    Packet(Vec<u8>),
    Nothing,
    Left,
}

/// A Swarm as the agent on one of its nodes sees it.
#[derive(Debug)]
pub(crate) struct Views {
    pub(crate) snapshot: Snapshot,
    pub(crate) local: LocalView,
    pub(crate) desired: Desired,
    pub(crate) service_names: ServiceNames,
    pub(crate) names: Names,
}

impl Views {
    pub(crate) fn of(swarm: &Value, file: &Path, client: Ip) -> Result<Self> {
        let written = serde_yaml_ng::to_string(swarm)?;
        fs::write(file, written).with_context(|| format!("cannot write {}", file.display()))?;
        let (snapshot, local) = file::read(file)?;
        let names = Names::of(&snapshot, &local, client);
        let surroundings = Surroundings {
            overlays: snapshot
                .networks
                .values()
                .filter(|network| network.vni != 0)
                .map(|network| network.id.clone())
                .collect(),
            ..Surroundings::default()
        };
        let desired = Desired::from(&snapshot, &local, &surroundings);
        let service_names = ServiceNames::from(&snapshot, &local);
        Ok(Self { snapshot, local, desired, service_names, names })
    }

    /// What a frontend is called in scenarios.
    pub(crate) fn frontend_name(&self, id: FrontendId) -> String {
        match id {
            FrontendId::Published { .. } => id.to_string(),
            FrontendId::Vip { address, .. } => self.names.name(address.octets()),
        }
    }

    /// Those that the mesh serves.
    pub(crate) fn frontends(&self) -> impl Iterator<Item = (FrontendId, &Frontend)> {
        self.desired
            .frontends
            .iter()
            .filter(|(_, frontend)| frontend.left.is_none())
            .map(|(id, frontend)| (*id, frontend))
    }
}

pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Draining => "draining",
    }
}
