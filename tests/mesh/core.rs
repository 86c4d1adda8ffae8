//! The agent's pure core: what it wants the tables to hold, and what its resolver says. Packets go nowhere here.

use anyhow::{Result, bail};
use mesh_agent::{
    desired::names::Seat,
    dns::{
        respond::{Circumstances, Response, respond},
        wire::Transport,
    },
};

use crate::{
    level::{Level, Views, Went, state_name},
    packets::Coming,
    scenario::{Becomes, Tables},
    support::cast::Ip,
};

pub(crate) struct Core;

impl Level for Core {
    fn name(&self) -> &'static str {
        "core"
    }

    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn follow(&mut self, _: &Views) -> Result<()> {
        Ok(())
    }

    fn tables(&mut self, views: &Views) -> Result<Tables> {
        let backends = |(id, frontend): (_, &mesh_agent::desired::Frontend)| {
            let backends = frontend.backends.iter();
            let backends =
                backends.map(|(task, backend)| (task.clone(), state_name(backend.state).to_owned()));
            (views.frontend_name(id), backends.collect())
        };
        Ok(views.frontends().map(backends).collect())
    }

    fn packet(&mut self, _: &Coming, _: &Becomes, _: &Views) -> Result<Option<Went>> {
        Ok(None)
    }

    fn ask(&mut self, by: Ip, message: &[u8], views: &Views) -> Result<Vec<u8>> {
        answer(by, message, views)
    }
}

/// The resolver's answer, without a server around it.
pub(crate) fn answer(by: Ip, message: &[u8], views: &Views) -> Result<Vec<u8>> {
    let about = Circumstances {
        asker: Seat::Bridge(by.into()),
        transport: Transport::Udp,
        names: &views.service_names,
        searches_first: false,
        rotation: 0,
    };
    let mut answer = Vec::new();
    match respond(message, about, &mut answer) {
        Response::Answered { .. } => Ok(answer),
        Response::Elsewhere(_) => Ok(crate::dns::failure(message)),
        Response::Ignored => bail!("it takes this for no question"),
    }
}
