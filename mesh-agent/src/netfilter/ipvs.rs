//! Connections that IPVS has, as `/proc/net/ip_vs_conn` tells them: those that Docker's mesh carries to virtual addresses.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;

use mesh_common::net::protocol;

use super::conntrack::Translated;

/// All of the calling thread's network namespace; none where there is no IPVS.
pub fn connections() -> io::Result<Vec<Translated>> {
    match fs::read_to_string("/proc/thread-self/net/ip_vs_conn") {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A line is like `TCP 0A000105 9C40 0A000102 0050 0A000107 0050 ESTABLISHED 899`: who called, what, and whom that was given to.
fn parse(text: &str) -> Vec<Translated> {
    let connection = |line: &str| {
        let mut fields = line.split_whitespace();
        let protocol = match fields.next()? {
            "TCP" => protocol::TCP,
            "UDP" => protocol::UDP,
            "SCTP" => protocol::SCTP,
            _ => return None,
        };
        let mut number = || u32::from_str_radix(fields.next()?, 16).ok();
        Some(Translated {
            protocol,
            client: Ipv4Addr::from(number()?),
            client_port: number()?.try_into().ok()?,
            destination: Ipv4Addr::from(number()?),
            port: number()?.try_into().ok()?,
        })
    };
    text.lines().skip(1).filter_map(connection).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart_and_others_left_out() {
        let text = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n\
            TCP 0A000105 9C40 0A000102 0050 0A000107 0050 ESTABLISHED     899\n\
            UDP 0A000105 9C41 0A000102 0035 0A000108 0035 UDP             299\n\
            TCP [fd00:0000:0000:0000:0000:0000:0000:0001] 9C40 x\n\
            nonsense\n";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            Translated {
                protocol: protocol::TCP,
                client: Ipv4Addr::new(10, 0, 1, 5),
                client_port: 40_000,
                destination: Ipv4Addr::new(10, 0, 1, 2),
                port: 80,
            }
        );
        assert_eq!((found[1].protocol, found[1].port), (protocol::UDP, 53));
    }
}
