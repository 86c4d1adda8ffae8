//! Where the cgroup2 hierarchy is.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// The root of the cgroup2 hierarchy, by /proc/mounts: `/sys/fs/cgroup` on most hosts, `/sys/fs/cgroup/unified` where
/// version 1 controllers are in use too.
pub fn root() -> io::Result<Option<PathBuf>> {
    Ok(find(&fs::read_to_string("/proc/mounts")?))
}

fn find(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| Path::new(path).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_usual_places_are_found() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(find(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), Some("/sys/fs/cgroup".into()));
        assert_eq!(find("proc /proc proc rw 0 0\n"), None);
    }
}
