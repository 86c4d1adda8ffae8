//! Asking one node's dataplane how large packets get there.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use mesh_common::tunnel;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use super::SharedAllowlist;
use super::question::{self, Way, answer_flag};
use super::size::{Answered, PathSize};
use super::socket::{Errors, ProbeSocket};

/// The largest question that dataplanes answer, as an IP packet.
const LARGEST: u16 = (tunnel::OVERHEAD + tunnel::MOST_PROBE_PAYLOAD) as u16;
/// How long answers are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same once the small question's has come, which was the last one.
const GRACE: Duration = Duration::from_millis(250);

/// Asks `node` for as long as this runs, and tells after each time what gets there if that is less than `full` bytes.
pub(super) async fn measure(
    way: Way,
    node: Ipv4Addr,
    full: u16,
    narrow: Option<u16>,
    allowlist: SharedAllowlist,
    tell: impl Fn(Option<u16>),
) {
    // Nobody answers more.
    let mut size = PathSize::new(full.min(LARGEST), narrow);
    loop {
        let answered = ask(way, node, &size.questions(), &allowlist).await.unwrap_or_else(|error| {
            debug!(%node, "cannot ask how large packets get there: {error}");
            Answered::default()
        });
        size.learn(answered);
        tell(size.narrow());
        sleep(size.pause(answered)).await;
    }
}

/// One question of each size, then a small one: whose answer comes though theirs do not, was not lost with them.
async fn ask(way: Way, node: Ipv4Addr, sizes: &[u16], allowlist: &SharedAllowlist) -> io::Result<Answered> {
    let socket = ProbeSocket::open(way.from, SocketAddrV4::new(node, way.tunnel_port), allowlist).await?;
    socket.forbid_fragments()?;
    let mut asked = BTreeMap::new();
    for size in sizes {
        let question = question::of_size(&way, fastrand::u64(..), *size);
        // The kernel may know already that it is too large, or report what became of the one before.
        if socket.send(&question).await.is_ok() {
            asked.insert(*size, question);
        }
    }
    let small = question::small(&way, fastrand::u64(..));
    if socket.send(&small).await.is_err() {
        socket.send(&small).await?;
    }
    let mut answered = Answered::default();
    let mut errors = Errors::default();
    let mut until = Instant::now() + PATIENCE;
    let mut answer = [0; question::COMPARED];
    while let Ok(received) = timeout_at(until, socket.receive(&mut answer)).await {
        let answer = match received {
            Ok(received) => &answer[..received.length],
            Err(error) => {
                errors.add(error)?;
                continue;
            }
        };
        if answer_flag(&small, answer).is_some() {
            answered.small = true;
            until = until.min(Instant::now() + GRACE);
        }
        let of_size = asked.iter().find(|(_, question)| answer_flag(question, answer).is_some());
        answered.largest = answered.largest.max(of_size.map(|(size, _)| *size));
        if answered.largest == sizes.first().copied() {
            break;
        }
    }
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;
    use crate::reach::tests::Allowed;

    /// A dataplane behind a path that takes IP packets of so many bytes.
    async fn behind(path: u16, sizes: &[u16]) -> Answered {
        let dataplane = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let tunnel_port = dataplane.local_addr().unwrap().port();
        let way = Way { from: Ipv4Addr::LOCALHOST, tunnel_port, vni: 7 };
        let allowed = Allowed::default();
        let answer = async {
            let mut buffer = [0; 10_000];
            loop {
                let (length, from) = dataplane.recv_from(&mut buffer).await.unwrap();
                if length + 28 <= usize::from(path) {
                    dataplane.send_to(&buffer[..length], from).await.unwrap();
                }
            }
        };
        let allowlist = allowed.allowlist();
        let answered = tokio::select! {
            () = answer => unreachable!("it goes on for ever"),
            answered = ask(way, Ipv4Addr::LOCALHOST, sizes, &allowlist) => answered.unwrap(),
        };
        assert!(allowed.cookies().is_empty());
        answered
    }

    #[tokio::test]
    async fn the_largest_that_is_answered_is_found() {
        let sizes = [9_000, 1_500, 1_400, 576];
        for (path, largest) in [(9_000, Some(9_000)), (1_499, Some(1_400)), (576, Some(576))] {
            assert_eq!(behind(path, &sizes).await.largest, largest, "{path}");
        }
        assert_eq!(behind(100, &sizes).await, Answered { small: true, largest: None });
        assert_eq!(behind(0, &sizes).await, Answered::default());
    }
}
