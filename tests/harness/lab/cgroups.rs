//! Every process of the lab lives below the cgroup `mesh-lab`. That is what makes cleaning up certain: whoever started
//! a process, and whatever crashed in between, it can be found there, and nothing else can.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

const ROOT: &str = "mesh-lab";
/// cgroup2 gives controllers only to the children of a group that holds no process itself, so processes go here.
const LEAF: &str = "init";

/// Makes the cgroup of a node in every hierarchy of this machine.
pub(super) fn create(node: &str) -> Result<()> {
    let hierarchies = hierarchies()?;
    if hierarchies.is_empty() {
        bail!("no cgroup hierarchy is mounted below /sys/fs/cgroup; the lab cannot run Docker here");
    }
    for hierarchy in hierarchies {
        let mut dir = hierarchy.point.clone();
        for part in [ROOT, node] {
            let parent = dir.clone();
            hierarchy.delegate(&parent);
            dir.push(part);
            fs::create_dir_all(&dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
            inherit_cpuset(&parent, &dir);
        }
        if hierarchy.unified {
            fs::create_dir_all(dir.join(LEAF)).context("cannot make the cgroup of a node's own processes")?;
        }
    }
    Ok(())
}

/// The files into which a process writes its number to belong to a node.
pub(super) fn membership(node: &str) -> Result<Vec<PathBuf>> {
    let member = |hierarchy: Hierarchy| {
        let dir = hierarchy.point.join(ROOT).join(node);
        if hierarchy.unified { dir.join(LEAF).join("cgroup.procs") } else { dir.join("cgroup.procs") }
    };
    Ok(hierarchies()?.into_iter().map(member).collect())
}

/// The processes of a node, by the host's count.
pub(super) fn processes(node: &str) -> Result<BTreeSet<i32>> {
    let roots = hierarchies()?.into_iter().map(|hierarchy| hierarchy.point.join(ROOT).join(node));
    Ok(roots.flat_map(|root| members(&root)).collect())
}

/// Kills every process of the lab and removes its cgroups.
pub(super) fn remove() -> Result<()> {
    let roots: Vec<PathBuf> = hierarchies()?.into_iter().map(|h| h.point.join(ROOT)).collect();
    let begin = Instant::now();
    loop {
        let members: BTreeSet<i32> = roots.iter().flat_map(|root| members(root)).collect();
        if members.is_empty() {
            break;
        }
        if begin.elapsed() > Duration::from_secs(20) {
            bail!("processes {members:?} of the lab do not end");
        }
        for pid in members {
            // SAFETY: `kill` takes two integers; the number was read from a cgroup that holds only the lab's processes.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        thread::sleep(Duration::from_millis(20));
    }
    for root in roots {
        remove_tree(&root)?;
    }
    Ok(())
}

struct Hierarchy {
    point: PathBuf,
    unified: bool,
}

impl Hierarchy {
    /// cgroup2 wants each controller handed down level by level; on a hybrid machine it has none to hand down.
    fn delegate(&self, dir: &Path) {
        if !self.unified {
            return;
        }
        let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let hierarchy = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup") && point.starts_with("/sys/fs/cgroup"))
            .then(|| Hierarchy { point: point.into(), unified: kind == "cgroup2" })
    };
    Ok(mounts.lines().filter_map(hierarchy).collect())
}

/// A new group of the old cpuset controller takes no process before it has processors and memory nodes.
fn inherit_cpuset(parent: &Path, child: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let Ok(mine) = fs::read_to_string(child.join(file)) else { continue };
        if mine.trim().is_empty()
            && let Ok(theirs) = fs::read_to_string(parent.join(file))
        {
            let _ = fs::write(child.join(file), theirs.trim());
        }
    }
}

fn members(dir: &Path) -> Vec<i32> {
    let own = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> =
        own.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).collect();
    for child in children(dir) {
        pids.extend(members(&child));
    }
    pids
}

fn remove_tree(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for child in children(dir) {
        remove_tree(&child)?;
    }
    let begin = Instant::now();
    // A group stays busy for a moment after its last process was killed.
    while let Err(error) = fs::remove_dir(dir) {
        if begin.elapsed() > Duration::from_secs(5) {
            return Err(error).with_context(|| format!("cannot remove the cgroup {}", dir.display()));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}
