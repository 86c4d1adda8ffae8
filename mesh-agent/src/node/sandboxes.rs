//! Which network namespace is which container's: told by its address on docker_gwbridge, which is the same in Docker's list
//! and in the namespace. No other container has it. Containers without one are known by their sandboxes' names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use mesh_common::asker;
use tracing::debug;

use super::namespaces::{self, Identity, Namespaces, Seen};
use crate::desired::names::Sandbox;

/// Namespaces that were looked into.
#[derive(Debug, Default)]
pub struct Sandboxes {
    seen: BTreeMap<Sandbox, Visited>,
}

#[derive(Debug)]
struct Visited {
    seen: Seen,
    identity: Identity,
}

/// The containers whose namespaces are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// On docker_gwbridge.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Of containers that are not there.
    pub sandboxes: BTreeSet<Sandbox>,
}

/// What was found out about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Where they are answered ([`mesh_common::asker`]), by the cookies of their namespaces.
    pub cookies: BTreeMap<u64, u32>,
    /// Whether all of them were found; a container's namespace gets its address a moment after it is made.
    pub complete: bool,
}

impl Sandboxes {
    pub fn find(&mut self, docker_run: &Path, names: &Namespaces, wanted: &Wanted) -> Found {
        let folder = docker_run.join("netns");
        self.seen.retain(|sandbox, visited| names.get(&sandbox.to_string()) == Some(&visited.identity));
        let complete = self.known(wanted).complete;
        for (name, identity) in names {
            let Some(sandbox) = Sandbox::of(Path::new(name)) else { continue };
            let is_settled = |visited: &Visited| {
                complete
                    || wanted.sandboxes.contains(&sandbox)
                    || owner(&visited.seen, &wanted.addresses).is_some()
            };
            if self.seen.get(&sandbox).is_some_and(is_settled) {
                continue;
            }
            match namespaces::visit(&folder.join(name)) {
                Ok(seen) => {
                    self.seen.insert(sandbox, Visited { seen, identity: *identity });
                }
                Err(error) => debug!(namespace = name, "cannot be looked into: {error:#}"),
            }
        }
        self.known(wanted)
    }

    fn known(&self, wanted: &Wanted) -> Found {
        let mut owners = BTreeSet::new();
        let mut cookies = BTreeMap::new();
        for visited in self.seen.values() {
            if let Some(address) = owner(&visited.seen, &wanted.addresses) {
                owners.insert(address);
                cookies.insert(visited.seen.cookie, asker::AT_BRIDGE);
            }
        }
        let inside: Vec<u64> =
            wanted.sandboxes.iter().filter_map(|sandbox| Some(self.seen.get(sandbox)?.seen.cookie)).collect();
        let complete = owners.len() == wanted.addresses.len() && inside.len() == wanted.sandboxes.len();
        cookies.extend(inside.into_iter().map(|cookie| (cookie, asker::INSIDE)));
        Found { cookies, complete }
    }
}

fn owner(seen: &Seen, addresses: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let mut all = seen.view.interfaces.values().flat_map(|interface| &interface.addresses);
    all.find(|address| addresses.contains(address)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Interface, NodeView};

    #[test]
    fn a_namespace_is_the_containers_whose_address_it_has() {
        let sandbox = |name: &str| Sandbox::of(Path::new(name)).unwrap();
        let interface =
            |last| Interface { addresses: vec![Ipv4Addr::new(172, 18, 0, last)], ..Interface::default() };
        let seen = |cookie, last| {
            let view = NodeView { interfaces: BTreeMap::from([(1, interface(last))]) };
            Visited { seen: Seen { cookie, view }, identity: (0, 0) }
        };
        let sandboxes = Sandboxes {
            seen: BTreeMap::from([
                (sandbox("aaaaaaaaaaaa"), seen(7, 3)),
                (sandbox("bbbbbbbbbbbb"), seen(8, 4)),
            ]),
        };
        let wanted = |addresses: &[u8], sandboxes: &[&str]| Wanted {
            addresses: addresses.iter().map(|last| Ipv4Addr::new(172, 18, 0, *last)).collect(),
            sandboxes: sandboxes.iter().copied().map(sandbox).collect(),
        };
        let found = sandboxes.known(&wanted(&[4], &[]));
        assert_eq!(found, Found { cookies: BTreeMap::from([(8, asker::AT_BRIDGE)]), complete: true });
        assert!(!sandboxes.known(&wanted(&[4, 5], &[])).complete);
        let found = sandboxes.known(&wanted(&[4], &["aaaaaaaaaaaa"]));
        let cookies = BTreeMap::from([(8, asker::AT_BRIDGE), (7, asker::INSIDE)]);
        assert_eq!(found, Found { cookies, complete: true }, "one is known by its name");
        assert!(!sandboxes.known(&wanted(&[4], &["cccccccccccc"])).complete);
    }
}
