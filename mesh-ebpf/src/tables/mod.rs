//! The maps, a group in each file: what they hold, and the only functions that look into them.

pub mod connections;
pub mod counters;
pub mod flows;
pub mod fragments;
pub mod frontends;
pub mod handover;
pub mod node;
pub mod outgoing;
pub mod pressure;
pub mod replies;
mod settled;
pub mod suspects;
pub mod vips;
