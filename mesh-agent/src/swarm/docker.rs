//! The Docker API over its Unix socket: requests out, answers in; what they mean is for `api` and `containers`.
//!
//! bollard asks for everything about this node. The four lists about the Swarm are fetched as plain JSON: bollard's
//! `Task` has no `NetworksAttachments`, and with typed lists one odd entry would make the whole list unreadable.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, EndpointResource, EventMessage, SystemInfo,
};
use bollard::query_parameters::{EventsOptions, ListContainersOptions};
use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::debug;

#[derive(Debug)]
pub(super) struct Docker {
    socket: PathBuf,
    client: bollard::Docker,
}

#[derive(Debug, Error)]
pub(super) enum DockerError {
    #[error("cannot ask Docker at {} for {what}: {reason}; is dockerd running, and is its socket at this path?", socket.display())]
    Unreachable { socket: PathBuf, what: &'static str, reason: String },
    #[error("Docker answered {status} when asked for {what}: {message}")]
    Refused { what: &'static str, status: u16, message: String },
    #[error("Docker's answer about {what} cannot be understood: {reason}")]
    Malformed { what: &'static str, reason: String },
    #[error("Docker did not answer within {} s when asked for {what}", TIMEOUT.as_secs())]
    Timeout { what: &'static str },
    #[error("Docker ended its stream of events; is it being restarted?")]
    EventsEnded,
}

/// A hanging dockerd must become an error, or nobody would learn that the tables are frozen.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The label that tells a task's container from any other.
pub(super) const TASK_LABEL: &str = "com.docker.swarm.task.id";

impl Docker {
    /// Agrees with Docker on the version of its API.
    pub(super) async fn connect(socket: &Path) -> Result<Self, DockerError> {
        let what = "its version";
        let explain = |error| explain(socket, what, error);
        let path = socket.to_string_lossy();
        let client =
            bollard::Docker::connect_with_unix(&path, TIMEOUT.as_secs(), bollard::API_DEFAULT_VERSION)
                .map_err(explain)?
                .negotiate_version()
                .await
                .map_err(explain)?;
        debug!(socket = %path, version = %client.client_version(), "Docker answers");
        Ok(Self { socket: socket.to_owned(), client })
    }

    pub(super) async fn services(&self) -> Result<Bytes, DockerError> {
        self.get("services", "/services").await
    }

    /// All tasks: the API can filter by the desired state only, and a task that is told to stop but still runs counts.
    /// Containers attached to a network by hand are tasks too, but not shown unless asked for (moby,
    /// daemon/cluster/tasks.go).
    pub(super) async fn tasks(&self) -> Result<Bytes, DockerError> {
        // {"runtime":["container","plugin","attachment"]}
        let filters = "%7B%22runtime%22%3A%5B%22container%22%2C%22plugin%22%2C%22attachment%22%5D%7D";
        self.get("tasks", &format!("/tasks?filters={filters}")).await
    }

    pub(super) async fn nodes(&self) -> Result<Bytes, DockerError> {
        self.get("nodes", "/nodes").await
    }

    pub(super) async fn networks(&self) -> Result<Bytes, DockerError> {
        // {"scope":["swarm"]}
        self.get("networks", "/networks?filters=%7B%22scope%22%3A%5B%22swarm%22%5D%7D").await
    }

    /// Like `28.5.2`.
    pub(super) async fn version(&self) -> Result<String, DockerError> {
        let version = self.client.version().await.map_err(|error| self.explain("its version", error))?;
        Ok(version.version.unwrap_or_default())
    }

    pub(super) async fn info(&self) -> Result<SystemInfo, DockerError> {
        self.client.info().await.map_err(|error| self.explain("this node", error))
    }

    /// The containers that run or are paused.
    pub(super) async fn containers(&self) -> Result<Vec<ContainerSummary>, DockerError> {
        let filters = HashMap::from([("status".to_owned(), vec!["running".to_owned(), "paused".to_owned()])]);
        let options = ListContainersOptions { filters: Some(filters), ..Default::default() };
        self.client.list_containers(Some(options)).await.map_err(|error| self.explain("containers", error))
    }

    /// Who is on the node's own bridge, by container id; nobody, as long as Docker has not made that bridge.
    pub(super) async fn bridge_endpoints(
        &self,
        bridge: &str,
    ) -> Result<HashMap<String, EndpointResource>, DockerError> {
        match self.client.inspect_network(bridge, None).await {
            Ok(network) => Ok(network.containers.unwrap_or_default()),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                Ok(HashMap::new())
            }
            Err(error) => Err(self.explain("the bridge network", error)),
        }
    }

    /// Everything about one container; `None` if it is gone.
    pub(super) async fn container(&self, container_id: &str) -> Option<ContainerInspectResponse> {
        self.client.inspect_container(container_id, None).await.ok()
    }

    /// The signal that a container asked to be stopped with; `None` if it is gone.
    pub(super) async fn stop_signal(&self, container_id: &str) -> Option<String> {
        self.container(container_id).await?.config?.stop_signal
    }

    /// Events of the given types since a Unix time. The request goes out when the stream is first polled; `since` makes
    /// Docker repeat what happened before that.
    pub(super) fn events(
        &self,
        types: &[&str],
        since: u64,
    ) -> impl Stream<Item = Result<EventMessage, DockerError>> + Send + use<> {
        let types = types.iter().map(|&name| name.to_owned()).collect();
        let options = EventsOptions {
            since: Some(since.to_string()),
            until: None,
            filters: Some(HashMap::from([("type".to_owned(), types)])),
        };
        let socket = self.socket.clone();
        self.client
            .events(Some(options))
            .map(move |event| event.map_err(|error| explain(&socket, "events", error)))
    }

    async fn get(&self, what: &'static str, path: &str) -> Result<Bytes, DockerError> {
        let path = format!("/v{}{path}", self.client.client_version());
        match timeout(TIMEOUT, self.fetch(what, &path)).await {
            Ok(answer) => answer,
            Err(_) => Err(DockerError::Timeout { what }),
        }
    }

    async fn fetch(&self, what: &'static str, path: &str) -> Result<Bytes, DockerError> {
        let unreachable = |error: &dyn std::fmt::Display| DockerError::Unreachable {
            socket: self.socket.clone(),
            what,
            reason: error.to_string(),
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
        // Ends by itself when the answer was read or given up; its error is also that of the request.
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(hyper::header::HOST, "docker")
            .body(Empty::<Bytes>::new())
            .map_err(|error| unreachable(&error))?;
        let response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| unreachable(&error))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let message = String::from_utf8_lossy(&body);
        let message = serde_json::from_str::<serde_json::Value>(&message)
            .ok()
            .and_then(|value| value.get("message")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| message.trim().to_owned());
        Err(DockerError::Refused { what, status: status.as_u16(), message })
    }

    fn explain(&self, what: &'static str, error: bollard::errors::Error) -> DockerError {
        explain(&self.socket, what, error)
    }
}

fn explain(socket: &Path, what: &'static str, error: bollard::errors::Error) -> DockerError {
    use bollard::errors::Error;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "everything that is neither an answer nor a bad answer means that Docker was not reached"
    )]
    match error {
        Error::DockerResponseServerError { status_code, message } => {
            DockerError::Refused { what, status: status_code, message }
        }
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } | Error::APIVersionParseError {} => {
            DockerError::Malformed { what, reason: error.to_string() }
        }
        Error::RequestTimeoutError => DockerError::Timeout { what },
        _ => DockerError::Unreachable { socket: socket.to_owned(), what, reason: root_cause(&error) },
    }
}

/// "connection refused" says more than "error trying to connect".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
