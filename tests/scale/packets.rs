//! What packets of one client cost the programs.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use mesh_agent::reconcile::plan::NodeFacts;
use mesh_common::net::{Address, Port};
use mesh_common::settings::Settings;
use serde_json::{Value, json};

const RUNS: usize = 1;

pub(crate) fn facts() -> NodeFacts {
    NodeFacts { default_uplink: 1, ..NodeFacts::default() }
}

pub(crate) fn measure(_programs: &mut Ebpf) -> Result<Value> {
    Ok(json!({}))
}
