//! What changed from one snapshot to the next, and a snapshot with that applied. Pure.

use hyper::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::messages::{Kind, Object, ObjectRef};
use crate::shared_map::{Difference, SharedMap};
use crate::swarm::snapshot::Snapshot;

/// `apply(between(old, new), old) == new`
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) upserts: Vec<Object>,
    pub(super) removes: Vec<ObjectRef>,
    /// What is too large to be told, in words. It counts as removed.
    pub(super) refused: Vec<String>,
}

/// No service, task or node is a tenth as large. One object must not keep all others from arriving.
const OBJECT_BYTES: usize = 1024 * 1024;

pub(super) fn between(old: &Snapshot, new: &Snapshot) -> Changes {
    let mut changes = Changes::default();
    changes.collect(Kind::Network, &old.networks, &new.networks);
    changes.collect(Kind::Node, &old.nodes, &new.nodes);
    changes.collect(Kind::Service, &old.services, &new.services);
    changes.collect(Kind::Task, &old.tasks, &new.tasks);
    changes.collect(Kind::Condition, &old.conditions, &new.conditions);
    changes.collect(Kind::Attached, &old.attached, &new.attached);
    changes
}

/// Gives the objects that could not be understood, each with the reason; they are left out.
pub(super) fn apply(changes: Changes, snapshot: &mut Snapshot) -> Vec<String> {
    let mut complaints = Vec::new();
    for object in changes.upserts {
        let outcome = match object.kind() {
            Kind::Network => upsert(&mut snapshot.networks, &object),
            Kind::Node => upsert(&mut snapshot.nodes, &object),
            Kind::Service => upsert(&mut snapshot.services, &object),
            Kind::Task => upsert(&mut snapshot.tasks, &object),
            Kind::Condition => upsert(&mut snapshot.conditions, &object),
            Kind::Attached => upsert(&mut snapshot.attached, &object),
            Kind::Unknown => Err("an object of a kind that this agent does not know".to_owned()),
        };
        if let Err(reason) = outcome {
            remove(snapshot, object.kind(), &object.id);
            complaints.push(format!("{:?} {}: {reason}", object.kind(), object.id));
        }
    }
    for object in changes.removes {
        remove(snapshot, object.kind(), &object.id);
    }
    complaints
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removes.is_empty()
    }

    fn collect<T: PartialEq + Serialize>(
        &mut self,
        kind: Kind,
        old: &SharedMap<String, T>,
        new: &SharedMap<String, T>,
    ) {
        for Difference { key: id, after, .. } in new.differences(old) {
            match after {
                Some(value) => match object(kind, id, value) {
                    Ok(object) => self.upserts.push(object),
                    Err(refused) => {
                        self.refused.push(refused);
                        self.removes.push(ObjectRef { kind: kind.into(), id: id.clone() });
                    }
                },
                None => self.removes.push(ObjectRef { kind: kind.into(), id: id.clone() }),
            }
        }
    }
}

/// Refuses what is too large, in words.
pub(super) fn object<T: Serialize>(kind: Kind, id: &str, value: &T) -> Result<Object, String> {
    // Plain data with string keys: it always has a form in JSON.
    let json = serde_json::to_vec(value).unwrap_or_default();
    if json.len() + id.len() > OBJECT_BYTES {
        return Err(format!("{kind:?} {id} has {} bytes: other nodes are not told of it", json.len()));
    }
    Ok(Object { kind: kind.into(), id: id.to_owned(), json: Bytes::from(json) })
}

fn upsert<T: DeserializeOwned>(objects: &mut SharedMap<String, T>, object: &Object) -> Result<(), String> {
    let value = serde_json::from_slice(&object.json).map_err(|error| error.to_string())?;
    objects.insert(object.id.clone(), value);
    Ok(())
}

fn remove(snapshot: &mut Snapshot, kind: Kind, id: &str) {
    match kind {
        Kind::Network => drop(snapshot.networks.remove(id)),
        Kind::Node => drop(snapshot.nodes.remove(id)),
        Kind::Service => drop(snapshot.services.remove(id)),
        Kind::Task => drop(snapshot.tasks.remove(id)),
        Kind::Condition => drop(snapshot.conditions.remove(id)),
        Kind::Attached => drop(snapshot.attached.remove(id)),
        Kind::Unknown => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peers::tests::snapshots::any_snapshot;

    proptest! {
        #[test]
        fn changes_applied_to_the_old_snapshot_give_the_new_one(old in any_snapshot(), new in any_snapshot()) {
            let mut snapshot = old.clone();
            let complaints = apply(between(&old, &new), &mut snapshot);
            prop_assert_eq!(snapshot, new);
            prop_assert!(complaints.is_empty());
        }

        #[test]
        fn nothing_changes_between_equals(snapshot in any_snapshot()) {
            prop_assert!(between(&snapshot, &snapshot).is_empty());
        }
    }

    #[test]
    fn an_object_that_is_too_large_is_left_out_and_named_and_holds_up_no_other() {
        let service = |label: usize| crate::swarm::snapshot::Service {
            labels: [("x".to_owned(), "y".repeat(label))].into(),
            ..Default::default()
        };
        let with = |label| {
            let mut snapshot = Snapshot::default();
            snapshot.services.insert("large".into(), service(label));
            snapshot.services.insert("other".into(), service(label.min(2)));
            snapshot
        };
        let (small, large) = (with(1), with(OBJECT_BYTES));
        let changes = between(&small, &large);
        assert_eq!(changes.refused.len(), 1);
        assert!(changes.refused[0].starts_with("Service large has 10"), "{:?}", changes.refused);
        let mut told = small.clone();
        apply(changes, &mut told);
        assert_eq!(told.services.keys().collect::<Vec<_>>(), ["other"], "no outdated one passes for it");
        let mut told = large.clone();
        told.services.remove("large");
        apply(between(&large, &small), &mut told);
        assert_eq!(told, small);
    }

    #[test]
    fn an_object_that_is_not_understood_is_left_out_and_named() {
        let mut snapshot = Snapshot::default();
        snapshot.tasks.insert("t".into(), crate::swarm::snapshot::Task::default());
        let bad = Object {
            kind: Kind::Task.into(),
            id: "t".into(),
            json: Bytes::from_static(b"{\"state\":\"odd\"}"),
        };
        let newer = Object { kind: 77, id: "x".into(), json: Bytes::from_static(b"{}") };
        let complaints = apply(Changes { upserts: vec![bad, newer], ..Changes::default() }, &mut snapshot);
        assert_eq!(
            snapshot,
            Snapshot::default(),
            "an outdated task must not pass for the one that was not understood"
        );
        assert_eq!(complaints.len(), 2);
        assert!(complaints[0].contains("Task t: unknown variant `odd`"), "{complaints:?}");
    }
}
