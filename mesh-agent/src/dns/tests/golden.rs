//! What Docker's resolver answers, bettered where the design says so: bytes in, bytes out.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::support::{addresses, names, query, with_edns};
use crate::desired::Names;
use crate::desired::names::tests::swarm;
use crate::dns::respond::{Circumstances, Response, respond};
use crate::dns::wire::Transport;

/// The containers of the Swarm of `testdata/swarm.json`, by their addresses on the bridge.
const WEB: u8 = 3;
const BOTH: u8 = 4;
const BY_HAND: u8 = 5;

/// `None` if another server has to be asked, or nothing is said.
fn exchange(
    names: &Names,
    asker: u8,
    message: &[u8],
    transport: Transport,
    rotation: usize,
) -> Option<Message> {
    let asker = Ipv4Addr::new(172, 18, 0, asker);
    let about = Circumstances { asker: asker.into(), transport, names, searches_first: false, rotation };
    let mut out = Vec::new();
    match respond(message, about, &mut out) {
        Response::Answered { code, .. } => {
            let answer = Message::from_vec(&out).expect("an answer that can be read");
            // BADVERS and BADSIG are the same number, and hickory reads the other.
            assert_eq!(u16::from(answer.metadata.response_code), u16::from(code));
            Some(answer)
        }
        Response::Elsewhere(_) | Response::Ignored => None,
    }
}

fn ask(asker: u8, name: &str, kind: RecordType) -> Option<Message> {
    let message = query(name, kind).to_vec().unwrap();
    let answer = exchange(&names(), asker, &message, Transport::Udp, 0);
    if let Some(answer) = &answer {
        assert_eq!(answer.metadata.id, 4711);
        assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
        assert!(!answer.metadata.authoritative && !answer.metadata.truncation);
    }
    answer
}

/// Code, last bytes of the addresses, and their TTL; `None` if the question is not ours.
type Outcome = Option<(ResponseCode, Vec<u8>, u32)>;

fn outcome(answer: Option<Message>) -> Outcome {
    let answer = answer?;
    let last = addresses(&answer).iter().map(|address| address.octets()[3]).collect();
    let record = answer.answers.first().or(answer.authorities.first());
    Some((answer.metadata.response_code, last, record.map_or(0, |record| record.ttl)))
}

fn a(asker: u8, name: &str) -> Outcome {
    outcome(ask(asker, name, RecordType::A))
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with outcomes")]
fn ok(last: &[u8], ttl: u32) -> Outcome {
    Some((ResponseCode::NoError, last.to_vec(), ttl))
}

#[test]
fn d1_a_service_has_its_virtual_address_under_all_of_its_names() {
    for name in ["web", "app_web", "web.", "WEB", "web.app_default", "App_Web.App_Default."] {
        assert_eq!(a(WEB, name), ok(&[5], 30), "{name}");
    }
    let answer = ask(WEB, "wEb", RecordType::A).unwrap();
    let as_asked = Name::from_ascii("wEb.").unwrap();
    assert!(answer.answers[0].name.eq_case(&as_asked) && answer.queries[0].name.eq_case(&as_asked));
}

#[test]
fn d2_the_tasks_of_a_service_come_in_turns() {
    let of = |name: &str, rotation| {
        let message = query(name, RecordType::A).to_vec().unwrap();
        outcome(exchange(&names(), WEB, &message, Transport::Udp, rotation))
    };
    for name in ["tasks.web", "tasks.app_web", "TASKS.web.app_default"] {
        assert_eq!(of(name, 0), ok(&[6, 7], 5), "{name}");
        assert_eq!(of(name, 1), ok(&[7, 6], 5), "{name}");
    }
}

#[test]
fn d3_a_name_without_an_ipv6_address_says_so_and_for_how_long() {
    let answer = ask(WEB, "web", RecordType::AAAA).unwrap();
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    let authority = &answer.authorities[0];
    let RData::SOA(soa) = &authority.data else { panic!("{authority}") };
    assert_eq!((authority.ttl, soa.minimum, authority.name.to_ascii()), (30, 30, "web.".into()));
}

#[test]
fn d4_d5_other_kinds_of_a_name_of_ours_are_empty_and_stay_here() {
    use RecordType::{ANY, CAA, HTTPS, MX, NS, PTR, SOA, SRV, SVCB, TXT};
    for kind in [MX, TXT, HTTPS, SVCB, SOA, NS, ANY, SRV, PTR, CAA] {
        assert_eq!(outcome(ask(WEB, "web", kind)), ok(&[], 30), "{kind}");
        assert_eq!(
            ask(WEB, "nosuch", kind),
            None,
            "{kind} of a name that is not ours is asked for elsewhere"
        );
    }
}

#[test]
fn d6_ports_are_found_by_label_and_by_name_with_their_addresses() {
    let answer = ask(WEB, "_http._tcp.web", RecordType::SRV).unwrap();
    let RData::SRV(srv) = &answer.answers[0].data else { panic!("{answer:?}") };
    assert_eq!((srv.port, srv.target.to_ascii().as_str()), (80, "app_web.app_default."));
    let glue = &answer.additionals[0];
    assert_eq!(glue.name, srv.target);
    assert_eq!(glue.data, RData::A(Ipv4Addr::new(10, 0, 1, 5).into()));
    assert_eq!(a(WEB, &srv.target.to_ascii()), ok(&[5], 30), "the target is a name of ours");

    let named = ask(WEB, "_METRICS._tcp.app_web.app_default", RecordType::SRV).unwrap();
    let RData::SRV(srv) = &named.answers[0].data else { panic!("{named:?}") };
    assert_eq!(srv.port, 9100);

    let of_tasks = ask(WEB, "_http._tcp.tasks.web", RecordType::SRV).unwrap();
    assert_eq!((of_tasks.answers.len(), of_tasks.additionals.len()), (2, 2));
    let of_dnsrr = ask(WEB, "_peer._tcp.rr", RecordType::SRV).unwrap();
    let target = |record: &Record| {
        let RData::SRV(srv) = &record.data else { return None };
        Some((srv.port, srv.target.to_ascii()))
    };
    let targets: Vec<_> = of_dnsrr.answers.iter().filter_map(target).collect();
    assert_eq!(
        targets,
        [(7000, "app_rr.1.r1.app_default.".into()), (7000, "app_rr.2.r2.app_default.".into())]
    );
}

#[test]
fn d6_ports_that_nobody_named_are_none() {
    for name in ["_ftp._tcp.web", "_http._udp.web", "_http._tcp.idle"] {
        let (code, addresses, _) = outcome(ask(WEB, name, RecordType::SRV)).unwrap();
        assert_eq!((code, addresses), (ResponseCode::NoError, vec![]), "{name}");
    }
    assert_eq!(outcome(ask(WEB, "_http._tcp.web", RecordType::TXT)), ok(&[], 30));
    for name in ["_http._icmp.web", "_http.web", "_http._tcp.nosuch", "_http._tcp."] {
        assert_eq!(ask(WEB, name, RecordType::SRV), None, "{name}");
    }
}

#[test]
fn d7_d8_addresses_of_tasks_and_services_have_names() {
    let pointer = |asker, name: &str| {
        let answer = ask(asker, name, RecordType::PTR)?;
        let RData::PTR(target) = &answer.answers[0].data else { panic!("{answer:?}") };
        Some((target.0.to_ascii(), answer.answers[0].ttl))
    };
    assert_eq!(pointer(WEB, "6.1.0.10.in-addr.arpa."), Some(("app_web.1.t1.app_default.".into(), 5)));
    assert_eq!(pointer(WEB, "5.1.0.10.IN-ADDR.arpa"), Some(("app_web.app_default.".into(), 30)));
    assert_eq!(pointer(WEB, "90.1.0.10.in-addr.arpa"), Some(("999999999999.app_default.".into(), 5)));
    assert_eq!(pointer(BY_HAND, "7.0.20.172.in-addr.arpa"), Some(("neighbour.compose_default.".into(), 5)));
    for elsewhere in [
        "60.2.0.10.in-addr.arpa",
        "8.8.8.8.in-addr.arpa",
        "1.0.10.in-addr.arpa",
        "256.1.0.10.in-addr.arpa",
        "5.1.0.10.in-addr.arpa.example",
        "b.a.ip6.arpa",
    ] {
        assert_eq!(ask(WEB, elsewhere, RecordType::PTR), None, "{elsewhere}");
    }
}

#[test]
fn b32_a_name_that_dns_cannot_express_is_a_failure() {
    let (mut snapshot, local) = swarm();
    snapshot.services.get_mut("web-id").unwrap().name = "w".repeat(64);
    let names = Names::from(&snapshot, &local);
    let message = query("5.1.0.10.in-addr.arpa", RecordType::PTR).to_vec().unwrap();
    let answer = exchange(&names, WEB, &message, Transport::Udp, 0).unwrap();
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::ServFail, 0));
}

#[test]
fn d9_a_task_has_its_containers_names() {
    for name in ["app_web.1.t1", "app_web.1.t1.app_default", "aaaaaaaaaaaa", "web-1"] {
        assert_eq!(a(WEB, name), ok(&[6], 5), "{name}");
    }
    assert_eq!(a(BY_HAND, "neighbour.compose_default"), ok(&[7], 5));
}

#[test]
fn d10_a_large_set_is_cut_short_over_udp_and_complete_over_tcp() {
    let (mut snapshot, local) = swarm();
    let one = snapshot.tasks["r1"].clone();
    for number in 100..138 {
        let mut task = one.clone();
        task.id = format!("many{number}");
        task.attachments[0].addresses = vec![Ipv4Addr::new(10, 0, 1, number)];
        snapshot.tasks.insert(task.id.clone(), task);
    }
    let names = Names::from(&snapshot, &local);
    let plain = query("tasks.rr.app_default", RecordType::A);
    let bytes = plain.to_vec().unwrap();
    let answer = exchange(&names, WEB, &bytes, Transport::Udp, 0).unwrap();
    assert!(answer.metadata.truncation);
    assert_eq!(answer.answers.len(), (512 - 12 - 26) / 16);
    let answer = exchange(&names, WEB, &bytes, Transport::Tcp, 0).unwrap();
    assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 40));

    let bytes = with_edns(plain.clone(), 4096).to_vec().unwrap();
    let answer = exchange(&names, WEB, &bytes, Transport::Udp, 0).unwrap();
    assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 40));
    let bytes = with_edns(plain, 600).to_vec().unwrap();
    let answer = exchange(&names, WEB, &bytes, Transport::Udp, 0).unwrap();
    assert_eq!((answer.metadata.truncation, answer.answers.len()), (true, (600 - 12 - 26 - 11) / 16));
    assert_eq!(answer.edns.unwrap().max_payload(), 1232);
}

#[test]
fn d11_networks_of_others_do_not_exist() {
    for (asker, name) in [(BY_HAND, "web"), (BY_HAND, "web.app_default"), (WEB, "back"), (WEB, "neighbour")] {
        assert_eq!(a(asker, name), None, "{name}");
    }
    assert_eq!(a(BY_HAND, "back"), ok(&[60], 30));
    assert_eq!(a(BY_HAND, "back.back.end"), ok(&[60], 30), "a network's name may have dots, and capitals");
}

#[test]
fn d12_a_service_without_tasks_keeps_its_name() {
    assert_eq!(a(WEB, "idle"), ok(&[20], 30));
    for name in ["tasks.idle", "norr", "tasks.norr"] {
        assert_eq!(a(WEB, name), ok(&[], 5), "{name}");
    }
}

#[test]
fn d13_who_searches_first_is_told_that_a_single_label_is_no_name() {
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = ask(BOTH, "nosuch", kind).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        let authority = &answer.authorities[0];
        let RData::SOA(soa) = &authority.data else { panic!("{authority}") };
        assert_eq!((authority.ttl, soa.minimum), (5, 5), "it may be kept, for a moment");
        assert!(authority.name.is_root(), "a name that is not there is no zone: {authority}");
    }
    assert_eq!(ask(BOTH, "nosuch.example", RecordType::A), None);
    assert_eq!(ask(BOTH, "nosuch", RecordType::TXT), None);
    assert_eq!(ask(WEB, "nosuch", RecordType::A), None, "as long as it does not search first");
    assert_eq!(a(BOTH, "both"), ok(&[50], 30));
}

#[test]
fn d17_the_first_network_that_has_a_name_has_the_say() {
    assert_eq!(a(BOTH, "db"), ok(&[30], 30));
    assert_eq!(addresses(&ask(BOTH, "db", RecordType::A).unwrap()), [Ipv4Addr::new(10, 0, 2, 30)]);
    assert_eq!(
        addresses(&ask(BOTH, "db.app_default", RecordType::A).unwrap()),
        [Ipv4Addr::new(10, 0, 1, 30)]
    );
}

#[test]
fn d18_two_stacks_with_the_same_alias_on_one_network_are_both_meant() {
    assert_eq!(a(WEB, "cache"), ok(&[41, 42], 30));
}

#[test]
fn d19_what_is_no_ordinary_question_is_refused_in_the_right_words() {
    let names = names();
    let code = |bytes: &[u8]| {
        exchange(&names, WEB, bytes, Transport::Udp, 0).map(|answer| answer.metadata.response_code)
    };
    let bytes = query("web", RecordType::A).to_vec().unwrap();
    for opcode in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut message = query("web", RecordType::A);
        message.metadata.op_code = opcode;
        assert_eq!(code(&message.to_vec().unwrap()), Some(ResponseCode::NotImp), "{opcode:?}");
    }
    let mut message = query("web", RecordType::A);
    message.queries[0].query_class = DNSClass::CH;
    assert_eq!(code(&message.to_vec().unwrap()), Some(ResponseCode::Refused));
    for count in [0, 2] {
        let mut bytes = bytes.clone();
        bytes[5] = count;
        assert_eq!(code(&bytes), Some(ResponseCode::FormErr), "{count} questions");
    }
    assert_eq!(code(&query("web", RecordType::AXFR).to_vec().unwrap()), Some(ResponseCode::Refused));
    assert_eq!(
        exchange(&names, 99, &bytes, Transport::Udp, 0).unwrap().metadata.response_code,
        ResponseCode::Refused,
        "a stranger"
    );
    let mut reply = bytes.clone();
    reply[2] |= 0x80;
    assert_eq!(code(&reply), None, "answering answers would never end");
    assert_eq!(code(&bytes[..11]), None);
}

#[test]
fn d20_edns_is_spoken() {
    let mut message = with_edns(query("web", RecordType::A), 1232);
    message.edns.as_mut().unwrap().set_dnssec_ok(true);
    let answer = exchange(&names(), WEB, &message.to_vec().unwrap(), Transport::Udp, 0).unwrap();
    let edns = answer.edns.as_ref().unwrap();
    assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1232, true));
    assert_eq!(addresses(&answer).len(), 1);
    assert!(ask(WEB, "web", RecordType::A).unwrap().edns.is_none(), "nobody who does not speak it hears it");

    message.edns.as_mut().unwrap().set_version(1);
    let bytes = message.to_vec().unwrap();
    let answer = exchange(&names(), WEB, &bytes, Transport::Udp, 0).unwrap();
    assert_eq!((u16::from(answer.metadata.response_code), answer.answers.len()), (16, 0));
    assert_eq!(answer.edns.unwrap().version(), 0);
}

#[test]
fn d20_unknown_options_and_flags_are_ignored() {
    let mut bytes = with_edns(query("web", RecordType::A), 1232).to_vec().unwrap();
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&[0, 6]);
    bytes.extend_from_slice(&[0xff, 0xf0, 0, 2, 1, 2]);
    bytes[end - 3] = 0x7f;
    let answer = exchange(&names(), WEB, &bytes, Transport::Udp, 0).unwrap();
    assert_eq!(addresses(&answer).len(), 1);
}

/// Whether the kernel may give the answer again.
fn is_lasting(message: &[u8]) -> bool {
    let names = names();
    let about = Circumstances {
        asker: Ipv4Addr::new(172, 18, 0, WEB).into(),
        transport: Transport::Udp,
        names: &names,
        searches_first: true,
        rotation: 0,
    };
    let response = respond(message, about, &mut Vec::new());
    matches!(response, Response::Answered { lasting: true, .. })
}

#[test]
fn what_does_not_vary_lasts() {
    let of = |name, kind| is_lasting(&query(name, kind).to_vec().unwrap());
    assert!(of("web", RecordType::A) && of("web", RecordType::AAAA) && of("web", RecordType::TXT));
    assert!(!of("tasks.web", RecordType::A), "several addresses take turns");
    assert!(!of("nosuch", RecordType::A), "that follows from the node's resolv.conf");
    assert!(!of("web", RecordType::AXFR), "a refusal is soon said again");

    let plain = with_edns(query("web", RecordType::A), 1232).to_vec().unwrap();
    assert!(is_lasting(&plain));
    let mut with_cookie = plain;
    let end = with_cookie.len();
    with_cookie[end - 2..].copy_from_slice(&[0, 12]);
    with_cookie.extend_from_slice(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(!is_lasting(&with_cookie), "nobody will send the same again");
}

#[test]
fn a_second_opt_record_is_a_mistake() {
    let mut bytes = with_edns(query("web", RecordType::A), 1232).to_vec().unwrap();
    let opt = bytes[bytes.len() - 11..].to_vec();
    bytes.extend_from_slice(&opt);
    bytes[11] = 2;
    let answer = exchange(&names(), WEB, &bytes, Transport::Udp, 0).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn malformed_queries_are_mistakes_and_nothing_else() {
    let names = names();
    let bytes = with_edns(query("web.app_default", RecordType::A), 1232).to_vec().unwrap();
    for length in 12..bytes.len() {
        let answer = exchange(&names, WEB, &bytes[..length], Transport::Udp, 0);
        let code = answer.map(|answer| answer.metadata.response_code);
        assert_eq!(code, Some(ResponseCode::FormErr), "the first {length} bytes");
    }
    let mut pointer = bytes.clone();
    pointer[12..14].copy_from_slice(&[0xC0, 12]);
    let mut long_label = bytes.clone();
    long_label[12] = 64;
    let labels = |count| [&bytes[..12], &[1, b'a'].repeat(count), &[0, 0, 1, 0, 1, 0][..]].concat();
    for message in [pointer, long_label, labels(128)] {
        let answer = exchange(&names, WEB, &message, Transport::Udp, 0).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    }
    let mut longest = labels(127);
    longest[11] = 0;
    assert_eq!(exchange(&names, WEB, &longest, Transport::Udp, 0), None, "the longest name is nobody's here");
}

#[test]
fn names_that_nobody_can_have_are_not_ours() {
    // One label with a dot in it is not the two labels of a service on a network.
    let mut bytes = query("web.app_default", RecordType::A).to_vec().unwrap();
    bytes[12] = 15;
    bytes[16] = b'.';
    assert_eq!(exchange(&names(), WEB, &bytes, Transport::Udp, 0), None);
    assert_eq!(a(WEB, "."), None);
    assert_eq!(a(WEB, "tasks."), None);
    assert_eq!(a(WEB, "app_default"), None);
}
