//! Rebuilds when bpf-linker changes.

use std::env;

fn main() {
    if let Some(linker) = env::var_os("PATH").and_then(|path| {
        env::split_paths(&path).map(|dir| dir.join("bpf-linker")).find(|file| file.is_file())
    }) {
        println!("cargo:rerun-if-changed={}", linker.display());
    }
}
