//! When containers of a service end, as Docker's events tell. They are followed, not asked for afterwards: a dockerd keeps
//! the last 256 only.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context, Result};

use crate::lab::Lab;

/// A container of a service that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Milliseconds since 1970.
    pub at: u64,
    /// When Docker told it to end; the same if nobody told it.
    pub told: u64,
    /// The task's id, and `service.slot`.
    pub id: String,
    pub task: String,
    pub node: String,
}

/// The deaths of one service since this was made, on all nodes whose dockerd was not restarted meanwhile.
#[derive(Debug)]
pub struct Deaths {
    seen: Arc<Mutex<Vec<Death>>>,
    followers: Vec<Child>,
}

impl Deaths {
    pub(crate) fn of(lab: &Lab, service: &str) -> Result<Self> {
        let mut deaths = Self { seen: Arc::default(), followers: Vec::new() };
        let label = |name: &str| format!("{{{{index .Actor.Attributes \"com.docker.swarm.task.{name}\"}}}}");
        let format = format!("--format={{{{.TimeNano}}}} {{{{.Action}}}} {} {}", label("id"), label("name"));
        let filter = format!("--filter=label=com.docker.swarm.service.name={service}");
        for node in &lab.nodes {
            let kinds = ["--filter=type=container", "--filter=event=kill", "--filter=event=die"];
            let events = [&["events"][..], &kinds, &[&filter, &format]].concat();
            let mut command = node.docker(events).into_inner();
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().context("cannot follow Docker's events")?;
            let output = child.stdout.take().context("no output")?;
            deaths.followers.push(child);
            let (seen, node) = (Arc::clone(&deaths.seen), node.name.clone());
            thread::spawn(move || {
                let mut told = BTreeMap::new();
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if let (Some(death), Ok(mut seen)) = (parse(&line, &node, &mut told), seen.lock()) {
                        seen.push(death);
                    }
                }
            });
        }
        Ok(deaths)
    }

    /// Those of which Docker has told so far.
    pub fn seen(&self) -> Vec<Death> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

impl Drop for Deaths {
    fn drop(&mut self) {
        for follower in &mut self.followers {
            // One that has ended by itself is as good.
            let _ = follower.kill();
            let _ = follower.wait();
        }
    }
}

/// A line is the time in nanoseconds, what happened, the task's id, and `service.slot.id`. `told` keeps when tasks were told to end.
fn parse(line: &str, node: &str, told: &mut BTreeMap<String, u64>) -> Option<Death> {
    let mut words = line.split(' ');
    let (nanoseconds, action) = (words.next()?.parse::<u64>().ok()?, words.next()?);
    let (id, name) = (words.next()?, words.next()?);
    let at = nanoseconds / 1_000_000;
    if action == "kill" {
        told.entry(id.to_owned()).or_insert(at);
        return None;
    }
    let task = name.rsplit_once('.').map_or(name, |(task, _)| task).to_owned();
    let told = told.get(id).map_or(at, |told| at.min(*told));
    Some(Death { at, told, id: id.into(), task, node: node.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_the_task_and_the_moment() {
        let mut told = BTreeMap::new();
        assert_eq!(parse("1795238624000123456 kill tz5xc3k web.3.tz5xc3k", "node2", &mut told), None);
        let death = parse("1795238624309123456 die tz5xc3k web.3.tz5xc3k", "node2", &mut told);
        assert_eq!(death.as_ref().map(|death| death.told), Some(1_795_238_624_000));
        let expected = ("tz5xc3k".into(), "web.3".into(), "node2".into());
        let found = death.map(|d| (d.at, (d.id, d.task, d.node)));
        assert_eq!(found, Some((1_795_238_624_309, expected)));
        assert_eq!(parse("", "node1", &mut told), None);
    }
}
