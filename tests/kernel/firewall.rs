//! Operators' filters: real rules, made by the tools that people use, as the agent finds them in the kernel.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use mesh_agent::firewall::{Dump, Filter, Scene, filters};
use mesh_common::net::protocol;

use crate::support::namespace::Namespace;

/// Both of them make the same rules, for other parts of the kernel.
const BACKENDS: [&str; 2] = ["iptables-nft", "iptables-legacy"];

/// A node with these rules; each line is a command, or `<` and a file of rules.
struct Node {
    namespace: Namespace,
    backend: &'static str,
}

impl Node {
    fn new(backend: &'static str) -> Self {
        let namespace = Namespace::new();
        namespace.ip("link add eth0 type veth peer name far\nlink set eth0 up\n");
        Self { namespace, backend }
    }

    /// As Docker leaves it.
    fn with_docker(backend: &'static str, version: &str) -> Self {
        let node = Self::new(backend);
        node.restore(&format!("docker-{version}.rules"), &[]);
        node
    }

    fn restore(&self, file: &str, options: &[&str]) {
        self.namespace.enter();
        let rules = File::open(fixture(file)).expect("the rules are there");
        let restore = format!("{}-restore", self.backend);
        let status = Command::new(&restore).args(options).stdin(rules).status();
        assert!(status.expect("iptables is installed").success(), "{restore} does not take {file}");
    }

    /// A rule for iptables.
    fn iptables(&self, rule: &str) -> &Self {
        self.namespace.enter();
        let status = Command::new(self.backend).arg("--wait").args(rule.split(' ')).status();
        assert!(status.expect("iptables is installed").success(), "{} does not take {rule}", self.backend);
        self
    }

    fn nft(&self, rules: &str) -> &Self {
        self.namespace.nft(rules);
        self
    }

    fn filters(&self) -> Vec<Filter> {
        self.namespace.enter();
        let dump = Dump::take().expect("the kernel tells its rules");
        assert_eq!(Dump::from_bytes(&dump.to_bytes()), dump);
        filters(&dump.parse(), &scene())
    }

    /// What counts, as its operator knows it.
    fn found(&self) -> Vec<String> {
        self.filters().into_iter().map(|filter| filter.text).collect()
    }

    /// Keeps what the kernel tells now, for the tests of the agent that need no kernel: with `MESH_RECORD` set to a folder.
    fn record(&self, name: &str) {
        let Some(folder) = std::env::var_os("MESH_RECORD") else { return };
        self.namespace.enter();
        let dump = Dump::take().expect("the kernel tells its rules");
        std::fs::write(Path::new(&folder).join(name), dump.to_bytes()).expect("it can be written");
    }
}

fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/firewall").join(file)
}

/// As it was where the rules were recorded.
fn scene() -> Scene {
    let address = |text: &str| text.parse::<Ipv4Addr>().expect("an address");
    Scene {
        uplinks: [("eth0".to_owned(), 2)].into(),
        bridge: "docker_gwbridge".into(),
        bridge_subnet: Some((address("172.19.0.0"), address("172.19.255.255"))),
        addresses: ["10.77.0.1", "172.17.0.1", "172.18.0.1", "172.19.0.1"].map(address).into(),
        published: Arc::new([(protocol::TCP, 8080), (protocol::UDP, 5353)].into()),
    }
}

fn nothing() -> Vec<String> {
    Vec::new()
}

#[test]
fn what_docker_makes_by_itself_does_not_count() {
    for backend in BACKENDS {
        for version in ["20.10", "28.5"] {
            let node = Node::with_docker(backend, version);
            assert_eq!(node.found(), nothing(), "{version} by {backend}");
            node.record(&format!("docker-{version}.{backend}"));
        }
    }
}

#[test]
fn a_stock_firewalld_does_not_count() {
    let node = Node::with_docker("iptables-nft", "28.5");
    node.nft(&std::fs::read_to_string(fixture("firewalld.nft")).expect("the rules are there"));
    assert_eq!(node.found(), nothing());
    node.record("firewalld.nft");
}

#[test]
fn a_stock_ufw_does_not_count_before_docker_or_after_it() {
    for backend in BACKENDS {
        let node = Node::with_docker(backend, "28.5");
        node.restore("ufw.rules", &["--noflush"]);
        assert_eq!(node.found(), nothing(), "{backend}");
        node.record(&format!("ufw.{backend}"));
        let node = Node::new(backend);
        node.restore("ufw.rules", &[]);
        assert_eq!(node.found(), nothing(), "{backend}, without Docker");
    }
}

#[test]
fn rules_in_docker_user_count_and_are_named() {
    for backend in BACKENDS {
        for version in ["20.10", "28.5"] {
            let node = Node::with_docker(backend, version);
            let program = if backend == "iptables-nft" { "iptables" } else { "iptables-legacy" };
            for rule in [
                "-s 203.0.113.7/32 -j DROP",
                "-s 203.0.112.0/23 -i eth0 -j REJECT",
                "-i eth0 -p tcp --dport 8080 -j DROP",
                "-p tcp -m conntrack --ctstate NEW --ctorigdstport 8080 -j DROP",
                "-m conntrack --ctorigdst 10.77.0.1 -j DROP",
                "-p tcp -m multiport --dports 22,8000:9000 -j DROP",
                "-p tcp -m tcp --tcp-flags SYN,ACK SYN -j DROP",
                "! -s 10.0.0.0/8 -i eth+ -j DROP",
                "-m limit --limit 1/sec -j DROP",
                "-d 172.16.0.0/12 -j DROP",
                "-m addrtype --dst-type UNICAST -j DROP",
            ] {
                node.iptables(&format!("-I DOCKER-USER {rule}"));
                let found = node.found();
                assert_eq!(found.len(), 1, "{backend} {version} {rule}: {found:?}");
                let begin = format!("{program} -t filter -A DOCKER-USER ");
                assert!(found[0].starts_with(&begin), "{found:?}");
                node.iptables(&format!("-D DOCKER-USER {rule}"));
            }
        }
        let node = Node::with_docker(backend, "28.5");
        node.iptables("-I DOCKER-USER -s 203.0.113.7/32 -m comment --comment banned -j DROP");
        assert!(
            node.found()[0]
                .ends_with("-A DOCKER-USER -s 203.0.113.7/32 -m comment --comment \"banned\" -j DROP")
        );
        node.record(&format!("docker-user.{backend}"));
    }
}

#[test]
fn rules_that_cannot_meet_a_published_port_do_not_count() {
    for backend in BACKENDS {
        let node = Node::with_docker(backend, "28.5");
        for rule in [
            "-I DOCKER-USER -p tcp --dport 3306 -j DROP",
            "-I DOCKER-USER -p udp --dport 8080 -j DROP",
            "-I DOCKER-USER -p icmp -j DROP",
            "-I DOCKER-USER -i docker0 -j DROP",
            "-I DOCKER-USER -i lo -j DROP",
            "-I DOCKER-USER ! -i eth0 -j DROP",
            "-I DOCKER-USER -o docker0 -j DROP",
            "-I DOCKER-USER -d 172.17.0.0/16 -j DROP",
            "-I DOCKER-USER -m conntrack --ctstate INVALID -j DROP",
            "-I DOCKER-USER -p tcp ! --syn -m conntrack --ctstate NEW -j DROP",
            "-I DOCKER-USER -p tcp --tcp-flags SYN,FIN SYN,FIN -j DROP",
            "-I DOCKER-USER -m conntrack --ctorigdstport 22 -p tcp -j DROP",
            "-I DOCKER-USER -p tcp -m multiport --dports 22,3306 -j DROP",
            "-I DOCKER-USER -j ACCEPT",
            "-I DOCKER-USER -s 203.0.113.7/32 -j RETURN",
            "-I DOCKER-USER -j LOG",
            "-I INPUT -j DROP",
            "-I OUTPUT -j DROP",
            "-A FORWARD -j DROP",
            "-t raw -I PREROUTING -d 10.77.0.9/32 -j DROP",
            "-t raw -I PREROUTING -p tcp --dport 22 -j DROP",
            "-t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 1",
            "-t nat -I PREROUTING -p tcp --dport 2222 -j REDIRECT --to-ports 22",
            "-t mangle -I POSTROUTING -j DROP",
            "-t mangle -I PREROUTING -j MARK --set-mark 1",
        ] {
            node.iptables(rule);
            assert_eq!(node.found(), nothing(), "{backend} {rule}");
            node.iptables(&rule.replacen("-I", "-D", 1).replacen("-A", "-D", 1));
        }
    }
}

#[test]
fn rules_in_front_of_dockers_count_wherever_packets_pass_them() {
    for backend in BACKENDS {
        let node = Node::with_docker(backend, "28.5");
        for rule in [
            "-I FORWARD -s 203.0.113.7/32 -j DROP",
            "-t raw -I PREROUTING -s 203.0.113.7/32 -j DROP",
            "-t mangle -I PREROUTING -s 203.0.113.7/32 -j DROP",
            "-t mangle -I FORWARD -p tcp --dport 8080 -j DROP",
            "-t nat -I PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 1",
            "-t nat -I PREROUTING -p tcp -d 10.77.0.1 --dport 8080 -j DNAT --to-destination 10.77.0.5",
        ] {
            node.iptables(rule);
            assert_eq!(node.found().len(), 1, "{backend} {rule}: {:?}", node.found());
            node.iptables(&rule.replacen("-I", "-D", 1));
        }
    }
}

#[test]
fn accepting_some_and_dropping_the_rest_counts() {
    for backend in BACKENDS {
        let node = Node::with_docker(backend, "20.10");
        node.iptables("-F DOCKER-USER")
            .iptables("-A DOCKER-USER -s 10.0.0.0/8 -j RETURN")
            .iptables("-A DOCKER-USER -j DROP");
        let found = node.found();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ends_with("-A DOCKER-USER -j DROP"), "{found:?}");
        node.record(&format!("allow-list.{backend}"));
        // Nobody gets behind this one.
        node.iptables("-I DOCKER-USER -i eth0 -j ACCEPT");
        assert_eq!(node.found(), nothing());
    }
}

#[test]
fn rules_in_chains_of_their_own_count_if_packets_get_there() {
    for backend in BACKENDS {
        let node = Node::with_docker(backend, "28.5");
        node.iptables("-N bans").iptables("-A bans -s 203.0.113.7/32 -j REJECT");
        assert_eq!(node.found(), nothing(), "nobody jumps there");
        node.iptables("-I DOCKER-USER -i docker0 -j bans");
        assert_eq!(node.found(), nothing(), "no such packet");
        node.iptables("-I DOCKER-USER -i eth0 -g bans");
        assert_eq!(node.found().len(), 1);
        assert!(node.found()[0].contains("-A bans -s 203.0.113.7/32 -j REJECT"), "{:?}", node.found());
    }
}

#[test]
fn rules_of_nft_count_at_forward_prerouting_and_ingress() {
    let node = Node::with_docker("iptables-nft", "28.5");
    for (rules, text) in [
        (
            "table inet guard { chain forward { type filter hook forward priority 0; ip saddr 203.0.113.7 drop; }; }",
            "nft table inet guard, chain forward: ip saddr 203.0.113.7 drop",
        ),
        (
            "table ip guard { chain pre { type filter hook prerouting priority -300; tcp dport { 80, 8000-8100 } ip saddr != 10.0.0.0/8 drop; }; }",
            "nft table ip guard, chain pre: tcp dport { 80, 8000-8100 } ip saddr != 10.0.0.0/8 drop",
        ),
        (
            "table netdev guard { chain in { type filter hook ingress device eth0 priority 0; ip saddr 203.0.113.0/24 drop; }; }",
            "nft table netdev guard, chain in: ip saddr 203.0.113.0/24 drop",
        ),
        (
            "table inet guard { set bans { type ipv4_addr; flags interval; }; chain pre { type filter hook prerouting priority mangle; ip saddr @bans counter reject; }; }",
            "nft table inet guard, chain pre: ip saddr @bans reject",
        ),
        (
            "table inet guard { chain forward { type filter hook forward priority 10; policy drop; ct state established accept; iifname \"docker0\" accept; }; }",
            "nft table inet guard, chain forward: policy drop",
        ),
        (
            "table ip guard { chain pre { type nat hook prerouting priority -110; tcp dport 8080 redirect to :1; }; }",
            "nft table ip guard, chain pre: tcp dport 8080 redirect",
        ),
        (
            "table ip guard { chain check { meta l4proto tcp ct original proto-dst 8080 drop comment \"no web\"; }; chain fw { type filter hook forward priority 0; iifname vmap { \"docker0\" : accept, \"eth0\" : jump check }; }; }",
            "nft table ip guard, chain check: meta l4proto tcp ct original proto-dst 8080 drop comment \"no web\"",
        ),
        (
            "table ip guard { chain fw { type filter hook forward priority 0; meta l4proto . th dport vmap { tcp . 8080 : drop }; }; }",
            "nft table ip guard, chain fw: drop",
        ),
    ] {
        node.nft(rules);
        let family = rules.split(' ').nth(1).expect("a family");
        let found = node.found();
        assert_eq!(found, [text], "{rules}");
        if family == "netdev" {
            node.record("ingress.nft");
        }
        node.nft(&format!("delete table {family} guard"));
    }
}

#[test]
fn rules_of_nft_that_cannot_meet_a_published_port_do_not_count() {
    let node = Node::with_docker("iptables-nft", "28.5");
    for rules in [
        "table inet guard { chain in { type filter hook input priority 0; policy drop; }; }",
        "table inet guard { chain forward { type filter hook forward priority 0; policy drop; iifname \"eth0\" oifname \"docker_gwbridge\" accept; }; }",
        "table inet guard { chain forward { type filter hook forward priority 0; policy drop; ct status dnat accept; }; }",
        "table inet guard { chain forward { type filter hook forward priority 0; ct state vmap { invalid : drop, established : accept }; }; }",
        "table inet guard { chain forward { type filter hook forward priority 0; ip6 saddr 2001:db8::/32 drop; meta nfproto ipv6 drop; }; }",
        "table ip6 guard { chain forward { type filter hook forward priority 0; policy drop; }; }",
        "table netdev guard { chain in { type filter hook ingress device \"far\" priority 0; drop; }; }",
        "table netdev guard { chain in { type filter hook ingress device \"eth0\" priority 0; ip protocol icmp drop; tcp dport { 22, 3306 } drop; }; }",
        "table inet guard { chain pre { type filter hook prerouting priority -300; ip daddr 10.77.0.9 drop; ip daddr 10.77.0.9 tcp dport 8080 drop; }; }",
        "table inet guard { chain pre { type filter hook prerouting priority -300; tcp flags & (fin|syn) == fin|syn drop; }; }",
        "table inet guard { flags dormant; chain forward { type filter hook forward priority 0; policy drop; }; }",
        "table inet guard { chain forward { type filter hook forward priority 0; tcp dport != { 3306 } accept; drop; }; chain unused { drop; }; }",
    ] {
        node.nft(rules);
        let found = node.found();
        // UDP is not accepted by the last one.
        let is_last = rules.contains("unused");
        assert_eq!(found.len(), usize::from(is_last), "{rules}: {found:?}");
        let family = rules.split(' ').nth(1).expect("a family");
        node.nft(&format!("delete table {family} guard"));
    }
}

#[test]
fn a_rule_tells_which_of_the_published_ports_it_concerns() {
    let node = Node::with_docker("iptables-nft", "28.5");
    node.iptables("-A DOCKER-USER -p tcp --dport 8080 -j DROP");
    let one = &node.filters()[0];
    assert!(!one.is_general);
    assert_eq!(one.ports, BTreeSet::from([(protocol::TCP, 8080)]));
    node.iptables("-F DOCKER-USER").iptables("-A DOCKER-USER -s 203.0.113.7/32 -j DROP");
    assert!(node.filters()[0].is_general);
}

#[test]
fn legacy_rules_beside_dockers_own_count() {
    let node = Node::with_docker("iptables-nft", "28.5");
    let legacy = Command::new("iptables-legacy").args(["-P", "FORWARD", "DROP"]).status();
    assert!(legacy.expect("iptables is installed").success());
    assert_eq!(node.found(), ["iptables-legacy -t filter -P FORWARD DROP"]);
}
