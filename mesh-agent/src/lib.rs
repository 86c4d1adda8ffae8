//! The agent: keeps the maps and the reports of one node true.
//!
//! ```text
//! swarm/ (in) ──► desired/ (pure) ──► reconcile/ (pure plan, small loop) ──► dataplane/ (out)
//!   ▲ peers/                              ▲ node/ (interfaces, addresses)
//!   all agents                            │ reach/ (do other nodes answer?)
//!                     status/ reads what the others publish
//! ```
//!
//! Only `agent.rs` makes the channels between these parts.

pub mod agent;
pub mod args;
pub mod cgroup;
pub mod confine;
pub mod core;
pub mod dataplane;
pub mod desired;
pub mod dns;
pub mod firewall;
pub mod handover;
pub mod health;
pub mod logging;
pub mod netfilter;
pub mod node;
pub mod peers;
pub mod preflight;
pub mod reach;
pub mod reconcile;
pub mod shared_map;
pub mod single;
pub mod status;
pub mod swarm;
