//! Rebuilds when the linker changes.

use std::env;

fn main() {
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        println!("cargo:rerun-if-changed={}", linker.display());
    }
}
