//! From the bytes of a query to the bytes of its answer. Pure.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::wire::{Query, Rejected, Transport, Writer, write_rejection};
use super::zone::{Resolution, resolve};
use crate::desired::Names;
use crate::desired::names::{Seat, TASK_TTL};

/// What became of a message.
#[derive(Debug)]
pub enum Response<'a> {
    /// The answer was written. A `lasting` one is what the same message from the same container gets for as long as the
    /// names are the same.
    Answered { kind: RecordType, code: ResponseCode, lasting: bool },
    /// Somebody else may know.
    Elsewhere(Box<Query<'a>>),
    /// No query; nothing to say.
    Ignored,
}

/// Everything about a query but its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Where it came from.
    pub asker: Seat,
    pub transport: Transport,
    pub names: &'a Names,
    /// Whether the node's `resolv.conf` has `ndots`.
    pub searches_first: bool,
    /// Which of several addresses comes first.
    pub rotation: usize,
}

/// Writes the answer to `message` into `out`, unless somebody else has to be asked.
pub fn respond<'a>(message: &'a [u8], about: Circumstances<'_>, out: &mut Vec<u8>) -> Response<'a> {
    out.clear();
    let query = match Query::parse(message) {
        Ok(query) => query,
        Err(Rejected::Silently) => return Response::Ignored,
        Err(Rejected::With { id, flags, code }) => {
            write_rejection(out, id, flags, code);
            return Response::Answered { kind: RecordType::ZERO, code, lasting: false };
        }
    };
    let kind = query.kind;
    let code = if query.edns.is_some_and(|edns| edns.version > 0) {
        ResponseCode::BADVERS
    } else if !query.is_of_the_internet() || matches!(kind, RecordType::AXFR | RecordType::IXFR) {
        ResponseCode::Refused
    } else {
        match about.names.askers().get(&about.asker) {
            None => ResponseCode::Refused,
            Some(asker) => {
                let resolution = match query.name() {
                    Some(name) => resolve(kind, name, asker, about.names, about.searches_first),
                    None => Resolution::NotOurs,
                };
                if resolution == Resolution::NotOurs {
                    return Response::Elsewhere(Box::new(query));
                }
                let is_usual = !query.edns.is_some_and(|edns| edns.has_options);
                let lasting = is_usual && is_lasting(&resolution);
                let code = write(&query, &resolution, about, out);
                return Response::Answered { kind, code, lasting };
            }
        }
    };
    Writer::new(out, &query, about.transport).finish(code);
    Response::Answered { kind, code, lasting: false }
}

/// What is said when nobody could be asked.
pub(super) fn fail(query: &Query<'_>, transport: Transport, out: &mut Vec<u8>) {
    Writer::new(out, query, transport).finish(ResponseCode::ServFail);
}

/// For how many seconds "there is no such name" may be kept. As long as a task's address: a service that is about to be
/// made has this name soon.
const ABSENCE_TTL: u32 = TASK_TTL;

/// Several records take turns, and what is said about names that are not ours depends on the node's `resolv.conf`.
fn is_lasting(resolution: &Resolution<'_>) -> bool {
    match resolution {
        Resolution::Addresses { addresses, .. } => addresses.len() == 1,
        Resolution::Pointer { .. } | Resolution::Empty { .. } => true,
        Resolution::Services { .. } | Resolution::NoSuchName | Resolution::NotOurs => false,
    }
}

fn write(
    query: &Query<'_>,
    resolution: &Resolution<'_>,
    about: Circumstances<'_>,
    out: &mut Vec<u8>,
) -> ResponseCode {
    let mut writer = Writer::new(out, query, about.transport);
    let code = match resolution {
        Resolution::Addresses { addresses, ttl } => {
            let (last, first) = addresses.split_at(about.rotation % addresses.len());
            if !first.iter().chain(last).all(|address| writer.address(*ttl, *address)) {
                writer.truncated();
            }
            ResponseCode::NoError
        }
        Resolution::Pointer { name, network, ttl } => {
            // Parts of a name may be too long for DNS (moby #46928).
            if writer.pointer(*ttl, &[name, network]) {
                ResponseCode::NoError
            } else {
                ResponseCode::ServFail
            }
        }
        Resolution::Services { ports, network, ttl } => {
            let first = about.rotation % ports.len();
            let ports = ports[first..].iter().chain(&ports[..first]);
            let mut glue = Vec::new();
            for port in ports {
                match writer.service(*ttl, port.port, &[&port.target, network]) {
                    Some(target) => glue.push((target, port.address)),
                    None => writer.truncated(),
                }
            }
            for (target, address) in glue {
                writer.glue(target, *ttl, address);
            }
            ResponseCode::NoError
        }
        Resolution::Empty { ttl } => {
            writer.authority(*ttl);
            ResponseCode::NoError
        }
        Resolution::NoSuchName | Resolution::NotOurs => {
            writer.root_authority(ABSENCE_TTL);
            ResponseCode::NXDomain
        }
    };
    writer.finish(code);
    code
}
