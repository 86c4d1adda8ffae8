//! Compiles the dataplane for the BPF target and leaves it in `OUT_DIR`, to be embedded in the agent: `mesh-ebpf`,
//! `mesh-ebpf-xdp` and `mesh-ebpf-network`.

#[path = "../mesh-ebpf/compile.rs"]
mod compile;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR").context("cargo names the package's folder")?);
    let root = manifest.parent().context("the package is in the workspace")?;
    for source in ["mesh-ebpf", "mesh-common", "Cargo.toml", "rust-toolchain.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    ensure!(
        env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() == Ok("little"),
        "the dataplane is written for little-endian machines"
    );

    let out = PathBuf::from(env::var("OUT_DIR").context("cargo names the output folder")?);
    let target = target_directory(&out);
    let linker = compile::linker(target);
    println!("cargo:rerun-if-changed={}", linker.display());
    ensure!(
        linker.is_file(),
        "no linker for the programs in the kernel at {}: run `cargo xtask setup build`, which installs it",
        linker.display()
    );
    let cargo = env::var_os("CARGO").context("cargo names itself")?;
    let mut build = compile::cargo(Path::new(&cargo), "build", target);
    build.arg("--release").current_dir(root);
    let output = build.output().with_context(|| format!("run {build:?}"))?;
    if !output.status.success() {
        bail!(
            "{build:?} failed; `cargo xtask setup build` installs what it needs (the component rust-src, and bpf-linker)\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for name in ["mesh-ebpf", "mesh-ebpf-xdp", "mesh-ebpf-network"] {
        let object = compile::objects(target).join(name);
        // Earlier revisions, which tests build with this file, have fewer; an agent does not compile without what it embeds.
        if object.is_file() {
            fs::copy(&object, out.join(name)).with_context(|| format!("copy {}", object.display()))?;
        }
    }
    Ok(())
}

/// The workspace's: one dataplane serves all profiles and targets of the agent. cargo marks it, and the folder of a target
/// that was named to it as well.
fn target_directory(out: &Path) -> &Path {
    let named = env::var_os("TARGET");
    let is_workspaces =
        |folder: &&Path| folder.join("CACHEDIR.TAG").is_file() && folder.file_name() != named.as_deref();
    out.ancestors().find(is_workspaces).unwrap_or(out)
}
