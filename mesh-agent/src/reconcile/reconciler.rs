//! Carries plans out, remembers what is in the kernel, and says what could not be done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mesh_common::maps;
use mesh_common::net::{Address, Port};
use tracing::{debug, info, warn};

use super::allocation::Allocation;
use super::handover;
use super::plan::{NodeFacts, Owner, Remains, Scope, plan};
use super::retries::Retries;
use super::tables::{DockerFlow, Operation, Tables};
use crate::dataplane::{Dataplane, DataplaneError};
use crate::desired::{Desired, Frontend, FrontendId};
use crate::shared_map::SharedMap;

/// Keeps a dataplane what it should be.
#[derive(Debug)]
pub struct Reconciler<D> {
    dataplane: D,
    tables: Tables,
    allocation: Allocation,
    problems: Problems,
    last_update: Duration,
    /// What the tables are known to say; `None` if that is to be found out.
    done: Option<Done>,
    /// Frontends that could not be served as they should.
    retries: Retries,
    /// Id and generation of each backend that is in the tables, in the order of its frontend's backends.
    ids: BackendIds,
}

/// By frontend.
pub type BackendIds = SharedMap<FrontendId, Vec<Option<(u32, u32)>>>;

/// What decides what the tables say of frontends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Done {
    frontends: SharedMap<FrontendId, Frontend>,
    towards: BTreeMap<Address, u32>,
    default_uplink: u32,
    tunnel_port: Port,
}

impl Done {
    fn of(desired: &Desired, node: &NodeFacts) -> Self {
        Self {
            frontends: desired.frontends.clone(),
            towards: node.towards.clone(),
            default_uplink: node.default_uplink,
            tunnel_port: node.settings.tunnel_port,
        }
    }

    /// What has to be looked at to get from `before` to here.
    fn since(&self, before: Option<Self>) -> Scope {
        let Some(before) = before else { return Scope::Everything };
        let frontends = before.frontends;
        if (Self { frontends: SharedMap::new(), ..before })
            != (Self { frontends: SharedMap::new(), ..self.clone() })
        {
            return Scope::Everything;
        }
        let changed = self.frontends.differences(&frontends);
        Scope::Frontends(changed.into_iter().map(|difference| *difference.key).collect())
    }
}

/// What could not be done in the last round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    pub frontends: BTreeMap<FrontendId, String>,
    pub node: Option<String>,
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.node.is_none()
    }
}

/// The second half of a round: what is taken away when the packets on their way have passed.
#[derive(Debug, Default)]
#[must_use]
pub struct Rest {
    after: BTreeMap<Owner, Remains>,
    done: Option<Done>,
}

impl Rest {
    pub fn is_empty(&self) -> bool {
        self.after.is_empty()
    }
}

impl<D: Dataplane> Reconciler<D> {
    /// Takes over what the dataplane holds. It has room for so many `backends`.
    pub fn new(dataplane: D, backends: u32) -> Result<Self, DataplaneError> {
        let tables = dataplane.dump(None)?;
        let mut allocation = Allocation::new(backends, maps::TURNS, maps::SLOTS);
        allocation.restore(&tables);
        if !tables.frontends.is_empty() {
            info!(frontends = tables.frontends.len(), "taking over the tables that are in the kernel");
        }
        Ok(Self {
            dataplane,
            tables,
            allocation,
            problems: Problems::default(),
            last_update: Duration::ZERO,
            done: None,
            retries: Retries::default(),
            ids: BackendIds::new(),
        })
    }

    /// The first half of a round: everything that packets may need from now on. What fails is tried again by itself, and holds up nothing
    /// else.
    pub fn begin(&mut self, desired: &Desired, node: &NodeFacts, now: Instant) -> Rest {
        let begin = Instant::now();
        let done = Done::of(desired, node);
        let scope = self.retries.add_due(done.since(self.done.take()), now);
        let mut plan = plan(desired, node, &self.tables, &mut self.allocation, &scope);
        let mut problems = Problems { node: self.apply_each(&plan.before).err(), ..Problems::default() };
        for (id, exhausted) in &plan.impossible {
            problems.frontends.insert(*id, exhausted.to_string());
        }
        for (id, operations) in &plan.frontends {
            if let Err(error) = self.apply_all(operations) {
                problems.frontends.insert(*id, format!("{error:#}"));
                // What fails once is gone on with; what does not get anywhere shall not keep the places that others need.
                if self.retries.keeps_failing(*id) {
                    self.undo_slots(*id, operations);
                }
            }
        }
        let ports = self.apply_each(&plan.ports);
        if !plan.is_empty() {
            self.last_update = begin.elapsed();
            debug!(frontends = plan.frontends.len(), "tables changed");
        }
        // What is still in use because its successor could not be set must stay.
        for id in problems.frontends.keys() {
            if let Some(remains) = plan.after.remove(&Some(*id)) {
                let unused = remains.unused(&self.in_use(*id));
                if unused != Remains::default() {
                    plan.after.insert(Some(*id), unused);
                }
            }
        }
        self.retries.note(&scope, &problems.frontends, desired, now);
        problems.frontends.extend(self.retries.waiting(&scope, &self.problems.frontends));
        let done = ports.is_ok().then_some(done);
        problems.node = problems.node.or(ports.err());
        self.note(problems);
        self.note_ids(desired, &scope);
        let rest = Rest { after: plan.after, done };
        if rest.is_empty() {
            self.finish(&rest);
        }
        rest
    }

    /// The second half.
    pub fn finish(&mut self, rest: &Rest) {
        self.done.clone_from(&rest.done);
        for (owner, remains) in &rest.after {
            if let Err(error) = self.apply_all(&remains.operations) {
                let node = Some(format!("{error:#}"));
                self.note(Problems { node, ..self.problems.clone() });
                self.done = None;
                continue;
            }
            for id in &remains.released {
                self.allocation.release(*id);
            }
            if let Some(id) = owner.filter(|_| remains.has_ended) {
                self.allocation.release_turn(id);
            }
        }
        if !rest.is_empty() {
            self.retries.make_due();
        }
    }

    /// What Docker's mesh carries is its to go on with: see [`handover::plan`].
    pub fn hand_over(
        &mut self,
        carried: &BTreeSet<DockerFlow>,
        read: &BTreeSet<FrontendId>,
        arriving: &BTreeSet<FrontendId>,
    ) -> Result<(), DataplaneError> {
        let operations = handover::plan(&self.tables, carried, read, arriving);
        self.apply_all(&operations)
    }

    /// Looks at the kernel again, should anybody else have changed the maps.
    pub fn refresh(&mut self) {
        match self.dataplane.dump(Some(&self.tables.backends)) {
            Ok(tables) => {
                if tables != self.tables {
                    warn!("the tables in the kernel are not what was written: putting them right");
                    self.tables = tables;
                    self.done = None;
                }
            }
            Err(error) => warn!("the tables cannot be read: {error:#}"),
        }
    }

    /// What the dataplane holds that it should not, and the other way round. Changes nothing.
    pub fn differences(&self, desired: &Desired, node: &NodeFacts) -> Result<Vec<String>, DataplaneError> {
        let tables = self.dataplane.dump(None)?;
        let plan = plan(desired, node, &tables, &mut self.allocation.clone(), &Scope::Everything);
        let operations = plan.before.iter().chain(plan.frontends.values().flatten());
        let missing =
            operations.chain(&plan.ports).map(|operation| format!("the kernel lacks: {operation:?}"));
        let surplus = plan.after.values().flat_map(|remains| &remains.operations);
        let surplus = surplus.map(|operation| format!("the kernel has too much: {operation:?}"));
        Ok(missing.chain(surplus).collect())
    }

    pub fn problems(&self) -> &Problems {
        &self.problems
    }

    /// Id and generation of each backend of what was last desired.
    pub fn ids(&self) -> &BackendIds {
        &self.ids
    }

    fn note_ids(&mut self, desired: &Desired, scope: &Scope) {
        if let Scope::Frontends(changed) = scope {
            for id in changed {
                match desired.frontends.get(id) {
                    Some(frontend) => self.ids.insert(*id, self.ids_of(*id, frontend)),
                    None => drop(self.ids.remove(id)),
                }
            }
        } else {
            let all = desired.frontends.iter();
            self.ids = all.map(|(id, frontend)| (*id, self.ids_of(*id, frontend))).collect();
        }
    }

    fn ids_of(&self, id: FrontendId, frontend: &Frontend) -> Vec<Option<(u32, u32)>> {
        let known: BTreeMap<&String, u32> = self.allocation.ids_of(id).collect();
        let of_task = |task: &String| {
            let id = *known.get(task)?;
            self.tables.backends.get(&id).map(|backend| (id, backend.generation))
        };
        frontend.backends.keys().map(of_task).collect()
    }

    /// How long the last round that changed something took, without its second half.
    pub fn last_update(&self) -> Duration {
        self.last_update
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    fn apply_all(&mut self, operations: &[Operation]) -> Result<(), DataplaneError> {
        for operation in operations {
            self.dataplane.apply(operation)?;
            self.tables.apply(operation);
        }
        Ok(())
    }

    /// Of operations that do not need each other one that fails ends none; returns what was wrong with the first.
    fn apply_each(&mut self, operations: &[Operation]) -> Result<(), String> {
        let failed: Vec<DataplaneError> = operations
            .iter()
            .filter_map(|operation| self.apply_all(std::slice::from_ref(operation)).err())
            .collect();
        match &failed[..] {
            [] => Ok(()),
            [only] => Err(format!("{only:#}")),
            [first, others @ ..] => Err(format!("{first:#}, and {} more", others.len())),
        }
    }

    /// The backends that packets find behind a frontend.
    fn in_use(&self, id: FrontendId) -> BTreeSet<u32> {
        let Some(current) = self.tables.frontends.get(&id) else { return BTreeSet::new() };
        super::plan::slots(current, &self.tables).into_iter().collect()
    }

    /// Gives the places back that a frontend has taken in a set that it does not point to.
    fn undo_slots(&mut self, id: FrontendId, operations: &[Operation]) {
        let current = self.tables.frontends.get(&id).map(|frontend| frontend.set);
        for operation in operations {
            let Operation::SetSlot(key, _) = operation else { continue };
            if Some(key.set) == current || !self.tables.slots.contains_key(key) {
                continue;
            }
            if let Err(error) = self.apply_all(&[Operation::DeleteSlot(*key)]) {
                debug!(frontend = %id, "its places are not given back yet: {error:#}");
                return;
            }
        }
    }

    /// Each problem is told once when it begins, and once when it ends.
    fn note(&mut self, problems: Problems) {
        for (frontend, problem) in &problems.frontends {
            if self.problems.frontends.get(frontend) != Some(problem) {
                warn!(%frontend, "cannot be served as it should, trying again: {problem}");
            }
        }
        if let Some(problem) = &problems.node
            && self.problems.node.as_ref() != Some(problem)
        {
            warn!("the tables cannot be changed, trying again: {problem}");
        }
        if problems.is_empty() && !self.problems.is_empty() {
            info!("all tables are as they should be again");
        }
        self.problems = problems;
    }
}

#[cfg(test)]
impl<D> Reconciler<D> {
    pub fn dataplane_mut(&mut self) -> &mut D {
        &mut self.dataplane
    }
}
