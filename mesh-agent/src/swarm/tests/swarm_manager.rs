//! A Swarm manager's control socket: what it knows is set, and what changes is sent, by hand.

use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt, stream};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::BroadcastStream;
use tonic::Status;
use tonic_prost::ProstCodec;

use crate::peers::certificates::{Certificates, Identity};
use crate::peers::tls::{self, Witness};
use crate::swarm::control_wire::{
    Event, LIST_TASKS, ListTasksRequest, ListTasksResponse, Object, Task, Version, WATCH, WatchMessage,
    WatchRequest,
};

/// What the manager was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked {
    Watch(WatchRequest),
    Tasks,
}

/// Ends, with all its connections, when it is dropped.
pub(super) struct SwarmManager {
    memory: Arc<Memory>,
    running: JoinHandle<()>,
}

struct Memory {
    asked: Mutex<Vec<Asked>>,
    tasks: Mutex<Vec<Task>>,
    /// What was pushed, for those who resume.
    history: Mutex<Vec<WatchMessage>>,
    is_forgetful: AtomicBool,
    streams: broadcast::Sender<Result<WatchMessage, Status>>,
}

impl SwarmManager {
    /// With the certificate in `swarm_state`.
    pub(super) fn start(socket: &Path, swarm_state: &Path) -> Self {
        let memory = Arc::new(Memory {
            asked: Mutex::default(),
            tasks: Mutex::default(),
            history: Mutex::default(),
            is_forgetful: AtomicBool::new(false),
            streams: broadcast::channel(64).0,
        });
        let identity = Certificates::in_swarm_state(swarm_state).identity().unwrap();
        // A manager that was killed leaves its socket behind.
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let running = tokio::spawn(serve(listener, identity, memory.clone()));
        Self { memory, running }
    }

    pub(super) fn set_tasks(&self, tasks: &[Task]) {
        *self.memory.tasks.lock().unwrap() = tasks.to_vec();
    }

    /// A transaction with one change.
    pub(super) fn push(&self, index: u64, action: i32, object: Object) {
        let event = Event { action, object: Some(object) };
        let message = WatchMessage { events: vec![event], version: Some(Version { index }) };
        self.memory.history.lock().unwrap().push(message.clone());
        // Nobody may listen at present.
        let _ = self.memory.streams.send(Ok(message));
    }

    /// Ends all streams, but no connection.
    pub(super) fn interrupt(&self) {
        let _ = self.memory.streams.send(Err(Status::aborted("interrupted")));
    }

    /// From now on nothing can be resumed.
    pub(super) fn forget(&self) {
        self.memory.is_forgetful.store(true, Ordering::Relaxed);
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.memory.asked.lock().unwrap().clone()
    }
}

impl Drop for SwarmManager {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn serve(listener: UnixListener, identity: Arc<Identity>, memory: Arc<Memory>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let config = tls::server_config(&identity, Witness::default()).unwrap();
        connections.spawn(connection(stream, TlsAcceptor::from(Arc::new(config)), memory.clone()));
    }
}

async fn connection(stream: UnixStream, acceptor: TlsAcceptor, memory: Arc<Memory>) {
    // The other end may find fault with our certificate.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(|request| {
        let memory = memory.clone();
        async move { Ok::<_, Infallible>(memory.answer(request).await) }
    });
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

impl Memory {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<tonic::body::Body> {
        match request.uri().path() {
            WATCH => {
                let watch = tower::service_fn(move |request: tonic::Request<WatchRequest>| {
                    let stream = self.watch(request.get_ref());
                    async { stream.map(tonic::Response::new) }
                });
                let codec = ProstCodec::<WatchMessage, WatchRequest>::default();
                tonic::server::Grpc::new(codec).server_streaming(watch, request).await
            }
            LIST_TASKS => {
                let list = tower::service_fn(move |_: tonic::Request<ListTasksRequest>| {
                    self.asked.lock().unwrap().push(Asked::Tasks);
                    let tasks = self.tasks.lock().unwrap().clone();
                    async { Ok::<_, Status>(tonic::Response::new(ListTasksResponse { tasks })) }
                });
                let codec = ProstCodec::<ListTasksResponse, ListTasksRequest>::default();
                tonic::server::Grpc::new(codec).unary(list, request).await
            }
            _ => Status::unimplemented("no such method").into_http(),
        }
    }

    fn watch(
        &self,
        request: &WatchRequest,
    ) -> Result<impl Stream<Item = Result<WatchMessage, Status>> + Send + use<>, Status> {
        self.asked.lock().unwrap().push(Asked::Watch(request.clone()));
        let history = self.history.lock().unwrap();
        let missed = match request.resume_from {
            None => Vec::new(),
            Some(_) if self.is_forgetful.load(Ordering::Relaxed) => {
                return Err(Status::unknown("changes since this version are not known"));
            }
            Some(from) => {
                let is_new =
                    |message: &&WatchMessage| message.version.is_some_and(|at| at.index > from.index);
                history.iter().filter(is_new).cloned().collect()
            }
        };
        let begin = std::iter::once(WatchMessage::default()).chain(missed).map(Ok);
        let more =
            BroadcastStream::new(self.streams.subscribe()).filter_map(|message| async { message.ok() });
        Ok(stream::iter(begin.collect::<Vec<_>>()).chain(more.boxed()))
    }
}
