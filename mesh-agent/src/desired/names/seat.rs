//! From where a container asks.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;

/// From where a container asks; who asks is known by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seat {
    /// From its address on `docker_gwbridge`.
    Bridge(Ipv4Addr),
    /// From inside its network namespace, which has no way out of it: it is on internal networks only.
    Sandbox(Sandbox),
}

/// A container's network namespace. Docker names its file by the first 12 digits of the sandbox's id (moby,
/// `daemon/libnetwork/osl/namespace_linux.go`, `GenerateKey`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sandbox(u64);

/// Hexadecimal digits in the name of a sandbox's file.
const DIGITS: usize = 12;

impl Sandbox {
    /// The one that has this file.
    pub fn of(file: &Path) -> Option<Self> {
        let name = file.file_name()?.to_str()?;
        let is_name = name.len() == DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(name, 16).ok().filter(|_| is_name).map(Self)
    }
}

/// The name of its file.
impl fmt::Display for Sandbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:0DIGITS$x}", self.0)
    }
}

impl From<Ipv4Addr> for Seat {
    fn from(address: Ipv4Addr) -> Self {
        Self::Bridge(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_known_by_the_name_of_its_file() {
        let of = |file: &str| Sandbox::of(Path::new(file)).map(|sandbox| sandbox.to_string());
        assert_eq!(of("/var/run/docker/netns/058152564bc2").as_deref(), Some("058152564bc2"));
        for other in ["", "/var/run/docker/netns/1-12d81fnl23", "ingress_sbox", "+58152564bc2", "58152564bc"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
