//! The command line of the mesh's agent.

use std::process::ExitCode;

use clap::Parser;
use mesh_agent::args::{Arguments, Command};
use mesh_agent::{agent, confine, dataplane, logging, preflight, status};
use tokio::runtime::Builder;
use tracing::{error, warn};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start(&arguments.log);
    // Before there are threads, each of which would have its own rights.
    if matches!(arguments.command, Command::Run(_))
        && let Err(error) = confine::confine()
    {
        warn!("the agent keeps rights that it does not need: {error:#}");
    }
    match Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime.block_on(run(arguments.command)),
        Err(error) => {
            error!("cannot start the agent's threads: {error}; is the number of threads limited?");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Run(arguments) => agent::run(arguments).await,
        Command::Status(arguments) => status::client::run(&arguments).await,
        Command::Check(arguments) => status::client::check(&arguments.socket).await,
        Command::Health(arguments) => status::client::health(&arguments.socket).await,
        Command::Preflight(arguments) => preflight::run(&arguments).await,
        Command::Uninstall(arguments) => {
            dataplane::remove::run(&arguments.bpffs, &arguments.docker_run).await
        }
    }
}
