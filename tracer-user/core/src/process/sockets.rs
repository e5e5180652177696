//! What the kernel tells of the sockets of a process, from `/proc/PID/net`.
//!
//! These files show the network namespace of the process, and take the same rights as its descriptors do. `sock_diag` tells a
//! little more and is faster among very many sockets, but a netlink socket shows the namespace of who opened it: a program in
//! a container would take `setns`, which takes `CAP_SYS_ADMIN`, and sfgi gives both up before it reads a target.

use super::Process;
use super::fds::{FdKind, FdsError};
use crate::budget;
use crate::patience::{self, What};
use hashbrown::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Most lines of a file: sockets of a whole network namespace; and bytes of a line that are looked at.
const MAX_LINES: usize = 1 << 22;
const MAX_LINE: u64 = 1 << 10;
/// Bytes of the paths of all Unix sockets that are kept.
const MAX_PATHS: usize = 8 << 20;
/// `__SO_ACCEPTCON`: a Unix socket that listens (`include/uapi/linux/net.h`).
const LISTENS: u32 = 1 << 16;

/// The state of a socket, in the words of netstat(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    /// It is not connected.
    Close,
    /// The peer has closed its side, and the program has not.
    CloseWait,
    LastAck,
    Listen,
    Closing,
    Unknown,
}

impl SocketState {
    /// `include/net/tcp_states.h`; UDP has the same numbers.
    const fn of(number: u8) -> SocketState {
        match number {
            1 => SocketState::Established,
            2 => SocketState::SynSent,
            3 | 12 => SocketState::SynReceived,
            4 => SocketState::FinWait1,
            5 => SocketState::FinWait2,
            6 => SocketState::TimeWait,
            7 => SocketState::Close,
            8 => SocketState::CloseWait,
            9 => SocketState::LastAck,
            10 => SocketState::Listen,
            11 => SocketState::Closing,
            _ => SocketState::Unknown,
        }
    }

    /// As netstat(8) writes it.
    pub const fn word(self) -> &'static str {
        match self {
            SocketState::Established => "ESTABLISHED",
            SocketState::SynSent => "SYN_SENT",
            SocketState::SynReceived => "SYN_RECV",
            SocketState::FinWait1 => "FIN_WAIT1",
            SocketState::FinWait2 => "FIN_WAIT2",
            SocketState::TimeWait => "TIME_WAIT",
            SocketState::Close => "CLOSE",
            SocketState::CloseWait => "CLOSE_WAIT",
            SocketState::LastAck => "LAST_ACK",
            SocketState::Listen => "LISTEN",
            SocketState::Closing => "CLOSING",
            SocketState::Unknown => "UNKNOWN",
        }
    }
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub kind: FdKind,
    pub state: SocketState,
    /// `None`: it has none, or is no TCP or UDP socket.
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    /// Bytes that came and were not read (the end of what came counts as one until it is read), and bytes that the peer has not acknowledged (of UDP: that were not sent). Of a
    /// listener, connections that wait to be accepted, and 0. `None`: the kernel does not say.
    pub queues: Option<(u64, u64)>,
    /// Of a Unix socket: its name, with `@` for the byte 0 of an abstract one; empty: it has none.
    pub path: Box<str>,
}

impl fmt::Display for Socket {
    /// `tcp 10.0.0.7:41522 → 10.0.0.9:5432`, `unix /run/shop.sock`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.word())?;
        match (self.local, self.peer, &*self.path) {
            (Some(local), Some(peer), _) => write!(f, " {local} → {peer}")?,
            (Some(one), None, _) | (None, Some(one), _) => write!(f, " {one}")?,
            (None, None, "") => f.write_str(", without a name")?,
            (None, None, path) => write!(f, " {path}")?,
        }
        if self.state == SocketState::Listen { f.write_str(", which listens") } else { Ok(()) }
    }
}

/// The sockets that were asked for, by inode.
#[derive(Debug, Default)]
pub struct Sockets(HashMap<u64, Option<Socket>>);

impl Sockets {
    /// What is known of a socket; `None`: nothing, because it is of another protocol, neither bound nor connected, or in
    /// another network namespace.
    pub fn get(&self, inode: u64) -> Option<&Socket> {
        self.0.get(&inode)?.as_ref()
    }

    pub(super) fn kind(&self, inode: u64) -> FdKind {
        self.get(inode).map_or(FdKind::Socket, |socket| socket.kind)
    }
}

impl Process {
    /// A socket of it, by its inode; `None`: nothing is known of it, as with [`Sockets::get`].
    pub fn socket(&self, inode: u64) -> Option<Socket> {
        let mut found = Tables::of(self.pid()).read(std::iter::once(inode)).ok()?;
        found.0.remove(&inode).flatten()
    }
}

/// The files of a process.
pub(super) struct Tables(PathBuf);

impl Tables {
    pub(super) fn of(pid: i32) -> Tables {
        Tables(super::proc_path(pid, "net"))
    }

    /// Looks for sockets with these inodes. A file that is not there is of a protocol that this kernel does not have.
    pub(super) fn read(&self, inodes: impl Iterator<Item = u64>) -> Result<Sockets, FdsError> {
        let mut sockets = Sockets::default();
        for inode in inodes.filter(|inode| *inode != 0) {
            budget::check(size_of::<Option<Socket>>() * 2)?;
            sockets.0.insert(inode, None);
        }
        let (mut left, mut paths) = (sockets.0.len(), MAX_PATHS);
        let mut twice = Vec::new();
        for (name, kind) in [
            ("tcp", FdKind::Tcp),
            ("tcp6", FdKind::Tcp),
            ("udp", FdKind::Udp),
            ("udp6", FdKind::Udp),
            // Last: names in it may have line feeds, so whoever shares the network namespace can write what looks like a line.
            ("unix", FdKind::Unix),
        ] {
            if left == 0 {
                break;
            }
            self.lines(name, &mut |line| {
                let found = match kind {
                    FdKind::Unix => parse_unix(line),
                    _ => parse_inet(line, kind),
                };
                let Some((inode, mut socket)) = found else { return };
                if let Some(entry) = sockets.0.get_mut(&inode) {
                    if kind == FdKind::Unix && entry.is_some() {
                        // One of the two is made up, if both are of this table.
                        if entry.as_ref().is_some_and(|known| known.kind == FdKind::Unix) {
                            twice.push(inode);
                        }
                        return;
                    }
                    left -= usize::from(entry.is_none());
                    match paths.checked_sub(socket.path.len()) {
                        Some(rest) => paths = rest,
                        None => socket.path = "".into(),
                    }
                    *entry = Some(socket);
                }
            });
        }
        for inode in twice {
            sockets.0.insert(inode, None);
        }
        Ok(sockets)
    }

    fn lines(&self, name: &str, then: &mut dyn FnMut(&str)) {
        let _reading = patience::reading(What::Proc);
        let Ok(file) = File::open(self.0.join(name)) else { return };
        let (mut file, mut line) = (BufReader::with_capacity(1 << 16, file), Vec::new());
        for _ in 0..MAX_LINES {
            line.clear();
            match file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Ok(1..) => then(String::from_utf8_lossy(&line).trim_end()),
                _ => return,
            }
        }
    }
}

/// A line of `tcp`, `tcp6`, `udp` or `udp6` (`net/ipv4/tcp_ipv4.c`: `get_tcp4_sock`).
fn parse_inet(line: &str, kind: FdKind) -> Option<(u64, Socket)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, peer) = (parse_address(fields.next()?)?, parse_address(fields.next()?)?);
    let state = SocketState::of(u8::from_str_radix(fields.next()?, 16).ok()?);
    let (send, receive) = fields.next()?.split_once(':')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    // Behind the timer, retransmissions, uid and time-out.
    let inode = fields.nth(4)?.parse().ok()?;
    let real = |addr: SocketAddr| (addr.port() != 0 || !addr.ip().is_unspecified()).then_some(addr);
    let socket = Socket {
        kind,
        state,
        local: real(local),
        peer: real(peer),
        queues: Some((hex(receive)?, hex(send)?)),
        path: "".into(),
    };
    Some((inode, socket))
}

/// An address as `0100007F:1F90`: words in the order of the host, and a port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_exact_mut(4).zip(0..) {
                part.copy_from_slice(&word(at)?);
            }
            // An IPv4 peer of a socket for both is shown as what it is.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// A line of `unix` (`net/unix/af_unix.c`: `unix_seq_show`).
fn parse_unix(line: &str) -> Option<(u64, Socket)> {
    let mut rest = line;
    let mut field = || {
        let text = rest.trim_start();
        let end = text.find(' ').unwrap_or(text.len());
        let (field, behind) = text.split_at(end);
        rest = behind;
        (!field.is_empty()).then_some(field)
    };
    let _ = (field()?, field()?, field()?);
    let flags = u32::from_str_radix(field()?, 16).ok()?;
    let _ = field()?;
    let connected = field()? == "03";
    let inode = field()?.parse().ok()?;
    let state = match connected {
        _ if flags & LISTENS != 0 => SocketState::Listen,
        true => SocketState::Established,
        false => SocketState::Close,
    };
    let path = rest.strip_prefix(' ').unwrap_or_default().into();
    Some((inode, Socket { kind: FdKind::Unix, state, local: None, peer: None, queues: None, path }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    #[test]
    fn lines_are_read() {
        let line = "   3: 0100007F:1F90 0200A8C0:D431 08 00000010:00000020 00:00000000 00000000  1000        0 4711 1 0 20 4 30 10 -1";
        let (inode, socket) = parse_inet(line, FdKind::Tcp).unwrap();
        assert_eq!((inode, socket.state, socket.queues), (4711, SocketState::CloseWait, Some((0x20, 0x10))));
        assert_eq!(socket.local.unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(socket.peer.unwrap().to_string(), "192.168.0.2:54321");
        let line = "   0: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 9 1 0 100 0 0 10 0";
        let (_, socket) = parse_inet(line, FdKind::Tcp).unwrap();
        assert_eq!((socket.local.unwrap().to_string().as_str(), socket.peer), ("[::1]:53", None));
        assert_eq!((socket.state, socket.queues), (SocketState::Listen, Some((3, 0))));
        let line = "   1: 0000000000000000FFFF00000100007F:0016 0000000000000000FFFF00000100007F:0017 01 00000000:00000000 00:00000000 00000000     0        0 10 1 0 100 0 0 10 0";
        assert_eq!(parse_inet(line, FdKind::Tcp).unwrap().1.local.unwrap().to_string(), "127.0.0.1:22");
    }

    #[test]
    fn unix_sockets_have_names_of_any_kind() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 36881 /run/a b.sock";
        let (inode, socket) = parse_unix(line).unwrap();
        assert_eq!((inode, socket.state, &*socket.path), (36881, SocketState::Listen, "/run/a b.sock"));
        let line = "0000000000000000: 00000003 00000000 00000000 0001 03 36882";
        assert_eq!(parse_unix(line).unwrap().1.state, SocketState::Established);
        assert_eq!(&*parse_unix(&format!("{line} @name")).unwrap().1.path, "@name");
    }

    #[test]
    fn what_is_no_such_line_is_none() {
        for line in [
            "",
            "  sl  local_address rem_address   st tx_queue",
            "1: 0:0 0:0 01",
            "1: é:1 2:2 3 4:5 6 x 8 9 10",
        ] {
            assert_eq!(parse_inet(line, FdKind::Tcp), None, "{line}");
            assert_eq!(parse_unix(line), None, "{line}");
        }
    }

    #[test]
    fn our_own_connections_are_found() {
        let ourselves = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let told = |fd: i32| {
            let name = ourselves.file_name(fd.cast_unsigned()).unwrap();
            let inode = name.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap();
            ourselves.socket(inode).unwrap().to_string()
        };
        let (here, there) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(told(client.as_raw_fd()), format!("tcp {here} → {there}"));
        assert_eq!(told(listener.as_raw_fd()), format!("tcp {there}, which listens"));
    }
}
