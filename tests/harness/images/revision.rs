//! The agent of another revision of this repository: for upgrades from it, and to compare with it.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{self, Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::agent::pack;
use crate::{
    cmd::{Cmd, said},
    paths::{STATIC_TARGET, root, target},
};

/// What decides how the agent is compiled. A revision from before the compiler was pinned is built with today's: its own build
/// scripts ask for whatever nightly there is.
const BUILD_FILES: [&str; 5] =
    [PIN, ".cargo/config.toml", "mesh-agent/build.rs", "mesh-ebpf/build.rs", "mesh-ebpf/compile.rs"];
const PIN: &str = "rust-toolchain.toml";

/// What cargo marks a target folder with.
const TAG: &str = "CACHEDIR.TAG";

/// A commit that git knows here.
#[derive(Debug, Clone)]
pub struct Revision {
    /// As git abbreviates it.
    short: String,
    commit: String,
}

impl Revision {
    /// By whatever git takes for one: a hash, a tag, `HEAD~3`.
    pub fn find(name: &str) -> Result<Self> {
        let commit = git(&["rev-parse", "--verify", "--end-of-options", &format!("{name}^{{commit}}")])
            .with_context(|| unknown(name))?;
        let short = git(&["rev-parse", "--short", &commit])?;
        Ok(Self { short, commit })
    }

    /// The name of its image.
    pub fn tag(&self) -> String {
        format!("mesh-agent:{}", self.short)
    }

    /// Its files, below `target/revision`; those of the last time if there are any.
    pub fn files(&self) -> Result<PathBuf> {
        let all = absolute(&target().join("revision"))?;
        let folder = all.join(&self.short);
        let context = || format!("cannot take the files of {} to {}", self.short, folder.display());
        if !folder.exists() {
            let (archive, unpacked) = (folder.with_extension("tar"), folder.with_extension("new"));
            fs::create_dir_all(&all).with_context(context)?;
            let output = format!("--output={}", archive.display());
            git(&["archive", "--format=tar", &output, &self.commit])?;
            // What an interrupted one has left.
            if unpacked.exists() {
                fs::remove_dir_all(&unpacked).with_context(context)?;
            }
            tar::Archive::new(File::open(&archive).with_context(context)?)
                .unpack(&unpacked)
                .with_context(context)?;
            fs::rename(&unpacked, &folder).with_context(context)?;
            fs::remove_file(&archive).with_context(context)?;
        }
        Ok(folder)
    }

    /// Builds its agent by today's compiler and linker, and writes `target/mesh-agent-<revision>.tar`.
    pub fn image(&self) -> Result<PathBuf> {
        self.build(&[])
    }

    /// [`Revision::image`] in half the time, for who does not measure: the agent's own code is hardly optimised.
    pub fn quick_image(&self) -> Result<PathBuf> {
        self.build(&["--config", "profile.release.package.mesh-agent.opt-level=1"])
    }

    fn build(&self, options: &[&str]) -> Result<PathBuf> {
        let files = self.files()?;
        if !git(&["ls-tree", "--name-only", &self.commit, PIN])?.contains(PIN) {
            eprintln!(
                "{} is from before the pinned compiler: built with today's {}",
                self.short,
                BUILD_FILES.join(", ")
            );
            BUILD_FILES.iter().try_for_each(|file| lay_over(file, &files))?;
        }
        let built = files.join("target");
        if !built.exists() {
            seed(&built)?;
        }
        Cmd::cargo("build")
            .dir(&files)
            .args(options)
            .args(["--release", "--target", STATIC_TARGET, "--package", "mesh-agent", "--bin", "mesh-agent"])
            .arg("--target-dir")
            .arg(&built)
            .run()
            .with_context(|| format!("cannot build the agent of {}", self.short))?;
        let binary = built.join(STATIC_TARGET).join("release/mesh-agent");
        let archive = target().join(format!("mesh-agent-{}.tar", self.short));
        pack(&binary, vec![self.tag()], &archive)?;
        Ok(archive)
    }
}

/// Cargo is run in another folder.
fn absolute(folder: &Path) -> Result<PathBuf> {
    path::absolute(folder).with_context(|| format!("no folder {}", folder.display()))
}

/// Fills a new target folder with what today's agent was built from: most crates are the same, and take minutes. To share one
/// folder is not safe: cargo tells the crates of two workspaces apart by their place in them, and takes those of the one for
/// those of the other. So crates of this workspace are left out.
fn seed(built: &Path) -> Result<()> {
    let own =
        |name: &str| ["mesh", "libmesh", "xtask", "libxtask"].iter().any(|begin| name.starts_with(begin));
    let unfinished = built.with_extension("new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    for profile in ["release".into(), format!("{STATIC_TARGET}/release")] {
        for folder in [".fingerprint", "build", "deps"].map(|folder| format!("{profile}/{folder}")) {
            let (from, to) = (target().join(&folder), unfinished.join(&folder));
            fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
            let entries = fs::read_dir(&from).into_iter().flatten().flatten();
            let entries: Vec<PathBuf> = entries
                .filter(|entry| !own(&entry.file_name().to_string_lossy()))
                .map(|entry| entry.path())
                .collect();
            if !entries.is_empty() {
                // With their times, by which cargo knows that they are fresh.
                let copy = Cmd::new("cp").args(["--archive", "--reflink=auto", "--target-directory"]);
                copy.arg(&to).args(entries).quiet().read()?;
            }
        }
    }
    // The one is where the linker is looked for. By the other a build script knows that it is a target folder: cargo makes one
    // only in a folder that it has made itself.
    symlink("../../../tools", unfinished.join("tools"))
        .and_then(|()| fs::copy(target().join(TAG), unfinished.join(TAG)))
        .and_then(|_| fs::rename(&unfinished, built))
        .with_context(|| format!("cannot make {}", built.display()))
}

/// Today's version of a file in place of a revision's; the same one stays as it is, so that cargo sees no change.
fn lay_over(file: &str, files: &Path) -> Result<()> {
    let (today, its) = (root().join(file), files.join(file));
    let text = fs::read(&today).with_context(|| format!("cannot read {}", today.display()))?;
    if fs::read(&its).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let written = its.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&its, text));
    written.with_context(|| format!("cannot write {}", its.display()))
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Cmd::new("git").dir(root()).args(arguments).quiet().output()?;
    if !output.status.success() {
        bail!("`git {}` ended with {}\n{}", arguments.join(" "), output.status, said(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn unknown(name: &str) -> String {
    let shallow = git(&["rev-parse", "--is-shallow-repository"]).is_ok_and(|answer| answer == "true");
    let advice = if shallow {
        "this clone is shallow: `git fetch --unshallow` gets the rest"
    } else {
        "it takes a clone with that revision in it: `git fetch --all --tags` gets what there is"
    };
    format!("git knows no revision {name} in {}; {advice}", root().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_that_git_does_not_know_is_named_with_what_to_do() {
        let error = format!("{:#}", Revision::find("no-such-revision").unwrap_err());
        assert!(error.contains("no revision no-such-revision") && error.contains("`git fetch"), "{error}");
    }
}
