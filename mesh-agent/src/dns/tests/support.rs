//! Queries as clients send them, and a name server to put questions to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::desired::Names;
use crate::desired::names::tests::swarm;

pub(super) fn names() -> Names {
    let (snapshot, local) = swarm();
    Names::from(&snapshot, &local)
}

pub(super) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub(super) fn with_edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

pub(super) fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| {
        let RData::A(A(address)) = &record.data else { return None };
        Some(*address)
    };
    message.answers.iter().filter_map(address).collect()
}

/// What a server does with a question.
#[derive(Clone, Debug)]
pub(super) enum Manner {
    /// These addresses, for this many seconds.
    Addresses(Vec<Ipv4Addr>, u32),
    Code(ResponseCode),
    /// There is no such name, and for this many seconds there will not be.
    Absent(u32),
    /// Says that UDP is not enough, and gives these addresses by TCP.
    ByTcp(Vec<Ipv4Addr>),
    /// As many addresses as this, whatever the client can take.
    Oversize(u8),
    /// First an answer with a wrong id and one to another question, then the right one.
    Forged(Ipv4Addr),
    Garbage,
    Silent,
    Late(Duration, Box<Manner>),
}

/// A name server on an address of its own; each is on the same port.
pub(super) struct FakeServer {
    pub(super) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    manner: Arc<Mutex<Manner>>,
    running: Vec<JoinHandle<()>>,
}

impl FakeServer {
    pub(super) async fn start(manner: Manner) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let manner = Arc::new(Mutex::new(manner));
        let running = vec![
            tokio::spawn(by_udp(udp, manner.clone(), asked.clone())),
            tokio::spawn(by_tcp(tcp, manner.clone())),
        ];
        Self { address, asked, manner, running }
    }

    /// How often it was asked by UDP.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    pub(super) fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
    }
}

async fn by_udp(socket: UdpSocket, manner: Arc<Mutex<Manner>>, asked: Arc<AtomicUsize>) {
    let socket = Arc::new(socket);
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        asked.fetch_add(1, SeqCst);
        let query = Message::from_vec(&buffer[..length]).unwrap();
        let (manner, socket) = (manner.lock().unwrap().clone(), socket.clone());
        tokio::spawn(async move {
            for reply in replies(&query, manner, false).await {
                let _ = socket.send_to(&reply, client).await;
            }
        });
    }
}

async fn by_tcp(listener: TcpListener, manner: Arc<Mutex<Manner>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let manner = manner.lock().unwrap().clone();
        let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut query).await.unwrap();
        for reply in replies(&Message::from_vec(&query).unwrap(), manner, true).await {
            stream.write_u16(reply.len() as u16).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    }
}

async fn replies(query: &Message, mut manner: Manner, by_tcp: bool) -> Vec<Vec<u8>> {
    while let Manner::Late(after, then) = manner {
        sleep(after).await;
        manner = *then;
    }
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.queries.clone_from(&query.queries);
    let name = query.queries[0].name.clone();
    let add = |reply: &mut Message, addresses: &[Ipv4Addr], ttl| {
        reply.add_answers(
            addresses.iter().map(|address| Record::from_rdata(name.clone(), ttl, RData::A(A(*address)))),
        );
    };
    match manner {
        Manner::Addresses(addresses, ttl) => add(&mut reply, &addresses, ttl),
        Manner::Code(code) => reply.metadata.response_code = code,
        Manner::Absent(seconds) => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            let root = Name::root();
            let soa = SOA::new(root.clone(), root.clone(), 1, 2, 3, 4, seconds);
            reply.add_authority(Record::from_rdata(root, 3600, RData::SOA(soa)));
        }
        Manner::ByTcp(addresses) if by_tcp => add(&mut reply, &addresses, 60),
        Manner::ByTcp(_) => reply.metadata.truncation = true,
        Manner::Oversize(count) => {
            let addresses: Vec<_> = (0..count).map(|last| Ipv4Addr::new(192, 0, 2, last)).collect();
            add(&mut reply, &addresses, 60);
        }
        Manner::Forged(address) => {
            let wrong = [Ipv4Addr::new(6, 6, 6, 6)];
            let mut wrong_id = reply.clone();
            wrong_id.metadata.id = !query.metadata.id;
            add(&mut wrong_id, &wrong, 60);
            let mut wrong_question = reply.clone();
            wrong_question.queries[0].query_type = RecordType::TXT;
            add(&mut wrong_question, &wrong, 60);
            add(&mut reply, &[address], 60);
            return [wrong_id, wrong_question, reply].iter().map(|reply| reply.to_vec().unwrap()).collect();
        }
        Manner::Garbage => return vec![vec![0xff; 40], Vec::new(), query.to_vec().unwrap()],
        Manner::Silent | Manner::Late(..) => return Vec::new(),
    }
    vec![reply.to_vec().unwrap()]
}
