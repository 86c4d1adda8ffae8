//! A real nginx, put together from the machine's own binary and the libraries that it loads.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Config, Image, Layer, NGINX};
use crate::{
    cmd::{Cmd, find},
    paths::target,
};

const CONFIGURATION: &str = r#"user root root;
worker_processes 1;
daemon off;
error_log stderr notice;
pid /run/nginx.pid;
events { worker_connections 4096; }
http {
    log_format mesh '$remote_addr:$remote_port $hostname "$request" $status $body_bytes_sent';
    access_log /dev/stdout mesh;
    default_type text/plain;
    keepalive_requests 1000000;
    server {
        listen 80 reuseport;
        add_header X-Task $hostname;
        location / { return 200 "$hostname\n"; }
        location /quiet { access_log off; return 200 "$hostname\n"; }
    }
}
"#;

/// Writes the archive of [`NGINX`].
pub fn nginx() -> Result<PathBuf> {
    let binary = find("nginx").context("nginx is not installed: run `cargo xtask setup lab`")?;
    let layer = Layer::pack(|files| {
        for library in libraries(&binary)? {
            files.copy(Path::new(&library), &library)?;
        }
        files.copy(&binary, "/usr/sbin/nginx")?;
        files.text("/etc/nginx/nginx.conf", CONFIGURATION)?;
        files.text("/etc/passwd", "root:x:0:0:root:/:/bin/false\n")?;
        files.text("/etc/group", "root:x:0:\n")?;
        for dir in ["/run", "/var/lock", "/var/log/nginx", "/var/lib/nginx", "/tmp"] {
            files.directory(dir, 0o755)?;
        }
        Ok(())
    })?;
    let config = Config {
        entrypoint: vec!["/usr/sbin/nginx".into()],
        env: vec!["PATH=/usr/sbin".into()],
        // The graceful one: connections are served to their end.
        stop_signal: Some("SIGQUIT".into()),
        ..Config::default()
    };
    let archive = target().join("mesh-lab-nginx.tar");
    Image::save(&[Image { tags: vec![NGINX.into()], config, layer: &layer }], &archive)?;
    Ok(archive)
}

/// What `ldd` names: lines like `libz.so.1 => /lib/libz.so.1 (0x…)`, and the loader by its path alone.
pub(super) fn libraries(binary: &Path) -> Result<Vec<String>> {
    let listing = Cmd::new("ldd").arg(binary).quiet().read()?;
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(String::from);
    Ok(listing.lines().filter_map(path).collect())
}
