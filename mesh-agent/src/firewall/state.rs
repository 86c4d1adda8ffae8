//! What the agent's core asks in every round: which published ports stay Docker's, and what the operator should know.

use std::sync::Arc;

use tracing::info;

use super::judge::filters;
use super::{Decision, Filter, Filtered, Mode, Observed, Scene};

/// Judges the rules anew when they, or what they are judged for, have changed.
#[derive(Debug)]
pub struct Firewall {
    decision: Decision,
    last: Option<Last>,
    /// What was said of rules that are understood.
    understood: Option<String>,
}

#[derive(Debug)]
struct Last {
    rules: Arc<Observed>,
    scene: Scene,
    found: Result<Vec<Filter>, String>,
}

impl Firewall {
    /// `resumes` tells whether an agent has served published ports here, and its tables are still there.
    pub fn new(mode: Mode, resumes: bool) -> Self {
        Self { decision: Decision::new(mode, resumes), last: None, understood: None }
    }

    /// What stays Docker's.
    pub fn round(&mut self, rules: &Arc<Observed>, scene: Scene) -> Filtered {
        let is_known =
            self.last.as_ref().is_some_and(|last| Arc::ptr_eq(&last.rules, rules) && last.scene == scene);
        if !is_known {
            let found = match rules.as_ref() {
                Ok(ruleset) => Ok(filters(ruleset, &scene)),
                Err(why) => Err(why.clone()),
            };
            let understood = self.decision.understood(found.as_deref().unwrap_or_default());
            if let Some(text) = understood.as_ref().filter(|_| self.understood != understood) {
                info!("{text}");
            }
            self.understood = understood;
            self.last = Some(Last { rules: rules.clone(), scene, found });
        }
        let Some(last) = &self.last else { return Filtered::None };
        let found = last.found.as_ref().map(Vec::as_slice).map_err(String::as_str);
        self.decision.decide(found, &last.scene.published)
    }

    /// As of the last round.
    pub fn warnings(&self) -> Vec<String> {
        let Some(last) = &self.last else { return Vec::new() };
        self.decision.warnings(last.found.as_ref().map(Vec::as_slice).map_err(String::as_str))
    }
}
