//! Questions to a node's Docker by its API. A `docker` for each of them took a third of the processors that the lab shares with
//! its tests.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Node;

/// Longer than any answer should take.
const PATIENCE: Duration = Duration::from_secs(20);

impl Node {
    /// What its Docker answers to `GET path`.
    pub fn ask(&self, path: &str) -> Result<Value> {
        let body = self.ask_raw(path)?;
        serde_json::from_slice(&body).with_context(|| format!("{}: GET {path} gave no JSON", self.name))
    }

    /// The list that its Docker has at a path, of what has all of these: `("label", "com.docker.swarm.service.name=web")`.
    pub fn list(&self, path: &str, filters: &[(&str, &str)]) -> Result<Vec<Value>> {
        let filters: serde_json::Map<String, Value> =
            filters.iter().map(|(key, value)| ((*key).to_owned(), json!([value]))).collect();
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}filters={}", escaped(&Value::from(filters).to_string()));
        let body = self.ask_raw(&path)?;
        serde_json::from_slice(&body).with_context(|| format!("{}: GET {path} gave no list", self.name))
    }

    /// The containers of a service that run here.
    pub fn containers_of(&self, service: &str) -> Result<Vec<Value>> {
        self.list("/containers/json", &[("label", &format!("com.docker.swarm.service.name={service}"))])
    }

    /// What a container without a terminal has written since a time, in seconds since 1970, each line after its own time.
    pub fn logs_since(&self, container: &str, seconds: u64) -> Result<String> {
        let path = format!("/containers/{container}/logs?stdout=1&stderr=1&timestamps=1&since={seconds}");
        Ok(String::from_utf8_lossy(&text_of(&self.ask_raw(&path)?)).into_owned())
    }

    fn ask_raw(&self, path: &str) -> Result<Vec<u8>> {
        let ask = || -> Result<Vec<u8>> {
            let mut socket = UnixStream::connect(self.docker_socket())?;
            socket.set_read_timeout(Some(PATIENCE))?;
            // Of a client of this version nobody thinks that it can take an answer in pieces.
            write!(socket, "GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer)?;
            let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no HTTP")?;
            let body = answer.split_off(end + 4);
            let head = String::from_utf8_lossy(&answer).into_owned();
            let status = head.lines().next().unwrap_or_default();
            ensure!(status.contains(" 200 "), "{status}: {}", String::from_utf8_lossy(&body).trim_end());
            Ok(body)
        };
        ask().with_context(|| format!("{}: GET {path}", self.name))
    }
}

/// A name in an answer, which is empty where there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Every byte that means something in a query, and many that do not.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Docker sends both outputs as one, in frames: which output, three zeros, the length, and as many bytes.
fn text_of(mut framed: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some((head, rest)) = framed.split_at_checked(8) {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (frame, rest) = rest.split_at(length.min(rest.len()));
        text.extend_from_slice(frame);
        framed = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_pass_a_url() {
        assert_eq!(escaped(r#"{"label":["a=b c"]}"#), "%7B%22label%22%3A%5B%22a%3Db%20c%22%5D%7D");
    }

    #[test]
    fn both_outputs_are_read_in_their_order() {
        let framed = b"\x02\0\0\0\0\0\0\x04one\n\x01\0\0\0\0\0\0\x04two\n";
        assert_eq!(text_of(framed), b"one\ntwo\n");
        assert_eq!(text_of(&framed[..10]), b"on");
    }
}
