//! A machine on the fabric that is none of the Swarm's: nothing is on it but what is started there.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::fabric;
use crate::{cmd::Cmd, wait};

/// It is gone when this is dropped, and also if this process is killed.
#[derive(Debug)]
pub struct Stranger {
    pub name: String,
    /// Its address on the fabric.
    pub address: String,
    /// The process whose network namespace is the machine.
    process: Child,
}

impl Stranger {
    /// With the last number of its address, which no node may have. Its cable is like a wire; see
    /// [`Node::make_wire`](super::Node::make_wire).
    pub fn plug_in(name: &str, number: usize) -> Result<Self> {
        let sleep = ["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"];
        let mut command = Cmd::new("setpriv").args(sleep).into_inner();
        let process = command.stdin(Stdio::null()).spawn().context("cannot start a namespace's process")?;
        let stranger = Self { name: name.into(), address: fabric::address(number), process };
        let pid = i32::try_from(stranger.process.id())?;
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        wait::until("a namespace", Duration::from_secs(5), Duration::from_millis(5), || {
            ensure!(namespace(&pid.to_string())? != namespace("self")?, "it is still this process's");
            Ok(())
        })?;
        fabric::connect(name, number, pid)?;
        fabric::make_wire(name, pid, true)?;
        stranger.command("ip").args(["link", "set", "lo", "up"]).quiet().read()?;
        Ok(stranger)
    }

    /// The file of its network namespace.
    pub fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.process.id()))
    }

    /// A command in its network namespace.
    pub fn command(&self, program: &str) -> Cmd {
        Cmd::new("nsenter")
            .arg(format!("--net={}", self.namespace().display()))
            .args(["--", program])
            .shown_as(format!("{}: {program}", self.name))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
