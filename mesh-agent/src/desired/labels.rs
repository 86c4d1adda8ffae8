//! Service labels (`deploy.labels`) that begin with `mesh.`.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_common::backend::flags;

use super::spread::MOST_WEIGHT;

/// What a service's labels ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    /// `mesh.enable=false` leaves the service to Docker's own mesh; `true` has it served where only such services are
    /// (`--serve=labelled`).
    pub enable: Option<bool>,
    pub policy: Policy,
    pub return_by: Return,
    /// `mesh.drain`: how long connections to a task that shall stop may last; `None` for as long as it lives.
    pub drain: Option<Duration>,
    /// `mesh.idle-timeout`: how long a TCP connection may be silent.
    pub idle_timeout: Option<Duration>,
    /// `mesh.weight`: the share of new flows that each of its tasks gets, against others behind the same frontend.
    pub weight: u32,
    /// `mesh.affinity=client-ip`: for how long after its last new flow a client keeps its backend
    /// (`mesh.affinity.timeout`).
    pub affinity: Option<Duration>,
}

/// How a backend is chosen for a new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In turns, exactly: each node counts for itself.
    #[default]
    RoundRobin,
    /// By a hash of the flow that leads to the same backend on every node.
    Maglev,
    /// Of two backends drawn at random, the one with fewer connections through this node.
    LeastConnections,
    Random,
}

impl Policy {
    const ALL: [(&str, Self); 4] = [
        ("round-robin", Self::RoundRobin),
        ("maglev", Self::Maglev),
        ("least-connections", Self::LeastConnections),
        ("random", Self::Random),
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Maglev => "maglev",
            Self::LeastConnections => "least-connections",
            Self::Random => "random",
        }
    }
}

/// Which way answers take to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Return {
    /// Through the tunnel to the entry node: works wherever requests do.
    #[default]
    Tunnel,
    /// From the home node to the client by its routes, with the entry node's address as source. Where the network lets
    /// such packets pass, this saves a hop.
    Direct,
}

impl Return {
    /// As the dataplane takes it: see [`flags`].
    pub fn flags(self) -> u8 {
        match self {
            Self::Tunnel => 0,
            Self::Direct => flags::RETURN_DIRECT,
        }
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self {
            enable: None,
            policy: Policy::default(),
            return_by: Return::default(),
            drain: None,
            idle_timeout: None,
            weight: 1,
            affinity: None,
        }
    }
}

impl Labels {
    /// What is not understood keeps its default, and is named in the warnings.
    pub fn parse(labels: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let mut parsed = Self::default();
        let (mut has_affinity, mut affinity_timeout) = (false, AFFINITY);
        let mut warnings = Vec::new();
        for (label, value) in labels.iter().filter(|(label, _)| label.starts_with("mesh.")) {
            let understood = match label.as_str() {
                "mesh.enable" => {
                    set(&mut parsed.enable, value, &[("true", Some(true)), ("false", Some(false))])
                }
                "mesh.policy" => set(&mut parsed.policy, value, &Policy::ALL),
                "mesh.weight" => weight(value).map(|weight| parsed.weight = weight),
                "mesh.affinity" => set(&mut has_affinity, value, &[("client-ip", true), ("none", false)]),
                "mesh.affinity.timeout" => {
                    duration(value, Duration::from_secs(1)).map(|limit| affinity_timeout = limit)
                }
                "mesh.return" => set(
                    &mut parsed.return_by,
                    value,
                    &[("tunnel", Return::Tunnel), ("direct", Return::Direct)],
                ),
                "mesh.drain" => duration(value, Duration::ZERO).map(|limit| parsed.drain = Some(limit)),
                "mesh.idle-timeout" => {
                    duration(value, SHORTEST_IDLE).map(|limit| parsed.idle_timeout = Some(limit))
                }
                // The agents' own service has it.
                "mesh.agent" => set(&mut false, value, &[("true", true), ("false", false)]),
                name if name.starts_with("mesh.dns.") => NameLabels::default().set(name, value),
                _ => Err(UNKNOWN.to_owned()),
            };
            if let Err(why) = understood {
                warnings.push(ignored(label, value, &why));
            }
        }
        parsed.affinity = has_affinity.then_some(affinity_timeout);
        (parsed, warnings)
    }
}

/// What is not understood of a node's labels.
pub(super) fn node_warnings(labels: &BTreeMap<String, String>) -> Vec<String> {
    let ours = labels.iter().filter(|(label, _)| label.starts_with("mesh."));
    let why = ours.filter_map(|(label, value)| {
        let understood = if label == "mesh.weight" { weight(value) } else { Err(UNKNOWN.to_owned()) };
        understood.err().map(|why| ignored(label, value, &why))
    });
    why.collect()
}

fn ignored(label: &str, value: &str, why: &str) -> String {
    format!("label {label}={value} is ignored: {why}")
}

/// `mesh.weight`: a node's share of new flows, from its labels. What is not understood counts as 1.
pub(super) fn node_weight(labels: &BTreeMap<String, String>) -> u32 {
    labels.get("mesh.weight").and_then(|value| weight(value).ok()).unwrap_or(1)
}

fn weight(text: &str) -> Result<u32, String> {
    let weight = text.parse().ok().filter(|weight| (1..=MOST_WEIGHT).contains(weight));
    weight.ok_or_else(|| format!("the value must be a number from 1 to {MOST_WEIGHT}"))
}

/// How long a client comes back to the same backend if nothing else is said.
const AFFINITY: Duration = Duration::from_hours(3);

/// Shorter ones would end conversations that are merely slow.
const SHORTEST_IDLE: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// As Docker writes them: a number with a unit, like 90s, 5m or 24h; a bare number counts seconds.
fn duration(text: &str, shortest: Duration) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let seconds_each = match &text[digits.len()..] {
        "s" | "" => Some(1),
        "m" => Some(60),
        "h" => Some(60 * 60),
        "d" => Some(24 * 60 * 60),
        _ => None,
    };
    let seconds =
        digits.parse::<u64>().ok().zip(seconds_each).and_then(|(number, each)| number.checked_mul(each));
    let duration = seconds.map(Duration::from_secs).filter(|time| (shortest..=LONGEST).contains(time));
    duration.ok_or_else(|| {
        format!("the value must be a time like 90s, 5m or 24h, from {} s to a year", shortest.as_secs())
    })
}

const UNKNOWN: &str = "this version does not know the label";

/// What a service's labels say about its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameLabels {
    /// `mesh.dns.ttl`: for how many seconds answers about it may be kept.
    pub ttl: Option<u32>,
    /// `mesh.dns.starting=true`: tasks that are still starting have their names already, for clusters whose members
    /// must find each other to become healthy (moby #35451).
    pub starting: bool,
    /// `mesh.dns.srv=_http._tcp:80,…`: the ports that SRV questions are answered with.
    pub services: Vec<NamedPort>,
}

/// A port that can be asked for by name (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// In lower case, like `_http._tcp`.
    pub name: String,
    pub port: u16,
}

impl NameLabels {
    /// What is not understood keeps its default; [`Labels::parse`] has the warnings.
    pub fn parse(labels: &BTreeMap<String, String>) -> Self {
        let mut parsed = Self::default();
        for (label, value) in labels.iter().filter(|(label, _)| label.starts_with("mesh.dns.")) {
            // Those who want to know why ask for the warnings.
            let _ = parsed.set(label, value);
        }
        parsed
    }

    fn set(&mut self, label: &str, value: &str) -> Result<(), String> {
        match label {
            "mesh.dns.ttl" => {
                let seconds = value.strip_suffix('s').unwrap_or(value).parse().ok();
                let seconds = seconds.filter(|seconds| *seconds <= LONGEST_TTL);
                self.ttl = Some(seconds.ok_or_else(|| {
                    format!("the value must be seconds from 0 to {LONGEST_TTL}, like 10 or 10s")
                })?);
                Ok(())
            }
            "mesh.dns.starting" => set(&mut self.starting, value, &[("true", true), ("false", false)]),
            "mesh.dns.srv" => {
                let named = value.split(',').map(|text| named_port(text.trim())).collect::<Option<_>>();
                self.services = named
                    .ok_or_else(|| "the value must be a list like _http._tcp:80,_dns._udp:53".to_owned())?;
                Ok(())
            }
            _ => Err(UNKNOWN.to_owned()),
        }
    }
}

const LONGEST_TTL: u32 = 86_400;

fn named_port(text: &str) -> Option<NamedPort> {
    let (name, port) = text.split_once(':')?;
    let (service, protocol) = name.split_once('.')?;
    // A label of a name has at most 63 bytes.
    let is_named = service.len() > 1 && service.len() <= 63 && service.starts_with('_');
    if !is_named || !matches!(protocol, "_tcp" | "_udp" | "_sctp") {
        return None;
    }
    let port = port.parse().ok().filter(|port| *port != 0)?;
    Some(NamedPort { name: name.to_ascii_lowercase(), port })
}

fn set<T: Copy>(field: &mut T, value: &str, values: &[(&str, T)]) -> Result<(), String> {
    if let Some((_, known)) = values.iter().find(|(name, _)| *name == value) {
        *field = *known;
        return Ok(());
    }
    let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
    Err(format!("the value must be {}", names.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(labels: &[(&str, &str)]) -> (Labels, Vec<String>) {
        Labels::parse(&labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn known_labels_are_taken_and_others_are_not_ours() {
        let (labels, warnings) = parse(&[
            ("mesh.return", "direct"),
            ("mesh.enable", "false"),
            ("mesh.agent", "true"),
            ("traefik.enable", "x"),
        ]);
        assert_eq!(labels, Labels { enable: Some(false), return_by: Return::Direct, ..Labels::default() });
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn times_are_read_as_docker_writes_them() {
        let (labels, warnings) = parse(&[("mesh.drain", "90s"), ("mesh.idle-timeout", "2h")]);
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(labels.drain, Some(Duration::from_secs(90)));
        assert_eq!(labels.idle_timeout, Some(Duration::from_hours(2)));
        assert_eq!(parse(&[("mesh.drain", "0")]).0.drain, Some(Duration::ZERO));
        for (label, value) in [
            ("mesh.drain", "soon"),
            ("mesh.drain", "-1s"),
            ("mesh.drain", "1w"),
            ("mesh.drain", "é"),
            ("mesh.drain", "99999999999999999999d"),
            ("mesh.idle-timeout", "5s"),
            ("mesh.idle-timeout", ""),
        ] {
            let (labels, warnings) = parse(&[(label, value)]);
            assert_eq!((labels, warnings.len()), (Labels::default(), 1), "{label}={value}");
            assert!(warnings[0].contains("a time like 90s"), "{warnings:?}");
        }
    }

    #[test]
    fn policies_weights_and_affinity_are_read() {
        for (name, policy) in Policy::ALL {
            assert_eq!(parse(&[("mesh.policy", name)]).0.policy, policy);
            assert_eq!(policy.as_str(), name);
        }
        assert_eq!(parse(&[("mesh.weight", "20")]).0.weight, 20);
        assert_eq!(parse(&[("mesh.affinity", "client-ip")]).0.affinity, Some(AFFINITY));
        let labels = [("mesh.affinity", "client-ip"), ("mesh.affinity.timeout", "10m")];
        assert_eq!(parse(&labels).0.affinity, Some(Duration::from_mins(10)));
        assert_eq!(parse(&[("mesh.affinity.timeout", "10m")]).0.affinity, None);
        for (label, value) in [("mesh.weight", "0"), ("mesh.weight", "1001"), ("mesh.policy", "best")] {
            let (labels, warnings) = parse(&[(label, value)]);
            assert_eq!((labels, warnings.len()), (Labels::default(), 1), "{label}={value}");
        }
        let node = |value: &str| node_weight(&BTreeMap::from([("mesh.weight".to_owned(), value.to_owned())]));
        assert_eq!((node("7"), node("x"), node_weight(&BTreeMap::new())), (7, 1, 1));
    }

    #[test]
    fn labels_about_names_are_taken_apart() {
        let labels = [
            ("mesh.dns.ttl", "10s"),
            ("mesh.dns.starting", "true"),
            ("mesh.dns.srv", "_HTTP._tcp:80, _dns._udp:53"),
        ];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let port = |name: &str, port| NamedPort { name: name.into(), port };
        let expected = NameLabels {
            ttl: Some(10),
            starting: true,
            services: vec![port("_http._tcp", 80), port("_dns._udp", 53)],
        };
        assert_eq!(NameLabels::parse(&labels), expected);
        assert_eq!(Labels::parse(&labels), (Labels::default(), Vec::new()));
    }

    #[test]
    fn labels_about_names_that_make_no_sense_are_named_and_change_nothing() {
        for (label, value) in [
            ("mesh.dns.ttl", "soon"),
            ("mesh.dns.ttl", "86401"),
            ("mesh.dns.starting", "yes"),
            ("mesh.dns.srv", "http:80"),
            ("mesh.dns.srv", "_http._icmp:80"),
            ("mesh.dns.srv", "_http._tcp:0"),
            ("mesh.dns.server", "x"),
        ] {
            let (_, warnings) = parse(&[(label, value)]);
            assert_eq!(warnings.len(), 1, "{label}={value}");
            assert!(warnings[0].starts_with(&format!("label {label}={value} is ignored: ")), "{warnings:?}");
            let labels = BTreeMap::from([(label.to_owned(), value.to_owned())]);
            assert_eq!(NameLabels::parse(&labels), NameLabels::default(), "{label}={value}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_and_changes_nothing() {
        let (labels, warnings) = parse(&[("mesh.retrun", "direct"), ("mesh.enable", "no")]);
        assert_eq!(labels, Labels::default());
        assert_eq!(
            warnings,
            [
                "label mesh.enable=no is ignored: the value must be true or false",
                "label mesh.retrun=direct is ignored: this version does not know the label",
            ]
        );
    }
}
