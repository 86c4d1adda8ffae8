//! Recorded rules (tests/kernel/firewall.rs makes and records them), and properties.

use std::net::Ipv4Addr;

use mesh_common::net::protocol;
use proptest::prelude::*;

use super::judge::filters;
use super::ruleset::{Action, Base, Chain, Family, Field, Hook, Match, Rule, Ruleset, Stop, Table, Verdict};
use super::*;

const PORTS: [u16; 3] = [80, 8080, 5353];

fn scene() -> Scene {
    let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    Scene {
        uplinks: [("eth0".to_owned(), 2)].into(),
        bridge: "docker_gwbridge".into(),
        bridge_subnet: Some((address("172.19.0.0"), address("172.19.255.255"))),
        addresses: ["10.77.0.1", "172.17.0.1"].map(address).into(),
        published: Arc::new(PORTS.map(|port| (protocol::TCP, port)).into()),
    }
}

/// What is found among recorded rules.
fn found(recording: &[u8]) -> Vec<String> {
    filters(&Dump::from_bytes(recording).parse(), &scene()).into_iter().map(|filter| filter.text).collect()
}

const STOCK: [(&str, &[u8]); 7] = [
    ("Docker 20.10, nft", include_bytes!("tests/docker-20.10.iptables-nft")),
    ("Docker 20.10, legacy", include_bytes!("tests/docker-20.10.iptables-legacy")),
    ("Docker 28.5, nft", include_bytes!("tests/docker-28.5.iptables-nft")),
    ("Docker 28.5, legacy", include_bytes!("tests/docker-28.5.iptables-legacy")),
    ("firewalld", include_bytes!("tests/firewalld.nft")),
    ("ufw, nft", include_bytes!("tests/ufw.iptables-nft")),
    ("ufw, legacy", include_bytes!("tests/ufw.iptables-legacy")),
];

const OPERATORS: [(&[u8], &str); 5] = [
    (
        include_bytes!("tests/docker-user.iptables-nft"),
        "iptables -t filter -A DOCKER-USER -s 203.0.113.7/32 -m comment --comment \"banned\" -j DROP",
    ),
    (
        include_bytes!("tests/docker-user.iptables-legacy"),
        "iptables-legacy -t filter -A DOCKER-USER -s 203.0.113.7/32 -m comment --comment \"banned\" -j DROP",
    ),
    (include_bytes!("tests/allow-list.iptables-nft"), "iptables -t filter -A DOCKER-USER -j DROP"),
    (include_bytes!("tests/allow-list.iptables-legacy"), "iptables-legacy -t filter -A DOCKER-USER -j DROP"),
    (include_bytes!("tests/ingress.nft"), "nft table netdev guard, chain in: ip saddr 203.0.113.0/24 drop"),
];

#[test]
fn what_stock_hosts_have_does_not_count() {
    for (name, recording) in STOCK {
        let chains =
            Dump::from_bytes(recording).parse().tables.iter().map(|table| table.chains.len()).sum::<usize>();
        assert!(chains > 7, "{name} has been read");
        assert_eq!(found(recording), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn what_operators_add_counts_and_is_named() {
    for (recording, text) in OPERATORS {
        assert_eq!(found(recording), [text]);
    }
}

#[test]
fn the_subnet_of_an_interface_is_read_from_the_routes() {
    let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\tFE004D0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t00004D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        docker_gwbridge\t000013AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
    let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    let expected = Some((address("172.19.0.0"), address("172.19.255.255")));
    assert_eq!(parse_routes(routes, "docker_gwbridge"), expected);
    assert_eq!(parse_routes(routes, "eth0"), Some((address("10.77.0.0"), address("10.77.0.255"))));
    assert_eq!(parse_routes(routes, "eth1"), None);
}

/// One packet, for a judge that knows everything.
#[derive(Clone, Copy, Debug)]
struct Concrete {
    protocol: u8,
    port: u16,
    is_new: bool,
}

/// Whether it is kept from going on, as the kernel decides it. Chains jump to those after them only.
fn is_stopped(table: &Table, packet: Concrete) -> bool {
    let (name, chain) = table.chains.iter().find(|(_, chain)| chain.base.is_some()).unwrap();
    let drops = chain.base.as_ref().is_some_and(|base| base.drops);
    walk(table, name, packet).unwrap_or(drops)
}

/// Whether it was stopped; `None` if it comes back.
fn walk(table: &Table, chain: &str, packet: Concrete) -> Option<bool> {
    for rule in &table.chains.get(chain)?.rules {
        let holds = rule.matches.iter().all(|condition| {
            let value = if condition.field == Field::Protocol {
                u32::from(packet.protocol)
            } else if condition.field == Field::DestinationPort {
                packet.port.into()
            } else if packet.is_new {
                8
            } else {
                2
            };
            let super::ruleset::Test::Number { mask, ranges } = &condition.test else {
                panic!("not made here")
            };
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&(value & mask)))
                != condition.inverted
        });
        let Action::Verdict(verdict) = &rule.action else { continue };
        if !holds {
            continue;
        }
        match verdict {
            Verdict::Accept => return Some(false),
            Verdict::Return => return None,
            Verdict::Stop(_) => return Some(true),
            Verdict::Jump(to) => {
                if let Some(stopped) = walk(table, to, packet) {
                    return Some(stopped);
                }
            }
            Verdict::Goto(to) => return walk(table, to, packet),
        }
    }
    None
}

fn condition() -> impl Strategy<Value = Match> {
    let port = prop_oneof![Just(80_u32), Just(8080), Just(5353), Just(22)];
    prop_oneof![
        (prop_oneof![Just(6_u32), Just(17)], any::<bool>()).prop_map(|(protocol, not)| Match::number(
            Field::Protocol,
            vec![(protocol, protocol)],
            not
        )),
        (port, 0..5000_u32, any::<bool>()).prop_map(|(port, more, not)| Match::number(
            Field::DestinationPort,
            vec![(port, port + more)],
            not
        )),
        (prop_oneof![Just(2_u32), Just(8), Just(10)], any::<bool>()).prop_map(|(bits, not)| Match::any_bit(
            Field::ConntrackState,
            bits,
            not
        )),
    ]
}

fn rule(deeper: &'static [&'static str]) -> impl Strategy<Value = Rule> {
    let mut verdicts =
        vec![Verdict::Accept, Verdict::Return, Verdict::Stop(Stop::Drop), Verdict::Stop(Stop::Reject)];
    verdicts.extend(deeper.iter().map(|name| Verdict::Jump((*name).into())));
    verdicts.extend(deeper.iter().map(|name| Verdict::Goto((*name).into())));
    (prop::collection::vec(condition(), 0..3), prop::option::of(prop::sample::select(verdicts))).prop_map(
        |(matches, verdict)| Rule {
            matches,
            action: verdict.map_or(Action::Continue, Action::Verdict),
            comment: None,
        },
    )
}

fn ruleset() -> impl Strategy<Value = Ruleset> {
    let base = prop::collection::vec(rule(&["b", "c"]), 0..6);
    let (second, third) = (prop::collection::vec(rule(&["c"]), 0..4), prop::collection::vec(rule(&[]), 0..4));
    (base, second, third, any::<bool>()).prop_map(|(base, second, third, drops)| {
        let hook = Base { hook: Hook::Prerouting, priority: 0, devices: Vec::new(), drops };
        let chains = [
            ("a".to_owned(), Chain { base: Some(hook), rules: base }),
            ("b".to_owned(), Chain { base: None, rules: second }),
            ("c".to_owned(), Chain { base: None, rules: third }),
        ];
        let table =
            Table { family: Family::Inet, name: "guard".into(), chains: chains.into(), ..Table::default() };
        Ruleset { tables: vec![table] }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Where everything is known of a packet, a rule counts if one of the packets is stopped, and only then.
    #[test]
    fn the_judge_says_what_the_kernel_does(ruleset in ruleset()) {
        let stopped = |ports: &[(u8, u16)]| {
            ports.iter().any(|&(protocol, port)| [true, false].into_iter().any(|is_new| {
                is_stopped(&ruleset.tables[0], Concrete { protocol, port, is_new })
            }))
        };
        let scene = scene();
        // One that Docker gives by itself and that no rule means.
        let general = [protocol::TCP, protocol::UDP].map(|protocol| (protocol, 32_000));
        let expected = stopped(&scene.published.iter().copied().collect::<Vec<_>>()) || stopped(&general);
        prop_assert_eq!(!filters(&ruleset, &scene).is_empty(), expected);
    }

    /// The kernel is trusted, but no agent shall end for something that it has not been told of.
    #[test]
    fn no_recording_however_damaged_brings_the_reader_down(
        which in 0..STOCK.len(), cut in 0..60_000_usize, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20)
    ) {
        let mut bytes = STOCK[which].1.to_vec();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(bytes.len().saturating_sub(cut % 4096));
        let _ = filters(&Dump::from_bytes(&bytes).parse(), &scene());
    }
}
