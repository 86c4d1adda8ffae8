//! Plain questions: to servers that speak in lines, and to whoever resolves names.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::ToSocketAddrs,
};

use anyhow::Result;
use serde::Serialize;

use crate::Dial;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    dial: Dial,
    /// What to send, a line each
    lines: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Heard {
    /// The address that was dialled, and ours.
    target: String,
    source: String,
    answers: Vec<String>,
}

/// Redis announces a text with a line `$` and its length; that line is left out.
pub(crate) fn run(args: &Args) -> Result<Heard> {
    let stream = args.dial.tcp()?;
    let (target, source) = (stream.peer_addr()?.to_string(), stream.local_addr()?.to_string());
    let mut reader = BufReader::new(stream);
    let mut answers = Vec::new();
    for line in &args.lines {
        reader.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = String::new();
        reader.read_line(&mut answer)?;
        if let Some(length) = answer.strip_prefix('$') {
            let mut text = vec![0; length.trim().parse::<usize>()? + 2];
            reader.read_exact(&mut text)?;
            answer = String::from_utf8(text)?;
        }
        answers.push(answer.trim_end().into());
    }
    Ok(Heard { target, source, answers })
}

#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    name: String,
}

/// In the order in which they came; the error's text in their place if there is none.
pub(crate) fn resolve(args: &Name) -> Vec<String> {
    match (args.name.as_str(), 80).to_socket_addrs() {
        Ok(addresses) => addresses.map(|address| address.ip().to_string()).collect(),
        Err(error) => vec![error.to_string()],
    }
}
