//! Names: a container's question that the agent has answered before gets the same answer, without waking the agent. Maps
//! `ANSWERS`, `ANSWERS_VERSION` and `ANSWERED`.
//!
//! Nothing here knows DNS. A question is the bytes behind a message's id; with the address of who asks they are a key, and the
//! value is the bytes behind the answer's id. The agent decides what is worth keeping, and gives all of it up at once by
//! another version when the names change.

use core::mem::MaybeUninit;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray};
use mesh_common::answer::{Answer, ID, QuestionKey};
use mesh_common::maps;
use mesh_common::net::{IPV4_HEADER, UDP_HEADER, protocol};
use mesh_common::outcome::Outcome;
use mesh_common::settings::Settings;

use crate::hook::Hook;
use crate::hook::skb::Skb;
use crate::names::resolver;
use crate::packet::rewrite::udp;
use crate::packet::{Fragment, NETWORK, Packet};
use crate::verdict::{PackedVerdict, Verdict};
use crate::verifier;

#[map]
static ANSWERS: LruHashMap<QuestionKey, Answer> = LruHashMap::with_max_entries(maps::ANSWERS, 0);

#[map]
static ANSWERS_VERSION: Array<u64> = Array::with_max_entries(1, 0);

#[map]
static ANSWERED: PerCpuArray<u64> = PerCpuArray::with_max_entries(maps::ANSWERED, 0);

/// Where a datagram without IP options has what is behind its message's id.
const BEHIND_ID: usize = NETWORK + IPV4_HEADER + UDP_HEADER + ID;

/// Whether a packet is a datagram for the agent's resolver.
#[inline(always)]
pub fn is_question(packet: &Packet, settings: &Settings) -> bool {
    packet.protocol == protocol::UDP
        && packet.destination_port == settings.resolver_port
        && packet.destination == settings.resolver
        && packet.fragment == Fragment::Whole
}

/// Turns a question into its answer, or leaves it to the agent.
#[inline(never)]
pub fn answer(frame: &Skb, packet: &Packet) -> PackedVerdict {
    let Some(answer) = find(frame, packet) else { return Outcome::NotOurs.into() };
    let before = serial(answer);
    if let Err(outcome) = udp::into_answer(frame, packet, ID, &answer.answer, answer.length) {
        return outcome.into();
    }
    // Another question's answer by now, in a part that nobody can tell. Who asks will ask again.
    if serial(answer) != before {
        return Outcome::NotChangeable.into();
    }
    if let Some(counter) = ANSWERED.get_ptr_mut(answer.counter) {
        // SAFETY: the value is this CPU's own, and programs are not preempted by each other on one CPU.
        unsafe { *counter += 1 };
    }
    Verdict::from((Outcome::NameAnswered, frame.back())).into()
}

/// The answer to the question, if there is one that counts.
#[inline(always)]
fn find(frame: &Skb, packet: &Packet) -> Option<&'static Answer> {
    let end = usize::from(packet.length) + NETWORK;
    if packet.transport() + UDP_HEADER + ID != BEHIND_ID || end > frame.size() as usize {
        return None;
    }
    let length = (end as u32).wrapping_sub(BEHIND_ID as u32);
    let mut key = MaybeUninit::uninit();
    // SAFETY: these are integers.
    let key: &mut QuestionKey = unsafe { verifier::zeroed(&mut key) };
    key.asker = packet.source;
    key.length = length;
    frame.load(BEHIND_ID, &mut key.question, length).ok()?;
    // SAFETY: a value that gives way while it is read is noticed by its serial number.
    let answer = unsafe { ANSWERS.get(key) }?;
    (ANSWERS_VERSION.get(0) == Some(&answer.version) && resolver::is_alive()).then_some(answer)
}

#[inline(always)]
fn serial(answer: &Answer) -> u64 {
    // SAFETY: a field of a reference.
    unsafe { (&raw const answer.serial).read_volatile() }
}
