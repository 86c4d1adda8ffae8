//! Replies of other servers: whether they can be believed, how long they may be kept, and how they are passed on. Pure.
//!
//! They are passed on as they came, byte for byte, but for what must differ: the id, the client's spelling of the name,
//! and TTLs that have gone by.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

use super::wire::{
    Edns, HEADER, LARGEST_DATAGRAM, OPT, OPTIONS, Query, Record, Transport, flags, number, skip_name,
    write_options,
};

/// A reply to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    bytes: Vec<u8>,
    /// In the order of the message.
    records: Vec<Record>,
    pub(super) code: ResponseCode,
    /// For how many seconds it may be kept.
    pub(super) lifetime: u32,
}

/// Even a name with a day's TTL may have to move in an emergency.
const LONGEST_KEPT: u32 = 3600;
/// That something does not exist is soon untrue when somebody has just looked for it.
const LONGEST_ABSENCE_KEPT: u32 = 300;

impl Reply {
    /// `None` if these bytes are no reply to the question, whoever sent them.
    pub(super) fn read(mut bytes: Vec<u8>, id: u16, question: &[u8]) -> Option<Self> {
        let flags = number(&bytes, 2)?;
        let is_reply = flags & flags::RESPONSE != 0 && flags & flags::OPCODE == 0;
        if bytes.len() < HEADER || number(&bytes, 0) != Some(id) || !is_reply {
            return None;
        }
        let code = ResponseCode::from_low(flags as u8 & 15);
        match number(&bytes, 4)? {
            1 => {
                let end = skip_name(&bytes, HEADER)? + 4;
                if !is_same_question(bytes.get(HEADER..end)?, question) {
                    return None;
                }
            }
            // Some say no without repeating what they were asked.
            0 if code != ResponseCode::NoError => {
                bytes.truncate(HEADER);
                bytes[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
                bytes.extend_from_slice(question);
            }
            _ => return None,
        }
        let counts = (6..HEADER).step_by(2).filter_map(|at| number(&bytes, at));
        let mut records = Vec::new();
        let mut at = HEADER + question.len();
        for _ in 0..counts.map(usize::from).sum() {
            let record = Record::read(&bytes, at)?;
            at = record.end;
            records.push(record);
        }
        bytes.truncate(at);
        let lifetime = lifetime(&bytes).unwrap_or_default();
        Some(Self { bytes, records, code, lifetime })
    }

    pub(super) fn is_truncated(&self) -> bool {
        number(&self.bytes, 2).is_some_and(|flags| flags & flags::TRUNCATED != 0)
    }

    /// Whether it says that there is nothing.
    pub(super) fn is_negative(&self) -> bool {
        self.code != ResponseCode::NoError || number(&self.bytes, 6) == Some(0)
    }

    /// How much memory it takes.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len() + self.records.len() * size_of::<Record>()
    }

    /// Writes it as the answer to `query`, `age` seconds after it came.
    pub(super) fn pass_on(&self, query: &Query<'_>, transport: Transport, age: u32, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        out[..2].copy_from_slice(&query.id.to_be_bytes());
        out[HEADER..HEADER + query.question.len()].copy_from_slice(query.question);
        let mut flags = number(out, 2).unwrap_or_default();
        flags = flags & !flags::RECURSION_DESIRED | query.flags & flags::RECURSION_DESIRED;
        flags |= flags::RECURSION_AVAILABLE;
        for record in self.records.iter().filter(|record| record.kind != OPT) {
            let left = record.ttl.saturating_sub(age);
            out[record.ttl_at..record.ttl_at + 4].copy_from_slice(&left.to_be_bytes());
        }
        if out.len() > query.limit(transport) {
            flags |= flags::TRUNCATED;
            self.cut(query, query.limit(transport), out);
        }
        out[2..4].copy_from_slice(&flags.to_be_bytes());
    }

    /// Keeps as many answers as fit: old stubs do not come back by TCP.
    fn cut(&self, query: &Query<'_>, limit: usize, out: &mut Vec<u8>) {
        let answers = usize::from(number(&self.bytes, 6).unwrap_or_default());
        let room = limit - if query.edns.is_some() { OPTIONS } else { 0 };
        let fitting = self.records.iter().take(answers).take_while(|record| record.end <= room);
        let ends: Vec<_> = fitting.map(|record| record.end).collect();
        out.truncate(ends.last().copied().unwrap_or(HEADER + query.question.len()));
        out[6..8].copy_from_slice(&(ends.len() as u16).to_be_bytes());
        out[8..HEADER].fill(0);
        if let Some(edns) = query.edns {
            write_options(out, edns, self.code);
            out[11] = 1;
        }
    }
}

/// The query that is sent to another server for a question.
pub(super) fn outgoing(id: u16, query_flags: u16, question: &[u8], edns: Option<Edns>) -> Vec<u8> {
    let passed_on = flags::RECURSION_DESIRED | flags::CHECKING_DISABLED;
    let mut message = Vec::with_capacity(HEADER + question.len() + OPTIONS);
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&(query_flags & passed_on).to_be_bytes());
    message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    message.extend_from_slice(question);
    if let Some(edns) = edns {
        let edns = Edns { size: LARGEST_DATAGRAM as u16, version: 0, ..edns };
        write_options(&mut message, edns, ResponseCode::NoError);
    }
    message
}

/// The name in any case; its type and class exactly.
fn is_same_question(one: &[u8], other: &[u8]) -> bool {
    let (Some((one, one_kind)), Some((other, other_kind))) =
        (one.split_last_chunk::<4>(), other.split_last_chunk::<4>())
    else {
        return false;
    };
    one_kind == other_kind && one.eq_ignore_ascii_case(other)
}

/// For how many seconds a reply may be kept: RFC 2308 §5 for those that say that there is nothing. `None` for what
/// hickory does not understand, and for failures.
fn lifetime(bytes: &[u8]) -> Option<u32> {
    let message = Message::from_vec(bytes).ok()?;
    if message.metadata.truncation {
        return None;
    }
    let kind = message.queries.first()?.query_type;
    let answers = message.answers.iter();
    let is_found = answers.clone().any(|record| record.record_type() == kind || kind == RecordType::ANY);
    let shortest = answers.map(|record| record.ttl).min();
    let code = message.metadata.response_code;
    if code == ResponseCode::NoError && is_found {
        return Some(shortest?.min(LONGEST_KEPT));
    }
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    let absence = message.authorities.iter().find_map(|record| {
        let RData::SOA(soa) = &record.data else { return None };
        Some(record.ttl.min(soa.minimum))
    })?;
    Some(absence.min(shortest.unwrap_or(u32::MAX)).min(LONGEST_ABSENCE_KEPT))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, MessageType, OpCode, Query as Asked};
    use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};
    use hickory_proto::rr::{Name, Record as Entry};

    use super::*;

    fn question() -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(Asked::query(Name::from_ascii("a.example.").unwrap(), RecordType::A));
        query
    }

    fn reply(records: &[(u32, RData)]) -> Message {
        let mut reply = Message::response(7, OpCode::Query);
        reply.queries = question().queries;
        let name = reply.queries[0].name.clone();
        for (ttl, data) in records {
            let record = Entry::from_rdata(name.clone(), *ttl, data.clone());
            if matches!(data, RData::SOA(_)) {
                reply.add_authority(record)
            } else {
                reply.add_answer(record)
            };
        }
        reply
    }

    fn read(reply: &Message) -> Option<Reply> {
        let query = question().to_vec().unwrap();
        Reply::read(reply.to_vec().unwrap(), 7, &query[HEADER..])
    }

    fn address(ttl: u32) -> (u32, RData) {
        (ttl, RData::A(A([192, 0, 2, 1].into())))
    }

    fn authority(ttl: u32, minimum: u32) -> (u32, RData) {
        (ttl, RData::SOA(SOA::new(Name::root(), Name::root(), 1, 2, 3, 4, minimum)))
    }

    #[test]
    fn a_reply_is_kept_as_long_as_its_shortest_part_allows() {
        let alias = (20, RData::CNAME(CNAME(Name::from_ascii("b.example.").unwrap())));
        for (records, lifetime) in [
            (vec![address(60)], 60),
            (vec![alias.clone(), address(60)], 20),
            (vec![address(1_000_000)], LONGEST_KEPT),
            (vec![address(0)], 0),
            (vec![authority(60, 30)], 30),
            (vec![authority(10, 30)], 10),
            (vec![authority(9000, 9000)], LONGEST_ABSENCE_KEPT),
            (vec![alias.clone(), authority(60, 60)], 20),
            (vec![alias], 0),
            (vec![], 0),
        ] {
            assert_eq!(read(&reply(&records)).unwrap().lifetime, lifetime, "{records:?}");
        }
        let mut failed = reply(&[authority(60, 60)]);
        failed.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(read(&failed).unwrap().lifetime, 0);
        let mut truncated = reply(&[address(60)]);
        truncated.metadata.truncation = true;
        assert_eq!(read(&truncated).unwrap().lifetime, 0);
    }

    #[test]
    fn a_refusal_without_the_question_is_understood_and_an_answer_without_it_is_not() {
        let mut refusal = Message::response(7, OpCode::Query);
        refusal.metadata.response_code = ResponseCode::Refused;
        assert_eq!(read(&refusal).unwrap().code, ResponseCode::Refused);
        refusal.metadata.response_code = ResponseCode::NoError;
        assert_eq!(read(&refusal), None);
    }

    #[test]
    fn whatever_a_server_sends_is_passed_on_in_words_that_can_be_understood_or_not_at_all() {
        let mut query = question();
        query.set_edns(Edns::new());
        let queries = [question().to_vec().unwrap(), query.to_vec().unwrap()];
        let long = RData::TXT(TXT::new(vec!["x".repeat(200); 4]));
        let replies = [
            reply(&vec![address(60); 90]),
            reply(&[(5, long.clone()), (6, long), authority(9, 9)]),
            reply(&[authority(1, 2)]),
        ];
        let replies = replies.map(|reply| reply.to_vec().unwrap());
        let mut out = Vec::new();
        let mut passed_on = 0;
        for seed in 0..30_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bytes = replies[random.usize(..replies.len())].clone();
            for _ in 0..random.usize(0..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..4) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes[at] ^= 1 << random.u8(..8),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, random.u8(..)),
                }
            }
            let query = Query::parse(&queries[random.usize(..2)]).unwrap();
            let Some(reply) = Reply::read(bytes.clone(), 7, query.question) else { continue };
            let transport = if random.bool() { Transport::Udp } else { Transport::Tcp };
            reply.pass_on(&query, transport, random.u32(..100), &mut out);
            assert!(out.len() <= query.limit(transport), "seed {seed}");
            let mut at = HEADER + query.question.len();
            for _ in 0..(6..HEADER).step_by(2).filter_map(|at| number(&out, at)).map(usize::from).sum() {
                at = Record::read(&out, at).unwrap_or_else(|| panic!("seed {seed}: {out:?}")).end;
            }
            assert_eq!(at, out.len(), "seed {seed}");
            passed_on += 1;
        }
        assert!(passed_on > 1000, "{passed_on}");
    }
}
