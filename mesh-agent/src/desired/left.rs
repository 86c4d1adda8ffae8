//! What stays Docker's own mesh's, and why.

use std::fmt;

use super::labels::Labels;
use super::{FrontendId, protocol_number};
use crate::firewall::Filtered;

/// What the operator wants of this node's mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// `--published=off`.
    pub leaves_published: bool,
    /// `--serve=labelled`.
    pub labelled_only: bool,
    /// The ingress network is encrypted, and `--tunnel-plaintext` is off.
    pub leaves_encrypted: bool,
    /// By operators' packet filters.
    pub filtered: Filtered,
}

/// Why a frontend is left to Docker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Disabled,
    Unlabelled,
    Published,
    Encrypted,
    Filtered,
}

impl fmt::Display for Left {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Disabled => "label mesh.enable=false",
            Self::Unlabelled => "--serve=labelled, and it has no label mesh.enable=true",
            Self::Published => "--published=off",
            Self::Encrypted => {
                "the ingress network is encrypted, the tunnel is not; --tunnel-plaintext=on serves it all the same"
            }
            Self::Filtered => "a firewall rule of this node, see its warnings",
        })
    }
}

impl Serving {
    /// Whether a frontend of a service with these labels is left, and why.
    pub(super) fn leaves(&self, labels: Labels, frontend: FrontendId) -> Option<Left> {
        match labels.enable {
            Some(false) => return Some(Left::Disabled),
            None if self.labelled_only => return Some(Left::Unlabelled),
            Some(true) | None => {}
        }
        let FrontendId::Published { port, protocol } = frontend else { return None };
        if self.leaves_published {
            Some(Left::Published)
        } else if self.leaves_encrypted {
            Some(Left::Encrypted)
        } else {
            self.filtered.contains((protocol_number(protocol), port)).then_some(Left::Filtered)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::snapshot::Protocol;

    const WEB: FrontendId = FrontendId::Published { port: 80, protocol: Protocol::Tcp };
    const VIP: FrontendId = FrontendId::Vip { network: 1, address: std::net::Ipv4Addr::new(10, 0, 1, 2) };

    fn labels(enable: Option<bool>) -> Labels {
        Labels { enable, ..Labels::default() }
    }

    #[test]
    fn labels_decide_about_ports_and_virtual_addresses() {
        let all = Serving::default();
        let labelled = Serving { labelled_only: true, ..Serving::default() };
        for frontend in [WEB, VIP] {
            assert_eq!(all.leaves(labels(None), frontend), None);
            assert_eq!(all.leaves(labels(Some(false)), frontend), Some(Left::Disabled));
            assert_eq!(labelled.leaves(labels(None), frontend), Some(Left::Unlabelled));
            assert_eq!(labelled.leaves(labels(Some(true)), frontend), None);
        }
    }

    #[test]
    fn what_concerns_published_ports_leaves_virtual_addresses_alone() {
        for (serving, why) in [
            (Serving { leaves_published: true, ..Serving::default() }, Left::Published),
            (Serving { leaves_encrypted: true, ..Serving::default() }, Left::Encrypted),
            (Serving { filtered: Filtered::All, ..Serving::default() }, Left::Filtered),
            (Serving { filtered: Filtered::These([(6, 80)].into()), ..Serving::default() }, Left::Filtered),
        ] {
            assert_eq!(serving.leaves(labels(None), WEB), Some(why));
            assert_eq!(serving.leaves(labels(Some(true)), VIP), None);
        }
        let other = Serving { filtered: Filtered::These([(17, 80)].into()), ..Serving::default() };
        assert_eq!(other.leaves(labels(None), WEB), None);
    }
}
