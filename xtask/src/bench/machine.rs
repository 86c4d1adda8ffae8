//! What figures were measured on.

use std::fs;

/// Processor, number of processors, and kernel, in a line.
pub(crate) fn describe() -> String {
    let text = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let processors = text("/proc/cpuinfo");
    let mut models = processors.lines().filter(|line| line.starts_with("model name"));
    let model = models.next().and_then(|line| line.split(": ").nth(1)).unwrap_or(std::env::consts::ARCH);
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = text("/proc/sys/kernel/osrelease");
    format!("{model}, {count} processors, Linux {}", kernel.trim())
}
