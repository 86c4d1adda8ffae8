//! Developer commands of the mesh: `cargo xtask <command>`, from the repository's root.

mod bench;
mod bpf;
mod ci;
mod demo;
mod fresh;
mod image;
mod lab;
mod lint;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of the mesh")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The whole thing from a bare machine: a three-node Swarm, the mesh on it, and a published nginx
    Demo(demo::Args),
    /// All tests, the same that CI runs, or one part of them
    Test(test::Args),
    /// A real Swarm on this machine, with or without the mesh on it
    Lab(lab::Args),
    /// Measurements; each brings up what it needs, a lab too, and takes it down again
    Bench(bench::Args),
    /// The agent's image: target/mesh-agent.tar, for `docker load`
    Image(image::Args),
    /// The README's commands in a bare Debian with nothing but Rust: what a newcomer meets
    Fresh(fresh::Args),
    /// Formatting, lints for host and BPF, docs, dependencies
    Lint,
    /// `lint` and `test`: everything that must hold before a change is taken
    Ci,
    /// Installs what is missing to build, test and run the lab
    Setup(setup::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Lab(args) => lab::run(args),
        Command::Bench(args) => bench::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Fresh(args) => fresh::run(&args),
        Command::Lint => lint::run(),
        Command::Ci => ci::run(),
        Command::Setup(args) => setup::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
