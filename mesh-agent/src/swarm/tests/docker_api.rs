//! A Docker API on a Unix socket: answers are set by path, events are sent by hand.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

#[derive(Clone)]
pub(super) struct DockerApi {
    folder: Arc<TempDir>,
    answers: Arc<Mutex<BTreeMap<String, (u16, String)>>>,
    requests: Arc<Mutex<Vec<String>>>,
    events: broadcast::Sender<String>,
}

impl DockerApi {
    /// A node with the containers, and a Swarm with the services and so on, of `testdata/`.
    pub(super) fn start() -> Self {
        let api = Self {
            folder: Arc::new(tempfile::tempdir().unwrap()),
            answers: Arc::default(),
            requests: Arc::default(),
            events: broadcast::channel(64).0,
        };
        api.set("/version", 200, r#"{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12"}"#);
        api.set("/info", 200, include_str!("../testdata/info_manager.json"));
        api.set("/services", 200, include_str!("../testdata/services.json"));
        api.set("/tasks", 200, include_str!("../testdata/tasks.json"));
        api.set("/nodes", 200, include_str!("../testdata/nodes.json"));
        api.set("/networks", 200, include_str!("../testdata/networks.json"));
        api.set("/containers/json", 200, include_str!("../testdata/containers.json"));
        api.set("/networks/docker_gwbridge", 200, include_str!("../testdata/docker_gwbridge.json"));
        api.set("/containers/web1/json", 200, r#"{"Id":"web1","Config":{"StopSignal":"SIGQUIT"}}"#);
        let listener = UnixListener::bind(api.socket()).unwrap();
        tokio::spawn(api.clone().serve(listener));
        api
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    pub(super) fn set(&self, path: &str, status: u16, body: &str) {
        self.answers.lock().unwrap().insert(path.to_owned(), (status, body.to_owned()));
    }

    pub(super) fn event(&self, kind: &str, action: &str, id: &str, attributes: &Value) {
        let event = json!({
            "Type": kind, "Action": action, "scope": "local", "time": 1, "timeNano": 1,
            "Actor": {"ID": id, "Attributes": attributes},
        });
        self.events.send(format!("{event}\n")).unwrap();
    }

    /// How many follow the events: of an agent on a manager, the watchers of containers and of the Swarm.
    pub(super) fn listeners(&self) -> usize {
        self.events.receiver_count()
    }

    /// Which paths were asked for, in order.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    async fn serve(self, listener: UnixListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let api = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let response = api.answer(&request);
                    async { Ok::<_, Infallible>(response) }
                });
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let path = request.uri().path();
        // Without the version of the API.
        let path = match path.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|slash| &rest[slash..]))
        {
            Some(rest) => rest.to_owned(),
            None => path.to_owned(),
        };
        self.requests.lock().unwrap().push(path.clone());
        if path == "/events" {
            let events = BroadcastStream::new(self.events.subscribe())
                .filter_map(|event| async { event.ok().map(|event| Ok(Frame::data(Bytes::from(event)))) });
            return Response::new(BodyExt::boxed(StreamBody::new(events)));
        }
        let (status, body) = self
            .answers
            .lock()
            .unwrap()
            .get(&path)
            .cloned()
            .unwrap_or((404, r#"{"message":"no such thing"}"#.to_owned()));
        let body = BodyExt::boxed(Full::new(Bytes::from(body)));
        Response::builder().status(status).body(body).unwrap()
    }
}
