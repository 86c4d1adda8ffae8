//! How the parts answer together.

mod golden;
mod live;
mod other_servers;
mod support;
