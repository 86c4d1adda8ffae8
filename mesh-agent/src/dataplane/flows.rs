//! The tables of flows: what is in them, what they cost, and which entries of the established ones are to go.
//!
//! The programs remove a flow when it ends. What is left over is what ended without anybody's saying so here: a client that
//! vanished, a task that is gone, an end whose packets took another way.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use mesh_common::backend::{Backend, state as backend_state};
use mesh_common::flow::{Flow, FlowKey, Opening};
use mesh_common::maps;
use mesh_common::overlay::{VipFlowKey, VipReply, VipReplyKey};
use mesh_common::reply::{Reply, ReplyKey};
use mesh_common::settings::NOTED_NANOSECONDS;
use mesh_common::tcp::state;

use super::pins::Pins;
use super::{DataplaneError, batch, failed, open};

/// How long an established TCP flow may be silent.
pub const IDLE: Duration = Duration::from_hours(24);
/// How long one may be that an end has closed: the other one may still be sending, but then it is heard of.
const HALF_CLOSED_IDLE: Duration = Duration::from_mins(10);
/// How long while the tables are crowded: whoever opens connections only to leave them half closed must not keep others out.
const HALF_CLOSED_IDLE_CROWDED: Duration = Duration::from_secs(30);
/// How long one whose backend is gone is kept to tell its client so.
const GONE_IDLE: Duration = Duration::from_mins(2);

/// So many ways back without a call are not worth a look at all.
const STRAYS: u64 = 256;

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Keep,
    Remove,
}

/// How long entries may be silent, where it is not [`IDLE`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdleLimits {
    /// By backend id.
    pub by_backend: BTreeMap<u32, Duration>,
}

/// How long an established flow may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    pub idle: Duration,
    /// When one end has closed it.
    pub half_closed: Duration,
}

impl Patience {
    /// While tables are crowded, or not.
    pub fn new(idle: Duration, is_crowded: bool) -> Self {
        let half_closed = if is_crowded { HALF_CLOSED_IDLE_CROWDED } else { HALF_CLOSED_IDLE };
        Self { idle, half_closed }
    }
}

impl IdleLimits {
    fn of(&self, backend: u32) -> Duration {
        self.by_backend.get(&backend).copied().unwrap_or(IDLE)
    }

    /// A conversation at its home node does not know its backend's id: none is removed before the longest of all limits.
    fn longest(&self) -> Duration {
        self.by_backend.values().copied().fold(IDLE, Duration::max)
    }
}

/// Decides about an established flow. `is_current` tells whether its backend is still the one that it was given; `now` is the
/// coarse monotonic clock in nanoseconds, as the entry's times are.
pub fn fate(last_seen: u64, tcp_state: u8, is_current: bool, now: u64, patience: Patience) -> Fate {
    const HALF_CLOSED: u8 = state::CLIENT_FINISHED | state::TASK_FINISHED | state::RESET;

    // The kernel may have seen a packet after the clock was read.
    let silent = Duration::from_nanos(now.saturating_sub(last_seen));
    let mut limit = patience.idle;
    if tcp_state & HALF_CLOSED != 0 {
        limit = limit.min(patience.half_closed);
    }
    if !is_current {
        limit = limit.min(GONE_IDLE);
    }
    if silent > limit + Duration::from_nanos(NOTED_NANOSECONDS) { Fate::Remove } else { Fate::Keep }
}

/// One table of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableUse {
    /// The map's name.
    pub table: &'static str,
    pub entries: u64,
    pub capacity: u32,
    /// What the kernel accounts for it.
    pub bytes: u64,
}

/// What one turn of the collector found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    pub removed: u64,
    pub tables: Vec<TableUse>,
}

impl Collection {
    /// Whether a table that forgets nothing is more than three quarters full.
    pub fn is_crowded(&self) -> bool {
        let established = self.tables.iter().filter(|table| maps::ESTABLISHED.contains(&table.table));
        established.into_iter().any(|table| table.entries * 4 > u64::from(table.capacity) * 3)
    }
}

/// The tables of flows.
pub struct Flows {
    entry: HashMap<MapData, FlowKey, Flow>,
    calls: HashMap<MapData, VipFlowKey, Flow>,
    replies: HashMap<MapData, ReplyKey, Reply>,
    call_replies: HashMap<MapData, VipReplyKey, VipReply>,
    backends: Array<MapData, Backend>,
    connections: Connections,
    /// Those that forget by themselves.
    others: Vec<Box<dyn Fn() -> u64 + Send>>,
    /// All of them once more, in the order of [`maps::SIZED_BY_FLOWS`].
    descriptions: Vec<(&'static str, MapData)>,
    /// When they were last looked at.
    were_crowded: bool,
}

impl Flows {
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let described = |name| {
            let map = MapData::from_pin(pins.map(name)).map_err(failed("open", name))?;
            Ok((name, map))
        };
        Ok(Self {
            entry: open(pins, "FLOWS", Map::HashMap)?,
            calls: open(pins, "VIP_FLOWS", Map::HashMap)?,
            replies: open(pins, "REPLIES", Map::HashMap)?,
            call_replies: open(pins, "VIP_ESTABLISHED", Map::HashMap)?,
            backends: open(pins, "BACKENDS", Map::Array)?,
            connections: Connections::open(pins)?,
            others: vec![
                counter::<FlowKey, Opening>(pins, "OPENING")?,
                counter::<FlowKey, Flow>(pins, "UDP_FLOWS")?,
                counter::<ReplyKey, Reply>(pins, "OPENING_REPLIES")?,
                counter::<ReplyKey, Reply>(pins, "UDP_REPLIES")?,
                counter::<VipFlowKey, Opening>(pins, "VIP_OPENING")?,
                counter::<VipFlowKey, Flow>(pins, "VIP_UDP_FLOWS")?,
                counter::<VipReplyKey, VipReply>(pins, "VIP_REPLIES")?,
            ],
            descriptions: maps::SIZED_BY_FLOWS.into_iter().map(described).collect::<Result<_, _>>()?,
            were_crowded: false,
        })
    }

    /// Looks at every entry, removes what is to go, and counts what is left. Takes a while when there are many: not for a
    /// thread that has others waiting.
    pub fn collect(&mut self, now: u64, limits: &IdleLimits) -> Collection {
        // Many flows have the same backend.
        let generations = RefCell::new(BTreeMap::new());
        let is_current = |flow: &Flow| {
            let mut generations = generations.borrow_mut();
            let generation = generations.entry(flow.backend).or_insert_with(|| {
                let backend = self.backends.get(&flow.backend, 0).ok()?;
                (backend.state != backend_state::DOWN).then_some(backend.generation)
            });
            *generation == Some(flow.generation)
        };
        let were_crowded = self.were_crowded;
        let patience = |idle| Patience::new(idle, were_crowded);
        let of_flow = |flow: &Flow| {
            fate(flow.last_seen, flow.state, is_current(flow), now, patience(limits.of(flow.backend)))
        };
        let of_reply =
            |reply: &Reply| fate(reply.last_seen, reply.state, true, now, patience(limits.longest()));
        let open = RefCell::new(BTreeMap::<u32, u64>::new());
        let of_flow = |flow: &Flow| {
            let fate = of_flow(flow);
            if fate == Fate::Keep {
                *open.borrow_mut().entry(flow.backend).or_default() += 1;
            }
            fate
        };
        let flows = sweep(&mut self.entry, of_flow);
        let calls = sweep(&mut self.calls, of_flow);
        self.connections.count_anew(&open.into_inner());
        let replies = sweep(&mut self.replies, of_reply);
        let of_call_reply =
            |reply: &VipReply| fate(reply.last_seen, 0, true, now, patience(limits.longest()));
        let mut call_replies = sweep(&mut self.call_replies, of_call_reply);
        if call_replies.left > calls.left + STRAYS {
            self.remove_strays(&mut call_replies);
        }
        let others: Vec<u64> = self.others.iter().map(|count| count()).collect();
        let [opening, udp, opening_replies, udp_replies, opening_calls, udp_calls, all_call_replies] =
            others[..]
        else {
            return Collection::default();
        };
        let entries = [
            flows.left,
            opening,
            udp,
            replies.left,
            opening_replies,
            udp_replies,
            calls.left,
            opening_calls,
            udp_calls,
            all_call_replies,
            call_replies.left,
        ];
        let tables = self.descriptions.iter().zip(entries);
        let found = Collection {
            removed: flows.removed + calls.removed + replies.removed + call_replies.removed,
            tables: tables.map(|((name, map), entries)| table_use(name, map, entries)).collect(),
        };
        self.were_crowded = found.is_crowded();
        found
    }

    /// Ways back of calls that are not among the established ones any more, as of those that were removed here.
    fn remove_strays(&mut self, swept: &mut Swept) {
        let mut replies = Vec::new();
        let _ =
            batch::read(&self.call_replies, |key: VipReplyKey, reply: VipReply| replies.push((key, reply)));
        // Read later: what is established meanwhile has its flow here, too.
        let mut calls = HashSet::new();
        if batch::read(&self.calls, |key: VipFlowKey, _: Flow| _ = calls.insert(key)).is_err() {
            return;
        }
        let strays = replies.iter().filter(|(key, reply)| !calls.contains(&call_of(key, reply)));
        let removed = strays.filter(|(key, _)| self.call_replies.remove(key).is_ok()).count() as u64;
        swept.removed += removed;
        swept.left = swept.left.saturating_sub(removed);
    }
}

/// The flow whose way back this is.
fn call_of(key: &VipReplyKey, reply: &VipReply) -> VipFlowKey {
    // A task that was given to itself sees the virtual address call.
    let caller = if key.caller == reply.vip { key.task } else { key.caller };
    VipFlowKey {
        network: key.network,
        caller,
        vip: reply.vip,
        caller_port: key.caller_port,
        port: key.port,
        protocol: key.protocol,
        padding: [0; 3],
    }
}

/// How many flows each backend has. The programs count along; what the agent removed, they did not see.
struct Connections {
    map: Array<MapData, u64>,
    /// Backends that had flows when it was last counted.
    before: BTreeSet<u32>,
    turns: u32,
}

impl Connections {
    fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let map = super::open(pins, "CONNECTIONS", Map::Array)?;
        Ok(Self { map, before: BTreeSet::new(), turns: 0 })
    }

    /// What opens or closes at this very moment may be missed by one, until the next time; as is what cannot be read or
    /// written.
    fn count_anew(&mut self, open: &BTreeMap<u32, u64>) {
        /// There is room for many more backends than have flows: only every so many turns all of them are looked at.
        const ALL: u32 = 20;

        let mut wrong = Vec::new();
        let mut compare = |id: u32, known: u64| {
            let counted = open.get(&id).copied().unwrap_or(0);
            if known != counted {
                wrong.push((id, counted));
            }
        };
        if self.turns.is_multiple_of(ALL) {
            let _ = batch::read(&self.map, compare);
        } else {
            let now: BTreeSet<u32> = open.keys().copied().collect();
            for id in self.before.union(&now) {
                self.map.get(id, 0).into_iter().for_each(|known| compare(*id, known));
            }
        }
        for (id, counted) in wrong {
            let _ = self.map.set(id, counted, 0);
        }
        self.before = open.keys().copied().collect();
        self.turns = self.turns.wrapping_add(1);
    }
}

/// What a table had to give up.
struct Swept {
    removed: u64,
    left: u64,
}

fn sweep<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, fate: impl Fn(&V) -> Fate) -> Swept {
    let mut swept = Swept { removed: 0, left: 0 };
    let mut gone = Vec::new();
    // What is missed by a walk that fails is seen by the next one.
    let _ = batch::read(map, |key, value| match fate(&value) {
        Fate::Keep => swept.left += 1,
        Fate::Remove => gone.push(key),
    });
    // One that the programs have just removed is as good.
    swept.removed = gone.iter().filter(|key| map.remove(key).is_ok()).count() as u64;
    swept
}

fn table_use(table: &'static str, map: &MapData, entries: u64) -> TableUse {
    let capacity = map.info().map_or(0, |info| info.max_entries());
    TableUse { table, entries, capacity, bytes: accounted(map).unwrap_or(0) }
}

/// Bytes that the kernel accounts for a map; from Linux 6.4 on of what it really uses, before of what it could use at most.
fn accounted(map: &MapData) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    memlock(&fs::read_to_string(path).ok()?)
}

/// The `memlock` line of a map's description in `/proc/PID/fdinfo`.
fn memlock(description: &str) -> Option<u64> {
    description.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}

fn counter<K: Pod + Send + 'static, V: Pod + Send + 'static>(
    pins: &Pins,
    name: &'static str,
) -> Result<Box<dyn Fn() -> u64 + Send>, DataplaneError> {
    let map: HashMap<MapData, K, V> = open(pins, name, Map::LruHashMap)?;
    Ok(Box::new(move || {
        let mut count = 0;
        // Half a count is as good as any for people.
        let _ = batch::read(&map, |_, _| count += 1);
        count
    }))
}

#[cfg(test)]
mod tests {
    use mesh_common::tcp::state::{CLIENT_FINISHED, ESTABLISHED};

    use super::*;

    /// A day and a half after the machine was started.
    const NOW: u64 = 36 * 3_600 * 1_000_000_000;

    fn after(silence: Duration, tcp_state: u8, is_current: bool, limit: Duration) -> Fate {
        fate(NOW - silence.as_nanos() as u64, tcp_state, is_current, NOW, Patience::new(limit, false))
    }

    #[test]
    fn a_silent_flow_is_kept_until_its_limit() {
        let second = Duration::from_secs(1);
        let noticed = Duration::from_nanos(NOTED_NANOSECONDS);
        assert_eq!(after(IDLE, ESTABLISHED, true, IDLE), Fate::Keep);
        assert_eq!(
            after(IDLE + noticed, ESTABLISHED, true, IDLE),
            Fate::Keep,
            "it may have been heard of since"
        );
        assert_eq!(after(IDLE + noticed + second, ESTABLISHED, true, IDLE), Fate::Remove);
        let limit = Duration::from_mins(1);
        assert_eq!(after(limit + noticed + second, ESTABLISHED, true, limit), Fate::Remove);
        let none = Patience::new(Duration::ZERO, false);
        assert_eq!(fate(NOW + 5, ESTABLISHED, true, NOW, none), Fate::Keep, "seen just now");
    }

    #[test]
    fn what_is_half_closed_or_gone_goes_earlier() {
        let half_closed = ESTABLISHED | CLIENT_FINISHED;
        let while_kept = Duration::from_mins(5);
        assert_eq!(after(while_kept, half_closed, true, IDLE), Fate::Keep);
        assert_eq!(after(2 * while_kept + while_kept, half_closed, true, IDLE), Fate::Remove);
        assert_eq!(after(while_kept, ESTABLISHED, false, IDLE), Fate::Remove);
        assert_eq!(after(Duration::from_secs(1), ESTABLISHED, false, IDLE), Fate::Keep);
    }

    #[test]
    fn what_is_half_closed_makes_room_where_tables_are_crowded() {
        let table = |table, entries| TableUse { table, entries, capacity: 100, bytes: 0 };
        let crowded = |tables: Vec<TableUse>| Collection { removed: 0, tables }.is_crowded();
        assert!(!crowded(vec![table("FLOWS", 75), table("OPENING", 100)]));
        assert!(crowded(vec![table("FLOWS", 10), table("VIP_FLOWS", 76)]));

        let silent = |seconds: u64, tcp_state| {
            let last_seen = NOW - Duration::from_secs(seconds).as_nanos() as u64;
            fate(last_seen, tcp_state, true, NOW, Patience::new(IDLE, true))
        };
        assert_eq!(silent(29, ESTABLISHED | CLIENT_FINISHED), Fate::Keep);
        assert_eq!(silent(32, ESTABLISHED | CLIENT_FINISHED), Fate::Remove);
        assert_eq!(silent(32, ESTABLISHED), Fate::Keep);
    }

    #[test]
    fn limits_are_by_backend_and_replies_wait_for_the_longest() {
        let week = Duration::from_hours(7 * 24);
        let limits = IdleLimits { by_backend: BTreeMap::from([(7, week), (8, Duration::from_mins(1))]) };
        assert_eq!((limits.of(7), limits.of(8), limits.of(9)), (week, Duration::from_mins(1), IDLE));
        assert_eq!(limits.longest(), week);
        assert_eq!(IdleLimits::default().longest(), IDLE);
    }

    #[test]
    fn the_kernels_accounting_is_read() {
        assert_eq!(memlock("pos:\t0\nmap_type:\t9\nmemlock:\t4096\nmap_id:\t7\n"), Some(4096));
        assert_eq!(memlock("pos:\t0\n"), None);
    }
}
