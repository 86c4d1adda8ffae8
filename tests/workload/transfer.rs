//! Large transfers, checked byte for byte.

use std::{
    io::{self, Read},
    time::Instant,
};

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Dial,
    dial::Http,
    pattern::{Pattern, measure},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    dial: Dial,
    #[arg(long, default_value_t = 1_000_000)]
    bytes: u64,
}

/// What was moved, and whether it arrived as it was sent.
#[derive(Debug, Serialize)]
pub(crate) struct Transfer {
    bytes: u64,
    sha256: String,
    intact: bool,
    seconds: f64,
}

pub(crate) fn download(args: &Args) -> Result<Transfer> {
    let begin = Instant::now();
    let mut http = Http::connect(&args.dial)?;
    http.send(&format!("/bytes?n={}", args.bytes), None, false)?;
    let head = http.head()?;
    ensure!(head.status == 200, "the server answers {}", head.status);
    let (bytes, sha256) = measure(http.body(&head))?;
    Ok(judge(args.bytes, bytes, sha256, begin)?)
}

pub(crate) fn upload(args: &Args) -> Result<Transfer> {
    let begin = Instant::now();
    let mut http = Http::connect(&args.dial)?;
    http.send("/sink", Some((args.bytes, &mut Pattern::new(args.bytes))), false)?;
    let head = http.head()?;
    let mut text = String::new();
    http.body(&head).read_to_string(&mut text)?;
    let answer: Value = serde_json::from_str(&text)?;
    let sha256 = answer["sha256"].as_str().unwrap_or_default().to_owned();
    Ok(judge(args.bytes, answer["bytes"].as_u64().unwrap_or(0), sha256, begin)?)
}

fn judge(wanted: u64, bytes: u64, sha256: String, begin: Instant) -> io::Result<Transfer> {
    let seconds = begin.elapsed().as_secs_f64();
    let expected = measure(Pattern::new(wanted))?;
    let intact = expected == (bytes, sha256.clone());
    Ok(Transfer { bytes, sha256, intact, seconds })
}
