//! Queries off the wire and answers onto it (RFC 1035, with EDNS of RFC 6891). Pure.
//!
//! Written by hand because every name lookup of every task goes through here, and all it needs of a query is one
//! question and the OPT record; a reply from elsewhere is hickory's to understand.

use std::net::Ipv4Addr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

pub(super) const HEADER: usize = 12;
const INTERNET: u16 = 1;

/// The largest UDP answer, whatever a client can take: it fits unfragmented into any MTU of docker_gwbridge that IPv6
/// could use, and what does not fit comes over TCP from the same machine. The figure is that of DNS flag day 2020.
pub const LARGEST_DATAGRAM: usize = 1232;
/// What a client without EDNS takes (RFC 1035 §4.2.1).
const PLAIN_DATAGRAM: usize = 512;
const LARGEST_MESSAGE: usize = 65_535;

pub(super) mod flags {
    pub(in crate::dns) const RESPONSE: u16 = 0x8000;
    pub(in crate::dns) const OPCODE: u16 = 0x7800;
    pub(in crate::dns) const TRUNCATED: u16 = 0x0200;
    pub(in crate::dns) const RECURSION_DESIRED: u16 = 0x0100;
    pub(in crate::dns) const RECURSION_AVAILABLE: u16 = 0x0080;
    pub(in crate::dns) const CHECKING_DISABLED: u16 = 0x0010;
    pub(in crate::dns) const DNSSEC_OK: u16 = 0x8000;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A query that can be worked with.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    pub(super) id: u16,
    pub(super) flags: u16,
    /// Name, type and class as they were sent.
    pub(super) question: &'a [u8],
    pub(super) kind: RecordType,
    pub(super) edns: Option<Edns>,
    name: [u8; NAME],
    name_length: usize,
    has_odd_name: bool,
}

/// What the client says about itself with an OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    pub size: u16,
    pub version: u8,
    pub dnssec_ok: bool,
    /// Such as a cookie (RFC 7873), which is another one in each message.
    pub has_options: bool,
}

/// Why a message is not worked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Not a query at all; an answer might go round in circles.
    Silently,
    With {
        id: u16,
        flags: u16,
        code: ResponseCode,
    },
}

/// A name has at most 255 bytes on the wire (RFC 1035 §3.1).
const NAME: usize = 255;

impl<'a> Query<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self, Rejected> {
        let (Some(id), Some(flags)) = (number(message, 0), number(message, 2)) else {
            return Err(Rejected::Silently);
        };
        if message.len() < HEADER || flags & flags::RESPONSE != 0 {
            return Err(Rejected::Silently);
        }
        let reject = |code| Rejected::With { id, flags, code };
        if flags & flags::OPCODE != 0 {
            return Err(reject(ResponseCode::NotImp));
        }
        if number(message, 4) != Some(1) {
            return Err(reject(ResponseCode::FormErr));
        }
        Self::read(message, id, flags).ok_or(reject(ResponseCode::FormErr))
    }

    fn read(message: &'a [u8], id: u16, flags: u16) -> Option<Self> {
        let mut query = Query {
            id,
            flags,
            question: &[],
            kind: RecordType::ZERO,
            edns: None,
            name: [0; NAME],
            name_length: 0,
            has_odd_name: false,
        };
        let end = query.read_name(message)?;
        query.kind = RecordType::from(number(message, end)?);
        query.question = message.get(HEADER..end + 4)?;
        let mut at = end + 4;
        let records = (6..HEADER).step_by(2).map(|at| number(message, at).unwrap_or_default());
        let records: usize = records.map(usize::from).sum();
        for _ in 0..records {
            let record = Record::read(message, at)?;
            if record.kind == OPT && !query.take_options(message, at, &record) {
                return None;
            }
            at = record.end;
        }
        Some(query)
    }

    /// Nothing comes before the first name that it could point to, so it has to be spelt out.
    fn read_name(&mut self, message: &[u8]) -> Option<usize> {
        let mut at = HEADER;
        loop {
            let length = usize::from(*message.get(at)?);
            if length > 63 || at + 1 + length - HEADER > NAME {
                return None;
            }
            at += 1;
            if length == 0 {
                return Some(at);
            }
            if self.name_length > 0 {
                self.name[self.name_length] = b'.';
                self.name_length += 1;
            }
            for byte in message.get(at..at + length)? {
                self.has_odd_name |= *byte == b'.';
                self.name[self.name_length] = byte.to_ascii_lowercase();
                self.name_length += 1;
            }
            at += length;
        }
    }

    /// False if this is more than one OPT record, or not at the root (RFC 6891 §6.1.1).
    fn take_options(&mut self, message: &[u8], at: usize, record: &Record) -> bool {
        let edns = Edns {
            size: record.class,
            version: (record.ttl >> 16) as u8,
            dnssec_ok: record.ttl as u16 & flags::DNSSEC_OK != 0,
            has_options: record.data < record.end,
        };
        message.get(at) == Some(&0) && self.edns.replace(edns).is_none()
    }

    /// In lower case, without the last dot; `None` for one that no service could have.
    pub fn name(&self) -> Option<&str> {
        let name = std::str::from_utf8(&self.name[..self.name_length]).ok()?;
        (!self.has_odd_name).then_some(name)
    }

    pub(super) fn is_of_the_internet(&self) -> bool {
        number(self.question, self.question.len() - 2) == Some(INTERNET)
    }

    /// How many bytes the client takes.
    pub(super) fn limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => LARGEST_MESSAGE,
            (Transport::Udp, None) => PLAIN_DATAGRAM,
            (Transport::Udp, Some(edns)) => usize::from(edns.size).clamp(PLAIN_DATAGRAM, LARGEST_DATAGRAM),
        }
    }
}

/// The fixed part of a resource record, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: u16,
    class: u16,
    pub(super) ttl: u32,
    pub(super) ttl_at: usize,
    /// Where its data begins.
    data: usize,
    pub(super) end: usize,
}

pub(super) const OPT: u16 = 41;

impl Record {
    pub(super) fn read(message: &[u8], at: usize) -> Option<Self> {
        let at = skip_name(message, at)?;
        let length = usize::from(number(message, at + 8)?);
        let ttl = u32::from(number(message, at + 4)?) << 16 | u32::from(number(message, at + 6)?);
        let (data, end) = (at + 10, at + 10 + length);
        let record = Self {
            kind: number(message, at)?,
            class: number(message, at + 2)?,
            ttl,
            ttl_at: at + 4,
            data,
            end,
        };
        (end <= message.len()).then_some(record)
    }
}

/// Where the name that begins here ends. Pointers are not followed, so they cannot lead in circles.
pub(super) fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            64..=191 => return None,
            192..=255 => return Some(at + 2),
        }
    }
}

pub(super) fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?))
}

/// An answer as it is written. What does not fit is left out and noted (RFC 2181 §9).
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    transport: Transport,
    flags: u16,
    counts: [u16; 3],
    edns: Option<Edns>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

/// A pointer to the question's name.
const QUESTION: u16 = 0xC000 | HEADER as u16;
/// The name without labels.
const ROOT: &[u8] = &[0];
/// An OPT record without options.
pub(super) const OPTIONS: usize = 11;

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, query: &Query<'_>, transport: Transport) -> Self {
        out.clear();
        out.extend_from_slice(&query.id.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(query.question);
        let reserved = if query.edns.is_some() { OPTIONS } else { 0 };
        let limit = query.limit(transport) - reserved;
        Self { out, limit, transport, flags: reply_flags(query.flags), counts: [0; 3], edns: query.edns }
    }

    pub(super) fn address(&mut self, ttl: u32, address: Ipv4Addr) -> bool {
        self.record(Section::Answer, &QUESTION.to_be_bytes(), RecordType::A, ttl, |out| {
            out.extend_from_slice(&address.octets());
            Some(())
        })
        .is_some()
    }

    /// The address of a name that was written at `owner`, as far as there is room.
    pub(super) fn glue(&mut self, owner: usize, ttl: u32, address: Ipv4Addr) {
        // A pointer has 14 bits.
        if let Ok(owner @ 0..0x4000) = u16::try_from(owner) {
            self.record(Section::Additional, &(0xC000 | owner).to_be_bytes(), RecordType::A, ttl, |out| {
                out.extend_from_slice(&address.octets());
                Some(())
            });
        }
    }

    /// False if it is no name that DNS can express.
    pub(super) fn pointer(&mut self, ttl: u32, name: &[&str]) -> bool {
        self.record(Section::Answer, &QUESTION.to_be_bytes(), RecordType::PTR, ttl, |out| {
            write_name(out, name)
        })
        .is_some()
    }

    /// Where its target's name begins.
    pub(super) fn service(&mut self, ttl: u32, port: u16, target: &[&str]) -> Option<usize> {
        let rdata = self.record(Section::Answer, &QUESTION.to_be_bytes(), RecordType::SRV, ttl, |out| {
            // All are equally good: priority 0, weight 1.
            out.extend_from_slice(&[0, 0, 0, 1]);
            out.extend_from_slice(&port.to_be_bytes());
            write_name(out, target)
        })?;
        Some(rdata + 6)
    }

    /// Says how long "there is nothing of this kind" may be kept (RFC 2308 §5). The name is its own zone.
    pub(super) fn authority(&mut self, ttl: u32) {
        self.start_of_authority(&QUESTION.to_be_bytes(), ttl);
    }

    /// Says how long "there is no such name" may be kept. A name that is not there cannot be a zone, so the root is it:
    /// nothing else stands above a single label.
    pub(super) fn root_authority(&mut self, ttl: u32) {
        self.start_of_authority(ROOT, ttl);
    }

    fn start_of_authority(&mut self, zone: &[u8], ttl: u32) {
        self.record(Section::Authority, zone, RecordType::SOA, ttl, |out| {
            // The primary server, and nobody's mailbox.
            out.extend_from_slice(zone);
            out.extend_from_slice(ROOT);
            for number in [1, 3600, 600, 86_400, ttl] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            Some(())
        });
    }

    /// Asks the client to come back by TCP; one that has done so gets no more than fits there.
    pub(super) fn truncated(&mut self) {
        if self.transport == Transport::Udp {
            self.flags |= flags::TRUNCATED;
        }
    }

    pub(super) fn finish(self, code: ResponseCode) {
        let flags = self.flags | u16::from(code.low());
        let mut counts = self.counts;
        if let Some(edns) = self.edns {
            write_options(self.out, edns, code);
            counts[2] += 1;
        }
        self.out[2..4].copy_from_slice(&flags.to_be_bytes());
        for (at, count) in (6..).step_by(2).zip(counts) {
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }

    /// Where its data begins; nothing is written if it does not fit or cannot be expressed.
    fn record(
        &mut self,
        section: Section,
        owner: &[u8],
        kind: RecordType,
        ttl: u32,
        data: impl FnOnce(&mut Vec<u8>) -> Option<()>,
    ) -> Option<usize> {
        let before = self.out.len();
        self.out.extend_from_slice(owner);
        self.out.extend_from_slice(&u16::from(kind).to_be_bytes());
        self.out.extend_from_slice(&INTERNET.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&[0, 0]);
        let begin = self.out.len();
        let is_expressed = data(self.out).is_some();
        let length = u16::try_from(self.out.len() - begin).ok().filter(|_| self.out.len() <= self.limit);
        let (true, Some(length)) = (is_expressed, length) else {
            self.out.truncate(before);
            return None;
        };
        self.out[begin - 2..begin].copy_from_slice(&length.to_be_bytes());
        self.counts[section as usize] += 1;
        Some(begin)
    }
}

/// Nothing but a header, for a message whose question could not be read.
pub(super) fn write_rejection(out: &mut Vec<u8>, id: u16, flags: u16, code: ResponseCode) {
    let flags = reply_flags(flags) | u16::from(code.low());
    out.clear();
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
}

/// As Docker's resolver sets them: recursion is available, and nothing is authoritative.
fn reply_flags(query: u16) -> u16 {
    let echoed = flags::OPCODE | flags::RECURSION_DESIRED | flags::CHECKING_DISABLED;
    query & echoed | flags::RESPONSE | flags::RECURSION_AVAILABLE
}

pub(super) fn write_options(out: &mut Vec<u8>, client: Edns, code: ResponseCode) {
    out.push(0);
    out.extend_from_slice(&OPT.to_be_bytes());
    out.extend_from_slice(&(LARGEST_DATAGRAM as u16).to_be_bytes());
    // Version 0, whatever the client's.
    out.extend_from_slice(&[code.high(), 0]);
    let dnssec_ok = if client.dnssec_ok { flags::DNSSEC_OK } else { 0 };
    out.extend_from_slice(&dnssec_ok.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
}

/// The parts are joined by dots, and may have some.
fn write_name(out: &mut Vec<u8>, parts: &[&str]) -> Option<()> {
    let begin = out.len();
    for label in parts.iter().flat_map(|part| part.split('.')) {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    (out.len() - begin <= NAME).then_some(())
}
