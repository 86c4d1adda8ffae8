//! TLS both ways with the Swarm's certificates, and what went wrong in words.
//!
//! The chain of trust, validity and names are rustls's business. Added here: the certificate must be of our cluster
//! (its organization), and the server's of a manager, a client's of a manager or a worker (its organizational unit).

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificates::{CertifiedRole, Identity, Subject, provider};

/// What every manager's certificate names, so that a worker cannot pose as one.
pub(crate) const MANAGER: &str = "swarm-manager";

/// What the other end of one connection showed, and our own reason to refuse it. rustls tells neither after a failure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witness(Arc<Mutex<Testimony>>);

#[derive(Debug, Default)]
struct Testimony {
    subject: Option<Subject>,
    refusal: Option<String>,
}

/// For one connection.
pub(crate) fn server_config(identity: &Identity, witness: Witness) -> Result<ServerConfig, String> {
    let text = |error: &dyn Error| error.to_string();
    let provider = Arc::new(provider());
    let inner = WebPkiClientVerifier::builder_with_provider(identity.roots.clone(), provider.clone())
        .build()
        .map_err(|error| text(&error))?;
    let verifier = AnyNode { inner, cluster_id: identity.cluster_id.clone(), witness };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.proof.clone())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// For one connection.
pub(crate) fn client_config(identity: &Identity, witness: Witness) -> Result<ClientConfig, String> {
    let text = |error: &dyn Error| error.to_string();
    let provider = Arc::new(provider());
    let inner = WebPkiServerVerifier::builder_with_provider(identity.roots.clone(), provider.clone())
        .build()
        .map_err(|error| text(&error))?;
    let verifier = OnlyManagers { inner, cluster_id: identity.cluster_id.clone(), witness };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.proof.clone())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

impl Witness {
    pub(super) fn subject(&self) -> Option<Subject> {
        self.lock().subject.clone()
    }

    /// Why a handshake failed, with who the other end claims to be.
    pub(crate) fn explain(&self, error: &io::Error) -> String {
        let testimony = self.lock();
        let reason = testimony.refusal.clone().unwrap_or_else(|| in_words(error));
        match &testimony.subject {
            Some(subject) => format!("{reason} ({subject})"),
            None => reason,
        }
    }

    fn saw(&self, certificate: &CertificateDer<'_>) -> Subject {
        let subject = Subject::of_certificate(certificate);
        self.lock().subject.clone_from(&subject);
        subject.unwrap_or_default()
    }

    fn refuse(&self, reason: String) -> rustls::Error {
        self.lock().refusal = Some(reason);
        CertificateError::ApplicationVerificationFailure.into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Testimony> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an error of a connection means here. rustls's errors come wrapped in those of the layers above.
pub(crate) fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut cause = Some(error);
    let mut deepest = error.to_string();
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .or_else(|| error.downcast_ref::<rustls::Error>());
        if let Some(tls) = tls {
            return tls_in_words(tls);
        }
        deepest = error.to_string();
        cause = error.source();
    }
    // HTTP/2 keeps only the text.
    match deepest.split_once("received fatal alert: ") {
        Some((_, alert)) => refused_us(&alert),
        None => deepest,
    }
}

fn refused_us(alert: &dyn std::fmt::Display) -> String {
    format!("{REFUSED_US}: {alert}")
}

/// How the other end's verdict on our own certificate is put.
pub(super) const REFUSED_US: &str = "it refused this node's certificate";

fn tls_in_words(error: &rustls::Error) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only what an operator can act on gets words of its own"
    )]
    match error {
        rustls::Error::NoCertificatesPresented => "it showed no certificate".into(),
        rustls::Error::AlertReceived(alert) => refused_us(&format!("{alert:?}")),
        rustls::Error::InvalidCertificate(invalid) => match invalid {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet; do the nodes' clocks agree?".into()
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate was not issued by this cluster".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is not a manager's".into()
            }
            other => format!("its certificate is not acceptable: {other:?}"),
        },
        other => other.to_string(),
    }
}

/// For the server: any node of the cluster may ask.
#[derive(Debug)]
struct AnyNode {
    inner: Arc<dyn ClientCertVerifier>,
    cluster_id: String,
    witness: Witness,
}

impl ClientCertVerifier for AnyNode {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let subject = self.witness.saw(end_entity);
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        if subject.organization != self.cluster_id {
            return Err(self.witness.refuse(format!("it is of another cluster than {:?}", self.cluster_id)));
        }
        if subject.role().is_none() {
            return Err(self.witness.refuse("it is neither a manager nor a worker".into()));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// For the client: only a manager of the cluster may answer.
#[derive(Debug)]
struct OnlyManagers {
    inner: Arc<WebPkiServerVerifier>,
    cluster_id: String,
    witness: Witness,
}

impl ServerCertVerifier for OnlyManagers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let subject = self.witness.saw(end_entity);
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        if subject.organization != self.cluster_id {
            return Err(self.witness.refuse(format!("it is of another cluster than {:?}", self.cluster_id)));
        }
        if subject.role() != Some(CertifiedRole::Manager) {
            return Err(self.witness.refuse("its certificate is not a manager's".into()));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::peers::certificates::Certificates;
    use crate::peers::tests::authority::{Authority, Issue};

    #[tokio::test]
    async fn nodes_of_one_cluster_accept_each_other() {
        let cluster = Authority::new("a");
        for caller in [Issue::worker("worker-1"), Issue::manager("manager-2")] {
            let client = our_client(&cluster.issue(&caller));
            let (by_server, by_client) = meet(&cluster.issue(&Issue::manager("manager-1")), client).await;
            assert_eq!(by_client, Ok(()));
            assert_eq!(by_server.unwrap().common_name, caller.node_id);
        }
    }

    #[tokio::test]
    async fn the_server_refuses_whoever_is_not_a_node_of_its_cluster_and_says_who_and_why() {
        let (cluster, foreign) = (Authority::new("a"), Authority::new("b"));
        let expired = Issue { is_expired: true, ..Issue::worker("x") };
        let elsewhere = Issue { cluster_id: Some("b".into()), ..Issue::worker("x") };
        let neither = Issue { unit: "swarm-ca".into(), ..Issue::worker("x") };
        let cases = [
            (None, "it showed no certificate", "CertificateRequired"),
            (
                Some(cluster.issue(&expired)),
                "its certificate has expired (CN=\"x\" OU=\"swarm-worker\" O=\"a\")",
                "CertificateExpired",
            ),
            (
                Some(foreign.issue(&Issue::worker("x"))),
                "its certificate was not issued by this cluster (CN=\"x\" OU=\"swarm-worker\" O=\"b\")",
                "",
            ),
            (
                Some(cluster.issue(&elsewhere)),
                "it is of another cluster than \"a\" (CN=\"x\" OU=\"swarm-worker\" O=\"b\")",
                "AccessDenied",
            ),
            (
                Some(cluster.issue(&neither)),
                "it is neither a manager nor a worker (CN=\"x\" OU=\"swarm-ca\" O=\"a\")",
                "AccessDenied",
            ),
        ];
        for (caller, why, alert) in cases {
            let server = cluster.issue(&Issue::manager("manager-1"));
            let (by_server, by_client) = meet(&server, careless_client(&server, caller.as_ref())).await;
            assert_eq!(by_server.unwrap_err(), why);
            let by_client = by_client.unwrap_err();
            assert!(by_client.starts_with(REFUSED_US) && by_client.contains(alert), "{by_client}");
        }
    }

    #[tokio::test]
    async fn the_client_refuses_whoever_is_not_a_manager_of_its_cluster_and_says_who_and_why() {
        let (cluster, foreign) = (Authority::new("a"), Authority::new("b"));
        let elsewhere = Issue { cluster_id: Some("b".into()), ..Issue::manager("x") };
        let half = Issue { unit: "swarm-manager".into(), ..Issue::worker("swarm-manager") };
        let named = Issue { node_id: "swarm-manager".into(), ..Issue::worker("x") };
        let cases = [
            (cluster.issue(&Issue::worker("x")), Err("its certificate is not a manager's (CN=\"x\"")),
            (cluster.issue(&named), Err("its certificate is not a manager's (CN=\"swarm-manager\"")),
            (cluster.issue(&elsewhere), Err("it is of another cluster than \"a\" (CN=\"x\"")),
            (
                foreign.issue(&Issue::manager("x")),
                Err("its certificate was not issued by this cluster (CN=\"x\""),
            ),
            (cluster.issue(&half), Ok(())),
        ];
        for (server, expected) in cases {
            let (_, by_client) = meet(&server, our_client(&cluster.issue(&Issue::worker("worker-1")))).await;
            match expected {
                Ok(()) => assert_eq!(by_client, Ok(())),
                Err(why) => {
                    let by_client = by_client.unwrap_err();
                    assert!(by_client.starts_with(why), "{by_client:?} instead of {why:?}");
                }
            }
        }
    }

    /// What the server makes of the client, and the client of the server.
    async fn meet(
        server: &TempDir,
        (client, client_saw): (ClientConfig, Witness),
    ) -> (Result<Subject, String>, Result<(), String>) {
        let server_saw = Witness::default();
        let identity = Certificates::in_swarm_state(server.path()).identity().unwrap();
        let config = server_config(&identity, server_saw.clone()).unwrap();
        let (here, there) = duplex(64 * 1024);
        let serve = async {
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(here).await?;
            stream.write_u8(1).await?;
            stream.shutdown().await
        };
        let (by_server, by_client) = tokio::join!(serve, call(there, client));
        (
            by_server.map(|()| server_saw.subject().unwrap()).map_err(|error| server_saw.explain(&error)),
            by_client.map_err(|error| client_saw.explain(&error)),
        )
    }

    async fn call(stream: DuplexStream, client: ClientConfig) -> io::Result<()> {
        let name = ServerName::try_from(MANAGER).unwrap();
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await?;
        stream.read_u8().await.map(drop)
    }

    fn our_client(node: &TempDir) -> (ClientConfig, Witness) {
        let witness = Witness::default();
        let identity = Certificates::in_swarm_state(node.path()).identity().unwrap();
        (client_config(&identity, witness.clone()).unwrap(), witness)
    }

    /// One that asks the server whatever its own certificate is, if it has one.
    fn careless_client(server: &TempDir, node: Option<&TempDir>) -> (ClientConfig, Witness) {
        let mut roots = rustls::RootCertStore::empty();
        let root = server.path().join("certificates/swarm-root-ca.crt");
        roots.add(CertificateDer::from_pem_file(root).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match node {
            None => builder.with_no_client_auth(),
            Some(node) => {
                let folder = node.path().join("certificates");
                let chain = vec![CertificateDer::from_pem_file(folder.join("swarm-node.crt")).unwrap()];
                let key = std::fs::read_to_string(folder.join("swarm-node.key")).unwrap();
                let key = key.replace("kek-version: 0\n\n", "");
                let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        (config, Witness::default())
    }
}
