//! The resolver on real sockets: UDP, TCP, and what comes over them that should not.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::support::{addresses, query};
use crate::desired::Names;
use crate::desired::names::tests::swarm;
use crate::dns::resolver::{Resolver, ResolverSettings};
use crate::dns::server::serve;
use crate::swarm::snapshot::BridgeEndpoint;

struct Live {
    address: SocketAddrV4,
    resolver: Arc<Resolver>,
    names: watch::Sender<Arc<Names>>,
    serving: JoinHandle<()>,
}

impl Live {
    /// Whoever asks from 127.0.0.1 is the container of `app_web.1`.
    async fn start() -> Self {
        let address = free_address().await;
        let (snapshot, mut local) = swarm();
        let asker = BridgeEndpoint { address: Ipv4Addr::LOCALHOST, mac: [0; 6] };
        local.containers.get_mut("aaaaaaaaaaaaaaaa").unwrap().bridge = Some(asker);
        let (names, receiver) = watch::channel(Arc::new(Names::from(&snapshot, &local)));
        let settings = ResolverSettings { resolv_conf: "no-such-file".into(), workers: 2 };
        let resolver = Resolver::new(settings, receiver, None);
        let serving = serve(address, resolver.clone());
        let serving = tokio::spawn(async move { match serving.await {} });
        let live = Self { address, resolver, names, serving };
        while live.resolver.report().listening.is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        live
    }

    async fn by_udp(&self, message: &[u8]) -> Option<Message> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(message, self.address).await.unwrap();
        let mut buffer = [0; 4096];
        let (length, from) =
            timeout(Duration::from_millis(500), socket.recv_from(&mut buffer)).await.ok()?.unwrap();
        assert_eq!(from, self.address.into());
        Some(Message::from_vec(&buffer[..length]).unwrap())
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn serves(&self) {
        let answer = self.by_udp(&query("web", RecordType::A).to_vec().unwrap()).await.expect("an answer");
        assert_eq!(addresses(&answer), [Ipv4Addr::new(10, 0, 1, 5)]);
        let mut stream = self.connect().await;
        stream.write_all(&framed(&query("web", RecordType::A))).await.unwrap();
        assert_eq!(addresses(&answer_of(&mut stream).await), [Ipv4Addr::new(10, 0, 1, 5)]);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// With a port that no socket of another test is given meanwhile: Linux gives those from 32768 on.
async fn free_address() -> SocketAddrV4 {
    loop {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, fastrand::u16(10_000..30_000));
        if UdpSocket::bind(address).await.is_ok() && TcpListener::bind(address).await.is_ok() {
            return address;
        }
    }
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    [&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()
}

async fn answer_of(stream: &mut TcpStream) -> Message {
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_by_udp_and_tcp_and_follow_the_swarm() {
    let live = Live::start().await;
    live.serves().await;
    live.names.send_replace(Arc::new(Names::default()));
    let answer = live.by_udp(&query("web", RecordType::A).to_vec().unwrap()).await.unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "nobody is known here any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_queries_may_come_at_once_on_one_connection_in_any_pieces() {
    let live = Live::start().await;
    let mut stream = live.connect().await;
    let mut bytes = Vec::new();
    for id in 0..200 {
        let mut message = query(if id % 2 == 0 { "web" } else { "tasks.web" }, RecordType::A);
        message.metadata.id = id;
        bytes.extend_from_slice(&framed(&message));
    }
    let (mut reader, mut writer) = stream.split();
    let writing = async {
        for piece in bytes.chunks(7) {
            writer.write_all(piece).await.unwrap();
        }
    };
    let reading = async {
        for id in 0..200 {
            let mut answer = vec![0; usize::from(reader.read_u16().await.unwrap())];
            reader.read_exact(&mut answer).await.unwrap();
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!((answer.metadata.id, addresses(&answer).len()), (id, if id % 2 == 0 { 1 } else { 2 }));
        }
    };
    tokio::join!(writing, reading);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_stops_nothing() {
    let live = Live::start().await;
    let good = query("web", RecordType::A).to_vec().unwrap();
    let mut loops = good.clone();
    loops[12..14].copy_from_slice(&[0xC0, 12]);
    let mut none = good.clone();
    none[5] = 0;
    for message in [&[][..], &[0; 3], &[0xff; 512], &good[..20], &loops, &none, &vec![0xC0; 60_000]] {
        live.by_udp(message).await;
    }
    let mut large = live.connect().await;
    let mut garbage = vec![0xff; 2 + 65_535];
    fastrand::fill(&mut garbage[2..]);
    let _ = large.write_all(&garbage).await;
    let mut empty = live.connect().await;
    empty.write_all(&[0, 0]).await.unwrap();
    let mut half = live.connect().await;
    half.write_all(&[0xff, 0xff, 1]).await.unwrap();
    live.serves().await;
    let mut end = Vec::new();
    assert_eq!(empty.read_to_end(&mut end).await.unwrap(), 0, "who speaks no DNS is hung up on");
    assert!(live.resolver.report().ignored >= 3, "{:?}", live.resolver.report());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_take_all_connections() {
    let live = Live::start().await;
    let mut connections = Vec::new();
    for _ in 0..140 {
        connections.push(live.connect().await);
    }
    while live.resolver.report().turned_away < 12 {
        sleep(Duration::from_millis(5)).await;
    }
    drop(connections);
    sleep(Duration::from_millis(100)).await;
    live.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loops_turn_without_anything_to_do_and_are_not_alive_without_sockets() {
    let live = Live::start().await;
    sleep(Duration::from_millis(600)).await;
    let turn = live.resolver.last_turn().expect("it listens");
    assert!(turn.elapsed() < Duration::from_millis(400), "{:?}", turn.elapsed());
    live.serving.abort();
    let began = Instant::now();
    while live.resolver.last_turn().is_some() {
        assert!(began.elapsed() < Duration::from_secs(1));
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_tried_again_and_one_address_need_not_be_there_yet() {
    let live = Live::start().await;
    let other = Resolver::new(ResolverSettings::default(), live.names.subscribe(), None);
    let serving = serve(live.address, other.clone());
    let serving = tokio::spawn(async move { match serving.await {} });
    sleep(Duration::from_millis(200)).await;
    assert_eq!(other.report().listening, None);
    live.serving.abort();
    let began = Instant::now();
    while other.report().listening.is_none() {
        assert!(began.elapsed() < Duration::from_secs(5), "it never got the port");
        sleep(Duration::from_millis(20)).await;
    }
    serving.abort();

    let nobodys = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), live.address.port());
    let serving = serve(nobodys, other.clone());
    let serving = tokio::spawn(async move { match serving.await {} });
    while other.report().listening != Some(nobodys.to_string()) {
        assert!(began.elapsed() < Duration::from_secs(10), "an address that is nobody's cannot be waited at");
        sleep(Duration::from_millis(5)).await;
    }
    serving.abort();
}
