//! What the kernel programs and the agent agree on: keys and values of the maps, the ways a packet can leave, the
//! tunnel's wire format, and the arithmetic both sides share. No I/O, no allocation; everything here is tested on the
//! host.
//!
//! | map | kind | key → value | written by | read by | when full |
//! |---|---|---|---|---|---|
//! | `SETTINGS` | array of 1 | → [`settings::Settings`] | agent | every program | – |
//! | `PORTS` | array | protocol and port → bit ([`frontend::PortBit`]) | agent | every program, before any other lookup | – |
//! | `LOCAL_ADDRESSES` | hash | [`net::Address`] → 1 | agent | uplink | agent reports it |
//! | `FRONTENDS` | hash | [`frontend::FrontendKey`] → [`frontend::Frontend`] | agent | request, sockets | agent reports it |
//! | `SLOTS` | hash | [`frontend::SlotKey`] → backend id | agent | request, sockets | agent reports it |
//! | `BACKENDS` | array | backend id → [`backend::Backend`] | agent | request, sockets | agent reports it |
//! | `BACKEND_STATS` | per-CPU array | backend id → [`backend::BackendCounters`] | kernel | agent | – |
//! | `SUSPECTS` | array | backend id → [`backend::Suspicion`] | kernel | kernel | – |
//! | `PRESSURE` | array of 1 | → [`pressure::Pressure`] | kernel | kernel | – |
//! | `CONNECTIONS` | array | backend id → established flows that it has of this node | kernel; agent corrects | kernel | – |
//! | `AFFINITIES` | LRU hash | [`frontend::AffinityKey`] → [`frontend::Affinity`] | kernel | kernel | oldest goes |
//! | `TURNS` | array | [`frontend::Frontend::turn`] → next turn | kernel | kernel | – |
//! | `FLOWS` | hash | [`flow::FlowKey`] → [`flow::Flow`], established TCP | kernel (entry node); agent removes | kernel, agent | flow stays in `OPENING`; counted |
//! | `OPENING` | LRU hash | [`flow::FlowKey`] → [`flow::Opening`], other TCP | kernel (entry node) | kernel, agent | oldest goes |
//! | `SCRATCH` | per-CPU array of 1 | → [`flow::Opening`], where an element of `OPENING` is made | kernel | kernel | – |
//! | `UDP_FLOWS` | LRU hash | [`flow::FlowKey`] → [`flow::Flow`] | kernel (entry node) | kernel, agent | oldest goes |
//! | `REPLIES` | hash | [`reply::ReplyKey`] → [`reply::Reply`], established TCP | kernel (home node); agent removes | kernel | stays in `OPENING_REPLIES`; counted |
//! | `OPENING_REPLIES` | LRU hash | [`reply::ReplyKey`] → [`reply::Reply`], other TCP | kernel (home node) | kernel | oldest goes |
//! | `UDP_REPLIES` | LRU hash | [`reply::ReplyKey`] → [`reply::Reply`] | kernel (home node) | kernel | oldest goes |
//! | `TRANSLATIONS` | LRU hash | [`reply::TranslationKey`] → task-side source port | kernel (home node) | kernel | oldest goes |
//! | `TASK_PORTS` | array | word of [`frontend::PortBit`] → bits of the ports that tasks have had conversations at | kernel (home node); agent at an upgrade | bridge | – |
//! | `ROUTES` | per-CPU array | place of an address ([`route::place`]) → [`route::RememberedRoute`] | kernel | kernel | another goes |
//! | `FRAGMENTS` | LRU hash | [`flow::FragmentKey`] → [`flow::FragmentPorts`] | kernel | kernel | oldest goes |
//! | `PEERS` | hash | node [`net::Address`] → [`peer::Peer`], how it is reached | agent | tunnel | agent reports it |
//! | `UPLINKS` | hash | interface index → 1 | agent | tunnel | agent reports it |
//! | `UPLINK_PORTS` | hash | interface index of a bridge's port → that of the bridge, an uplink | agent | ports | agent reports it |
//! | `TASKS` | hash | [`backend::TaskKey`] → [`backend::LocalTask`] | agent | tunnel | agent reports it |
//! | `SOCKETS` | LRU hash | [`socket::SocketKey`] → [`socket::SocketFlow`] | kernel | kernel | oldest goes |
//! | `OUTGOING` | LRU hash | [`flow::FlowKey`] of what answers → when it was last asked | kernel (`uplink_out`) | kernel | oldest goes |
//! | `AGENT_SOCKETS` | hash | cookie of a socket that may send to other nodes' tunnels → 1 | agent | sockets, tunnel | agent reports it |
//! | `VIPS` | hash | [`overlay::VipKey`] → [`frontend::Frontend`] | agent | overlay | agent reports it |
//! | `VIP_FLOWS` | hash | [`overlay::VipFlowKey`] → [`flow::Flow`], established TCP | kernel (caller's node); agent removes | kernel, agent | flow stays in `VIP_OPENING`; counted |
//! | `VIP_OPENING` | LRU hash | [`overlay::VipFlowKey`] → [`flow::Opening`], other TCP | kernel (caller's node) | kernel, agent | oldest goes |
//! | `VIP_UDP_FLOWS` | LRU hash | [`overlay::VipFlowKey`] → [`flow::Flow`], all but TCP | kernel (caller's node) | kernel, agent | oldest goes |
//! | `VIP_REPLIES` | LRU hash | [`overlay::VipReplyKey`] → [`overlay::VipReply`] | kernel (caller's node) | kernel | oldest goes |
//! | `VIP_ESTABLISHED` | hash | [`overlay::VipReplyKey`] → [`overlay::VipReply`] | kernel (caller's node), agent removes | kernel | the way back is in `VIP_REPLIES` alone |
//! | `ASKERS` | hash | cookie of a task's network namespace → where its questions are answered ([`asker`]) | agent | sockets | agent reports it |
//! | `HEARTBEAT` | array of 1 | → time of the resolver's last sign of life | agent | sockets | – |
//! | `ANSWERS` | LRU hash | [`answer::QuestionKey`] → [`answer::Answer`] | agent | bridge | oldest goes |
//! | `ANSWERS_VERSION` | array of 1 | → which of `ANSWERS` count ([`answer::Answer::version`]) | agent | bridge | – |
//! | `ANSWERED` | per-CPU array | [`answer::Answer::counter`] → how often such an answer was given | kernel | agent | – |
//! | `TAKING_OVER` | array of 1 | → which programs there are beside these ([`maps::taking_over`]) | agent | request, overlay, tunnel | – |
//! | `DOCKER_FLOWS` | hash | [`flow::FlowKey`] → 1, a connection that Docker's mesh carries on ([`frontend::flags`]) | agent | request | agent reports it |
//! | `DOCKER_VIPFLOWS` | hash | [`overlay::VipFlowKey`] → 1, the same | agent | overlay | agent reports it |
//! | `UNREAD_PORTS` | hash | [`unread::UnreadPort`] → 1, an interface that has had the programs for a moment | agent | request, overlay | agent reports it |
//! | `OUTCOMES` | per-CPU array | [`outcome::Outcome`] → count | kernel | agent | – |
#![no_std]

#[cfg(test)]
extern crate std;

pub mod answer;
pub mod asker;
pub mod backend;
pub mod checksum;
pub mod clock;
pub mod cookie;
pub mod flow;
pub mod frontend;
pub mod maps;
pub mod net;
pub mod outcome;
pub mod overlay;
pub mod peer;
#[cfg(feature = "agent")]
mod pod;
pub mod pressure;
pub mod reply;
pub mod route;
pub mod select;
pub mod settings;
pub mod socket;
pub mod tcp;
pub mod tunnel;
pub mod unread;
