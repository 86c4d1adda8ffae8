//! Just enough HTTP/1.1: keep-alive, content lengths, and these paths:
//! `/` identity, `/slow?ms=`, `/bytes?n=`, POST `/sink`, `/health`, `/unhealthy`, `/healthy`, and `/refuse?ms=`, which
//! closes all listening sockets for so long. Every head names the task, that of `/slow` long before its body.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use serde_json::json;

use crate::{
    pattern::{Pattern, measure},
    serve::{State, accepted},
};

pub(crate) fn serve(listener: &TcpListener, state: &Arc<State>) {
    for stream in accepted(listener) {
        let state = Arc::clone(state);
        thread::spawn(move || {
            // A client that goes away is its own affair.
            let _ = converse(&stream, &state);
        });
    }
}

fn converse(stream: &TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        state.under_way.fetch_add(1, Ordering::SeqCst);
        let answered = answer(&request, &mut reader, stream, state);
        state.under_way.fetch_sub(1, Ordering::SeqCst);
        if answered? {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns whether the connection ends with this answer.
fn answer(
    request: &Request,
    body: &mut impl Read,
    mut stream: &TcpStream,
    state: &State,
) -> io::Result<bool> {
    let mut body = body.take(request.length);
    let (status, text) = match request.path.as_str() {
        "/bytes" => {
            let length = request.parameter("n");
            head(stream, state, "200 OK", "application/octet-stream", length, false)?;
            io::copy(&mut Pattern::new(length), &mut stream)?;
            return Ok(false);
        }
        "/sink" => {
            let (length, sha256) = measure(&mut body)?;
            ("200 OK", json!({ "bytes": length, "sha256": sha256 }))
        }
        "/health" if !state.healthy.load(Ordering::SeqCst) => {
            ("503 Service Unavailable", json!({ "healthy": false }))
        }
        "/health" => ("200 OK", json!({ "healthy": true })),
        "/unhealthy" | "/healthy" => {
            state.healthy.store(request.path == "/healthy", Ordering::SeqCst);
            ("200 OK", json!({ "healthy": request.path == "/healthy" }))
        }
        "/slow" => {
            let text = identity(stream, state)?.to_string();
            head(stream, state, "200 OK", "application/json", text.len() as u64, request.close)?;
            thread::sleep(Duration::from_millis(request.parameter("ms")));
            stream.write_all(text.as_bytes())?;
            return Ok(request.close);
        }
        "/refuse" => {
            state.refuse(Duration::from_millis(request.parameter("ms")))?;
            ("200 OK", identity(stream, state)?)
        }
        "/" => ("200 OK", identity(stream, state)?),
        _ => ("404 Not Found", json!({ "error": "no such path" })),
    };
    io::copy(&mut body, &mut io::sink())?;
    let close = request.close || state.stopping.load(Ordering::SeqCst);
    let text = text.to_string();
    head(stream, state, status, "application/json", text.len() as u64, close)?;
    stream.write_all(text.as_bytes())?;
    Ok(close)
}

fn identity(stream: &TcpStream, state: &State) -> io::Result<serde_json::Value> {
    let count = state.requests.fetch_add(1, Ordering::Relaxed) + 1;
    Ok(state.identity.to(stream.peer_addr()?, stream.local_addr().ok(), count))
}

fn head(
    mut stream: &TcpStream,
    state: &State,
    status: &str,
    kind: &str,
    length: u64,
    close: bool,
) -> io::Result<()> {
    let connection = if close { "close" } else { "keep-alive" };
    let text = format!(
        "HTTP/1.1 {status}\r\nX-Task: {}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n",
        state.identity.task
    );
    stream.write_all(text.as_bytes())
}

struct Request {
    path: String,
    query: String,
    length: u64,
    close: bool,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let target = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut request = Self { path: path.into(), query: query.into(), length: 0, close: false };
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(Some(request)) };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => request.length = value.trim().parse().unwrap_or(0),
                "connection" => request.close = value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
    }

    fn parameter(&self, name: &str) -> u64 {
        let mut pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }
}
