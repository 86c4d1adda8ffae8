//! Taking over from the agent before: its tables, where they have another shape, with the flows that come in meanwhile, and its
//! hooks.

use std::time::{Duration, Instant};

use tracing::debug;

use crate::dataplane::migration::{self, Migration};
use crate::dataplane::pins::Pins;

/// How long after the first good round it is still waited for overlays that have no programs yet: a thread in each of their
/// namespaces attaches them.
const SETTLED_AT_LAST: Duration = Duration::from_secs(30);
/// How often flows are taken over in the meantime.
const TURN: Duration = Duration::from_millis(50);

/// What is left to do of it.
pub(super) struct Succession {
    pins: Pins,
    /// Tables of another shape that are still to be given up.
    tables: Option<Migration>,
    /// Once all programs of the node itself are these.
    settling: Option<Settling>,
    /// Whether the programs know that they are alone.
    has_all_hooks: bool,
}

/// Until the programs that may use the tables of before are gone.
#[derive(Clone, Copy)]
struct Settling {
    /// When their flows are to be looked at again.
    due: Instant,
    /// When those programs are surely gone.
    ends: Instant,
}

impl Succession {
    pub(super) fn of(migration: Migration, pins: Pins) -> Self {
        let tables = Some(migration).filter(Migration::is_pending);
        Self { pins, tables, settling: None, has_all_hooks: false }
    }

    /// To be called before programs are exchanged.
    pub(super) fn before_programs(&mut self) {
        if let Some(tables) = self.unsettled() {
            tables.prepare();
        }
    }

    /// To be called when they are.
    pub(super) fn after_programs(&mut self) {
        if let Some(tables) = self.unsettled() {
            tables.copy_flows();
        }
    }

    fn unsettled(&mut self) -> Option<&mut Migration> {
        self.tables.as_mut().filter(|_| self.settling.is_none())
    }

    /// A round has done all that it should.
    pub(super) fn is_complete(&mut self) {
        if self.unsettled().is_some() {
            let now = Instant::now();
            self.settling = Some(Settling { due: now + TURN, ends: now + SETTLED_AT_LAST });
        }
        self.claim_hooks();
    }

    /// When it goes on.
    pub(super) fn due(&self) -> Option<Instant> {
        self.settling.map(|settling| settling.due)
    }

    /// Follows the flows that come in while programs are replaced, until they surely are; `settled` says that those of overlays
    /// have been, too.
    pub(super) fn go_on(&mut self, settled: bool) {
        let now = Instant::now();
        match &mut self.settling {
            Some(settling) if !settled && now < settling.ends => {
                settling.due = now + TURN;
                self.tables.iter_mut().for_each(Migration::copy_flows);
            }
            _ => {
                self.settling = None;
                self.tables.take().into_iter().for_each(Migration::finish);
                self.claim_hooks();
            }
        }
    }

    /// Once programs of this version are on all hooks, they may stop what none of them has sent.
    fn claim_hooks(&mut self) {
        if self.has_all_hooks || self.tables.is_some() {
            return;
        }
        match migration::claim_hooks(&self.pins) {
            Ok(()) => self.has_all_hooks = true,
            Err(error) => debug!("{error:#}"),
        }
    }
}
