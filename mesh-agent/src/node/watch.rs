//! Following changes of interfaces and addresses.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::Connection;
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use tokio::sync::watch::Sender;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{NodeView, read};

/// Changes come in bursts; one look after each burst is enough, and before a long one is over.
const BURST: Duration = Duration::from_millis(10);
const LONG_BURST: Duration = Duration::from_millis(50);
/// Should a message be lost, this is how long it goes unnoticed.
const FULL_ROUND: Duration = Duration::from_secs(30);

/// Keeps `view` what the kernel says, for as long as the process lives.
pub async fn watch(view: &Sender<Option<Arc<NodeView>>>) -> Infallible {
    loop {
        let Err(error) = follow(view).await;
        warn!("this node's interfaces cannot be followed, trying again: {error:#}");
        sleep(Duration::from_secs(1)).await;
    }
}

/// Whether a message may change what the node's network looks like. Of routes, there may be as many as a router has, only those
/// to anywhere count.
fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    if let NetlinkPayload::InnerMessage(
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
    ) = &message.payload
    {
        route.header.destination_prefix_length == 0
    } else {
        true
    }
}

/// Gives a socket that hears of changes room for what many containers make when they start at once: the default was too small for
/// thirty.
pub fn enlarge(connection: &mut Connection<RouteNetlinkMessage>) {
    const BYTES: usize = 4 << 20;

    // Without the right to it things are as they were: what is lost is noticed, and read again.
    let _ = set_socket_recv_buffer_size_force(connection.socket_mut().socket_ref(), BYTES);
}

async fn follow(view: &Sender<Option<Arc<NodeView>>>) -> Result<Infallible> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
    let (mut connection, handle, mut messages) =
        new_multicast_connection(&groups).context("open a netlink socket")?;
    enlarge(&mut connection);
    let connection = tokio::spawn(connection);
    loop {
        let now = Arc::new(read(&handle).await?);
        view.send_if_modified(|known| {
            let differs = known.as_ref() != Some(&now);
            if differs {
                *known = Some(now);
            }
            differs
        });
        let next = async {
            loop {
                match messages.next().await {
                    Some((message, _)) if !matters(&message) => {}
                    next => break next,
                }
            }
        };
        match timeout(FULL_ROUND, next).await {
            Ok(None) => {
                connection.abort();
                anyhow::bail!("the netlink socket was closed");
            }
            Ok(Some(_)) => {
                let rest = async { while let Ok(Some(_)) = timeout(BURST, messages.next()).await {} };
                // That the time is over is as good an end.
                let _ = timeout(LONG_BURST, rest).await;
            }
            Err(_) => {}
        }
    }
}
