//! Which connection a socket is, from the tables in `/proc/PID/net` (`net/ipv4/tcp_ipv4.c: get_tcp4_sock`,
//! `net/ipv6/tcp_ipv6.c: get_tcp6_sock`, `net/unix/af_unix.c: unix_seq_show`).

use super::Process;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a socket that listens (`include/net/tcp_states.h`).
const LISTENS: &str = "0A";

impl Process {
    /// Which connection a socket of it is, by its inode: `tcp 10.0.0.7:41522 → 10.0.0.9:5432`, `unix /run/shop.sock`. `None`:
    /// it is of another kind, or behind the first 256 KiB of its table.
    pub fn socket(&self, inode: u64) -> Option<String> {
        let inode = inode.to_string();
        let tcp =
            ["net/tcp", "net/tcp6"].into_iter().find_map(|name| tcp(&self.proc_text(name).ok()?, &inode));
        tcp.or_else(|| unix(&self.proc_text("net/unix").ok()?, &inode))
    }
}

/// Finds `0: 0100007F:1F90 00000000:0000 0A … inode …`.
fn tcp(table: &str, inode: &str) -> Option<String> {
    let fields = |line: &str| -> Option<String> {
        let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
        (fields.get(9)? == &inode).then_some(())?;
        let (local, remote) = (address(fields.get(1)?)?, address(fields.get(2)?)?);
        Some(match *fields.get(3)? {
            LISTENS => format!("tcp {local}, which listens"),
            _ => format!("tcp {local} → {remote}"),
        })
    };
    table.lines().skip(1).find_map(fields)
}

/// An address as the kernel has it: words in its own byte order, and the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = host.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match host.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            let ip = Ipv6Addr::from(bytes);
            // A socket of both kinds, with a peer of the old one.
            ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Finds `0000: 00000003 00000000 00000000 0001 03 inode path`. A peer of one with a name has none.
fn unix(table: &str, inode: &str) -> Option<String> {
    let line = table.lines().skip(1).find(|line| line.split_ascii_whitespace().nth(6) == Some(inode))?;
    let path = line.split_ascii_whitespace().nth(7);
    Some(path.map_or_else(|| "unix, without a name".to_owned(), |path| format!("unix {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    #[test]
    fn addresses_of_both_kinds() {
        // The words are in the byte order of this machine.
        let of = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let four = of([127, 0, 0, 1]);
        assert_eq!(address(&format!("{four}:1F90")).unwrap().to_string(), "127.0.0.1:8080");
        let zero = of([0; 4]);
        let six = format!("{zero}{zero}{zero}{}:0050", of([0, 0, 0, 1]));
        assert_eq!(address(&six).unwrap().to_string(), "[::1]:80");
        let mapped = format!("{zero}{zero}{}{four}:0050", of([0, 0, 255, 255]));
        assert_eq!(address(&mapped).unwrap().to_string(), "127.0.0.1:80");
        for wrong in ["", ":", "7F:1", "0100007F", "0100007F:1F90F", "ZZZZZZZZ:0001", "éééé:0001"] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
        let unix_table = "Num RefCount\nffff: 3 0 0 0001 03 77 /run/a b\nffff: 3 0 0 0001 03 78\n";
        assert_eq!(unix(unix_table, "77").unwrap(), "unix /run/a");
        assert_eq!(unix(unix_table, "78").unwrap(), "unix, without a name");
        assert_eq!(unix(unix_table, "79"), None);
    }

    #[test]
    fn our_own_connections_are_found() {
        let ourselves = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let told = |fd: i32| {
            let name = ourselves.file_name(fd.cast_unsigned()).unwrap();
            let inode = name.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap();
            ourselves.socket(inode).unwrap()
        };
        let (here, there) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(told(client.as_raw_fd()), format!("tcp {here} → {there}"));
        assert_eq!(told(listener.as_raw_fd()), format!("tcp {there}, which listens"));
    }
}
