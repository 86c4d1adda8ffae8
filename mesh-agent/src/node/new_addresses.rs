//! Addresses that come to this node, told before anything else is looked at.
//!
//! Clients of an address that has moved here, with keepalived for instance, do not wait: until the tables have it, Docker's rules get
//! their packets, and reset their connections. A look at all interfaces and a round of the core take a busy machine 100 ms.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::time::sleep;
use tracing::warn;

/// Calls `tell` with every IPv4 address but loopback's that an interface is given, for as long as the process lives. What is lost is
/// left to [`super::watch()`], which looks at all of them.
pub async fn watch_new_addresses(mut tell: impl FnMut(Ipv4Addr)) -> Infallible {
    loop {
        let Err(error) = follow(&mut tell).await;
        warn!("addresses that come to this node are served a moment later, trying again: {error:#}");
        sleep(Duration::from_secs(1)).await;
    }
}

async fn follow(tell: &mut impl FnMut(Ipv4Addr)) -> Result<Infallible> {
    let (connection, _handle, mut messages) =
        new_multicast_connection(&[MulticastGroup::Ipv4Ifaddr]).context("open a netlink socket")?;
    tokio::spawn(connection);
    while let Some((message, _)) = messages.next().await {
        if let Some(address) = brought(&message).filter(|address| !address.is_loopback()) {
            tell(address);
        }
    }
    bail!("the netlink socket was closed")
}

fn brought(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Ipv4Addr> {
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) = &message.payload else {
        return None;
    };
    let mut own = message.attributes.iter().filter_map(|attribute| {
        if let AddressAttribute::Local(IpAddr::V4(address)) = attribute { Some(*address) } else { None }
    });
    own.next()
}
