//! Operators' own filters on a node, and what the mesh says of them.

use anyhow::{Context, Result};

use crate::{lab::Node, mesh};

/// A rule against the lab's client: how to make it, how to take it back, and what of it an operator is told.
#[derive(Debug)]
pub struct Rule {
    add: &'static str,
    delete: &'static str,
    pub text: &'static str,
}

/// In DOCKER-USER, in an nftables base chain at forward, and before connection tracking.
pub const RULES: [Rule; 3] = [
    Rule {
        add: "iptables -I DOCKER-USER -s 10.99.0.254 -j DROP",
        delete: "iptables -D DOCKER-USER -s 10.99.0.254 -j DROP",
        text: "-t filter -A DOCKER-USER -s 10.99.0.254/32 -j DROP",
    },
    Rule {
        add: "nft 'table inet guard { chain forward { type filter hook forward priority 0; ip saddr 10.99.0.254 drop; }; }'",
        delete: "nft delete table inet guard",
        text: "nft table inet guard, chain forward: ip saddr 10.99.0.254 drop",
    },
    Rule {
        add: "iptables -t raw -I PREROUTING -s 10.99.0.254 -j DROP",
        delete: "iptables -t raw -D PREROUTING -s 10.99.0.254 -j DROP",
        text: "-t raw -A PREROUTING -s 10.99.0.254/32 -j DROP",
    },
];

impl Rule {
    /// Makes it on a node, until what this returns is dropped.
    pub fn on<'a>(&'a self, node: &'a Node) -> Result<Filter<'a>> {
        let filter = Filter { rule: self, node };
        shell(node, self.add)?;
        Ok(filter)
    }
}

/// A rule that is in force on a node; it is taken back when this is dropped.
#[derive(Debug)]
pub struct Filter<'a> {
    rule: &'a Rule,
    node: &'a Node,
}

impl Drop for Filter<'_> {
    fn drop(&mut self) {
        if let Err(error) = shell(self.node, self.rule.delete) {
            eprintln!("a filter is left behind on {}: {error:#}", self.node.name);
        }
    }
}

fn shell(node: &Node, line: &str) -> Result<()> {
    node.network_command("sh").args(["-c", line]).read().map(drop)
}

/// What `mesh-agent preflight` says on a node of firewall rules, and whether that is a failure.
pub fn preflight(node: &Node) -> Result<(bool, String)> {
    let output = mesh::agent(node, &["preflight"])?.quiet().output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(" firewall ")).context("no line about the firewall")?;
    Ok((line.starts_with("FAIL"), line.to_owned()))
}

/// The warnings of a node's `status`.
pub fn warnings(node: &Node) -> Result<String> {
    Ok(mesh::status(node)?["warnings"].to_string())
}
