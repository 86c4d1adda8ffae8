//! Who asks for names, and where that is answered: at an address of Docker's, and by the values of `ASKERS`.

use crate::net::Address;

/// Where Docker's resolver is in every container on a user-defined network, and where tasks ask (moby,
/// `daemon/libnetwork/resolver.go`).
pub const DOCKERS_RESOLVER: Address = Address::new([127, 0, 0, 11]);

/// At the node's address on `docker_gwbridge`, [`crate::settings::Settings::resolver`].
pub const AT_BRIDGE: u32 = 1;
/// In the namespace itself, because there is no way out of it: at [`DOCKERS_RESOLVER`] and
/// [`crate::settings::Settings::resolver_port`].
pub const INSIDE: u32 = 2;
