//! Names that are not the Swarm's: whom they are asked of, and whose word counts.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::support::{FakeServer, Manner, addresses, names, query, with_edns};
use crate::dns::host::HostServers;
use crate::dns::resolver::{Incoming, Resolver, ResolverSettings, Step};
use crate::dns::upstream::Limits;
use crate::dns::wire::Transport;

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// A container that names no servers of its own.
const ASKER: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 3);

fn resolver(servers: &[&FakeServer]) -> Arc<Resolver> {
    resolver_with(servers.iter().map(|server| server.address).collect(), Limits::default())
}

fn resolver_with(servers: Vec<SocketAddr>, limits: Limits) -> Arc<Resolver> {
    let (_, names) = watch::channel(Arc::new(names()));
    let resolver = Resolver::with_limits(ResolverSettings::default(), names, None, limits);
    resolver.set_host(HostServers { servers: servers.into(), searches_first: false });
    resolver
}

async fn ask(resolver: &Arc<Resolver>, message: &Message, transport: Transport) -> Message {
    ask_as(resolver, message, transport, ASKER).await
}

async fn ask_as(resolver: &Resolver, message: &Message, transport: Transport, asker: Ipv4Addr) -> Message {
    let bytes = message.to_vec().unwrap();
    let incoming = Incoming {
        message: &bytes,
        asker: asker.into(),
        transport,
        rotation: 0,
        version: None,
        began: Instant::now(),
    };
    let mut out = Vec::new();
    let answer = match resolver.start(incoming, &resolver.names(), &mut out) {
        Step::Done => out,
        Step::Ignored => panic!("a query was ignored"),
        Step::Later(later) => resolver.finish(later).await,
    };
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    answer
}

async fn example(resolver: &Arc<Resolver>) -> Message {
    ask(resolver, &query("example.com", RecordType::A), Transport::Udp).await
}

fn count(resolver: &Resolver, source: &str) -> u64 {
    resolver.report().queries.iter().filter(|row| row.source == source).map(|row| row.count).sum()
}

#[tokio::test]
async fn the_first_server_is_asked_and_the_others_are_spared() {
    let first = FakeServer::start(Manner::Addresses(vec![FIRST], 60)).await;
    let second = FakeServer::start(Manner::Addresses(vec![SECOND], 60)).await;
    let answer = example(&resolver(&[&first, &second])).await;
    assert_eq!(addresses(&answer), [FIRST]);
    assert!(answer.metadata.recursion_available);
    assert_eq!((first.asked(), second.asked()), (1, 0));
}

#[tokio::test]
async fn d15_a_server_that_cannot_say_is_followed_by_the_next_at_once() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let first = FakeServer::start(Manner::Code(code)).await;
        let second = FakeServer::start(Manner::Addresses(vec![SECOND], 60)).await;
        let began = Instant::now();
        assert_eq!(addresses(&example(&resolver(&[&first, &second])).await), [SECOND], "{code}");
        assert!(began.elapsed() < Duration::from_millis(500), "{code}: {:?}", began.elapsed());
        assert_eq!(first.asked(), 1);
    }
}

#[tokio::test]
async fn d15_a_silent_server_costs_a_moment_and_later_nothing() {
    let first = FakeServer::start(Manner::Silent).await;
    let second = FakeServer::start(Manner::Addresses(vec![SECOND], 0)).await;
    let resolver = resolver(&[&first, &second]);
    for _ in 0..2 {
        let began = Instant::now();
        assert_eq!(addresses(&example(&resolver).await), [SECOND]);
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
    // Both questions have to be given up before it counts as silent.
    sleep(Duration::from_millis(2300)).await;
    let asked = first.asked();
    assert_eq!(addresses(&example(&resolver).await), [SECOND]);
    assert_eq!(first.asked(), asked, "the other one is asked first, and answers");
    let rows = resolver.report().upstreams;
    assert_eq!(rows.iter().filter(|row| row.avoided && row.silent >= 2).count(), 1, "{rows:?}");
}

#[tokio::test]
async fn a_closed_port_is_followed_by_the_next_server_at_once() {
    let second = FakeServer::start(Manner::Addresses(vec![SECOND], 60)).await;
    let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let resolver = resolver_with(vec![closed, second.address], Limits::default());
    let began = Instant::now();
    assert_eq!(addresses(&example(&resolver).await), [SECOND]);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn b30_when_no_server_can_say_the_failure_is_passed_on() {
    let first = FakeServer::start(Manner::Code(ResponseCode::Refused)).await;
    let second = FakeServer::start(Manner::Code(ResponseCode::ServFail)).await;
    let answer = example(&resolver(&[&first, &second])).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!((first.asked(), second.asked()), (1, 1), "there is no sense in asking again");
}

#[tokio::test]
async fn b12_without_any_server_there_is_a_failure_at_once() {
    let answer = example(&resolver(&[])).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn d16_an_absence_is_passed_on_with_its_authority_and_kept() {
    let server = FakeServer::start(Manner::Absent(60)).await;
    let resolver = resolver(&[&server]);
    for source in ["upstream", "cache"] {
        let answer = example(&resolver).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.authorities.len(), 1);
        assert_eq!(count(&resolver, source), 1, "{source}");
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn an_absence_counts_only_once_the_servers_before_have_had_their_say() {
    let address = Manner::Addresses(vec![FIRST], 60);
    let first = FakeServer::start(Manner::Late(Duration::from_millis(300), Box::new(address))).await;
    let second = FakeServer::start(Manner::Absent(60)).await;
    assert_eq!(addresses(&example(&resolver(&[&first, &second])).await), [FIRST]);
    assert_eq!(second.asked(), 1);
    first.behave(Manner::Code(ResponseCode::ServFail));
    let answer = ask(&resolver(&[&first, &second]), &query("b.example", RecordType::A), Transport::Udp).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_slow_server_is_overtaken() {
    let slow = Manner::Late(Duration::from_millis(800), Box::new(Manner::Addresses(vec![FIRST], 60)));
    let first = FakeServer::start(slow).await;
    let second = FakeServer::start(Manner::Addresses(vec![SECOND], 60)).await;
    let began = Instant::now();
    assert_eq!(addresses(&example(&resolver(&[&first, &second])).await), [SECOND]);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_question_that_got_lost_is_repeated() {
    let server = FakeServer::start(Manner::Silent).await;
    let resolver = resolver(&[&server]);
    let mending = async {
        sleep(Duration::from_millis(500)).await;
        server.behave(Manner::Addresses(vec![FIRST], 60));
    };
    let (answer, ()) = tokio::join!(example(&resolver), mending);
    assert_eq!((addresses(&answer), server.asked()), (vec![FIRST], 2));
}

#[tokio::test]
async fn forged_replies_and_garbage_are_passed_over() {
    let server = FakeServer::start(Manner::Forged(FIRST)).await;
    assert_eq!(addresses(&example(&resolver(&[&server])).await), [FIRST]);
    let first = FakeServer::start(Manner::Garbage).await;
    let second = FakeServer::start(Manner::Addresses(vec![SECOND], 60)).await;
    assert_eq!(addresses(&example(&resolver(&[&first, &second])).await), [SECOND]);
}

#[tokio::test]
async fn a_reply_that_needs_tcp_is_fetched_by_tcp_and_cut_for_who_cannot_take_it() {
    let many: Vec<_> = (0..100).map(|last| Ipv4Addr::new(192, 0, 2, last)).collect();
    let server = FakeServer::start(Manner::ByTcp(many.clone())).await;
    let resolver = resolver(&[&server]);
    let message = query("example.com", RecordType::A);
    let answer = ask(&resolver, &message, Transport::Udp).await;
    assert!(answer.metadata.truncation);
    assert_eq!(addresses(&answer), many[..(512 - 12 - 17) / 16]);
    let answer = ask(&resolver, &message, Transport::Tcp).await;
    assert_eq!((answer.metadata.truncation, addresses(&answer)), (false, many));
    assert_eq!(server.asked(), 1, "the whole reply was kept");
}

#[tokio::test]
async fn b29_a_server_that_sends_more_than_it_may_is_understood() {
    let server = FakeServer::start(Manner::Oversize(60)).await;
    let resolver = resolver(&[&server]);
    let message = with_edns(query("example.com", RecordType::A), 1232);
    let answer = ask(&resolver, &message, Transport::Udp).await;
    assert_eq!((answer.metadata.truncation, addresses(&answer).len()), (false, 60));
    let answer = ask(&resolver, &query("example.com", RecordType::A), Transport::Udp).await;
    assert_eq!((answer.metadata.truncation, addresses(&answer).len()), (true, (512 - 12 - 17) / 16));
}

#[tokio::test]
async fn a_reply_is_kept_for_its_ttl_and_grows_older() {
    let server = FakeServer::start(Manner::Addresses(vec![FIRST], 2)).await;
    let resolver = resolver(&[&server]);
    assert_eq!(example(&resolver).await.answers[0].ttl, 2);
    sleep(Duration::from_millis(1100)).await;
    let mut again = query("EXAMPLE.com.", RecordType::A);
    again.metadata.id = 99;
    let answer = ask(&resolver, &again, Transport::Udp).await;
    assert_eq!(answer.answers[0].ttl, 1);
    assert!(answer.queries[0].name.eq_case(&again.queries[0].name), "spelt as it was asked");
    sleep(Duration::from_secs(1)).await;
    example(&resolver).await;
    assert_eq!((server.asked(), count(&resolver, "cache")), (2, 1));
}

#[tokio::test]
async fn the_same_question_of_many_is_put_once() {
    let address = Manner::Addresses(vec![FIRST], 0);
    let server = FakeServer::start(Manner::Late(Duration::from_millis(50), Box::new(address))).await;
    let resolver = resolver(&[&server]);
    let answers = futures::future::join_all((0..50).map(|_| example(&resolver))).await;
    assert!(answers.iter().all(|answer| addresses(answer) == [FIRST]));
    assert_eq!(server.asked(), 1);
    assert_eq!(resolver.report().in_flight, 0);
}

#[tokio::test]
async fn what_is_too_much_fails_at_once_and_is_counted() {
    let server = FakeServer::start(Manner::Silent).await;
    let limits = Limits { exchanges: 1, waiting: 3, waiting_of_one: 2, ..Limits::default() };
    let resolver = resolver_with(vec![server.address], limits);
    let _first = ask_in_background(&resolver, "a.example", ASKER);
    let _second = ask_in_background(&resolver, "a.example", ASKER);
    sleep(Duration::from_millis(50)).await;
    let other = Ipv4Addr::new(172, 18, 0, 4);
    for (name, asker) in [("a.example", ASKER), ("b.example", other)] {
        let message = query(name, RecordType::A);
        let asking = ask_as(&resolver, &message, Transport::Udp, asker);
        let answer = timeout(Duration::from_millis(500), asking).await.expect("an answer at once");
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!((resolver.report().overload, resolver.report().in_flight), (2, 2));
}

fn ask_in_background(
    resolver: &Arc<Resolver>,
    name: &str,
    asker: Ipv4Addr,
) -> tokio::task::JoinHandle<Message> {
    let (resolver, message) = (resolver.clone(), query(name, RecordType::A));
    tokio::spawn(async move { ask_as(&resolver, &message, Transport::Udp, asker).await })
}

#[tokio::test]
async fn names_of_the_swarm_are_never_asked_for_elsewhere() {
    let server = FakeServer::start(Manner::Addresses(vec![FIRST], 60)).await;
    let resolver = resolver(&[&server]);
    for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::HTTPS, RecordType::ANY] {
        let answer = ask(&resolver, &query("web", kind), Transport::Udp).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{kind}");
    }
    assert_eq!((server.asked(), count(&resolver, "local")), (0, 5));
}

#[tokio::test]
async fn edns_and_its_absence_are_not_mixed_up() {
    let server = FakeServer::start(Manner::Addresses(vec![FIRST], 60)).await;
    let resolver = resolver(&[&server]);
    example(&resolver).await;
    ask(&resolver, &with_edns(query("example.com", RecordType::A), 1232), Transport::Udp).await;
    assert_eq!(server.asked(), 2);
}
