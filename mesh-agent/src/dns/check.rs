//! `mesh-agent check`: asks as a task would, from inside its network namespace, and compares what it is told.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use mesh_common::asker::DOCKERS_RESOLVER;

use crate::node::namespaces;

/// What a container asks, and what it should be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub namespace: PathBuf,
    /// The asking container's name.
    pub asker: String,
    pub name: String,
    /// Any of these is right.
    pub expected: BTreeSet<Ipv4Addr>,
}

impl fmt::Display for Question {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} asks for {}", self.asker, self.name)
    }
}

/// Asks all questions; returns what is not as it should be. Blocks for a second at most for each that is not answered.
pub fn differences(questions: &[Question]) -> Vec<String> {
    let mut differences = Vec::new();
    for question in questions {
        match ask(question) {
            Ok(told) if !told.is_empty() && told.is_subset(&question.expected) => {}
            Ok(told) => {
                differences.push(format!("{question}: is told {told:?}, expected {:?}", question.expected));
            }
            Err(error) => differences.push(format!("{question}: {error}")),
        }
    }
    differences
}

/// The addresses that the asker is told, by a thread that goes to its namespace.
fn ask(question: &Question) -> io::Result<BTreeSet<Ipv4Addr>> {
    let (namespace, name) = (question.namespace.clone(), question.name.clone());
    let asker = thread::spawn(move || {
        namespaces::enter(&namespace).map_err(|error| io::Error::other(format!("{error:#}")))?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(&query(&name)?, (Ipv4Addr::from(DOCKERS_RESOLVER), 53))?;
        let mut reply = [0; 4096];
        let (length, _) = socket.recv_from(&mut reply)?;
        addresses(&reply[..length])
    });
    asker.join().map_err(|_| io::Error::other("the asker panicked"))?
}

fn query(name: &str) -> io::Result<Vec<u8>> {
    let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_utf8(name).map_err(io::Error::other)?, RecordType::A));
    message.to_vec().map_err(io::Error::other)
}

fn addresses(reply: &[u8]) -> io::Result<BTreeSet<Ipv4Addr>> {
    let message = Message::from_vec(reply).map_err(io::Error::other)?;
    let mut addresses = BTreeSet::new();
    for record in &message.answers {
        if let RData::A(address) = &record.data {
            addresses.insert(address.0);
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_nobody_answers_is_a_difference() {
        let question = Question {
            namespace: "/nonexistent/netns".into(),
            asker: "web.1".into(),
            name: "db".into(),
            expected: BTreeSet::from([Ipv4Addr::new(10, 0, 1, 2)]),
        };
        let differences = differences(&[question]);
        assert_eq!(differences.len(), 1);
        assert!(differences[0].starts_with("web.1 asks for db: "), "{differences:?}");
    }

    #[test]
    fn a_query_is_one_that_resolvers_understand() {
        let message = Message::from_vec(&query("db.shop").unwrap()).unwrap();
        assert_eq!(message.queries[0].name().to_utf8().trim_end_matches('.'), "db.shop");
        assert_eq!(addresses(&query("db").unwrap()).unwrap(), BTreeSet::new());
    }
}
