//! Questions about names that the kernel answers by itself, and those that it leaves to the agent.

use mesh_agent::dataplane::answers::{Answers, Lasting};
use mesh_agent::dataplane::pins::Pins;
use mesh_common::answer::{ANSWER, ID, QUESTION};
use mesh_common::checksum::Sum;
use mesh_common::net::{Address, Port, protocol};
use mesh_common::outcome::Outcome;

use crate::support::bpffs::BpfFs;
use crate::support::cast::{self, Ip};
use crate::support::packet::Packet;
use crate::support::payload::{Payload, Udp, syn, udp};
use crate::support::run::Hook;
use crate::support::wire::Frame;
use crate::support::world::World;

const RESOLVER: Ip = [172, 18, 0, 1];
const PORT: u16 = 4796;
/// The container's socket.
const SOCKET: u16 = 40_000;
const ASKER: u8 = 5;
/// Behind the id: what it says is nobody's business here.
const ASKED: &[u8] = b"\x01\x20 what is the address of web?";
const ANSWERED: &[u8] = b"\x85\x80 the address of web is 10.0.1.2, and it will be for 30 seconds";
const COUNTER: u32 = 17;

struct Asked {
    world: World,
    answers: Answers,
    pinned: (BpfFs, Pins),
}

impl Asked {
    /// A world in which the agent lives, and has answered the question once.
    fn new() -> Self {
        let asked = Self::nothing();
        asked.keep(ASKED, ANSWERED);
        asked
    }

    fn nothing() -> Self {
        let mut world = World::new();
        world.settings(|settings| {
            settings.resolver = Address::new(RESOLVER);
            settings.resolver_port = Port::new(PORT);
        });
        world.beat();
        let pinned = world.pinned();
        let answers = Answers::open(&pinned.1).expect("the maps are there");
        Self { world, answers, pinned }
    }

    fn keep(&self, question: &[u8], answer: &[u8]) {
        self.keep_from(self.answers.version(), question, answer);
    }

    fn keep_from(&self, version: u64, question: &[u8], answer: &[u8]) {
        let lasting = Lasting {
            version,
            asker: cast::task(ASKER).into(),
            question: &message(1, question),
            answer: &message(1, answer),
            counter: COUNTER,
        };
        self.answers.keep(lasting).expect("there is room");
    }

    fn given(&self) -> u64 {
        self.answers.counts().expect("they can be read")[COUNTER as usize]
    }
}

fn message(id: u16, rest: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes(), rest].concat()
}

fn question(id: u16, rest: &[u8]) -> Packet {
    datagram(Udp { source: SOCKET, destination: PORT, ..udp(&message(id, rest)) })
}

fn datagram(udp: Udp) -> Packet {
    Packet { destination: RESOLVER, ..Packet::from_task(ASKER, Payload::Udp(udp)) }
}

/// The same from the resolver, as a packet of its own.
fn answer_to(question: &Packet, id: u16, rest: &[u8]) -> Packet {
    let data = message(id, rest);
    let payload = Udp { source: PORT, destination: SOCKET, checked: false, data };
    Packet {
        source: RESOLVER,
        destination: question.source,
        ttl: 64,
        identification: 0,
        dont_fragment: true,
        payload: Payload::Udp(payload),
        ..question.macs(question.source_mac, question.destination_mac)
    }
}

#[test]
fn a_question_that_was_answered_before_is_answered_at_once() {
    let asked = Asked::new();
    for id in [0, 1, 0xffff] {
        let question = question(id, ASKED);
        let answer = answer_to(&question, id, ANSWERED);
        asked.world.bridge_in(&question).leaves_as(Outcome::NameAnswered, &answer.bytes());
    }
    assert_eq!(asked.given(), 3);
}

#[test]
fn answers_may_have_any_length_that_fits() {
    let asked = Asked::new();
    let bytes = [7_u8; ANSWER];
    for (question_length, answer_length) in
        [(1, 1), (1, ANSWER), (QUESTION, 1), (QUESTION, ANSWER), (40, 40), (41, 40), (40, 41)]
    {
        let (asks, says) = (&bytes[..question_length], &bytes[..answer_length]);
        asked.keep(asks, says);
        let question = question(9, asks);
        let answer = answer_to(&question, 9, says);
        asked.world.bridge_in(&question).leaves_as(Outcome::NameAnswered, &answer.bytes());
    }
}

#[test]
fn an_answer_to_a_checksum_that_a_device_completes_has_one_that_it_can_complete() {
    let asked = Asked::new();
    let sum = |source: Ip, destination: Ip, length: usize| {
        let length = u16::try_from(length).expect("it is small");
        let (source, destination) = (Address::new(source), Address::new(destination));
        Sum::pseudo_header(source, destination, protocol::UDP, length).folded().to_ne_bytes()
    };
    let question = question(3, ASKED);
    let mut bytes = question.bytes();
    bytes[40..42].copy_from_slice(&sum(question.source, RESOLVER, 8 + ID + ASKED.len()));
    let mut answer = answer_to(&question, 3, ANSWERED).bytes();
    answer[40..42].copy_from_slice(&sum(RESOLVER, question.source, 8 + ID + ANSWERED.len()));
    let run = asked.world.run(Hook::BridgeIn, &bytes);
    run.leaves_as_frame(Outcome::NameAnswered, &answer);
}

#[test]
fn an_answer_leaves_by_the_port_that_the_question_came_in_by() {
    let mut asked = Asked::new();
    let _others = asked.world.attach();
    let (_namespace, task) = asked.world.attach_port();
    for way in [Frame::finished, Frame::unfinished] {
        let question = question(5, ASKED);
        let frame = way(question.bytes());
        let is_checked = frame.unfinished.is_some();
        task.send(&frame);
        let answer = answer_to(&question, 5, ANSWERED).with(|answer| {
            let Payload::Udp(udp) = &mut answer.payload else { return };
            udp.checked = is_checked;
        });
        task.carries(&answer.bytes());
    }
}

#[test]
fn another_question_is_the_agents() {
    let asked = Asked::new();
    let longer = [ASKED, b"\0"].concat();
    let mut louder = ASKED.to_vec();
    louder[3] = b'W';
    for other in
        [&longer[..], &louder, &ASKED[..ASKED.len() - 1], &ASKED[..1], &[0; QUESTION + 1], &[0; 1000]]
    {
        asked.world.bridge_in(&question(1, other)).passes(Outcome::NotOurs);
    }
    for data in [&b""[..], b"\x01", b"\x01\x02"] {
        let short = datagram(Udp { source: SOCKET, destination: PORT, ..udp(data) });
        asked.world.bridge_in(&short).passes(Outcome::NotOurs);
    }
    assert_eq!(asked.given(), 0);
}

#[test]
fn another_container_is_answered_by_the_agent() {
    let asked = Asked::new();
    let other = question(1, ASKED).with(|packet| packet.source = cast::task(ASKER + 1));
    asked.world.bridge_in(&other).passes(Outcome::NotOurs);
}

#[test]
fn what_is_not_for_the_resolver_is_left_alone() {
    let asked = Asked::new();
    let question = question(1, ASKED);
    for other in [
        question.with(|packet| packet.destination = [172, 18, 0, 2]),
        question.with(|packet| packet.payload = packet.payload.with_destination(53)),
        question.with(|packet| packet.payload = syn().with_destination(PORT)),
        question.with(|packet| packet.options = vec![1; 4]),
        question.in_two(16)[0].clone(),
    ] {
        asked.world.bridge_in(&other).passes(Outcome::NotOurs);
    }
}

#[test]
fn when_the_names_change_the_agent_is_asked_again() {
    let asked = Asked::new();
    asked.answers.renew().expect("the map can be written");
    asked.world.bridge_in(&question(1, ASKED)).passes(Outcome::NotOurs);
    asked.keep(ASKED, b"another address");
    let question = question(1, ASKED);
    let answer = answer_to(&question, 1, b"another address");
    asked.world.bridge_in(&question).leaves_as(Outcome::NameAnswered, &answer.bytes());
}

#[test]
fn an_answer_from_names_that_have_changed_meanwhile_does_not_count() {
    let asked = Asked::nothing();
    let before = asked.answers.version();
    asked.answers.renew().expect("the map can be written");
    assert!(asked.answers.version() > before);
    asked.keep_from(before, ASKED, ANSWERED);
    asked.world.bridge_in(&question(1, ASKED)).passes(Outcome::NotOurs);
}

#[test]
fn the_next_agent_starts_without_the_answers_of_the_one_before() {
    let asked = Asked::new();
    let next = Answers::open(&asked.pinned.1).expect("the maps are there");
    assert!(next.version() > asked.answers.version());
    asked.world.bridge_in(&question(1, ASKED)).passes(Outcome::NotOurs);
}

#[test]
fn without_a_living_agent_nothing_is_answered() {
    let mut asked = Asked::new();
    asked.world.stop_heart();
    asked.world.bridge_in(&question(1, ASKED)).passes(Outcome::NotOurs);
}

#[test]
fn what_is_too_long_is_not_kept() {
    let asked = Asked::new();
    for (question_length, answer_length) in [(QUESTION + 1, 1), (1, ANSWER + 1)] {
        let asks = vec![7; question_length];
        asked.keep(&asks, &vec![7; answer_length]);
        asked.world.bridge_in(&question(1, &asks)).passes(Outcome::NotOurs);
    }
}

#[test]
fn a_flood_of_questions_pushes_the_oldest_out_and_fails_nothing() {
    let mut asked = Asked::new();
    for number in 0..3 * mesh_common::maps::ANSWERS {
        asked.keep(&number.to_be_bytes(), ANSWERED);
    }
    // A slow machine may have taken longer for that than an agent may be silent.
    asked.world.beat();
    let last = (3 * mesh_common::maps::ANSWERS - 1).to_be_bytes();
    let question = question(1, &last);
    let answer = answer_to(&question, 1, ANSWERED);
    asked.world.bridge_in(&question).leaves_as(Outcome::NameAnswered, &answer.bytes());
}
