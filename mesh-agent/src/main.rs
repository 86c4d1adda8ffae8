//! The command line of the mesh's agent.

use std::process::ExitCode;

use clap::Parser;
use mesh_agent::args::{Arguments, Command};
use mesh_agent::{agent, dataplane, logging, preflight, status};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start(&arguments.log);
    match arguments.command {
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
