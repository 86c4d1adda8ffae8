//! What passes a cable of the fabric, as tcpdump sees it.

use std::{
    io::{BufRead, BufReader},
    process::Child,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    cmd::Cmd,
    lab::{FABRIC, Lab, Node},
};

/// A tcpdump at work. It ends with this value.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    packets: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    /// Watches the cable of one node for what matches this filter of tcpdump.
    pub fn on_cable(node: &Node, filter: &str) -> Result<Self> {
        Self::start(&node.name, filter)
    }

    fn start(interface: &str, filter: &str) -> Result<Self> {
        let options = ["-i", interface, "-l", "-n", "-e", "-t", "-Z", "root", "--immediate-mode", filter];
        let mut child = Lab::client("tcpdump").args(options).quiet().spawn()?;
        let errors = child.stderr.take().context("tcpdump has no standard error")?;
        let mut said = String::new();
        let mut errors = BufReader::new(errors);
        // It says so when it has begun.
        while !said.contains("listening on") {
            if errors.read_line(&mut said)? == 0 {
                bail!("tcpdump -i {interface} '{filter}' does not start: {said}");
            }
        }
        let packets = Arc::new(Mutex::new(Vec::new()));
        let lines = child.stdout.take().context("tcpdump has no standard output")?;
        let seen = Arc::clone(&packets);
        let reader = thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        // What it says at its end goes nowhere, but must not block it.
        thread::spawn(move || errors.lines().map_while(Result::ok).for_each(drop));
        Ok(Self { child, packets, reader: Some(reader) })
    }

    /// Ends it and returns a line for each packet.
    pub fn stop(mut self) -> Vec<String> {
        let mut known = usize::MAX;
        // Nothing tells when tcpdump has caught up; that it has nothing new to say is the best sign.
        while known != self.count() {
            known = self.count();
            thread::sleep(Duration::from_millis(200));
        }
        self.end();
        self.packets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self) -> usize {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// Packets and bytes that have passed the cable of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// All that the cable of a node has carried, (to the node, from it).
pub fn traffic(node: &Node) -> Result<(Traffic, Traffic)> {
    let show = ["-n", FABRIC, "-j", "-s", "link", "show", "dev", &node.name];
    let text = Cmd::new("ip").args(show).quiet().read()?;
    let links: Value = serde_json::from_str(&text).with_context(|| format!("`ip -j` said {text}"))?;
    let direction = |name: &str| {
        let counters = &links[0]["stats64"][name];
        Some(Traffic { packets: counters["packets"].as_u64()?, bytes: counters["bytes"].as_u64()? })
    };
    let both = direction("tx").zip(direction("rx"));
    both.with_context(|| format!("no counters in {text}"))
}

impl std::ops::Sub for Traffic {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { packets: self.packets - earlier.packets, bytes: self.bytes - earlier.bytes }
    }
}

impl Traffic {
    pub fn bytes_per_packet(self) -> u64 {
        self.bytes / self.packets.max(1)
    }
}
