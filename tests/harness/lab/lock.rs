//! One user of the lab at a time.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, bail};

const PATH: &str = "/run/mesh-lab.lock";

/// Held by a command for as long as it builds, uses or removes the lab; let go by the kernel if the command crashes.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    pub fn take() -> Result<Self> {
        let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(PATH);
        let mut file = options.with_context(|| format!("cannot open {PATH}; the lab needs root"))?;
        // SAFETY: the descriptor belongs to `file`, which is open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let holder = fs::read_to_string(PATH).unwrap_or_default();
            bail!("the lab is in use by {}; one command at a time", holder.trim());
        }
        file.set_len(0)?;
        write!(file, "process {} ({})", std::process::id(), std::env::args().collect::<Vec<_>>().join(" "))?;
        Ok(Self { _file: file })
    }
}
