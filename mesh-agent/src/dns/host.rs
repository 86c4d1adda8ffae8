//! The node's own name servers, from its `resolv.conf`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::asker::DOCKERS_RESOLVER;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

/// Where names are looked up that are nobody's in the Swarm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostServers {
    pub servers: Arc<[SocketAddr]>,
    /// Whether `options ndots:…` asks for the search domains to be tried before a name of one label is looked up.
    pub searches_first: bool,
}

const LOOK_EVERY: Duration = Duration::from_secs(2);

impl HostServers {
    /// What resolv.conf(5) describes; what is not understood does not count.
    pub fn parse(text: &str) -> Self {
        let mut servers = Vec::new();
        let mut searches_first = false;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().and_then(server)),
                Some("options") => {
                    let ndots = words.filter_map(|option| option.strip_prefix("ndots:")).next_back();
                    if let Some(ndots) = ndots {
                        searches_first = ndots.parse::<u32>().is_ok_and(|number| number > 0);
                    }
                }
                Some(_) | None => {}
            }
        }
        // Where the agent runs in a container on a network of its own, asking that one would end at the agent again.
        let dockers = IpAddr::V4(DOCKERS_RESOLVER.into());
        servers.retain(|server| server.ip() != dockers);
        Self { servers: servers.into(), searches_first }
    }
}

/// Publishes what `path` says, and what it says later. A file that is missing for a moment changes nothing.
pub(super) async fn follow(path: &Path, publish: &watch::Sender<HostServers>) {
    let mut is_told = false;
    loop {
        match tokio::fs::read_to_string(path).await {
            Ok(text) => {
                let servers = HostServers::parse(&text);
                let is_news = publish.send_if_modified(|current| {
                    let is_news = *current != servers;
                    *current = servers;
                    is_news
                });
                if is_news {
                    info!(servers = ?publish.borrow().servers, "names that are not the Swarm's are looked up");
                }
                is_told = false;
            }
            Err(error) if !is_told => {
                let path = path.display();
                warn!("{path} cannot be read, so the name servers of before stay in use: {error}");
                is_told = true;
            }
            Err(_) => {}
        }
        sleep(LOOK_EVERY).await;
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    let address = text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 53));
    // fe80::1%eth0: the interface is needed to reach it.
    address.or_else(|| format!("[{}]:53", numbered(text)?).parse().ok())
}

fn numbered(text: &str) -> Option<String> {
    let (address, interface) = text.split_once('%')?;
    if interface.parse::<u32>().is_ok() {
        return Some(text.to_owned());
    }
    let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).ok()?;
    Some(format!("{address}%{}", index.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_ndots_are_taken_in_order() {
        let text = "# made by hand\nsearch example.com\nnameserver 127.0.0.53\n  nameserver fd00::1 # second\n\
                    nameserver 127.0.0.11\nnameserver nonsense\nnameserver fe80::1%1\noptions edns0 ndots:2\n";
        let parsed = HostServers::parse(text);
        let servers = ["127.0.0.53:53", "[fd00::1]:53", "[fe80::1%1]:53"];
        let servers: Vec<SocketAddr> = servers.iter().map(|server| server.parse().unwrap()).collect();
        assert_eq!(*parsed.servers, servers[..]);
        assert!(parsed.searches_first);
        assert!(!HostServers::parse("options ndots:0").searches_first);
        assert_eq!(HostServers::parse(""), HostServers::default());
    }

    #[test]
    fn an_interface_is_found_by_its_name() {
        assert_eq!(server("fe80::1%lo"), "[fe80::1%1]:53".parse().ok());
        assert_eq!(server("fe80::1%no-such-interface"), None);
    }

    #[tokio::test]
    async fn a_changed_file_is_noticed_and_a_missing_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.0.0.1").unwrap();
        let (sender, mut receiver) = watch::channel(HostServers::default());
        let script = async {
            receiver.changed().await.unwrap();
            assert_eq!(*receiver.borrow_and_update().servers, ["10.0.0.1:53".parse().unwrap()]);
            std::fs::remove_file(&path).unwrap();
            sleep(Duration::from_millis(10)).await;
            std::fs::write(&path, "nameserver 10.0.0.2").unwrap();
            receiver.changed().await.unwrap();
            assert_eq!(*receiver.borrow().servers, ["10.0.0.2:53".parse().unwrap()]);
        };
        tokio::select! {
            () = script => {}
            () = follow(&path, &sender) => {}
        }
    }
}
