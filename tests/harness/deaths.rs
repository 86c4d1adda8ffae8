//! When containers of a service end, as Docker's events tell. They are followed, not asked for afterwards: a dockerd keeps
//! the last 256 only.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context, Result};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::lab::{Lab, Node, text};

/// A container of a service that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Milliseconds since 1970.
    pub at: u64,
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
        let format = format!("--format={{{{.TimeNano}}}} {{{{.ID}}}} {} {}", label("id"), label("name"));
        let filter = format!("--filter=label=com.docker.swarm.service.name={service}");
        for node in &lab.nodes {
            let events = ["events", "--filter=type=container", "--filter=event=die", &filter, &format];
            let mut command = node.docker(events).into_inner();
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().context("cannot follow Docker's events")?;
            let output = child.stdout.take().context("no output")?;
            deaths.followers.push(child);
            let (seen, node) = (Arc::clone(&deaths.seen), node.clone());
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let Some((container, mut death)) = parse(&line, &node.name) else { continue };
                    // On a busy machine Docker tells of it a second later.
                    if let Some(finished) = finished(&node, &container) {
                        death.at = death.at.min(finished);
                    }
                    if let Ok(mut seen) = seen.lock() {
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

/// When containerd saw the container's process end, in milliseconds since 1970.
fn finished(node: &Node, container: &str) -> Option<u64> {
    let container = node.ask(&format!("/containers/{container}/json")).ok()?;
    let time = OffsetDateTime::parse(text(&container, "/State/FinishedAt"), &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok().filter(|time| *time > 0)
}

/// A line is the time in nanoseconds, the container, the task's id, and `service.slot.id`.
fn parse(line: &str, node: &str) -> Option<(String, Death)> {
    let mut words = line.split(' ');
    let (nanoseconds, container) = (words.next()?.parse::<u64>().ok()?, words.next()?.to_owned());
    let (id, name) = (words.next()?, words.next()?);
    let task = name.rsplit_once('.').map_or(name, |(task, _)| task).to_owned();
    Some((container, Death { at: nanoseconds / 1_000_000, id: id.into(), task, node: node.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_the_task_and_the_moment() {
        let death = parse("1795238624309123456 0123abcd tz5xc3k web.3.tz5xc3k", "node2");
        let expected = ("tz5xc3k".into(), "web.3".into(), "node2".into());
        let found = death.map(|(container, d)| {
            assert_eq!(container, "0123abcd");
            (d.at, (d.id, d.task, d.node))
        });
        assert_eq!(found, Some((1_795_238_624_309, expected)));
        assert_eq!(parse("", "node1"), None);
    }
}
