//! What the lab's services run, and what dials them: a server that tells which task it is and whom it sees, and a
//! client that reports every attempt as JSON, failures included. Threads and blocking sockets: there is little to do.

mod ask;
mod client;
mod datagram;
mod dial;
mod echo;
mod flood;
mod http;
mod identity;
mod load;
mod names;
mod pattern;
mod serve;
mod transfer;

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    process::ExitCode,
    sync::mpsc::{self, Receiver},
    thread,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "The lab's test server and client")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves HTTP, TCP echo and UDP echo until SIGTERM
    Serve(serve::Args),
    /// Asks the server on this machine whether it is healthy; for Docker's health check
    Healthcheck(serve::Args),
    /// HTTP requests, one after the other or many at once
    Get(client::Get),
    /// Constant load on new and on held connections, until its standard input ends
    Load(load::Args),
    /// Packets from random sources at full speed, in the lab only
    Flood(flood::Args),
    /// One TCP echo conversation
    Tcp(client::Tcp),
    /// Lines to a server of any kind, and the first line of each answer
    Ask(ask::Args),
    /// The addresses of a name, as the system's library finds them
    Resolve(ask::Name),
    /// Questions about names, as fast as they are answered
    Names(names::Args),
    /// UDP echo datagrams from one socket
    Udp(client::Udp),
    /// Datagrams of any content, without waiting for an answer
    Send(datagram::Send),
    /// Counts datagrams until its standard input ends
    Listen(datagram::Listen),
    /// Fetches bytes and checks them
    Download(transfer::Args),
    /// Sends bytes and compares the server's checksum of them
    Upload(transfer::Args),
}

/// Where a client's packets go and come from.
#[derive(Debug, Clone, clap::Args)]
struct Dial {
    /// ADDRESS:PORT or NAME:PORT of the server; of several addresses the first
    #[arg(value_parser = resolve)]
    target: SocketAddr,
    #[arg(long, default_value_t = 0)]
    source_port: u16,
    #[arg(long)]
    source_address: Option<std::net::IpAddr>,
    /// Milliseconds to wait for a connection or an answer
    #[arg(long, default_value_t = 3000)]
    timeout: u64,
}

fn resolve(target: &str) -> io::Result<SocketAddr> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    target.to_socket_addrs()?.next().ok_or_else(unknown)
}

fn main() -> Result<ExitCode> {
    match Args::parse().command {
        Command::Serve(args) => serve::run(&args)?,
        Command::Healthcheck(args) => return Ok(serve::healthcheck(&args)),
        Command::Get(args) => print(&client::get(&args))?,
        Command::Load(args) => print(&load::run(&args)?)?,
        Command::Flood(args) => print(&flood::run(&args)?)?,
        Command::Tcp(args) => print(&client::tcp(&args))?,
        Command::Ask(args) => print(&ask::run(&args)?)?,
        Command::Resolve(args) => print(&ask::resolve(&args))?,
        Command::Names(args) => print(&names::run(&args)?)?,
        Command::Udp(args) => print(&client::udp(&args))?,
        Command::Send(args) => print(&datagram::send(&args)?)?,
        Command::Listen(args) => print(&datagram::listen(&args)?)?,
        Command::Download(args) => print(&transfer::download(&args)?)?,
        Command::Upload(args) => print(&transfer::upload(&args)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Receives something when the standard input ends.
fn end_of_input() -> Receiver<()> {
    let (told, ends) = mpsc::channel();
    // Not joined: it may read for as long as the process lives.
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        told.send(())
    });
    ends
}

fn print(result: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(result)?);
    Ok(())
}
