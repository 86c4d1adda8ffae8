//! Frontends that could not be served as they should: each is tried again by itself, the later the more often it has failed. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::plan::Scope;
use crate::desired::{Desired, FrontendId};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, Default)]
pub struct Retries {
    failed: BTreeMap<FrontendId, Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    /// When it is tried again; as soon as may be, if that is not said.
    due: Option<Instant>,
    /// How long it was to be waited for that.
    pause: Duration,
}

impl Retries {
    /// `scope` and what is to be tried again.
    pub fn add_due(&self, scope: Scope, now: Instant) -> Scope {
        match scope {
            Scope::Everything => Scope::Everything,
            Scope::Frontends(mut ids) => {
                ids.extend(
                    self.failed
                        .iter()
                        .filter(|(_, failure)| failure.due.is_none_or(|due| due <= now))
                        .map(|(id, _)| *id),
                );
                Scope::Frontends(ids)
            }
        }
    }

    /// Takes note of what has failed of what was looked at.
    pub fn note(
        &mut self,
        scope: &Scope,
        problems: &BTreeMap<FrontendId, String>,
        desired: &Desired,
        now: Instant,
    ) {
        self.failed.retain(|id, _| {
            desired.frontends.contains_key(id) && (problems.contains_key(id) || !is_in(scope, *id))
        });
        for id in problems.keys() {
            let before = self.failed.get(id).map(|failure| failure.pause * 2);
            let pause = before.map_or(FIRST, |pause| pause.min(LONGEST));
            self.failed.insert(*id, Failure { due: Some(now + pause), pause });
        }
    }

    /// Whether a frontend has failed until the pauses grew no longer.
    pub fn keeps_failing(&self, id: FrontendId) -> bool {
        self.failed.get(&id).is_some_and(|failure| failure.pause == LONGEST)
    }

    /// Of what was a problem `before`, what was not looked at.
    pub fn waiting(
        &self,
        scope: &Scope,
        before: &BTreeMap<FrontendId, String>,
    ) -> BTreeMap<FrontendId, String> {
        let waiting = self.failed.keys().filter(|id| !is_in(scope, **id));
        waiting.filter_map(|id| Some((*id, before.get(id)?.clone()))).collect()
    }

    /// There is more room than there was: all of them may be served now.
    pub fn make_due(&mut self) {
        for failure in self.failed.values_mut() {
            failure.due = None;
        }
    }
}

fn is_in(scope: &Scope, id: FrontendId) -> bool {
    match scope {
        Scope::Everything => true,
        Scope::Frontends(ids) => ids.contains(&id),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::desired::Frontend;
    use crate::swarm::snapshot::Protocol;

    const WEB: FrontendId = FrontendId::Published { port: 80, protocol: Protocol::Tcp };

    /// Whether it is tried at a time.
    fn is_tried(retries: &Retries, now: Instant) -> bool {
        retries.add_due(Scope::Frontends(BTreeSet::new()), now) == Scope::Frontends(BTreeSet::from([WEB]))
    }

    #[test]
    fn what_fails_is_tried_later_and_later_until_it_does_not_or_there_is_room() {
        let desired = Desired { frontends: [(WEB, Frontend::default())].into(), ..Desired::default() };
        let problem = BTreeMap::from([(WEB, "no room".to_owned())]);
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            retries.note(&Scope::Everything, &problem, &desired, now);
            let nothing = Scope::Frontends(BTreeSet::new());
            assert_eq!(retries.waiting(&nothing, &problem), problem, "it stays a problem meanwhile");
            assert!(!is_tried(&retries, now + Duration::from_millis(pause * 1_000 - 1)));
            now += Duration::from_secs(pause);
            assert!(is_tried(&retries, now));
        }
        retries.note(&Scope::Everything, &problem, &desired, now);
        retries.make_due();
        assert!(is_tried(&retries, now));
        retries.note(&Scope::Everything, &BTreeMap::new(), &desired, now);
        assert!(!is_tried(&retries, now + LONGEST));

        retries.note(&Scope::Everything, &problem, &desired, now);
        retries.note(&Scope::Frontends(BTreeSet::from([WEB])), &BTreeMap::new(), &Desired::default(), now);
        assert!(!is_tried(&retries, now + LONGEST), "nobody wants it any more");
    }
}
