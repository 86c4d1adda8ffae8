//! From measurements to a table and files.

use anyhow::Result;
use serde_json::{Value, json};

use crate::bench::{median::median, plot, results};

/// Design §10: nanoseconds at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    pub(super) net: f64,
    /// More than the floor.
    pub(super) over_floor: Option<f64>,
}

/// Nanoseconds for a packet, in one repetition; without the wrapper's, but for the first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) wrapper: f64,
    pub(super) net: f64,
    pub(super) floor: f64,
}

#[derive(Debug)]
pub(super) struct Report {
    machine: String,
    runs: u32,
    rows: Vec<Row>,
    /// Nanoseconds for a program that looks once into an LRU table.
    lookups: Vec<f64>,
}

#[derive(Debug)]
struct Row {
    label: String,
    goal: Option<Goal>,
    samples: Vec<Sample>,
}

impl Report {
    /// Of cases with these labels and goals, in each repetition of which a program runs so often.
    pub(super) fn new(machine: String, runs: u32, cases: Vec<(String, Option<Goal>)>) -> Self {
        let row = |(label, goal)| Row { label, goal, samples: Vec::new() };
        Self { machine, runs, rows: cases.into_iter().map(row).collect(), lookups: Vec::new() }
    }

    pub(super) fn add(&mut self, case: usize, sample: Sample) {
        self.rows[case].samples.push(sample);
    }

    pub(super) fn add_lookup(&mut self, nanoseconds: f64) {
        self.lookups.push(nanoseconds);
    }

    pub(super) fn show(&self) {
        println!(
            "{:30} {:>8} {:>8} {:>8} {:>11} {:>9}   GOAL",
            "NS PER PACKET", "NET MIN", "NET P50", "FLOOR", "OVER FLOOR", "WRAPPER"
        );
        for row in &self.rows {
            println!("{}", row.line());
        }
        println!(
            "Without the wrapper's own time; the floor does the same to the packet and looks nothing up. Medians of {} \
             repetitions\nof {} runs. TC's way into the tunnel cannot be run twice on a packet and is not measured: see XDP's.",
            self.rows.first().map_or(0, |row| row.samples.len()),
            self.runs
        );
        println!(
            "A program that only looks once into an LRU table took {:.1} ns; on the machine that the goals come from, 12 to 13.",
            self.lookup()
        );
    }

    fn lookup(&self) -> f64 {
        median(self.lookups.iter().copied())
    }

    pub(super) fn save(&self) -> Result<()> {
        let machine = &self.machine;
        let cases: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let result =
            json!({ "machine": machine, "runs": self.runs, "lookup_ns": self.lookup(), "cases": cases });
        let bars: Vec<(String, f64)> = self.rows.iter().flat_map(Row::bars).collect();
        let plot = plot::bars("Time for a packet in the programs, median", machine, "ns", &bars);
        results::save([("packet.json", serde_json::to_string_pretty(&result)?), ("packet.svg", plot)])
    }
}

impl Row {
    fn net(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.net))
    }

    fn floor(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.floor))
    }

    fn over_floor(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.net - sample.floor))
    }

    fn least(&self) -> f64 {
        self.samples.iter().map(|sample| sample.net).fold(f64::NAN, f64::min)
    }

    fn wrapper(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.wrapper))
    }

    fn line(&self) -> String {
        format!(
            "{:30} {:8.1} {:8.1} {:8.1} {:11.1} {:9.1}   {}",
            self.label,
            self.least(),
            self.net(),
            self.floor(),
            self.over_floor(),
            self.wrapper(),
            self.verdict()
        )
    }

    /// What the goals are, and by how much they are missed.
    fn verdict(&self) -> String {
        let Some(goal) = self.goal else { return "-".to_owned() };
        let one = |is: f64, most: f64, what: &str| {
            if is <= most {
                format!("≤ {most}{what}: met")
            } else {
                format!("≤ {most}{what}: missed by {:.0}", is - most)
            }
        };
        let mut text = one(self.net(), goal.net, "");
        if let Some(most) = goal.over_floor {
            text = text + ", " + &one(self.over_floor(), most, " over floor");
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "case": self.label,
            "net_ns": { "min": self.least(), "median": self.net() },
            "floor_ns": self.floor(),
            "over_floor_ns": self.over_floor(),
            "wrapper_ns": self.wrapper(),
            "goal_ns": self.goal.map(|goal| goal.net),
            "goal_over_floor_ns": self.goal.and_then(|goal| goal.over_floor),
            "all_net_ns": self.samples.iter().map(|sample| sample.net).collect::<Vec<_>>(),
            "all_floor_ns": self.samples.iter().map(|sample| sample.floor).collect::<Vec<_>>(),
        })
    }

    fn bars(&self) -> [(String, f64); 2] {
        [(format!("mesh, {}", self.label), self.net()), ("its floor".to_owned(), self.floor())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(goal: Goal, samples: &[(f64, f64)]) -> Row {
        let samples = samples.iter().map(|(net, floor)| Sample { wrapper: 20.0, net: *net, floor: *floor });
        Row { label: "a packet".into(), goal: Some(goal), samples: samples.collect() }
    }

    #[test]
    fn what_is_over_the_floor_is_compared_within_each_repetition() {
        let goal = Goal { net: 45.0, over_floor: Some(30.0) };
        let row = row(goal, &[(40.0, 20.0), (140.0, 100.0), (50.0, 25.0)]);
        let figures = [row.least(), row.net(), row.floor(), row.over_floor()].map(|value| value.to_string());
        assert_eq!(figures, ["40", "50", "25", "25"]);
        assert_eq!(row.verdict(), "≤ 45: missed by 5, ≤ 30 over floor: met");
    }

    #[test]
    fn a_case_without_a_goal_has_none_to_miss() {
        let row = Row { goal: None, ..row(Goal { net: 0.0, over_floor: None }, &[(1.0, 1.0)]) };
        assert_eq!(row.verdict(), "-");
        assert!(row.json()["goal_ns"].is_null());
    }
}
