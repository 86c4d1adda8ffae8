//! What keeps a container from what the agent needs, whatever its capabilities: `AppArmor` goes by paths, `SELinux` by labels.

use std::fs;
use std::path::Path;

use super::Finding::{self, Bad, Good, Note};
use crate::dataplane::pins;

/// What the kernel says of the calling process (`/proc/self/attr/current`).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Confinement {
    None,
    AppArmor(String),
    SeLinux(String),
}

/// Which profile or context this process has.
pub(super) fn security_module() -> Finding {
    match confinement() {
        Confinement::None => Good("none confines this process".into()),
        Confinement::AppArmor(profile) => Good(format!("AppArmor's profile {profile}")),
        Confinement::SeLinux(context) if context.contains(":container_t:") => Note(format!(
            "SELinux's context {context}: such a container may use neither Docker's socket nor its namespaces; {}",
            Confinement::SeLinux(String::new()).remedy()
        )),
        Confinement::SeLinux(context) => Good(format!("SELinux's context {context}")),
    }
}

/// Whether programs can be pinned there. A folder is made and removed, which nothing else tells as surely.
pub(super) fn bpffs(path: &Path) -> Finding {
    let place = path.display();
    if !pins::is_bpffs(path) {
        return Bad(format!(
            "{place} is none: run `mount -t bpf bpf /sys/fs/bpf` on the host and bind that into the container at {place}"
        ));
    }
    let probe = path.join(format!("mesh-preflight-{}", std::process::id()));
    let outcome = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe));
    match outcome {
        Ok(()) => Good(format!("mounted at {place}, and folders can be made there")),
        Err(error) => Bad(format!("no folder can be made in {place}: {error}; {}", confinement().remedy())),
    }
}

impl Confinement {
    fn of(text: &str) -> Self {
        let text = text.trim_matches(['\0', '\n', ' ']);
        match text {
            "" | "unconfined" | "kernel" => Self::None,
            _ if text.matches(':').count() >= 2 => Self::SeLinux(text.to_owned()),
            _ => Self::AppArmor(text.to_owned()),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::None => "is it mounted read-only, and are you root?".into(),
            Self::AppArmor(profile) => format!(
                "AppArmor's profile {profile} may forbid it: docker-default lets no container write below /sys/fs/bpf, so bind \
                 that at another path (`-v /sys/fs/bpf:/bpf -e MESH_BPFFS=/bpf`, as the stack file does)"
            ),
            Self::SeLinux(_) => {
                "the agent needs a policy that allows it, `--security-opt label=disable` (docker run), or a \
                 Docker without `selinux-enabled`: a stack file cannot set labels"
                    .into()
            }
        }
    }
}

fn confinement() -> Confinement {
    // Its own file first: the common one may be another module's.
    let read = |file: &str| fs::read_to_string(format!("/proc/self/attr/{file}"));
    let text = read("apparmor/current").or_else(|_| read("current"));
    Confinement::of(&text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_and_contexts_are_told_apart() {
        for (text, expected) in [
            ("", Confinement::None),
            ("unconfined\n", Confinement::None),
            ("kernel\0", Confinement::None),
            ("docker-default (enforce)\n", Confinement::AppArmor("docker-default (enforce)".into())),
            (
                "system_u:system_r:container_t:s0:c1,c2\0",
                Confinement::SeLinux("system_u:system_r:container_t:s0:c1,c2".into()),
            ),
        ] {
            assert_eq!(Confinement::of(text), expected);
        }
    }

    #[test]
    fn a_folder_that_is_no_bpf_file_system_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let Bad(text) = bpffs(folder.path()) else { panic!("it is none") };
        assert!(text.contains("is none: run `mount -t bpf"), "{text}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
