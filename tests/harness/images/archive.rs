//! The archive that `docker save` writes and `docker load` reads: a manifest, a configuration per image, and layers.
//! Nothing in it depends on when or where it was made, so the same files give the same bytes.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// An image of one layer.
#[derive(Debug)]
pub struct Image<'a> {
    pub tags: Vec<String>,
    pub config: Config,
    pub layer: &'a Layer,
}

impl Image<'_> {
    /// Writes images into one archive; layers that they share are written once.
    pub fn save(images: &[Self], archive: &Path) -> Result<()> {
        let context = || format!("cannot write {}", archive.display());
        if let Some(dir) = archive.parent() {
            fs::create_dir_all(dir).with_context(context)?;
        }
        let mut files = BTreeMap::new();
        let mut manifest = Vec::new();
        for image in images {
            let layer = format!("{}/layer.tar", hex(&image.layer.bytes));
            let config = image.describe()?;
            let name = format!("{}.json", hex(&config));
            manifest.push(json!({ "Config": name, "RepoTags": image.tags, "Layers": [layer] }));
            files.insert(name, config);
            files.insert(layer, image.layer.bytes.clone());
        }
        files.insert("manifest.json".into(), serde_json::to_vec(&manifest)?);

        let mut tar = Builder::new(BufWriter::new(File::create(archive).with_context(context)?));
        for (name, bytes) in files {
            tar.append_data(&mut header(EntryType::Regular, 0o644, bytes.len()), &name, bytes.as_slice())?;
        }
        tar.into_inner()?.flush().with_context(context)
    }

    fn describe(&self) -> Result<Vec<u8>> {
        let description = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&self.layer.bytes))] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask" }],
        });
        Ok(serde_json::to_vec(&description)?)
    }
}

/// How a container of the image runs; the names are Docker's.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
}

/// Docker's health check; times in nanoseconds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    pub test: Vec<String>,
    pub interval: u64,
    pub timeout: u64,
    pub retries: u32,
}

/// The files of an image.
#[derive(Debug)]
pub struct Layer {
    bytes: Vec<u8>,
}

impl Layer {
    /// Packs what `fill` puts in.
    pub fn pack(fill: impl FnOnce(&mut Files) -> Result<()>) -> Result<Self> {
        let mut files = Files { tar: Builder::new(Vec::new()) };
        fill(&mut files)?;
        Ok(Self { bytes: files.tar.into_inner()? })
    }
}

/// A layer in the making. Paths are absolute, as the container sees them.
pub struct Files {
    tar: Builder<Vec<u8>>,
}

impl fmt::Debug for Files {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Files").field("bytes", &self.tar.get_ref().len()).finish()
    }
}

impl Files {
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(EntryType::Directory, mode, 0);
        Ok(self.tar.append_data(&mut header, relative(path), std::io::empty())?)
    }

    pub fn text(&mut self, path: &str, text: &str) -> Result<()> {
        self.bytes(path, 0o644, text.as_bytes())
    }

    /// Puts a file of this machine at `path`; what a symbolic link points to, not the link.
    pub fn copy(&mut self, source: &Path, path: &str) -> Result<()> {
        let bytes = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.bytes(path, 0o755, &bytes)
    }

    fn bytes(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        Ok(self.tar.append_data(&mut header(EntryType::Regular, mode, bytes.len()), relative(path), bytes)?)
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
