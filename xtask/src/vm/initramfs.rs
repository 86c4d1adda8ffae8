//! What a kernel starts with: busybox, the modules with which it reaches this machine's files, and a script.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use mesh_tests::cmd::{Cmd, find};

use super::kernel::Kernel;

const INIT: &str = include_str!("init.sh");
/// The bus of QEMU's devices, files that come by it, and files of which some are overlaid.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Packs it into `archive`. `folder` is made for what goes into it.
pub(super) fn pack(kernel: &Kernel, folder: &Path, archive: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    for part in ["bin", "modules"] {
        fs::create_dir_all(folder.join(part))
            .with_context(|| format!("cannot write to {}", folder.display()))?;
    }
    let busybox = find("busybox").context("busybox is missing: run `cargo xtask setup vm`")?;
    fs::copy(busybox, folder.join("bin/busybox"))?;
    fs::write(folder.join("init"), INIT)?;
    Cmd::new("chmod").arg("755").arg(folder.join("init")).quiet().read()?;
    modules(kernel, &folder.join("modules"))?;
    let archive = Cmd::new("sh").args(["-c", r#"find . | busybox cpio -o -H newc >"$0""#]).arg(archive);
    archive.dir(folder).quiet().read().map(drop).context("cannot pack the initial RAM file system")
}

/// The modules in the order of their names, which is that in which they are to be loaded. busybox's insmod takes them as they are,
/// so they are unpacked.
fn modules(kernel: &Kernel, folder: &Path) -> Result<()> {
    let mut files = Vec::new();
    for module in MODULES {
        files.extend(
            kernel.module_files(module)?.into_iter().filter(|file| !files.contains(file)).collect::<Vec<_>>(),
        );
    }
    for (number, file) in files.iter().enumerate() {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let (name, packed) = match name.split_once(".ko") {
            Some((name, "")) => (name, false),
            Some((name, ".xz")) => (name, true),
            _ => bail!("{} is packed in a way that is not known here", file.display()),
        };
        let to = folder.join(format!("{number:02}-{name}.ko"));
        if packed {
            let unpack = Cmd::new("sh").args(["-c", r#"busybox xz -dc "$0" >"$1""#]).arg(file).arg(&to);
            unpack.quiet().read()?;
        } else {
            fs::copy(file, &to)?;
        }
    }
    Ok(())
}
