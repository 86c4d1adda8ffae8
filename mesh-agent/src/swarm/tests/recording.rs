//! A recorded Swarm: lines of JSON in the order in which they arrived.
//!
//! It was recorded on a manager of the lab's three nodes. Over `control.sock` a program asked for changes (`Watch`) and then
//! for tasks (`ListTasks`), and wrote each message that came. Every 400 ms it asked the Docker API for services, tasks,
//! nodes and networks, and wrote the four lists where they differed from those before. Of lists it kept only the keys that
//! `wire` knows, of messages only the fields that `control_wire` knows.

use prost::Message;
use serde::Deserialize;
use serde_json::Value;

use crate::swarm::control_wire::{ListTasksResponse, WatchMessage};

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Record {
    /// Answers of the Docker API, asked for at one time and there at another; milliseconds.
    Listed { begun: u64, at: u64, services: Value, tasks: Value, nodes: Value, networks: Value },
    /// A `ListTasksResponse`.
    Seeded { at: u64, hex: String },
    /// A `WatchMessage`.
    Pushed { at: u64, hex: String },
}

pub(super) fn seeded(hex: &str) -> ListTasksResponse {
    ListTasksResponse::decode(bytes(hex).as_slice()).unwrap()
}

pub(super) fn pushed(hex: &str) -> WatchMessage {
    WatchMessage::decode(bytes(hex).as_slice()).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
