//! What the resolver and the kernel may answer about names, and to whom.

use std::net::SocketAddrV4;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::warn;

use super::Outputs;
use crate::args::{RunArguments, Switch};
use crate::dataplane::answers::Answers;
use crate::desired::names::{Names, Seat};
use crate::dns::inside;
use crate::node::sandboxes;
use crate::node::{self, Interface};

pub(super) struct Naming {
    dns: Switch,
    port: u16,
    names: watch::Sender<Arc<Names>>,
    resolver: watch::Sender<Option<SocketAddrV4>>,
    answers: Arc<Answers>,
    /// Whether the answers that the kernel gives by itself are of names that have changed.
    outdated: bool,
}

impl Naming {
    pub(super) fn new(arguments: &RunArguments, answers: Answers, outputs: &Outputs) -> Self {
        Self {
            dns: arguments.dns,
            port: arguments.dns_port,
            names: outputs.names.clone(),
            resolver: outputs.resolver.clone(),
            answers: Arc::new(answers),
            outdated: false,
        }
    }

    /// What the kernel answers by itself.
    pub(super) fn answers(&self) -> Arc<Answers> {
        self.answers.clone()
    }

    pub(super) fn is_outdated(&self) -> bool {
        self.outdated
    }

    /// Tells the resolver what it may answer, and where it is to listen. With `--dns=off` that is nothing, nowhere.
    pub(super) fn round(&mut self, names: Names, bridge: Option<&Interface>) -> Arc<Names> {
        if self.dns == Switch::Off {
            return Arc::default();
        }
        let names = Arc::new(names);
        self.outdated |= self.names.send_if_modified(|known| {
            let differs = *known != names;
            if differs {
                *known = names.clone();
            }
            differs
        });
        if self.outdated {
            match self.answers.renew() {
                Ok(()) => self.outdated = false,
                Err(error) => warn!("containers may get outdated answers about names: {error:#}"),
            }
        }
        let address = node::resolver_address(bridge).map(|address| SocketAddrV4::new(address, self.port));
        self.resolver.send_if_modified(|known| {
            let differs = *known != address;
            *known = address;
            differs
        });
        names
    }
}

/// Whose questions the hooks may send to the resolver: inside of containers not before somebody listens there.
pub(super) fn answered(names: &Names, inside: &inside::Open) -> sandboxes::Wanted {
    let mut wanted = sandboxes::Wanted::default();
    for seat in names.askers().keys() {
        match seat {
            Seat::Bridge(address) => drop(wanted.addresses.insert(*address)),
            Seat::Sandbox(sandbox) if inside.contains(sandbox) => {
                wanted.sandboxes.insert(*sandbox);
            }
            Seat::Sandbox(_) => {}
        }
    }
    wanted
}
