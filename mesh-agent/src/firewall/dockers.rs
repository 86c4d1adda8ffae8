//! Which chains and tables are Docker's own, and where in others its turn is. Pure.

use super::ruleset::{Action, Backend, Chain, Family, Table, Verdict};

/// In a chain of iptables' where Docker's own rules take published ports: how many rules stand before that. Docker puts its own
/// before others, at the latest when it makes the first port. `has_docker` tells whether its rules are in any table; then those
/// of the other backend (`iptables-legacy` beside `iptables`) are not its.
pub(super) fn dockers_turn(table: &Table, name: &str, chain: &Chain, has_docker: bool) -> Option<usize> {
    let is_dockers = table.family == Family::Ip
        && matches!((table.name.as_str(), name), ("filter", "FORWARD") | ("nat", "PREROUTING"));
    if !is_dockers {
        return None;
    }
    let jump = |wanted: &[&str]| {
        chain.rules.iter().position(
            |rule| matches!(&rule.action, Action::Verdict(Verdict::Jump(to)) if wanted.contains(&to.as_str())),
        )
    };
    // 28 has the jump to DOCKER-INGRESS in DOCKER-FORWARD.
    let turn = jump(&["DOCKER-INGRESS", "DOCKER-FORWARD"]);
    let turn = turn.or_else(|| jump(&["DOCKER-USER"]).map(|place| place + 1));
    let is_other_backend = has_docker && !table.chains.keys().any(|name| is_dockers_chain(table, name));
    turn.or((!is_other_backend).then_some(0))
}

/// Chains that Docker fills by itself. DOCKER-USER is the operators'.
pub(super) fn is_dockers_chain(table: &Table, name: &str) -> bool {
    const CHAINS: [&str; 9] = [
        "DOCKER",
        "DOCKER-INGRESS",
        "DOCKER-FORWARD",
        "DOCKER-BRIDGE",
        "DOCKER-CT",
        "DOCKER-INTERNAL",
        "DOCKER-ISOLATION",
        "DOCKER-ISOLATION-STAGE-1",
        "DOCKER-ISOLATION-STAGE-2",
    ];
    table.family == Family::Ip && CHAINS.contains(&name)
}

/// Docker 29 can keep its rules in tables of its own.
pub(super) fn is_dockers_table(table: &Table) -> bool {
    table.backend == Backend::NfTables && table.name == "docker-bridges"
}
