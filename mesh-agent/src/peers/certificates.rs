//! The certificates that Docker gave this node for its Swarm. Docker renews them; they are read anew when they change.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// The folder `certificates` of Docker's Swarm state.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    cached: Mutex<Option<(Stamps, Arc<Identity>)>>,
}

/// Who this node is in its Swarm, and the means to prove it.
#[derive(Debug)]
pub struct Identity {
    pub node_id: String,
    pub cluster_id: String,
    pub role: CertifiedRole,
    pub expires: SystemTime,
    pub(super) proof: Arc<CertifiedKey>,
    pub(super) roots: Arc<RootCertStore>,
}

/// The subject's organizational unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertifiedRole {
    Manager,
    Worker,
}

/// What a certificate says about its owner. As it stands there; nothing is proved yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) common_name: String,
    pub(super) organizational_unit: String,
    pub(super) organization: String,
}

#[derive(Debug, Error)]
pub enum CertificatesError {
    #[error("cannot read {}: {source}; is Docker's Swarm state at this path, and is this node in a Swarm?", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error(
        "{} is encrypted, because the Swarm is auto-locked; the agents of other nodes can be told about the Swarm only \
         after `docker swarm update --autolock=false`",
        path.display()
    )]
    Encrypted { path: PathBuf },
}

const ROOT: &str = "swarm-root-ca.crt";
const CERTIFICATE: &str = "swarm-node.crt";
const KEY: &str = "swarm-node.key";

impl Certificates {
    pub fn in_swarm_state(swarm_state: &Path) -> Self {
        Self { folder: swarm_state.join("certificates"), cached: Mutex::new(None) }
    }

    /// Reads the files again if they changed.
    pub fn identity(&self) -> Result<Arc<Identity>, CertificatesError> {
        let stamps = self.stamps()?;
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, identity)) = cached.as_ref()
            && *known == stamps
        {
            return Ok(identity.clone());
        }
        let identity = Arc::new(self.read()?);
        *cached = Some((stamps, identity.clone()));
        Ok(identity)
    }

    fn stamps(&self) -> Result<Stamps, CertificatesError> {
        let stamp = |name| {
            let path = self.folder.join(name);
            match std::fs::metadata(&path) {
                Ok(file) => Ok((file.mtime(), file.mtime_nsec(), file.len(), file.ino())),
                Err(source) => Err(CertificatesError::Unreadable { path, source }),
            }
        };
        Ok([stamp(ROOT)?, stamp(CERTIFICATE)?, stamp(KEY)?])
    }

    fn read(&self) -> Result<Identity, CertificatesError> {
        let path = self.folder.join(CERTIFICATE);
        let unusable = |reason: String| CertificatesError::Unusable { path: path.clone(), reason };
        let chain = certificates(&path)?;
        let leaf = parse(&chain[0]).map_err(unusable)?;
        let subject = Subject::of(leaf.subject());
        let role = subject
            .role()
            .ok_or_else(|| unusable(format!("{subject} is neither a manager nor a worker of a Swarm")))?;
        let expires = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or_default();
        let mut roots = RootCertStore::empty();
        let root_path = self.folder.join(ROOT);
        for root in certificates(&root_path)? {
            roots.add(root).map_err(|error| CertificatesError::Unusable {
                path: root_path.clone(),
                reason: error.to_string(),
            })?;
        }
        let proof = CertifiedKey::from_der(chain.clone(), self.key()?, &provider())
            .map_err(|error| unusable(format!("it does not go with {KEY}: {error}")))?;
        Ok(Identity {
            node_id: subject.common_name,
            cluster_id: subject.organization,
            role,
            expires: UNIX_EPOCH + Duration::from_secs(expires),
            proof: Arc::new(proof),
            roots: Arc::new(roots),
        })
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, CertificatesError> {
        let path = self.folder.join(KEY);
        let text = read(&path)?;
        if is_encrypted(&text) {
            return Err(CertificatesError::Encrypted { path });
        }
        PrivateKeyDer::from_pem_slice(without_headers(&text).as_bytes())
            .map_err(|error| CertificatesError::Unusable { path, reason: error.to_string() })
    }
}

/// When, how large and which file, of each of the three files.
type Stamps = [(i64, i64, u64, u64); 3];

impl Subject {
    pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        parse(certificate).ok().map(|certificate| Self::of(certificate.subject()))
    }

    pub(super) fn role(&self) -> Option<CertifiedRole> {
        match self.organizational_unit.as_str() {
            "swarm-manager" => Some(CertifiedRole::Manager),
            "swarm-worker" => Some(CertifiedRole::Worker),
            _ => None,
        }
    }

    fn of(name: &X509Name<'_>) -> Self {
        Self {
            common_name: text(name.iter_common_name().next()),
            organizational_unit: text(name.iter_organizational_unit().next()),
            organization: text(name.iter_organization().next()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "CN={:?} OU={:?} O={:?}",
            self.common_name, self.organizational_unit, self.organization
        )
    }
}

/// The one cryptography that both ends use.
pub(super) fn provider() -> CryptoProvider {
    ring::default_provider()
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let unusable = |reason: String| CertificatesError::Unusable { path: path.to_owned(), reason };
    let text = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("there is no certificate in it".into()));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<String, CertificatesError> {
    std::fs::read_to_string(path)
        .map_err(|source| CertificatesError::Unreadable { path: path.to_owned(), source })
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    X509Certificate::from_der(certificate)
        .map(|(_, certificate)| certificate)
        .map_err(|error| format!("it is not an X.509 certificate: {error}"))
}

fn text(attribute: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>) -> String {
    attribute.and_then(|attribute| attribute.as_str().ok()).unwrap_or_default().to_owned()
}

fn is_encrypted(pem: &str) -> bool {
    pem.lines()
        .any(|line| line.contains("ENCRYPTED PRIVATE KEY") || line.trim_end() == "Proc-Type: 4,ENCRYPTED")
}

/// Docker notes the version of the key that encrypts this one (`kek-version: 0`) in headers that other readers refuse.
fn without_headers(pem: &str) -> String {
    pem.lines().filter(|line| !line.contains(": ")).fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::authority::{Authority, Issue};

    #[test]
    fn an_identity_is_read_from_dockers_files() {
        let node = Authority::new("cluster-a").issue(&Issue::worker("node-1"));
        let identity = Certificates::in_swarm_state(node.path()).identity().unwrap();
        assert_eq!(identity.node_id, "node-1");
        assert_eq!(identity.cluster_id, "cluster-a");
        assert_eq!(identity.role, CertifiedRole::Worker);
        assert!(identity.expires > SystemTime::now());
    }

    #[test]
    fn headers_of_the_key_file_are_no_obstacle() {
        let node = Authority::new("cluster-a").issue(&Issue::worker("node-1"));
        let path = node.path().join("certificates").join(KEY);
        let pem = std::fs::read_to_string(&path).unwrap();
        assert!(pem.contains("kek-version: 0"), "the test's own authority writes keys as Docker does: {pem}");
        assert!(Certificates::in_swarm_state(node.path()).identity().is_ok());
        assert!(!without_headers(&pem).contains("kek-version"));
    }

    #[test]
    fn an_encrypted_key_says_what_to_do() {
        let node = Authority::new("cluster-a").issue(&Issue::worker("node-1"));
        let path = node.path().join("certificates").join(KEY);
        for header in ["Proc-Type: 4,ENCRYPTED\nkek-version: 3", "-----BEGIN ENCRYPTED PRIVATE KEY-----"] {
            std::fs::write(&path, format!("-----BEGIN EC PRIVATE KEY-----\n{header}\n\nAAAA\n")).unwrap();
            let error = Certificates::in_swarm_state(node.path()).identity().unwrap_err();
            assert!(matches!(error, CertificatesError::Encrypted { .. }), "{error}");
            assert!(error.to_string().contains("docker swarm update --autolock=false"), "{error}");
        }
    }

    #[test]
    fn renewed_files_are_read_again() {
        let authority = Authority::new("cluster-a");
        let node = authority.issue(&Issue::worker("node-1"));
        let certificates = Certificates::in_swarm_state(node.path());
        let before = certificates.identity().unwrap();
        assert!(
            Arc::ptr_eq(&before, &certificates.identity().unwrap()),
            "unchanged files are not read again"
        );
        authority.issue_into(node.path(), &Issue::manager("node-1"));
        assert_eq!(certificates.identity().unwrap().role, CertifiedRole::Manager);
    }

    #[test]
    fn what_is_missing_or_does_not_fit_is_named() {
        let authority = Authority::new("cluster-a");
        let (one, two) = (authority.issue(&Issue::worker("one")), authority.issue(&Issue::worker("two")));
        let key = |node: &tempfile::TempDir| node.path().join("certificates").join(KEY);
        std::fs::copy(key(&one), key(&two)).unwrap();
        let error = Certificates::in_swarm_state(two.path()).identity().unwrap_err().to_string();
        assert!(error.contains("swarm-node.crt") && error.contains("does not go with"), "{error}");
        std::fs::remove_file(key(&one)).unwrap();
        let error = Certificates::in_swarm_state(one.path()).identity().unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("swarm-node.key"), "{error}");
    }
}
