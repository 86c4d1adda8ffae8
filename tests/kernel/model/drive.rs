//! Takes the model and the programs through the same steps, and compares.

use super::design::{Expected, Model, Segment, Step, TASKS};
use super::ways::{Did, Node, Way, is_local};
use crate::support::checks;
use crate::support::packet::Packet;
use crate::support::payload::{ACK, FIN, Payload, RST, SYN, Tcp, data, syn, tcp, udp};

/// What every segment begins with, at both ends.
const SEQUENCE: u32 = 0x1122_3344;

/// Says what is not as it should be.
pub(super) fn play(way: Way, node: &mut Node, steps: &[Step]) -> Result<(), String> {
    node.begin_again();
    let mut both = Both { way, model: Model::new(way == Way::Overlay), node };
    steps.iter().enumerate().try_for_each(|(number, step)| {
        both.take(*step).map_err(|problem| format!("step {}, {step:?}: {problem}", number + 1))
    })
}

struct Both<'a> {
    way: Way,
    model: Model,
    node: &'a mut Node,
}

impl Both<'_> {
    fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Segment(client, segment) => {
                let expected = self.model.segment(client, segment);
                if expected == Expected::Anything {
                    return Ok(());
                }
                let packet = self.way.client_packet(client, &from_client(segment));
                let task = self.asked(&packet, &expected)?;
                if matches!(expected, Expected::ReachesOneOf(_)) {
                    self.model.adopted(client, task.ok_or("nobody got it")?, segment);
                }
                Ok(())
            }
            Step::Datagram(client) => {
                let expected = self.model.datagram(client);
                let packet = self.way.client_packet(client, &Payload::Udp(udp(b"question")));
                self.asked(&packet, &expected).map(drop)
            }
            Step::Answer(client, segment) => {
                let task = self.model.partner(client, true).unwrap_or(1);
                let expected = self.model.answer(client, segment);
                let packet = self.way.task_packet(task, client, from_task(segment));
                self.answered(task, &packet, &expected)
            }
            Step::AnswerDatagram(client) => {
                let task = self.model.partner(client, false).unwrap_or(1);
                let expected = self.model.answer_datagram(client);
                let packet = self.way.task_packet(task, client, Payload::Udp(udp(b"answer")));
                self.answered(task, &packet, &expected)
            }
            Step::Drain(task) => {
                self.model.drain(task);
                self.node.set_state(task, false);
                self.serve();
                Ok(())
            }
            Step::Return(task) => {
                self.model.give_back(task);
                self.node.set_state(task, true);
                self.serve();
                Ok(())
            }
            Step::Replace(task) => {
                self.model.replace(task);
                self.node.replace(task);
                self.serve();
                Ok(())
            }
            Step::Silence(client) => {
                self.model.silence(client);
                self.node.silence(client);
                Ok(())
            }
        }
    }

    fn serve(&mut self) {
        self.node.serve(&self.model.active());
    }

    /// Returns the task that a client's packet has reached.
    fn asked(&self, packet: &Packet, expected: &Expected) -> Result<Option<u8>, String> {
        let did = self.node.ask(packet);
        let reached = match &did {
            Did::SentOn(frame) => (1..=TASKS).find(|task| self.node.towards(*task, packet, frame) == *frame),
            Did::Dropped | Did::Left => None,
        };
        let fits = match expected {
            Expected::Reaches(task) => reached == Some(*task),
            Expected::ReachesOneOf(tasks) => reached.is_some_and(|task| tasks.contains(&task)),
            Expected::Refused => matches!(&did, Did::SentOn(frame) if refuses(frame, packet)),
            Expected::Nothing => did == Did::Dropped,
            Expected::Left => did == Did::Left,
            Expected::ReachesClient | Expected::Anything => true,
        };
        if fits { Ok(reached) } else { Err(format!("{expected:?}, but {}", in_words(&did))) }
    }

    fn answered(&self, task: u8, packet: &Packet, expected: &Expected) -> Result<(), String> {
        // The home node of a task elsewhere has seen to it that no other answers come.
        let is_theirs = self.way != Way::Overlay && !is_local(task) && *expected == Expected::Left;
        if *expected == Expected::Anything || is_theirs {
            return Ok(());
        }
        let did = self.node.answer(task, packet);
        let fits = if *expected == Expected::ReachesClient {
            did == Did::SentOn(self.way.back(packet))
        } else {
            did == Did::Left
        };
        if fits { Ok(()) } else { Err(format!("{expected:?}, but {}", in_words(&did))) }
    }
}

/// A client's segment; it acknowledges what its task's SYN says.
fn from_client(segment: Segment) -> Payload {
    let acknowledges = |flags| Payload::Tcp(Tcp { acknowledgement: SEQUENCE + 1, ..tcp(flags) });
    match segment {
        Segment::Syn => syn(),
        Segment::Ack => {
            let Payload::Tcp(segment) = data(b"data") else { unreachable!("it is a segment") };
            Payload::Tcp(Tcp { acknowledgement: SEQUENCE + 1, ..segment })
        }
        Segment::Fin => acknowledges(FIN | ACK),
        Segment::Rst => Payload::Tcp(tcp(RST)),
    }
}

/// A task's segment; it acknowledges what its client's SYN says.
fn from_task(segment: Segment) -> Payload {
    let flags = match segment {
        Segment::Syn => SYN | ACK,
        Segment::Ack => ACK,
        Segment::Fin => FIN | ACK,
        Segment::Rst => RST | ACK,
    };
    Payload::Tcp(Tcp { acknowledgement: SEQUENCE + 1, ..tcp(flags) })
}

/// Whether a frame tells a packet's sender that nobody is there.
fn refuses(frame: &[u8], packet: &Packet) -> bool {
    let to_sender =
        frame.get(26..30) == Some(&packet.destination) && frame.get(30..34) == Some(&packet.source);
    let is_reset = frame.get(23) == Some(&6) && frame.get(47).is_some_and(|flags| flags & RST != 0);
    let is_unreachable = frame.get(23) == Some(&1) && frame.get(34..36) == Some(&[3, 3]);
    to_sender && (is_reset || is_unreachable) && checks::checksums(frame).is_ok()
}

fn in_words(did: &Did) -> String {
    match did {
        Did::SentOn(frame) => format!("it was sent on as {}", checks::describe(frame)),
        Did::Dropped => "it was dropped".to_owned(),
        Did::Left => "it was left".to_owned(),
    }
}
