//! The log: for people by default, as JSON for machines. Always on standard error; standard output is for results.

use std::io::{IsTerminal, Stderr, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::OptionalWriter;

use crate::args::{LogArguments, LogFormat};

/// Once per process, before anything worth logging happens.
pub fn start(arguments: &LogArguments) {
    let builder = tracing_subscriber::fmt().with_writer(writer).with_env_filter(filter(&arguments.log_level));
    match arguments.log_format {
        LogFormat::Human => builder.with_target(false).with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

static IS_OVER: AtomicBool = AtomicBool::new(false);

/// From now on nothing is logged. When the agent stops, its parts are ended one after the other, and each would take the end of
/// another for trouble.
pub fn end() {
    IS_OVER.store(true, Ordering::Relaxed);
}

fn writer() -> OptionalWriter<Stderr> {
    if IS_OVER.load(Ordering::Relaxed) { OptionalWriter::none() } else { OptionalWriter::some(stderr()) }
}

/// A mere level is about this agent; libraries then speak only of trouble.
fn filter(level: &str) -> EnvFilter {
    match level.parse::<Level>() {
        Ok(level) => EnvFilter::new(format!("warn,mesh_agent={level}")),
        Err(_) => EnvFilter::new(level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_about_the_agent_and_filters_are_taken_as_they_are() {
        assert_eq!(filter("debug").to_string(), "mesh_agent=debug,warn");
        assert_eq!(filter("h2=trace").to_string(), "h2=trace");
    }
}
