//! Pure: which published ports stay Docker's because of operators' rules.
//!
//! It is decided once, when the agent starts: a rule that comes later (a ban of fail2ban's) is said, but moves no node. Who has
//! served before goes on serving. Only a port that is published later, and that a rule means by its number, stays Docker's.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::ValueEnum;

use super::judge::Filter;
use super::probe::PublishedPort;

/// What operators want of rules that the mesh would pass by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Published ports that they concern stay Docker's
    #[default]
    Respect,
    /// They are understood to be of no effect
    Bypass,
}

/// Published ports that stay Docker's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Filtered {
    #[default]
    None,
    All,
    These(BTreeSet<PublishedPort>),
}

impl Filtered {
    pub fn contains(&self, port: PublishedPort) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::These(ports) => ports.contains(&port),
        }
    }
}

/// Remembers what was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    mode: Mode,
    /// `None` until the rules were read for the first time.
    start: Option<Start>,
    known: Arc<BTreeSet<PublishedPort>>,
    left: BTreeSet<PublishedPort>,
    /// Whether an agent has served published ports here, and its tables are still there.
    resumes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Serves,
    Leaves,
}

impl Decision {
    pub fn new(mode: Mode, resumes: bool) -> Self {
        Self { mode, start: None, known: Arc::default(), left: BTreeSet::new(), resumes }
    }

    /// What stays Docker's, now that there are these rules, or it cannot be known which there are, and these ports are published.
    pub fn decide(
        &mut self,
        filters: Result<&[Filter], &str>,
        published: &Arc<BTreeSet<PublishedPort>>,
    ) -> Filtered {
        if self.mode == Mode::Bypass {
            return Filtered::None;
        }
        if self.start.is_none() {
            self.start = match filters {
                _ if self.resumes => Some(Start::Serves),
                Ok([]) => Some(Start::Serves),
                Ok(_) => Some(Start::Leaves),
                Err(_) => None,
            };
            self.known.clone_from(published);
        }
        if self.start != Some(Start::Serves) {
            return Filtered::All;
        }
        if !Arc::ptr_eq(published, &self.known) {
            let filters = filters.unwrap_or_default();
            for port in published.difference(&self.known) {
                if filters.iter().any(|filter| !filter.is_general && filter.ports.contains(port)) {
                    self.left.insert(*port);
                }
            }
            self.known.clone_from(published);
            self.left.retain(|port| published.contains(port));
        }
        if self.left.is_empty() { Filtered::None } else { Filtered::These(self.left.clone()) }
    }

    /// What the operator should know of these rules.
    pub fn warnings(&self, filters: Result<&[Filter], &str>) -> Vec<String> {
        /// More of them say no more.
        const MOST: usize = 10;

        if self.mode == Mode::Bypass {
            return Vec::new();
        }
        let filters = match filters {
            Ok(filters) => filters,
            Err(why) if self.start.is_none() => {
                return vec![format!(
                    "this node's firewall rules cannot be read, and published ports stay Docker's until they can: {why}; \
                     --firewall=bypass serves them all the same"
                )];
            }
            Err(why) => return vec![format!("this node's firewall rules cannot be read: {why}")],
        };
        let effect = |filter: &Filter| {
            if self.start == Some(Start::Leaves)
                || !filter.is_general && filter.ports.iter().all(|port| self.left.contains(port))
            {
                "published ports stay Docker's for it until the agent is started without it; --firewall=bypass serves them all the same"
            } else {
                "the mesh serves published ports past it; --firewall=bypass says that this is understood"
            }
        };
        let mut warnings: Vec<String> = filters
            .iter()
            .take(MOST)
            .map(|filter| format!("firewall rule `{}`: {}", filter.text, effect(filter)))
            .collect();
        if filters.len() > MOST {
            warnings.push(format!("and {} firewall rules more", filters.len() - MOST));
        }
        warnings
    }

    /// For the log, where the mode says that they are understood.
    pub fn understood(&self, filters: &[Filter]) -> Option<String> {
        (self.mode == Mode::Bypass && !filters.is_empty()).then(|| {
            let rules: Vec<_> = filters.iter().take(3).map(|filter| format!("`{}`", filter.text)).collect();
            format!(
                "--firewall=bypass: published ports are served past {} firewall rules, like {}",
                filters.len(),
                rules.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::net::protocol::TCP;

    use super::*;

    const WEB: PublishedPort = (TCP, 80);
    const DATABASE: PublishedPort = (TCP, 5432);

    fn ports(ports: &[PublishedPort]) -> Arc<BTreeSet<PublishedPort>> {
        Arc::new(ports.iter().copied().collect())
    }

    fn general() -> Filter {
        Filter { text: "ban".into(), is_general: true, ports: BTreeSet::new() }
    }

    fn of(port: PublishedPort) -> Filter {
        Filter { text: "one port".into(), is_general: false, ports: [port].into() }
    }

    #[test]
    fn rules_that_are_there_at_the_start_leave_all_ports_to_docker_for_good() {
        for filter in [general(), of(WEB)] {
            let mut decision = Decision::new(Mode::Respect, false);
            assert_eq!(decision.decide(Ok(std::slice::from_ref(&filter)), &ports(&[WEB])), Filtered::All);
            assert!(decision.warnings(Ok(&[filter]))[0].contains("stay Docker's"));
            assert_eq!(decision.decide(Ok(&[]), &ports(&[WEB, DATABASE])), Filtered::All);
        }
    }

    #[test]
    fn a_ban_that_comes_later_moves_no_node_and_is_said() {
        let mut decision = Decision::new(Mode::Respect, false);
        assert_eq!(decision.decide(Ok(&[]), &ports(&[WEB])), Filtered::None);
        assert_eq!(decision.decide(Ok(&[general(), of(WEB)]), &ports(&[WEB])), Filtered::None);
        assert_eq!(decision.decide(Ok(&[general()]), &ports(&[WEB, DATABASE])), Filtered::None);
        assert!(decision.warnings(Ok(&[general()]))[0].contains("serves published ports past it"));
    }

    #[test]
    fn a_port_that_is_published_later_and_meant_by_a_rule_stays_dockers_alone() {
        let mut decision = Decision::new(Mode::Respect, false);
        decision.decide(Ok(&[]), &ports(&[WEB]));
        let left = Filtered::These([DATABASE].into());
        assert_eq!(decision.decide(Ok(&[of(DATABASE)]), &ports(&[WEB, DATABASE])), left);
        assert!(decision.warnings(Ok(&[of(DATABASE)]))[0].contains("stay Docker's"));
        assert_eq!(decision.decide(Ok(&[]), &ports(&[WEB, DATABASE])), left, "until a restart");
        assert_eq!(decision.decide(Ok(&[]), &ports(&[WEB])), Filtered::None);
        assert_eq!(decision.decide(Ok(&[]), &ports(&[WEB, DATABASE])), Filtered::None, "it is another one");
    }

    #[test]
    fn who_has_served_goes_on_serving() {
        let mut decision = Decision::new(Mode::Respect, true);
        assert_eq!(decision.decide(Ok(&[general(), of(WEB)]), &ports(&[WEB])), Filtered::None);
        assert_eq!(decision.warnings(Ok(&[general()])).len(), 1);
    }

    #[test]
    fn what_is_understood_is_said_once_and_is_no_warning() {
        let mut decision = Decision::new(Mode::Bypass, false);
        assert_eq!(decision.decide(Ok(&[general()]), &ports(&[WEB])), Filtered::None);
        assert!(decision.warnings(Ok(&[general()])).is_empty());
        assert!(decision.understood(&[general()]).is_some_and(|text| text.contains("`ban`")));
        assert_eq!(decision.understood(&[]), None);
    }

    #[test]
    fn nothing_is_served_before_the_rules_could_be_read() {
        let mut decision = Decision::new(Mode::Respect, false);
        assert_eq!(decision.decide(Err("no"), &ports(&[WEB])), Filtered::All);
        assert!(decision.warnings(Err("no"))[0].contains("until they can"));
        assert_eq!(decision.decide(Ok(&[]), &ports(&[WEB])), Filtered::None);
        assert_eq!(decision.decide(Err("no"), &ports(&[WEB])), Filtered::None);
        assert_eq!(Decision::new(Mode::Respect, true).decide(Err("no"), &ports(&[WEB])), Filtered::None);
    }
}
