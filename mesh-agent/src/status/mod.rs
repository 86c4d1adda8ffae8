//! What operators see: one [`report::Report`], asked for over a Unix socket, shown as tables or JSON.
//!
//! ```text
//!  agent core ─ ReportSource ─┬► server ═ Unix socket ═ client ─► table (pure) or JSON
//!                             └► http ═ TCP ═ Prometheus: metrics (pure)
//! ```

pub mod client;
pub mod collect;
pub mod http;
pub mod metrics;
pub mod published;
pub mod report;
mod rows;
pub mod server;
pub mod table;
#[cfg(test)]
mod tests;
