//! A Swarm's certificate authority, and nodes' folders as Docker fills them.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

pub(crate) struct Authority {
    cluster_id: String,
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate says.
#[derive(Clone)]
pub(crate) struct Issue {
    pub(crate) node_id: String,
    pub(crate) unit: String,
    /// Another cluster's id than the authority's own.
    pub(crate) cluster_id: Option<String>,
    pub(crate) is_expired: bool,
}

impl Issue {
    pub(crate) fn manager(node_id: &str) -> Self {
        Self { node_id: node_id.into(), unit: "swarm-manager".into(), cluster_id: None, is_expired: false }
    }

    pub(crate) fn worker(node_id: &str) -> Self {
        Self { unit: "swarm-worker".into(), ..Self::manager(node_id) }
    }
}

impl Authority {
    pub(crate) fn new(cluster_id: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "swarm-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = params.self_signed(&key).unwrap().pem();
        Self { cluster_id: cluster_id.into(), root_pem, issuer: Issuer::new(params, key) }
    }

    /// The folder of a new node's Swarm state.
    pub(crate) fn issue(&self, issue: &Issue) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        self.issue_into(folder.path(), issue);
        folder
    }

    /// As Docker renews: new files in the place of the old ones.
    pub(crate) fn issue_into(&self, swarm_state: &Path, issue: &Issue) {
        let key = KeyPair::generate().unwrap();
        let names = vec![issue.unit.clone(), issue.node_id.clone()];
        let mut params = CertificateParams::new(names).unwrap();
        let organization = issue.cluster_id.as_ref().unwrap_or(&self.cluster_id);
        params.distinguished_name.push(DnType::CommonName, issue.node_id.as_str());
        params.distinguished_name.push(DnType::OrganizationalUnitName, issue.unit.as_str());
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(90);
        params.not_after = if issue.is_expired { now - Duration::hours(1) } else { now + Duration::days(90) };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // Docker writes the version of the encrypting key above an unencrypted one too.
        let key_pem = key.serialize_pem().replacen("KEY-----\n", "KEY-----\nkek-version: 0\n\n", 1);
        let folder = swarm_state.join("certificates");
        std::fs::create_dir_all(&folder).unwrap();
        replace(&folder, "swarm-root-ca.crt", &self.root_pem);
        replace(&folder, "swarm-node.crt", &certificate.pem());
        replace(&folder, "swarm-node.key", &key_pem);
    }
}

fn replace(folder: &Path, name: &str, text: &str) {
    let draft = folder.join("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, folder.join(name)).unwrap();
}
