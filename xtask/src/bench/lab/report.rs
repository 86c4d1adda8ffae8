//! From measurements to a table and files.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{
    line::Run,
    load::{Connections, Load},
};
use crate::bench::{machine, median::median, plot, results};

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Xdp,
    Tc,
    Nftables,
    HaProxy,
    Direct,
}

impl Way {
    pub(super) const ALL: [Self; 5] = [Self::Xdp, Self::Tc, Self::Nftables, Self::HaProxy, Self::Direct];

    /// As people and as programs read it.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Xdp => ("mesh, XDP", "mesh_xdp"),
            Self::Tc => ("mesh, TC", "mesh_tc"),
            Self::Nftables => ("nftables, masquerade", "nftables"),
            Self::HaProxy => ("HAProxy, TCP mode", "haproxy"),
            Self::Direct => ("direct", "direct"),
        }
    }

    pub(super) const fn label(self) -> &'static str {
        self.names().0
    }

    /// Design §10: so many times the packets that nftables forwards.
    const fn goal(self) -> Option<f64> {
        match self {
            Self::Xdp => Some(5.0),
            Self::Tc => Some(2.0),
            Self::Nftables | Self::HaProxy | Self::Direct => None,
        }
    }
}

/// The same packets on one processor, one after the other: nobody forwards them; nftables does; the mesh does; a machine that
/// looks nothing up sends them back in a tunnel, by the mesh's hook.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub(super) sending: Run,
    pub(super) nftables: Run,
    pub(super) mesh: Run,
    pub(super) floor: Run,
}

/// Nanoseconds for forwarding a packet, without sending it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Net {
    mesh: f64,
    nftables: f64,
    floor: f64,
    sending: f64,
}

impl Net {
    /// Medians of what was measured in turn.
    fn of(rounds: &[Round]) -> Self {
        let net = |of: fn(&Round) -> Run| {
            median(rounds.iter().map(|round| of(round).nanoseconds() - round.sending.nanoseconds()))
        };
        Self {
            mesh: net(|round| round.mesh),
            nftables: net(|round| round.nftables),
            floor: net(|round| round.floor),
            sending: median(rounds.iter().map(|round| round.sending.nanoseconds())),
        }
    }

    /// How many times what nftables forwards in the same time.
    fn times(self) -> f64 {
        self.nftables / self.mesh
    }
}

#[derive(Debug, Default)]
pub(super) struct Report {
    rounds: Vec<(Way, Vec<Round>)>,
    loads: Vec<(Way, Connections, Load)>,
    /// What could not be measured, and why.
    missing: Vec<(Way, String)>,
}

impl Report {
    /// Of the mesh by one of its hooks.
    pub(super) fn add_rounds(&mut self, way: Way, rounds: Vec<Round>) {
        self.rounds.push((way, rounds));
    }

    pub(super) fn add_load(&mut self, way: Way, connections: Connections, load: Load) {
        self.loads.push((way, connections, load));
    }

    pub(super) fn add_missing(&mut self, way: Way, why: String) {
        self.missing.push((way, why));
    }

    pub(super) fn show(&self) {
        self.show_packets();
        self.show_requests();
        for (way, why) in &self.missing {
            println!("{} is not measured: {why}", way.label());
        }
        println!("{}", machine::describe());
    }

    fn show_packets(&self) {
        println!(
            "{:22} {:>12} {:>8} {:>8} {:>11} {:>8} {:>8}   GOAL",
            "FORWARDED PACKETS", "1/S PER CORE", "NET ns", "LOST %", "NFTABLES ns", "TIMES", "FLOOR ns"
        );
        for (way, rounds) in &self.rounds {
            let net = Net::of(rounds);
            println!(
                "{:22} {:12.0} {:8.0} {:8.2} {:11.0} {:7.2}x {:8.0}   {}",
                way.label(),
                1e9 / net.mesh,
                net.mesh,
                median(rounds.iter().map(|round| round.mesh.percent_lost())),
                net.nftables,
                net.times(),
                net.floor,
                verdict(net.times(), way.goal())
            );
        }
        println!(
            "UDP of 60 bytes, {} flows, XDP live frames, on one core that does all the work. NET is a packet's time on that core\n\
             from sender to the wire behind the entry node, less that of sending one that ends in the entry node's driver\n\
             ({:.0} ns); packets per second are computed as 1/NET. LOST includes what another core took. NFTABLES ns was measured\n\
             in turn with the row; FLOOR ns by a program at the row's hook on a machine without the mesh, which puts packets\n\
             into a tunnel and looks nothing up. HAProxy forwards no datagrams.",
            super::line::CLIENTS,
            median(self.rounds.iter().map(|(_, rounds)| Net::of(rounds).sending)),
        );
    }

    fn show_requests(&self) {
        println!(
            "\n{:22} {:>10} {:>8} {:>8} {:>9}   {:>10} {:>8} {:>8} {:>9}",
            "REQUESTS TO nginx",
            "NEW CONN/S",
            "P50 ms",
            "P99 ms",
            "CPU µs",
            "KEPT REQ/S",
            "P50 ms",
            "P99 ms",
            "CPU µs"
        );
        for way in Way::ALL {
            let text = [Connections::New, Connections::Kept].map(|kind| {
                self.load(way, kind).map_or_else(
                    || format!("{:>10} {:>8} {:>8} {:>9}", "-", "-", "-", "-"),
                    |load| {
                        format!(
                            "{:10.0} {:8.2} {:8.2} {:9.1}",
                            load.per_second, load.p50_ms, load.p99_ms, load.processor_us
                        )
                    },
                )
            });
            println!("{:22} {}", way.label(), text.join("   "));
        }
        println!(
            "CPU is the whole machine's for a request: client, entry node and task. Every request has a connection of its own,\n\
             or goes by one of 32 that are kept; medians of the repetitions."
        );
    }

    /// The median of each figure.
    fn load(&self, way: Way, connections: Connections) -> Option<Load> {
        let of: Vec<&Load> = self
            .loads
            .iter()
            .filter(|(who, kind, _)| (*who, *kind) == (way, connections))
            .map(|(_, _, load)| load)
            .collect();
        let figure = |of_load: fn(&Load) -> f64| median(of.iter().map(|load| of_load(load)));
        (!of.is_empty()).then(|| Load {
            per_second: figure(|load| load.per_second),
            p50_ms: figure(|load| load.p50_ms),
            p99_ms: figure(|load| load.p99_ms),
            processor_us: figure(|load| load.processor_us),
        })
    }

    pub(super) fn save(&self) -> Result<()> {
        let machine = machine::describe();
        let bars = |value: &dyn Fn(&Load) -> f64, kind| -> Vec<(String, f64)> {
            let of = |way: Way| Some((way.label().to_owned(), value(&self.load(way, kind)?)));
            Way::ALL.into_iter().filter_map(of).collect()
        };
        let files = [
            ("lab.json", serde_json::to_string_pretty(&self.json(&machine))?),
            (
                "lab.svg",
                plot::bars(
                    "Packets forwarded by an entry node, for each core",
                    &machine,
                    "1/s",
                    &self.packet_bars(),
                ),
            ),
            (
                "lab-connections.svg",
                plot::bars(
                    "Requests with a connection each, through an entry node",
                    &machine,
                    "1/s",
                    &bars(&|load| load.per_second, Connections::New),
                ),
            ),
            (
                "lab-requests.svg",
                plot::bars(
                    "Requests on kept connections, through an entry node",
                    &machine,
                    "1/s",
                    &bars(&|load| load.per_second, Connections::Kept),
                ),
            ),
        ];
        results::save(files)
    }

    fn packet_bars(&self) -> Vec<(String, f64)> {
        let mesh =
            self.rounds.iter().map(|(way, rounds)| (way.label().to_owned(), 1e9 / Net::of(rounds).mesh));
        let nftables = median(self.rounds.iter().map(|(_, rounds)| Net::of(rounds).nftables));
        mesh.chain([(Way::Nftables.label().to_owned(), 1e9 / nftables)]).collect()
    }

    fn json(&self, machine: &str) -> Value {
        let run = |run: Run| json!({ "sent": run.sent, "arrived": run.arrived, "seconds": run.seconds });
        let packets = self.rounds.iter().map(|(way, rounds)| {
            let net = Net::of(rounds);
            let all: Vec<Value> = rounds
                .iter()
                .map(|round| {
                    json!({
                        "sending": run(round.sending),
                        "nftables": run(round.nftables),
                        "mesh": run(round.mesh),
                        "floor": run(round.floor),
                    })
                })
                .collect();
            let figures = json!({
                "per_second_per_core": 1e9 / net.mesh,
                "net_ns": net.mesh,
                "nftables_net_ns": net.nftables,
                "floor_net_ns": net.floor,
                "sending_ns": net.sending,
                "times_nftables": net.times(),
                "goal_times_nftables": way.goal(),
                "rounds": all,
            });
            (way.names().1.to_owned(), figures)
        });
        let requests = Way::ALL.into_iter().map(|way| {
            let of = |kind| self.load(way, kind).map(|load| load.json());
            let why = self.missing.iter().find(|(who, _)| *who == way).map(|(_, why)| why);
            let figures =
                json!({ "new": of(Connections::New), "kept": of(Connections::Kept), "missing": why });
            (way.names().1.to_owned(), figures)
        });
        json!({
            "machine": machine,
            "packets": packets.collect::<Map<_, _>>(),
            "requests": requests.collect::<Map<_, _>>(),
        })
    }
}

fn verdict(times: f64, goal: Option<f64>) -> String {
    match goal {
        Some(goal) if times >= goal => format!("≥ {goal}x: met"),
        Some(goal) => format!("≥ {goal}x: missed by {:.2}x", goal - times),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand packets that took so many nanoseconds each.
    fn run(nanoseconds: f64) -> Run {
        Run { sent: 1000, arrived: 1000, seconds: nanoseconds / 1e6 }
    }

    #[test]
    fn sending_is_subtracted_within_each_round() {
        let round = |sending: f64, mesh: f64| Round {
            sending: run(sending),
            nftables: run(sending + 1500.0),
            mesh: run(mesh),
            floor: run(sending + 50.0),
        };
        let net = Net::of(&[round(200.0, 500.0), round(400.0, 700.0), round(200.0, 600.0)]);
        let figures = [net.mesh, net.nftables, net.floor, net.sending, net.times()].map(f64::round);
        assert_eq!(figures.map(|value| value.to_string()), ["300", "1500", "50", "200", "5"]);
    }

    #[test]
    fn a_missed_goal_says_by_how_much() {
        assert_eq!(verdict(5.0, Way::Xdp.goal()), "≥ 5x: met");
        assert_eq!(verdict(1.25, Way::Tc.goal()), "≥ 2x: missed by 0.75x");
        assert_eq!(verdict(1.0, Way::Direct.goal()), "-");
    }

    #[test]
    fn what_is_missing_says_why_and_has_no_figures() {
        let mut report = Report::default();
        report.add_missing(Way::HaProxy, "not installed".into());
        let load = Load { per_second: 10.0, p50_ms: 1.0, p99_ms: 2.0, processor_us: 3.0 };
        report.add_load(Way::Direct, Connections::New, load);
        report.add_load(Way::Direct, Connections::New, Load { per_second: 20.0, ..load });
        let json = report.json("a machine");
        assert_eq!(
            json["requests"]["haproxy"],
            json!({ "new": null, "kept": null, "missing": "not installed" })
        );
        assert_eq!(json["requests"]["direct"]["new"]["per_second"], 15.0);
    }
}
