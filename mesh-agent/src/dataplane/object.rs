//! The dataplane's programs, as the build compiled them.

/// An ELF object for `aya::EbpfLoader`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf"));

/// Another one, with the program for XDP. Its maps are those of the first, by name.
pub static XDP_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf-xdp"));

/// TC programs, and where each is attached.
pub mod program {
    /// TC ingress of every uplink.
    pub const UPLINK_IN: &str = "uplink_in";
    /// TC egress of every uplink.
    pub const UPLINK_OUT: &str = "uplink_out";
    /// TC ingress of docker_gwbridge.
    pub const BRIDGE_IN: &str = "bridge_in";
    /// XDP of every uplink whose driver can.
    pub const UPLINK_XDP: &str = "uplink_xdp";
    /// All of TC.
    pub const TC: [&str; 3] = [UPLINK_IN, UPLINK_OUT, BRIDGE_IN];
    /// TC egress and ingress of a task's port in an overlay's namespace. What hears answers comes first: it lets others' pass,
    /// while new calls need it.
    pub const OVERLAY: [&str; 2] = ["overlay_out", "overlay_in"];
    /// The root cgroup.
    pub const CGROUP: [&str; 7] =
        ["connect4", "connect6", "sendmsg4", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];
}
