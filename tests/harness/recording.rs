//! The last packets on the fabric, for whoever has to find out why something failed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{cmd::Cmd, lab::Lab};

/// A tcpdump that keeps the beginnings of the last packets on all cables. It ends with this value.
#[derive(Debug)]
pub struct Recording {
    child: Child,
    folder: PathBuf,
}

/// tcpdump fills one of these while the other one keeps what was before.
const FILES: [&str; 2] = ["fabric.pcap0", "fabric.pcap1"];
/// Of each file, million bytes: some 200,000 packets.
const SIZE: &str = "20";
/// Of each packet, bytes: all headers, also those in a tunnel, and what an HTTP request begins with.
const BEGINNING: &str = "192";
/// tcpdump has this long to write down what it holds back.
const FLUSH: Duration = Duration::from_millis(200);

impl Recording {
    /// Keeps its files in this folder.
    pub fn start(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = folder.join("fabric.pcap").display().to_string();
        let count = FILES.len().to_string();
        let options =
            ["-i", "any", "-n", "-s", BEGINNING, "-C", SIZE, "-W", &count, "-w", &file, "-Z", "root"];
        let child = Lab::client("tcpdump").args(options).quiet().spawn()?;
        Ok(Self { child, folder: folder.to_owned() })
    }

    /// Copies what there is beside `file`, with these names' ends.
    pub fn keep(&self, file: &Path) -> Result<()> {
        // tcpdump writes its buffer down when it gets this.
        Cmd::new("kill").args(["-USR2", &self.child.id().to_string()]).quiet().read()?;
        thread::sleep(FLUSH);
        let written = FILES.iter().map(|name| self.folder.join(name)).filter(|from| from.exists());
        let written: Vec<PathBuf> = written.collect();
        ensure!(!written.is_empty(), "tcpdump has written nothing in {}", self.folder.display());
        for from in written {
            let to = file.with_extension(from.extension().unwrap_or_default());
            fs::copy(&from, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for name in FILES {
            let _ = fs::remove_file(self.folder.join(name));
        }
    }
}
