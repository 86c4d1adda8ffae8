//! What the design promises (§3), for one service with a few tasks: whom a packet of a client reaches, and whose answers reach the client.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{
    collection::vec,
    prop_oneof,
    strategy::{Just, Strategy},
};

/// Tasks are numbered from 1.
pub(super) const TASKS: u8 = 4;
const CLIENTS: u8 = 3;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A client, which is known by its port, sends a segment.
    Segment(u8, Segment),
    Datagram(u8),
    /// The task with which a client's last packet was sends a segment.
    Answer(u8, Segment),
    AnswerDatagram(u8),
    /// The agent: a task gets nothing new.
    Drain(u8),
    /// It serves again.
    Return(u8),
    /// It is gone, and another task has its place.
    Replace(u8),
    /// A client has sent no datagrams for longer than the mesh remembers them.
    Silence(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Segment {
    Syn,
    Ack,
    Fin,
    Rst,
}

impl Step {
    pub(super) fn is_packet(self) -> bool {
        matches!(self, Self::Segment(..) | Self::Datagram(_) | Self::Answer(..) | Self::AnswerDatagram(_))
    }

    pub(super) fn sequences() -> impl Strategy<Value = Vec<Self>> {
        let segment = || prop_oneof![4 => Just(Segment::Syn), 5 => Just(Segment::Ack), 1 => Just(Segment::Fin), 1 => Just(Segment::Rst)];
        let client = || 0..CLIENTS;
        let task = || 1..=TASKS;
        let step = prop_oneof![
            12 => (client(), segment()).prop_map(|(client, segment)| Self::Segment(client, segment)),
            4 => client().prop_map(Self::Datagram),
            10 => (client(), segment()).prop_map(|(client, segment)| Self::Answer(client, segment)),
            2 => client().prop_map(Self::AnswerDatagram),
            2 => task().prop_map(Self::Drain),
            2 => task().prop_map(Self::Return),
            1 => task().prop_map(Self::Replace),
            1 => client().prop_map(Self::Silence),
        ];
        vec(step, 1..40)
    }
}

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// It reaches this task.
    Reaches(u8),
    /// It reaches one of these, and its flow keeps that one.
    ReachesOneOf(BTreeSet<u8>),
    /// Its sender is refused.
    Refused,
    /// Nobody gets it.
    Nothing,
    /// The client gets it, from what it has dialled.
    ReachesClient,
    /// It is none of the mesh's business.
    Left,
    /// The design does not say.
    Anything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Tcp,
    Udp,
}

/// A conversation of a client.
#[expect(clippy::struct_excessive_bools, reason = "what has been seen of it, each on its own")]
#[derive(Clone, Copy, Debug)]
struct Flow {
    task: u8,
    /// Which of those that have had the task's place.
    generation: u32,
    /// Its SYN has passed.
    is_begun: bool,
    is_answered: bool,
    is_established: bool,
    client_finished: bool,
    task_finished: bool,
    /// Or, of datagrams, silent for too long.
    is_reset: bool,
}

impl Flow {
    fn is_over(&self) -> bool {
        self.is_reset || self.client_finished && self.task_finished
    }

    /// Whether it is a living connection.
    fn goes_on(&self) -> bool {
        self.is_established && !self.is_over()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    Draining,
}

/// A service under a published port, or a virtual address, whose tasks are taken in turn.
#[derive(Debug)]
pub(super) struct Model {
    /// State and generation, in the order of their turns.
    tasks: BTreeMap<u8, (State, u32)>,
    /// How many new conversations there have been; one count for both protocols at a virtual address.
    turns: BTreeMap<Protocol, usize>,
    one_turn: bool,
    flows: BTreeMap<(Protocol, u8), Flow>,
}

impl Model {
    pub(super) fn new(one_turn: bool) -> Self {
        let tasks = (1..=TASKS).map(|task| (task, (State::Active, 1))).collect();
        Self { tasks, turns: BTreeMap::new(), one_turn, flows: BTreeMap::new() }
    }

    pub(super) fn active(&self) -> Vec<u8> {
        self.tasks.iter().filter(|(_, (state, _))| *state == State::Active).map(|(task, _)| *task).collect()
    }

    pub(super) fn drain(&mut self, task: u8) {
        self.tasks.entry(task).and_modify(|task| task.0 = State::Draining);
    }

    pub(super) fn give_back(&mut self, task: u8) {
        self.tasks.entry(task).and_modify(|task| task.0 = State::Active);
    }

    pub(super) fn replace(&mut self, task: u8) {
        self.tasks.entry(task).and_modify(|task| *task = (State::Active, task.1 + 1));
    }

    pub(super) fn silence(&mut self, client: u8) {
        self.flows.entry((Protocol::Udp, client)).and_modify(|flow| flow.is_reset = true);
    }

    /// The task with which a client's conversation is, whether it lives or not.
    pub(super) fn partner(&self, client: u8, is_tcp: bool) -> Option<u8> {
        let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
        self.flows.get(&(protocol, client)).map(|flow| flow.task)
    }

    fn lives(&self, flow: &Flow) -> bool {
        self.tasks[&flow.task].1 == flow.generation
    }

    fn is_active(&self, flow: &Flow) -> bool {
        self.lives(flow) && self.tasks[&flow.task].0 == State::Active
    }

    pub(super) fn segment(&mut self, client: u8, segment: Segment) -> Expected {
        let key = (Protocol::Tcp, client);
        let known = self.flows.get(&key).copied();
        if segment == Segment::Syn {
            // Whether the SYN is a new conversation's cannot be told where the first one's was not seen.
            if known.is_some_and(|flow| !flow.is_begun && self.lives(&flow) && !self.is_active(&flow)) {
                return Expected::Anything;
            }
            // A SYN keeps its task while that takes new ones, and belongs to the living conversation that it finds.
            let keeps =
                known.filter(|flow| if flow.goes_on() { self.lives(flow) } else { self.is_active(flow) });
            return match keeps {
                Some(flow) if flow.goes_on() => Expected::Reaches(flow.task),
                Some(flow) if flow.is_over() => {
                    let another = Flow { is_begun: true, ..self.flow_to(flow.task) };
                    self.flows.insert(key, another);
                    Expected::Reaches(flow.task)
                }
                Some(flow) => {
                    let again = Flow { is_begun: true, ..flow };
                    self.flows.insert(key, again);
                    Expected::Reaches(flow.task)
                }
                None => self.new_flow(key),
            };
        }
        let Some(mut flow) = known.filter(|flow| self.lives(flow) || !flow.is_over()) else {
            return self.unknown_segment(key, segment);
        };
        if !self.lives(&flow) {
            // Its task is gone. A reset is not answered.
            return if segment == Segment::Rst { Expected::Nothing } else { Expected::Refused };
        }
        match segment {
            Segment::Rst => flow.is_reset = true,
            Segment::Fin => flow.client_finished = true,
            Segment::Syn | Segment::Ack => {}
        }
        if matches!(segment, Segment::Ack | Segment::Fin) && flow.is_begun && flow.is_answered {
            flow.is_established = true;
        }
        self.flows.insert(key, flow);
        Expected::Reaches(flow.task)
    }

    /// A segment that begins nothing and belongs to nothing known goes where all nodes would send it.
    fn unknown_segment(&mut self, key: (Protocol, u8), segment: Segment) -> Expected {
        if segment == Segment::Rst {
            return Expected::Anything;
        }
        let active = self.active();
        if active.is_empty() {
            Expected::Refused
        } else {
            self.flows.remove(&key);
            Expected::ReachesOneOf(active.into_iter().collect())
        }
    }

    /// Such a segment has reached this task.
    pub(super) fn adopted(&mut self, client: u8, task: u8, segment: Segment) {
        let flow = Flow { client_finished: segment == Segment::Fin, ..self.flow_to(task) };
        self.flows.insert((Protocol::Tcp, client), flow);
    }

    pub(super) fn datagram(&mut self, client: u8) -> Expected {
        let key = (Protocol::Udp, client);
        match self.flows.get(&key).copied() {
            Some(flow) if self.is_active(&flow) && !flow.is_reset => Expected::Reaches(flow.task),
            // UDP has no end that could be waited for.
            _ => self.new_flow(key),
        }
    }

    fn new_flow(&mut self, key: (Protocol, u8)) -> Expected {
        let active = self.active();
        let turn = self.turns.entry(if self.one_turn { Protocol::Tcp } else { key.0 }).or_default();
        if active.is_empty() {
            return Expected::Refused;
        }
        let task = active[*turn % active.len()];
        *turn += 1;
        let flow = Flow { is_begun: true, ..self.flow_to(task) };
        self.flows.insert(key, flow);
        Expected::Reaches(task)
    }

    fn flow_to(&self, task: u8) -> Flow {
        Flow {
            task,
            generation: self.tasks[&task].1,
            is_begun: false,
            is_answered: false,
            is_established: false,
            client_finished: false,
            task_finished: false,
            is_reset: false,
        }
    }

    /// What the task with which a client's conversation is sends to it. A SYN of a task is the answer to the client's.
    pub(super) fn answer(&mut self, client: u8, segment: Segment) -> Expected {
        let key = (Protocol::Tcp, client);
        let Some(mut flow) = self.flows.get(&key).copied() else { return Expected::Left };
        if !self.lives(&flow) || flow.is_over() {
            return Expected::Anything;
        }
        if segment == Segment::Syn && flow.is_established {
            // It has taken another SYN of its client's.
            (flow.client_finished, flow.task_finished) = (false, false);
            self.flows.insert(key, flow);
        }
        match segment {
            Segment::Syn if flow.is_begun => flow.is_answered = true,
            // Nothing like it happens: the client's SYN was not seen here, or the handshake has not come so far.
            Segment::Syn => return Expected::Anything,
            Segment::Ack | Segment::Fin if flow.is_begun && !flow.is_answered => return Expected::Anything,
            Segment::Rst if !flow.is_answered => return Expected::Anything,
            Segment::Ack | Segment::Fin => flow.is_established |= !flow.is_begun,
            Segment::Rst => flow.is_reset = true,
        }
        flow.task_finished |= segment == Segment::Fin;
        self.flows.insert(key, flow);
        Expected::ReachesClient
    }

    pub(super) fn answer_datagram(&self, client: u8) -> Expected {
        match self.flows.get(&(Protocol::Udp, client)) {
            Some(flow) if self.lives(flow) && !flow.is_reset => Expected::ReachesClient,
            Some(_) => Expected::Anything,
            None => Expected::Left,
        }
    }
}
