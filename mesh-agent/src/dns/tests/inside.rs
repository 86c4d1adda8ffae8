//! Answers inside a real network namespace.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::sync::watch;

use super::support::{addresses, query};
use crate::desired::Names;
use crate::desired::names::tests::swarm;
use crate::dns::inside::{Open, serve};
use crate::dns::resolver::{Resolver, ResolverSettings};
use crate::node::namespaces;

const NAME: &str = "0123456789ab";
const PORT: u16 = 4796;

/// A network namespace with nothing but its loopback interface.
fn namespace() -> File {
    let made = thread::spawn(|| {
        // SAFETY: only the calling thread changes its namespace.
        let made = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(made, 0, "this test takes the right to make namespaces");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        // SAFETY: the call has no arguments.
        let thread = unsafe { libc::gettid() };
        File::open(format!("/proc/self/task/{thread}/ns/net")).unwrap()
    });
    made.join().unwrap()
}

/// With a container that has no other way.
fn names() -> Names {
    let (mut snapshot, mut local) = swarm();
    let container = local.containers.get_mut("ffffffffffffffff").unwrap();
    container.bridge = None;
    container.details.as_mut().unwrap().sandbox = format!("/var/run/docker/netns/{NAME}");
    for id in container.addresses.keys() {
        snapshot.networks.get_mut(id).unwrap().internal = true;
    }
    Names::from(&snapshot, &local)
}

/// What is answered there by UDP, and the same by TCP.
fn ask(namespace: &Path, name: &str) -> Message {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let asker = thread::spawn(move || {
        namespaces::enter(&namespace).unwrap();
        let server = SocketAddr::from(([127, 0, 0, 11], PORT));
        let question = query(&name, RecordType::A).to_vec().unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        udp.connect(server).unwrap();
        udp.send(&question).unwrap();
        let mut buffer = [0; 4096];
        let length = udp.recv(&mut buffer).unwrap();
        let mut tcp = TcpStream::connect(server).unwrap();
        tcp.write_all(&[&(question.len() as u16).to_be_bytes(), &question[..]].concat()).unwrap();
        let mut again = vec![0; 2 + length];
        tcp.read_exact(&mut again).unwrap();
        let (udp, tcp) =
            (Message::from_vec(&buffer[..length]).unwrap(), Message::from_vec(&again[2..]).unwrap());
        assert_eq!((udp.metadata, addresses(&udp)), (tcp.metadata, addresses(&tcp)));
        udp
    });
    asker.join().unwrap()
}

/// Whether somebody listens there.
fn is_open(namespace: &Path) -> bool {
    let namespace = namespace.to_owned();
    let caller = thread::spawn(move || {
        namespaces::enter(&namespace).unwrap();
        TcpStream::connect(SocketAddr::from(([127, 0, 0, 11], PORT))).is_ok()
    });
    caller.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_way_out_is_answered_where_it_is_until_it_is_gone() {
    let file = namespace();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("netns")).unwrap();
    let path = folder.path().join("netns").join(NAME);
    std::os::unix::fs::symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), &path).unwrap();

    let (names_sender, receiver) = watch::channel(Arc::new(names()));
    let settings = ResolverSettings { resolv_conf: "no-such-file".into(), workers: 1 };
    let resolver = Resolver::new(settings, receiver, None);
    let (sender, mut open) = watch::channel(Open::default());
    let serving = tokio::spawn(serve(folder.path().to_owned(), PORT, resolver.clone(), sender));
    open.wait_for(|open| open.iter().any(|sandbox| sandbox.to_string() == NAME)).await.unwrap();

    assert_eq!(addresses(&ask(&path, "web")), [Ipv4Addr::new(10, 0, 1, 5)]);
    let elsewhere = ask(&path, "www.example");
    assert_eq!(elsewhere.metadata.response_code, ResponseCode::ServFail, "nobody else is asked for it");

    names_sender.send_replace(Arc::default());
    open.wait_for(|open| open.is_empty()).await.unwrap();
    assert!(!is_open(&path), "an open socket would keep the namespace alive");

    names_sender.send_replace(Arc::new(names()));
    open.wait_for(|open| !open.is_empty()).await.unwrap();
    serving.abort();
    open.wait_for(|open| open.is_empty()).await.ok();
    assert!(!is_open(&path));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_answered_inside_is_left_to_docker_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (_names, receiver) = watch::channel(Arc::new(names()));
    let settings = ResolverSettings { resolv_conf: "no-such-file".into(), workers: 1 };
    let resolver = Resolver::new(settings, receiver, None);
    let (sender, open) = watch::channel(Open::default());
    // There is no such namespace.
    let serving = tokio::spawn(serve(folder.path().to_owned(), PORT, resolver.clone(), sender));
    let why = loop {
        if let Some(why) = resolver.report().left_to_docker.get("both.n1.g1") {
            break why.clone();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert!(why.contains("4796") && why.contains("No such file"), "{why}");
    assert!(open.borrow().is_empty());
    serving.abort();
}
