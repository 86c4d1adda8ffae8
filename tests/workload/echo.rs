//! TCP echo greets with the task's identity in one line; UDP echo answers the identity, a newline, and the payload.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Arc, atomic::Ordering},
    thread,
};

use crate::serve::{State, accepted};

pub(crate) fn serve_tcp(listener: &TcpListener, state: &Arc<State>) {
    for stream in accepted(listener) {
        let state = Arc::clone(state);
        thread::spawn(move || {
            let _ = converse(stream, &state);
        });
    }
}

pub(crate) fn serve_udp(socket: &UdpSocket, state: &Arc<State>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // Errors are those of earlier answers that nobody took.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let count = state.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let mut answer = state.identity.to(peer, None, count).to_string().into_bytes();
        answer.push(b'\n');
        answer.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&answer, peer);
    }
}

fn converse(mut stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let count = state.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let greeting = state.identity.to(stream.peer_addr()?, stream.local_addr().ok(), count);
    stream.write_all(format!("{greeting}\n").as_bytes())?;
    let mut buffer = [0; 16_384];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}
