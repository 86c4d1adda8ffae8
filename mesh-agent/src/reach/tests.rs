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
    let (heard, mut news) = watch::channel(Arc::default());
    let findings = Findings { pulses, heard };
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
    assert_eq!(findings.heard.borrow()[&node], BTreeSet::from([2, 3]));
}
