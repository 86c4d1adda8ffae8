//! One packet in, one verdict and its bytes out (`BPF_PROG_TEST_RUN`): the real programs in the real kernel, in a network
//! namespace of their own. Needs root.

mod checksums;
mod collect;
mod contract;
mod conversations;
mod egress;
mod egress_refusals;
mod flows;
mod fragments;
mod icmp;
mod malformed;
mod migration;
mod overlay;
mod overlay_errors;
mod overlay_flows;
mod overlay_malformed;
mod overlay_self;
mod overlay_wire;
mod policies;
mod probe;
mod refusals;
mod refuse;
mod reply;
mod request;
mod routes;
mod silence;
mod split;
mod stack;
mod succession;
mod support;
mod tunnel;
mod wire;
mod xdp;
mod xdp_and_tc;
mod xdp_attach;
mod xdp_malformed;
