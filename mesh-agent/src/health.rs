//! `mesh-agent health`: whether a restart of this agent could help. Pure: the clock is an argument.
//!
//! An unhealthy task is killed by its own node, and without a quorum nothing replaces it. So tables that are frozen, managers
//! that are waited for, and a node that was given back to Docker are no illness: they are only said.

use std::time::{Duration, Instant};

use crate::swarm::status::{SourceRole, SourceStatus};

/// For how long the core may be silent, and what it tries may fail, before a restart is worth it.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often the core shows that it lives, at least.
pub const PULSE: Duration = Duration::from_secs(5);
/// How old the knowledge of the Swarm may be without being worth a word.
const FRESH: Duration = Duration::from_secs(10);

/// What the core last did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// When its loop last turned; `None` until the programs are loaded.
    turned: Option<Instant>,
    /// Whether it has made the tables once.
    is_set_up: bool,
    /// Since when its programs or tables are not in place, and why.
    trouble: Option<(Instant, String)>,
    /// Whether `mesh-agent uninstall` has taken the mesh off this node.
    is_removed: bool,
}

/// What a round of the core came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Why the programs are on no uplink, though there are some.
    pub nowhere: Option<String>,
    /// Whether the tables were made.
    pub is_complete: bool,
    /// Why the node's own tables could not be written.
    pub unwritten: Option<String>,
    pub is_removed: bool,
}

impl Vitals {
    pub fn turned(&mut self, now: Instant) {
        self.turned = Some(now);
    }

    pub fn made(&mut self, round: Round, now: Instant) {
        self.is_removed = round.is_removed;
        self.is_set_up |= round.is_complete && round.unwritten.is_none();
        // Tables that were made once serve on, though something new cannot be written.
        let unwritten = round.unwritten.filter(|_| !self.is_set_up);
        let since = self.trouble.take().map_or(now, |(since, _)| since);
        self.trouble = round.nowhere.or(unwritten).map(|why| (since, why));
    }
}

/// Whether the agent is well, and a sentence about that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub is_well: bool,
    pub sentence: String,
}

impl Health {
    fn well(sentence: impl Into<String>) -> Self {
        Self { is_well: true, sentence: sentence.into() }
    }

    fn ill(sentence: impl Into<String>) -> Self {
        Self { is_well: false, sentence: sentence.into() }
    }
}

pub fn judge(vitals: &Vitals, source: &SourceStatus, now: Instant) -> Health {
    let Some(turned) = vitals.turned else {
        return Health::ill("starting: the programs and tables are not in place yet");
    };
    let silent = now.saturating_duration_since(turned);
    if silent > PATIENCE {
        return Health::ill(format!("the agent's core has made no round for {} s", silent.as_secs()));
    }
    if vitals.is_removed {
        return Health::well(
            "the mesh was taken off this node, which is left to Docker until the agent starts again",
        );
    }
    if let Some((since, why)) = &vitals.trouble {
        let lasts = now.saturating_duration_since(*since);
        let sentence = format!("programs or tables are not in place for {} s: {why}", lasts.as_secs());
        return if lasts > PATIENCE { Health::ill(sentence) } else { Health::well(sentence) };
    }
    let error = source.swarm.last_error.as_deref().or(source.local.last_error.as_deref());
    if !vitals.is_set_up {
        return Health::well(waiting(source.role, error));
    }
    let age = source.swarm.last_success.map(|heard| now.saturating_duration_since(heard));
    match (age.filter(|age| *age > FRESH), error) {
        (Some(age), error) => {
            let why = error.map(|error| format!(": {error}")).unwrap_or_default();
            Health::well(format!("serving by tables that are frozen since {} s{why}", age.as_secs()))
        }
        (None, _) => Health::well("serving"),
    }
}

fn waiting(role: SourceRole, error: Option<&str>) -> String {
    let for_what = match role {
        SourceRole::NotInSwarm => "the node to join a Swarm",
        SourceRole::Worker => "a manager's agent",
        SourceRole::Manager | SourceRole::Starting => "Docker",
        SourceRole::File => "its file",
    };
    let why = error.map(|error| format!(": {error}")).unwrap_or_default();
    format!("the programs are in place, waiting for {for_what}{why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(role: SourceRole, heard: Option<Instant>, error: Option<&str>) -> SourceStatus {
        let mut board = SourceStatus { role, ..SourceStatus::default() };
        board.swarm.last_success = heard;
        board.swarm.last_error = error.map(str::to_owned);
        board
    }

    fn complete() -> Round {
        Round { is_complete: true, ..Round::default() }
    }

    fn failing(why: &str) -> Round {
        Round { nowhere: Some(why.into()), ..complete() }
    }

    #[test]
    fn only_a_silent_core_and_missing_programs_or_tables_are_an_illness() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let heard = board(SourceRole::Worker, Some(begin), None);
        let mut vitals = Vitals::default();
        assert!(!judge(&vitals, &heard, begin).is_well, "nothing is loaded yet");

        vitals.turned(begin);
        vitals.made(complete(), begin);
        assert_eq!(judge(&vitals, &heard, at(1)), Health::well("serving"));
        assert!(judge(&vitals, &heard, at(30)).is_well);
        let silent = judge(&vitals, &heard, at(31));
        assert_eq!(silent, Health::ill("the agent's core has made no round for 31 s"));

        vitals.made(failing("no clsact"), at(40));
        vitals.made(failing("no clsact"), at(60));
        vitals.turned(at(71));
        let still = "programs or tables are not in place for 30 s: no clsact";
        assert_eq!(judge(&vitals, &heard, at(70)), Health::well(still), "it may pass");
        assert!(!judge(&vitals, &heard, at(71)).is_well);
        vitals.made(complete(), at(72));
        assert!(judge(&vitals, &heard, at(72)).is_well);
        vitals.made(failing("again"), at(73));
        assert!(judge(&vitals, &heard, at(90)).is_well, "its time begins anew");
    }

    #[test]
    fn tables_that_were_made_once_are_in_place_whatever_else_fails() {
        let begin = Instant::now();
        let later = begin + PATIENCE * 2;
        let round = || Round { unwritten: Some("the map PEERS is full".into()), ..complete() };
        let heard = board(SourceRole::Manager, Some(later), None);
        let after = |first: Round| {
            let mut vitals = Vitals::default();
            vitals.made(first, begin);
            vitals.made(round(), begin);
            vitals.turned(later);
            judge(&vitals, &heard, later).is_well
        };
        assert!(after(complete()));
        assert!(!after(round()));
    }

    #[test]
    fn frozen_waiting_and_given_back_are_said_and_no_illness() {
        let begin = Instant::now();
        let later = begin + Duration::from_mins(10);
        let mut vitals = Vitals::default();
        vitals.turned(later);
        let waits = judge(&vitals, &board(SourceRole::Worker, None, Some("nobody answers")), later);
        assert_eq!(
            waits,
            Health::well("the programs are in place, waiting for a manager's agent: nobody answers")
        );
        let outside = judge(&vitals, &board(SourceRole::NotInSwarm, None, None), later);
        assert_eq!(outside, Health::well("the programs are in place, waiting for the node to join a Swarm"));

        vitals.made(complete(), begin);
        let frozen = judge(&vitals, &board(SourceRole::Worker, Some(begin), Some("no quorum")), later);
        assert_eq!(frozen, Health::well("serving by tables that are frozen since 600 s: no quorum"));

        vitals.made(Round { is_removed: true, ..failing("no folder") }, begin);
        let removed = judge(&vitals, &board(SourceRole::Worker, Some(later), None), later);
        assert!(removed.is_well && removed.sentence.contains("left to Docker"), "{removed:?}");
    }
}
