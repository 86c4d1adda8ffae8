//! Operators' packet filters: rules that Docker's mesh obeys and this one, which passes netfilter by, would not.
//!
//! ```text
//! nf_tables (netlink), legacy iptables (getsockopt) ─► Ruleset ─┐
//! uplinks, addresses, published ports ─► Scene ─────────────────┴─► filters (pure) ─► Decision (pure): what stays Docker's
//! ```
//!
//! Rules count by their effect: whatever may drop, reject or divert a packet from an uplink to a published port, at
//! netdev's ingress, at prerouting or forward. Docker's own do not count, nor what Docker passes by as well (INPUT).

mod decision;
mod dockers;
pub mod inspection;
mod judge;
mod legacy;
mod nft;
mod probe;
mod ruleset;
mod state;
mod text;
mod xt;

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Sender;
use tokio::time::sleep;

pub use decision::{Decision, Filtered, Mode};
pub use judge::{Filter, filters};
pub use probe::{PublishedPort, Scene};
pub use ruleset::Ruleset;
pub use state::Firewall;

/// How often it is looked whether the rules have changed.
const ROUND: Duration = Duration::from_secs(5);

/// The rules of this node, or why they cannot be read.
pub type Observed = Result<Ruleset, String>;

/// The rules as the kernel tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// Netlink messages, one behind the other.
    nft: Vec<u8>,
    legacy: Vec<legacy::Raw>,
}

impl Dump {
    /// Of the calling thread's network namespace.
    pub fn take() -> io::Result<Self> {
        Ok(Self { nft: nft::dump()?, legacy: legacy::dump()? })
    }

    pub fn parse(&self) -> Ruleset {
        let mut ruleset = nft::parse(&self.nft);
        ruleset.tables.extend(legacy::parse(&self.legacy).tables);
        ruleset
    }

    /// To be kept, for tests: parts, each behind its length.
    pub fn to_bytes(&self) -> Vec<u8> {
        let legacy = self.legacy.iter().flat_map(|raw| [&raw.info, &raw.entries]);
        let parts = std::iter::once(&self.nft).chain(legacy);
        parts
            .flat_map(|part| (part.len() as u32).to_le_bytes().into_iter().chain(part.iter().copied()))
            .collect()
    }

    /// Of [`Self::to_bytes`]; what is cut off is not there.
    pub fn from_bytes(mut bytes: &[u8]) -> Self {
        let mut parts = std::iter::from_fn(|| {
            let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
            let part = bytes.get(4..)?.get(..length)?;
            bytes = &bytes[4 + length..];
            Some(part.to_vec())
        });
        let nft = parts.next().unwrap_or_default();
        let legacy = std::iter::from_fn(|| Some(legacy::Raw { info: parts.next()?, entries: parts.next()? }));
        Self { nft, legacy: legacy.collect() }
    }
}

/// Keeps `rules` what the kernel has, for as long as the process lives.
pub async fn watch(rules: &Sender<Option<Arc<Observed>>>) -> Infallible {
    let mut known = None;
    loop {
        let before = known;
        let looked = tokio::task::spawn_blocking(move || look(before)).await;
        let look = looked.unwrap_or_else(|error| Look { key: None, rules: Some(Err(error.to_string())) });
        known = look.key;
        if let Some(now) = look.rules {
            rules.send_if_modified(|known| {
                let differs = known.as_deref() != Some(&now);
                if differs {
                    *known = Some(Arc::new(now));
                }
                differs
            });
        }
        sleep(ROUND).await;
    }
}

/// `nf_tables`' generation, and whether there are legacy tables, which have none.
type Key = (Option<u32>, bool);

struct Look {
    /// `None` if that is not known.
    key: Option<Key>,
    /// `None` if they are as they were.
    rules: Option<Observed>,
}

/// Reads the rules if they may have changed.
fn look(before: Option<Key>) -> Look {
    let read = || -> io::Result<(Key, Option<Ruleset>)> {
        let legacy = legacy::dump()?;
        let key = (nft::generation()?, !legacy.is_empty());
        if before == Some(key) && legacy.is_empty() {
            return Ok((key, None));
        }
        Ok((key, Some(Dump { nft: nft::dump()?, legacy }.parse())))
    };
    match read() {
        Ok((key, rules)) => Look { key: Some(key), rules: rules.map(Ok) },
        Err(error) => Look { key: None, rules: Some(Err(error.to_string())) },
    }
}

/// First and last address of the subnet that an interface is on, by the node's routes.
pub fn subnet_of(interface: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    parse_routes(&std::fs::read_to_string("/proc/thread-self/net/route").ok()?, interface)
}

/// `/proc/net/route`: addresses are hexadecimal, as they stand in memory.
fn parse_routes(routes: &str, interface: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    const GATEWAY: u32 = 2;

    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| u32::from_str_radix(fields.get(place)?, 16).ok();
        let (destination, mask) = (u32::from_be(number(1)?), u32::from_be(number(7)?));
        let is_its = fields[0] == interface && number(3)? & GATEWAY == 0 && mask != 0;
        is_its.then(|| (destination.into(), (destination | !mask).into()))
    })
}

#[cfg(test)]
mod tests;
