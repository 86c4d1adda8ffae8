//! Names and capacities of the maps. Names keep to the 15 characters that the kernel stores.

/// Goes up when a key, a value or a meaning changes: tables that an older agent has pinned are then not taken over.
pub const LAYOUT: u32 = 1;

/// Frontends; with every one of them served by ten backends, [`SLOTS`] fits.
pub const FRONTENDS: u32 = 16_384;
/// Places in backend sets: while a set is replaced, the old and the new one are both here.
pub const SLOTS: u32 = 262_144;
/// Backend ids. Each costs 32 bytes, and 24 bytes of counters per CPU.
pub const BACKENDS: u32 = 16_384;
/// Addresses of this node.
pub const LOCAL_ADDRESSES: u32 = 4_096;
/// Flows this node is the entry node of, by default; `--flows` changes it.
pub const FLOWS: u32 = 131_072;
/// Flows whose client port is another one towards the task.
pub const TRANSLATIONS: u32 = 16_384;
/// Datagrams whose later fragments are awaited.
pub const FRAGMENTS: u32 = 8_192;
/// Nodes of the Swarm.
pub const PEERS: u32 = 4_096;
/// Published ports of tasks on this node.
pub const TASKS: u32 = 16_384;
/// Virtual addresses of services on the networks that this node is on.
pub const VIPS: u32 = 16_384;
/// Network namespaces whose queries go to the agent's resolver.
pub const ASKERS: u32 = 4_096;
/// Sockets of this node's own processes that talk to a frontend.
pub const SOCKETS: u32 = 65_536;

/// Every map the programs define, for pinning, inspection and removal.
pub const NAMES: [&str; 21] = [
    "SETTINGS",
    "PORTS",
    "LOCAL_ADDRESSES",
    "FRONTENDS",
    "SLOTS",
    "BACKENDS",
    "BACKEND_STATS",
    "TURNS",
    "FLOWS",
    "REPLIES",
    "TRANSLATIONS",
    "FRAGMENTS",
    "PEERS",
    "TASKS",
    "SOCKETS",
    "VIPS",
    "VIP_FLOWS",
    "VIP_REPLIES",
    "ASKERS",
    "HEARTBEAT",
    "OUTCOMES",
];

/// Maps that `--flows` sizes.
pub const SIZED_BY_FLOWS: [&str; 4] = ["FLOWS", "REPLIES", "VIP_FLOWS", "VIP_REPLIES"];

#[cfg(test)]
mod tests {
    #[test]
    fn every_name_fits_the_kernels_fifteen_characters() {
        for name in super::NAMES {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
