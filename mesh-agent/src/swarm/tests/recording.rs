//! How a Swarm's lists and pushed changes were recorded, and how they are read again: lines of JSON in the order in which
//! they arrived. Lists keep only the keys that `wire` knows, pushed messages only the fields that `control_wire` knows.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, interval, sleep_until};

use crate::peers::certificates::Certificates;
use crate::swarm::control::{self, Control};
use crate::swarm::control_wire::{ListTasksResponse, WatchMessage};
use crate::swarm::docker::Docker;
use crate::swarm::status::StatusBoard;

#[derive(Clone, Debug, Serialize, Deserialize)]
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// `MESH_RECORD=<root directory of a manager> MESH_RECORD_TO=<file> MESH_RECORD_SECONDS=<n>`
#[tokio::test]
#[ignore = "records a real Swarm; what it recorded is in testdata/"]
async fn record_a_swarm() {
    let setting = |name: &str| std::env::var(name).unwrap();
    let root = PathBuf::from(setting("MESH_RECORD"));
    let mut file = std::fs::File::create(setting("MESH_RECORD_TO")).unwrap();
    let end = Instant::now() + Duration::from_secs(setting("MESH_RECORD_SECONDS").parse().unwrap());
    let mut write = |record: &Record| writeln!(file, "{}", serde_json::to_string(record).unwrap()).unwrap();

    let certificates = Certificates::in_swarm_state(&root.join("var/lib/docker/swarm"));
    let board = StatusBoard::default();
    let socket = root.join("run/docker/swarm/control.sock");
    let control = Control { socket: &socket, certificates: &certificates, board: &board };
    let mut client = control.connect().await.unwrap();
    let mut changes = control::watch(&mut client, None).await.unwrap();
    assert_eq!(changes.message().await.unwrap().unwrap().events, []);
    let start = Instant::now();
    let now = || u64::try_from(start.elapsed().as_millis()).unwrap();
    let tasks = control::tasks(&mut client).await.unwrap();
    write(&Record::Seeded { at: now(), hex: hex(&tasks.encode_to_vec()) });

    let docker = Docker::connect(&root.join("run/docker.sock")).await.unwrap();
    let mut lists = interval(Duration::from_millis(400));
    let mut last = [const { Value::Null }; 4];
    while Instant::now() < end {
        tokio::select! {
            biased;
            message = changes.message() => {
                let message = message.unwrap().unwrap();
                write(&Record::Pushed { at: now(), hex: hex(&message.encode_to_vec()) });
            }
            _ = lists.tick() => {
                let begun = now();
                let listed = tokio::try_join!(docker.services(), docker.tasks(), docker.nodes(), docker.networks());
                let (services, tasks, nodes, networks) = listed.unwrap();
                let lists = [services, tasks, nodes, networks].map(|json| {
                    let mut value = serde_json::from_slice(&json).unwrap();
                    prune(&mut value, &known_keys());
                    value
                });
                if lists != last {
                    last = lists.clone();
                    let [services, tasks, nodes, networks] = lists;
                    write(&Record::Listed { begun, at: now(), services, tasks, nodes, networks });
                }
            }
            () = sleep_until(end) => {}
        }
    }
}

/// All the names in `wire`, as serde derives them from its fields.
fn known_keys() -> BTreeSet<String> {
    let source = include_str!("../wire.rs");
    let mut keys = BTreeSet::new();
    for line in source.lines().map(str::trim) {
        if let Some(field) = line.strip_prefix("pub(super) ").and_then(|field| field.split_once(':')) {
            let words = field.0.split('_');
            keys.extend([words.map(|word| word[..1].to_uppercase() + &word[1..]).collect::<String>()]);
        }
        let renamed = line.split('"').skip(1).step_by(2);
        keys.extend(renamed.map(str::to_owned));
    }
    keys
}

fn prune(value: &mut Value, keys: &BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| prune(value, keys)),
        Value::Object(object) => {
            object.retain(|key, _| keys.contains(key));
            for (key, value) in object.iter_mut() {
                if key != "Labels" && key != "Options" {
                    prune(value, keys);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
