//! By which interfaces leaves what no other route is for.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};

/// The main table's routes, those to anywhere first: the kernel lists them by destination (`fib_route_seq_show`), so of a table
/// as long as a router's only the start is read.
const ROUTES: &str = "/proc/thread-self/net/route";

/// The names of the interfaces; none where the routes cannot be read, which the interfaces' own addresses then make up for.
pub(super) fn read() -> BTreeSet<String> {
    File::open(ROUTES).map_or_else(|_| BTreeSet::new(), |file| of(BufReader::new(file)))
}

fn of(table: impl BufRead) -> BTreeSet<String> {
    /// In hexadecimal digits: 0.0.0.0, and its mask if it stands for all addresses.
    const ANYWHERE: &str = "00000000";
    /// In place of an interface where the route refuses.
    const NOWHERE: &str = "*";

    let mut names = BTreeSet::new();
    for line in table.lines().map_while(Result::ok).skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, ANYWHERE, _, _, _, _, _, mask, ..] = fields[..] else { break };
        if mask == ANYWHERE && name != NOWHERE {
            names.insert(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_routes_to_anywhere_are_found() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t0100630A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     *\t00000000\t00000000\t0201\t0\t0\t100\t00000000\t0\t0\t0\n\
                     wg0\t00000000\t00000000\t0001\t0\t0\t200\t00000000\t0\t0\t0\n\
                     tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n\
                     eth1\t0000630A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(of(table.as_bytes()), BTreeSet::from(["eth0".to_owned(), "wg0".to_owned()]));
        assert_eq!(of("".as_bytes()), BTreeSet::new());
    }
}
