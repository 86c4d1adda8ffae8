//! Which network namespace is which container's: told by its address on docker_gwbridge, which is the same in Docker's list
//! and in the namespace. No other container has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use tracing::debug;

use super::namespaces::{self, Identity, Namespaces, Seen};

/// Namespaces that were looked into.
#[derive(Debug, Default)]
pub struct Sandboxes {
    seen: BTreeMap<String, Sandbox>,
}

#[derive(Debug)]
struct Sandbox {
    seen: Seen,
    identity: Identity,
}

/// What was found out about the containers with certain addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Cookies of their namespaces.
    pub cookies: BTreeSet<u64>,
    /// Whether all of them were found; a container's namespace gets its address a moment after it is made.
    pub complete: bool,
}

impl Sandboxes {
    /// Finds the namespaces of the containers with `addresses` on docker_gwbridge.
    pub fn find(&mut self, docker_run: &Path, names: &Namespaces, addresses: &BTreeSet<Ipv4Addr>) -> Found {
        let folder = docker_run.join("netns");
        self.seen.retain(|name, sandbox| names.get(name) == Some(&sandbox.identity));
        let complete = self.known(addresses).complete;
        for (name, identity) in names.iter().filter(|(name, _)| is_sandbox(name)) {
            let is_settled = match self.seen.get(name) {
                Some(sandbox) => complete || owner(&sandbox.seen, addresses).is_some(),
                None => false,
            };
            if is_settled {
                continue;
            }
            let path = folder.join(name);
            match namespaces::visit(&path) {
                Ok(seen) => {
                    self.seen.insert(name.clone(), Sandbox { seen, identity: *identity });
                }
                Err(error) => debug!(namespace = name, "cannot be looked into: {error:#}"),
            }
        }
        self.known(addresses)
    }

    /// The name of the namespace of the container with `address` on docker_gwbridge.
    pub fn name_of(&self, address: Ipv4Addr) -> Option<&str> {
        let one = BTreeSet::from([address]);
        self.seen
            .iter()
            .find(|(_, sandbox)| owner(&sandbox.seen, &one).is_some())
            .map(|(name, _)| name.as_str())
    }

    fn known(&self, addresses: &BTreeSet<Ipv4Addr>) -> Found {
        let mut owners = BTreeSet::new();
        let mut cookies = BTreeSet::new();
        for sandbox in self.seen.values() {
            if let Some(address) = owner(&sandbox.seen, addresses) {
                owners.insert(address);
                cookies.insert(sandbox.seen.cookie);
            }
        }
        Found { complete: owners.len() == addresses.len(), cookies }
    }
}

/// Docker names a sandbox's namespace by the first 12 digits of its id.
fn is_sandbox(name: &str) -> bool {
    name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
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
        let interface =
            |last| Interface { addresses: vec![Ipv4Addr::new(172, 18, 0, last)], ..Interface::default() };
        let seen = |cookie, last| {
            let view = NodeView { interfaces: BTreeMap::from([(1, interface(last))]) };
            Sandbox { seen: Seen { cookie, view }, identity: (0, 0) }
        };
        let sandboxes = Sandboxes {
            seen: BTreeMap::from([("aaaaaaaaaaaa".into(), seen(7, 3)), ("bbbbbbbbbbbb".into(), seen(8, 4))]),
        };
        let wanted = BTreeSet::from([Ipv4Addr::new(172, 18, 0, 4)]);
        assert_eq!(sandboxes.known(&wanted), Found { cookies: BTreeSet::from([8]), complete: true });
        let more = BTreeSet::from([Ipv4Addr::new(172, 18, 0, 4), Ipv4Addr::new(172, 18, 0, 5)]);
        assert!(!sandboxes.known(&more).complete);
        assert!(is_sandbox("58152564bc28") && !is_sandbox("1-12d81fnl23") && !is_sandbox("ingress_sbox"));
    }
}
