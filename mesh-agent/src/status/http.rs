//! HTTP for whoever reaches the address: counters for Prometheus at `/metrics`, and how the agent is at `/healthz`. It only ever
//! tells, to few at a time, and what it costs does not grow with how many ask.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::metrics;
use super::server::ReportSource;

/// For one connection, whatever it asks.
const PATIENCE: Duration = Duration::from_secs(10);
/// Until a request is there.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);
const REQUEST_BYTES: usize = 16 * 1024;
/// How many are answered at a time; others wait until one is done.
const CONNECTIONS: usize = 8;
/// For how long what was collected is given to all who ask.
const FRESH: Duration = Duration::from_secs(1);
/// How soon an address that cannot be had is tried again: a node's own may appear a moment later.
const RETRY: Duration = Duration::from_secs(5);

/// Serves at `address`, also when it changes, for as long as the process lives.
pub async fn serve(
    mut address: watch::Receiver<Option<SocketAddr>>,
    source: Arc<dyn ReportSource>,
) -> Infallible {
    let pages = Arc::new(Pages { source, metrics: Mutex::default() });
    loop {
        let here = *address.borrow_and_update();
        let serving = async {
            match here {
                Some(here) => listen(here, &pages).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            never = serving => match never {},
            changed = address.changed() => if changed.is_err() {
                // There will be no other.
                match here {
                    Some(here) => match listen(here, &pages).await {},
                    None => std::future::pending().await,
                }
            },
        }
    }
}

async fn listen(address: SocketAddr, pages: &Arc<Pages>) -> Infallible {
    let listener = bound(address).await;
    info!("metrics are served at http://{address}/metrics");
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Whoever finds no place waits in the kernel's queue. The semaphore is never closed.
        let place = places.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = pages.clone();
                connections.spawn(async move {
                    let _place = place;
                    match timeout(PATIENCE, pages.converse(stream)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!("a request ended early: {error}"),
                        Err(_) => debug!("a request took too long"),
                    }
                });
            }
            Err(error) => {
                debug!("cannot accept a connection at {address}: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Says why an address cannot be had, once for each reason.
async fn bound(address: SocketAddr) -> TcpListener {
    let mut said: Option<io::ErrorKind> = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                if said != Some(error.kind()) {
                    warn!(
                        "metrics cannot be served at {address}, trying again: {error}; --http chooses another address"
                    );
                }
                said = Some(error.kind());
                sleep(RETRY).await;
            }
        }
    }
}

struct Pages {
    source: Arc<dyn ReportSource>,
    /// What was collected last, and when.
    metrics: Mutex<Option<(Instant, Bytes)>>,
}

impl Pages {
    async fn converse(&self, stream: TcpStream) -> hyper::Result<()> {
        let service = service_fn(|request| async move { Ok::<_, Infallible>(self.answer(&request).await) });
        // One request each: a place is not kept for the next one.
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_WITHIN)
            .max_buf_size(REQUEST_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => {
                let mut response = plain(StatusCode::OK, self.metrics().await);
                let text = HeaderValue::from_static("text/plain; version=0.0.4");
                response.headers_mut().insert(CONTENT_TYPE, text);
                response
            }
            "/healthz" => {
                let health = self.source.health();
                let code = if health.is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                plain(code, health.sentence + "\n")
            }
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        }
    }

    /// Who comes while it is collected gets the same.
    async fn metrics(&self) -> Bytes {
        let mut latest = self.metrics.lock().await;
        if let Some((taken, page)) = &*latest
            && taken.elapsed() < FRESH
        {
            return page.clone();
        }
        let page = Bytes::from(metrics::render(&self.source.report().await));
        *latest = Some((Instant::now(), page.clone()));
        page
    }
}

fn plain(code: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures::FutureExt;
    use futures::future::{BoxFuture, join_all};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::health::Health;
    use crate::status::report::Report;

    /// Counts how often it was asked.
    #[derive(Default)]
    struct Counting {
        reports: AtomicUsize,
        is_ill: AtomicBool,
    }

    impl ReportSource for Counting {
        fn health(&self) -> Health {
            let is_well = !self.is_ill.load(Ordering::SeqCst);
            Health { is_well, sentence: if is_well { "serving" } else { "silent" }.into() }
        }

        fn report(&self) -> BoxFuture<'_, Report> {
            self.reports.fetch_add(1, Ordering::SeqCst);
            async { Report::default() }.boxed()
        }

        fn differences(&self) -> BoxFuture<'_, Vec<String>> {
            async { Vec::new() }.boxed()
        }
    }

    fn free_port(address: Ipv4Addr) -> SocketAddr {
        std::net::TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
    }

    fn start() -> (Arc<Counting>, watch::Sender<Option<SocketAddr>>, SocketAddr) {
        let source = Arc::new(Counting::default());
        let address = free_port(Ipv4Addr::LOCALHOST);
        let (sender, receiver) = watch::channel(Some(address));
        tokio::spawn(serve(receiver, source.clone()));
        (source, sender, address)
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = connect(address).await;
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        // What was not read of a request may reset the connection behind its answer.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn all_who_ask_within_a_second_get_one_collection() {
        let (source, _address, here) = start();
        let answers = join_all((0..20).map(|_| ask(here, "GET /metrics"))).await;
        for answer in answers {
            assert!(
                answer.starts_with("HTTP/1.1 200 ") && answer.contains("# TYPE mesh_backends"),
                "{answer}"
            );
        }
        // On a machine that is very slow a second may have passed between them.
        assert!(source.reports.load(Ordering::SeqCst) <= 3, "{:?}", source.reports);
    }

    #[tokio::test]
    async fn how_the_agent_is_is_told_by_the_code_and_in_words() {
        let (source, _address, here) = start();
        let well = ask(here, "GET /healthz").await;
        assert!(well.starts_with("HTTP/1.1 200 ") && well.ends_with("serving\n"), "{well}");
        source.is_ill.store(true, Ordering::SeqCst);
        let ill = ask(here, "GET /healthz").await;
        assert!(ill.starts_with("HTTP/1.1 503 ") && ill.ends_with("silent\n"), "{ill}");
        assert_eq!(source.reports.load(Ordering::SeqCst), 0, "nothing is collected for that");
    }

    #[tokio::test]
    async fn nothing_but_get_is_answered() {
        let (source, _address, here) = start();
        for method in ["POST", "HEAD", "DELETE"] {
            let answer = ask(here, &format!("{method} /metrics")).await;
            assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET"), "{answer}");
        }
        assert!(ask(here, "GET /").await.starts_with("HTTP/1.1 404 "));
        assert_eq!(source.reports.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn few_are_answered_at_a_time_and_others_wait_for_their_turn() {
        let (source, _address, here) = start();
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(connect(here).await);
        }
        let mut next = connect(here).await;
        next.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let early = timeout(Duration::from_millis(200), next.readable()).await;
        assert!(early.is_err(), "there was no place for it: {early:?}");
        assert_eq!(source.reports.load(Ordering::SeqCst), 0);
        drop(idle.pop());
        let mut answer = String::new();
        next.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[tokio::test]
    async fn the_address_may_come_later_and_may_change() {
        let source = Arc::new(Counting::default());
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(serve(receiver, source));
        let (first, second) = (free_port(Ipv4Addr::LOCALHOST), free_port([127, 0, 0, 2].into()));
        sender.send_replace(Some(first));
        assert!(ask(first, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
        sender.send_replace(Some(second));
        assert!(ask(second, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
        assert!(TcpStream::connect(first).await.is_err(), "nobody is there any more");
        drop(sender);
        assert!(ask(second, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    }
}
