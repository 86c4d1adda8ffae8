//! How the parts answer together.

mod golden;
mod inside;
mod live;
mod other_servers;
mod support;
