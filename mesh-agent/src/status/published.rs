//! What the agent's core last did, as it leaves it for others to read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::net::Address;
use mesh_common::peer::Peer;

use crate::dataplane::Dataplane;
use crate::dataplane::attachments::Attached;
use crate::dataplane::flows::IdleLimits;
use crate::dataplane::overlays::OverlayState;
use crate::desired::{Backend, Desired, Frontend, FrontendId};
use crate::reach::Pulses;
use crate::reconcile::reconciler::{BackendIds, Problems, Reconciler};
use crate::swarm::snapshot::{LocalView, Snapshot};

/// What the agent's core last did.
#[derive(Debug, Default)]
pub struct Published {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) local: Arc<LocalView>,
    pub(super) desired: Desired,
    pub(super) problems: Problems,
    /// Id and generation of each backend, in the order of its frontend's backends.
    pub(super) ids: BackendIds,
    /// As the kernel has them.
    pub(super) peers: BTreeMap<Address, Peer>,
    pub(super) attached: Vec<Attached>,
    pub(super) warnings: Vec<String>,
    pub(super) overlays: BTreeMap<String, OverlayState>,
    pub pulses: Arc<Pulses>,
    /// How long the last change of the kernel's tables took.
    pub update: Duration,
}

impl Published {
    pub fn new<D: Dataplane>(
        snapshot: &Arc<Snapshot>,
        local: &Arc<LocalView>,
        desired: &Desired,
        reconciler: &Reconciler<D>,
        attached: Vec<Attached>,
        overlays: BTreeMap<String, OverlayState>,
        warnings: &[String],
    ) -> Self {
        Self {
            snapshot: snapshot.clone(),
            local: local.clone(),
            desired: desired.clone(),
            problems: reconciler.problems().clone(),
            ids: reconciler.ids().clone(),
            peers: reconciler.tables().peers.clone(),
            attached,
            warnings: warnings.to_vec(),
            overlays,
            pulses: Arc::default(),
            update: reconciler.last_update(),
        }
    }

    /// How long flows may be silent, where a service has its own idea of that.
    pub fn idle_limits(&self) -> IdleLimits {
        let frontends = self.desired.frontends.iter();
        let own = frontends.filter_map(|(id, frontend)| Some((id, frontend, frontend.idle_timeout?)));
        let by_backend = own.flat_map(|(id, frontend, limit)| {
            let known = self.backends(*id, frontend).filter_map(|(_, _, key)| key);
            known.map(move |(backend, _)| (backend, limit))
        });
        IdleLimits { by_backend: by_backend.collect() }
    }

    /// The backends of a frontend by task, each with its id and generation.
    pub(super) fn backends<'a>(
        &'a self,
        id: FrontendId,
        frontend: &'a Frontend,
    ) -> impl Iterator<Item = (&'a String, &'a Backend, Option<(u32, u32)>)> {
        let keys = self.ids.get(&id).map_or(&[][..], Vec::as_slice);
        let keys = keys.iter().copied().chain(std::iter::repeat(None));
        frontend.backends.iter().zip(keys).map(|((task, backend), key)| (task, backend, key))
    }
}
