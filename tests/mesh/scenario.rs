//! A scenario as it stands in its file: a Swarm, and what happens on one of its nodes step by step. `tests/README.md` shows how to
//! write one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

/// What the tables say of frontends: by frontend and task, `active` or `draining`.
pub(crate) type Tables = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Debug)]
pub(crate) struct Scenario {
    /// The name of its file.
    pub(crate) name: String,
    pub(crate) swarm: Value,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Step {
    /// The tables hold exactly this.
    Tables { tables: Tables },
    /// The Swarm changes: what is named becomes so, `null` takes it away, the rest stays.
    Change { change: Value },
    /// A packet comes to the node, and this becomes of it.
    Packet { packet: String, becomes: Becomes },
    /// A container asks for a name, and gets these records, in whichever order.
    Question { by: String, ask: String, answer: Vec<String> },
}

/// What becomes of a packet.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "String")]
pub(crate) enum Becomes {
    /// It leaves the node so.
    Packet(String),
    /// It is dropped, and nobody is told.
    Nothing,
    /// The mesh leaves it to the node's own stack, and so to Docker.
    Left,
}

impl From<String> for Becomes {
    fn from(text: String) -> Self {
        match text.as_str() {
            "nothing" => Self::Nothing,
            "left to docker" => Self::Left,
            _ => Self::Packet(text),
        }
    }
}

impl Scenario {
    /// All in a folder, by name.
    pub(crate) fn all(folder: &Path) -> Result<Vec<Self>> {
        let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|end| end == "yaml"));
        files.sort();
        files.iter().map(|file| Self::read(file).with_context(|| file.display().to_string())).collect()
    }

    fn read(file: &Path) -> Result<Self> {
        let written: Written = serde_yaml_ng::from_str(&fs::read_to_string(file)?)?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().replace('-', " ");
        let step = |(number, step)| {
            serde_yaml_ng::from_value(step).with_context(|| {
                format!("step {number} is none of `tables`, `change`, `packet` with `becomes`, `ask` with `by` and `answer`")
            })
        };
        let steps = (1..).zip(written.steps).map(step).collect::<Result<Vec<Step>>>()?;
        ensure!(!steps.is_empty(), "it has no steps");
        Ok(Self { name, swarm: written.swarm, steps })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// As for `mesh-agent run --source file:PATH`.
    swarm: Value,
    steps: Vec<Value>,
}

/// Makes of a Swarm what a change says.
pub(crate) fn changed(swarm: &mut Value, change: &Value) {
    let (Value::Mapping(there), Value::Mapping(new)) = (&mut *swarm, change) else {
        *swarm = change.clone();
        return;
    };
    for (key, value) in new {
        if value.is_null() {
            there.remove(key);
        } else {
            changed(there.entry(key.clone()).or_insert(Value::Mapping(Mapping::new())), value);
        }
    }
}

pub(crate) fn a_change_adds_replaces_and_takes_away() {
    let value = |text| serde_yaml_ng::from_str::<Value>(text).expect("it is YAML");
    let mut swarm = value("{a: {b: 1, c: [1, 2]}, d: 4}");
    changed(&mut swarm, &value("{a: {c: [3], e: {f: 5}}, d: null}"));
    assert_eq!(swarm, value("{a: {b: 1, c: [3], e: {f: 5}}}"));
}
