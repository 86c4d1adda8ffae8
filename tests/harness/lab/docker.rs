//! Which Docker the nodes run. Debian's releases have one each; `cargo xtask setup` unpacks what others than this machine's have
//! below `target/docker`.

use std::{env, ffi::OsString, fmt, path::PathBuf};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::paths;

/// The Docker of a lab's nodes: daemon, containerd and client. `runc` is the machine's own whatever the Docker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Docker {
    /// What this machine has installed
    #[default]
    Machine,
    /// Debian 12's (bookworm)
    #[value(name = "20.10")]
    V20_10,
    /// Debian 13's (trixie)
    #[value(name = "26.1")]
    V26_1,
    /// Debian 14's (forky)
    #[value(name = "28.5")]
    V28_5,
}

impl Docker {
    pub const NEWEST: Self = Self::V28_5;
    /// Those that Debian's releases bring.
    pub const OF_DEBIAN: [Self; 3] = [Self::V20_10, Self::V26_1, Self::V28_5];

    /// As the command line has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::V20_10 => "20.10",
            Self::V26_1 => "26.1",
            Self::V28_5 => "28.5",
        }
    }

    /// The release of Debian that has it.
    pub const fn suite(self) -> Option<&'static str> {
        match self {
            Self::Machine => None,
            Self::V20_10 => Some("bookworm"),
            Self::V26_1 => Some("trixie"),
            Self::V28_5 => Some("forky"),
        }
    }

    /// Where it is unpacked.
    pub fn folder(self) -> Option<PathBuf> {
        self.suite().map(|_| paths::target().join("docker").join(self.name()))
    }

    /// The folder of its programs.
    pub fn programs(self) -> Option<PathBuf> {
        self.folder().map(|folder| folder.join("bin"))
    }

    /// The search path on which its programs come before the machine's.
    pub(super) fn path(self) -> Option<OsString> {
        let programs = self.programs()?;
        let machine = env::var_os("PATH").unwrap_or_default();
        env::join_paths([programs].into_iter().chain(env::split_paths(&machine))).ok()
    }

    /// Fails early if it is not there, with what to do about it.
    pub(super) fn is_there(self) -> Result<()> {
        if let Some(programs) = self.programs() {
            ensure!(
                programs.join("dockerd").is_file(),
                "Docker {self} is not at {}: run `cargo xtask setup dockers`",
                programs.display()
            );
        }
        Ok(())
    }
}

impl fmt::Display for Docker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_is_named_as_on_the_command_line() {
        for docker in Docker::value_variants() {
            let named = docker.to_possible_value().map(|value| value.get_name().to_owned());
            assert_eq!(named.as_deref(), Some(docker.name()));
        }
    }

    #[test]
    fn its_programs_come_before_the_machines() {
        let path = Docker::V26_1.path().unwrap();
        let first = env::split_paths(&path).next();
        assert_eq!(first, Docker::V26_1.programs());
        assert_eq!(Docker::Machine.path(), None);
    }
}
