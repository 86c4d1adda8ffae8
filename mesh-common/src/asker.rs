//! Where the questions for names that come from a network namespace are answered: the values of `ASKERS`.

/// At the node's address on `docker_gwbridge`, [`crate::settings::Settings::resolver`].
pub const AT_BRIDGE: u32 = 1;
/// In the namespace itself, because there is no way out of it: at the address of Docker's resolver and
/// [`crate::settings::Settings::resolver_port`].
pub const INSIDE: u32 = 2;
