//! Giving a node back to Docker: every program, link, map and qdisc that the agent made.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use futures::TryStreamExt;
use rtnetlink::packet_route::tc::TcHandle;
use tracing::{debug, error, info};

use super::pins::Pins;
use super::tc::detach_clsact;
use crate::node::{self, Interface, namespaces};

/// `mesh-agent uninstall`.
pub async fn run(bpffs: &Path, docker_run: &Path) -> ExitCode {
    match remove(bpffs, docker_run).await {
        Ok(done) => {
            for what in &done {
                debug!("removed {what}");
            }
            info!(pins_and_qdiscs = done.len(), "removed");
            info!("nothing of the mesh is left on this node; Docker's own mesh serves it");
            ExitCode::SUCCESS
        }
        Err(failed) => {
            for what in failed {
                error!("cannot {what}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Removes everything, as far as it can, and says what it could not.
pub async fn remove(bpffs: &Path, docker_run: &Path) -> Result<Vec<String>, Vec<String>> {
    let pins = Pins::under(bpffs);
    let mut done = Vec::new();
    let mut failed = Vec::new();
    match remove_qdiscs(&pins, docker_run).await {
        Ok(names) => done.extend(names),
        Err(error) => failed.push(format!("{error:#}")),
    }
    let mut links = Pins::entries(&pins.links());
    links.extend(Pins::entries(&pins.predecessors()));
    links.extend(Pins::entries(&pins.overlays()).iter().flat_map(|overlay| Pins::entries(overlay)));
    for path in links.into_iter().chain(Pins::entries(&pins.maps())) {
        // Of a port that has got a clsact qdisc an overlay keeps a folder.
        let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        match removed {
            Ok(()) => done.push(path.display().to_string()),
            Err(error) => failed.push(format!("remove {}: {error}", path.display())),
        }
    }
    if pins.root().is_dir()
        && let Err(error) = fs::remove_dir_all(pins.root())
    {
        failed.push(format!("remove {}: {error}", pins.root().display()));
    }
    if failed.is_empty() { Ok(done) } else { Err(failed) }
}

/// Takes our filters off all interfaces, and the clsact qdiscs away that we added: of the node, and of the ports of its
/// overlays.
async fn remove_qdiscs(pins: &Pins, docker_run: &Path) -> anyhow::Result<Vec<String>> {
    let ours = |index: u32| pins.qdiscs().join(index.to_string()).is_dir();
    let mut done = remove_qdiscs_here(&ours).await?;
    for namespace in Pins::entries(&docker_run.join("netns")) {
        if !namespace.file_name().is_some_and(|name| name.to_string_lossy().starts_with("1-")) {
            continue;
        }
        let cleaner = std::thread::spawn(move || -> anyhow::Result<Vec<String>> {
            namespaces::enter(&namespace)?;
            // Nobody but us and Docker, which has no use for it, makes one there.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(remove_qdiscs_here(&|_| true))
        });
        match cleaner.join() {
            Ok(Ok(names)) => done.extend(names),
            // An overlay that is about to go takes its ports along.
            Ok(Err(error)) => debug!("an overlay's namespace cannot be cleaned: {error:#}"),
            Err(_) => anyhow::bail!("the cleaner of an overlay's namespace panicked"),
        }
    }
    Ok(done)
}

/// As above, in the calling thread's namespace. `ours` tells, by an interface's index, whether its qdisc is.
async fn remove_qdiscs_here(ours: &(dyn Fn(u32) -> bool + Sync)) -> anyhow::Result<Vec<String>> {
    const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };

    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
    tokio::spawn(connection);
    let mut done = Vec::new();
    for Interface { index, name, .. } in node::links(&handle).await? {
        if !detach_clsact(&name) || !ours(index) {
            continue;
        }
        let mut filters = handle.traffic_filter(index.cast_signed()).get().ingress().execute();
        if filters.try_next().await.is_ok_and(|filter| filter.is_some()) {
            done.push(format!("our filters from {name}; its clsact qdisc stays: others use it"));
            continue;
        }
        let mut request = handle.qdisc().del(index.cast_signed());
        request.message_mut().header.parent = CLSACT;
        request.execute().await.with_context(|| format!("remove the clsact qdisc of {name}"))?;
        done.push(format!("the clsact qdisc of {name}"));
    }
    Ok(done)
}
