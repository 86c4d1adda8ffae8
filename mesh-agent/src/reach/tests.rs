//! What the tests of this folder share.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::{Allowlist, Findings, SharedAllowlist};

/// Allowlist that let everybody through, and know whom.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowed(Arc<Mutex<BTreeSet<u64>>>);

impl Allowed {
    pub(super) fn allowlist(&self) -> SharedAllowlist {
        Arc::new(self.clone())
    }

    pub(super) fn cookies(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().copied().collect()
    }
}

impl Allowlist for Allowed {
    fn allow(&self, cookie: u64) {
        assert!(self.0.lock().unwrap().insert(cookie), "twice");
    }

    fn revoke(&self, cookie: u64) {
        assert!(self.0.lock().unwrap().remove(&cookie), "it was not allowed");
    }
}

#[test]
fn an_interface_is_news_once() {
    let (pulses, _) = watch::channel(Arc::default());
    let (paths, mut news) = watch::channel(Arc::default());
    let findings = Findings { pulses, paths };
    let node = Ipv4Addr::new(10, 99, 0, 2);
    let is_news = |interface: Option<u32>, news: &mut watch::Receiver<_>| {
        findings.hear(node, interface);
        let changed = news.has_changed().unwrap();
        news.mark_unchanged();
        changed
    };
    assert!(!is_news(None, &mut news));
    assert!(is_news(Some(2), &mut news));
    assert!(!is_news(Some(2), &mut news));
    assert!(is_news(Some(3), &mut news));
    assert_eq!(findings.paths.borrow()[&node].interfaces, BTreeSet::from([2, 3]));
}

#[test]
fn what_gets_to_a_node_is_news_when_it_changes() {
    let (pulses, _) = watch::channel(Arc::default());
    let (paths, mut news) = watch::channel(Arc::default());
    let findings = Findings { pulses, paths };
    let node = Ipv4Addr::new(10, 99, 0, 2);
    findings.hear(node, Some(2));
    news.mark_unchanged();
    for (narrow, is_news) in [(None, false), (Some(1_400), true), (Some(1_400), false), (None, true)] {
        findings.measured(node, 1_500, narrow);
        assert_eq!(news.has_changed().unwrap(), is_news, "{narrow:?}");
        news.mark_unchanged();
        assert_eq!(findings.narrow(node), narrow);
    }
    assert_eq!(findings.paths.borrow()[&node].interfaces, BTreeSet::from([2]));
}
