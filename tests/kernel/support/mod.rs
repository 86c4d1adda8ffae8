//! What the suite stands on: a node made of a network namespace and the loaded programs, packets as values, and checks
//! that share no code with the dataplane.

pub(crate) mod bpffs;
pub(crate) mod cast;
pub(crate) mod checks;
pub(crate) mod cookies;
pub(crate) mod forwarding;
pub(crate) mod kernel;
pub(crate) mod namespace;
pub(crate) mod overlay;
pub(crate) mod packet;
pub(crate) mod payload;
pub(crate) mod programs;
pub(crate) mod random;
pub(crate) mod run;
pub(crate) mod tables;
pub(crate) mod tun;
pub(crate) mod tunnel;
pub(crate) mod whole;
pub(crate) mod wire;
pub(crate) mod world;
pub(crate) mod xdp;
