//! Replies that were fetched for one container and are good for the next. Pure: the clock is an argument.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::relay::Reply;
use super::wire::{Query, flags};

/// What makes two questions have the same reply: also whom they are put to, so that a container with `--dns` of its own
/// sees what these servers say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Name, type and class, in lower case.
    question: Box<[u8]>,
    /// Flags of the header and of EDNS.
    flags: (u16, Option<bool>),
    servers: Arc<[SocketAddr]>,
}

impl Key {
    pub(super) fn new(query: &Query<'_>, servers: Arc<[SocketAddr]>) -> Self {
        let mut question: Box<[u8]> = query.question.into();
        // Type and class are no letters.
        let name = question.len().saturating_sub(4);
        question[..name].make_ascii_lowercase();
        let passed_on = flags::RECURSION_DESIRED | flags::CHECKING_DISABLED;
        Self { question, flags: (query.flags & passed_on, query.edns.map(|edns| edns.dnssec_ok)), servers }
    }
}

/// Bounded by bytes. When the young generation is full, it becomes the old one, and what was not asked for since the
/// last time is forgotten: about what is used least goes first, without any bookkeeping per look.
#[derive(Debug)]
pub(super) struct Cache {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
    young_weight: usize,
    capacity: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    reply: Arc<Reply>,
    since: Instant,
}

impl Cache {
    /// Takes about `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), young_weight: 0, capacity }
    }

    /// The reply and its age in seconds.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<(Arc<Reply>, u32)> {
        let entry = if let Some(entry) = self.young.get(key) {
            entry.clone()
        } else {
            let entry = self.old.remove(key)?;
            self.put(key.clone(), entry.clone());
            entry
        };
        let age = now.saturating_duration_since(entry.since).as_secs() as u32;
        (age < entry.reply.lifetime).then_some((entry.reply, age))
    }

    pub(super) fn insert(&mut self, key: Key, reply: Arc<Reply>, now: Instant) {
        if reply.lifetime > 0 {
            self.put(key, Entry { reply, since: now });
        }
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn put(&mut self, key: Key, entry: Entry) {
        /// What a key and the table take, roughly.
        const OVERHEAD: usize = 256;
        if self.young_weight >= self.capacity / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_weight = 0;
        }
        self.young_weight += entry.reply.weight() + OVERHEAD;
        self.young.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_proto::op::{Message, OpCode, Query as Asked};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::*;
    use crate::dns::wire::HEADER;

    fn message(name: &str) -> Message {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.add_query(Asked::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message
    }

    fn key(name: &str, servers: &Arc<[SocketAddr]>) -> Key {
        let bytes = message(name).to_vec().unwrap();
        Key::new(&Query::parse(&bytes).unwrap(), servers.clone())
    }

    fn reply(name: &str, ttl: u32) -> Arc<Reply> {
        let query = message(name);
        let mut reply = Message::response(7, OpCode::Query);
        reply.queries.clone_from(&query.queries);
        reply.add_answer(Record::from_rdata(
            query.queries[0].name.clone(),
            ttl,
            RData::A(A([192, 0, 2, 1].into())),
        ));
        let question = &query.to_vec().unwrap()[HEADER..];
        Arc::new(Reply::read(reply.to_vec().unwrap(), 7, question).unwrap())
    }

    #[test]
    fn a_reply_is_found_in_any_case_until_its_time_is_over_and_only_among_those_of_its_servers() {
        let (servers, others): (Arc<[_]>, Arc<[_]>) = ([].into(), ["192.0.2.1:53".parse().unwrap()].into());
        let mut cache = Cache::new(1 << 20);
        let now = Instant::now();
        cache.insert(key("a.example.", &servers), reply("a.example.", 10), now);
        let age = |cache: &mut Cache, name, servers, seconds| {
            cache.get(&key(name, servers), now + Duration::from_secs(seconds)).map(|(_, age)| age)
        };
        assert_eq!(age(&mut cache, "A.EXAMPLE.", &servers, 9), Some(9));
        assert_eq!(age(&mut cache, "a.example.", &servers, 10), None);
        assert_eq!(age(&mut cache, "a.example.", &others, 0), None);
        cache.insert(key("b.example.", &servers), reply("b.example.", 0), now);
        assert_eq!(age(&mut cache, "b.example.", &servers, 0), None, "it is not meant to be kept");
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_makes_room() {
        let servers: Arc<[SocketAddr]> = [].into();
        let mut cache = Cache::new(20_000);
        let now = Instant::now();
        cache.insert(key("often.example.", &servers), reply("often.example.", 60), now);
        for number in 0..1000 {
            let name = format!("n{number}.example.");
            cache.insert(key(&name, &servers), reply(&name, 60), now);
            assert!(cache.get(&key("often.example.", &servers), now).is_some(), "{number}");
        }
        assert!(cache.len() < 100, "{}", cache.len());
        assert!(cache.get(&key("n0.example.", &servers), now).is_none());
    }
}
