//! The dataplane: one packet at a time, at the places where it is met.
//!
//! | module | where | what it does |
//! |---|---|---|
//! | [`entry`] | the node that a client sends to | gives a client's packet to a task, and sends back what comes of it |
//! | [`home`] | the node that the task runs on | hands the packet to the task, and its answers to the client or the entry node |
//! | [`vip`] | a task's port on an overlay network | the same for calls of virtual addresses, on the caller's node |
//! | [`host`] | sockets and packets of the node's own processes | gives them a task as well; keeps others out of the tunnel |
//! | [`names`] | questions of tasks to Docker's resolver | sends them to the agent's, or answers from what it has kept |
//!
//! What they stand on: [`tables`] (a group of maps each), [`packet`] (reading and writing), [`hook`] (what TC and XDP let us do),
//! [`tunnel`], [`next_hop`], [`mark`], [`split`], [`verdict`] (what a step says), [`verifier`].
//!
//! A *frontend* is a published port or a virtual address, a *backend* one of the tasks that serve it; a *flow* is what the entry
//! node knows of a conversation, a *reply* what the home node knows of it. A *refusal* is a task's no, which another task's yes may
//! follow; a *rejection* is ours.
//!
//! The programs themselves, and the tables of what the kernel is told to do, are in `bin/`: an object each.
#![no_std]
#![expect(internal_features, reason = "a fetching atomic add has no stable name on this target")]
#![feature(asm_experimental_arch, core_intrinsics)]

pub mod clock;
pub mod entry;
pub mod home;
pub mod hook;
pub mod host;
pub mod mark;
pub mod names;
pub mod next_hop;
pub mod packet;
pub mod split;
pub mod tables;
pub mod tunnel;
pub mod verdict;
pub mod verifier;
pub mod vip;
