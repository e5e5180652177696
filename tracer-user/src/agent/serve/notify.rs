//! Tells systemd how the agent is (sd_notify): a datagram to the socket that `NOTIFY_SOCKET` names.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

#[derive(Debug, Default)]
pub struct Notify {
    /// Connected; `None`: nobody wants to know.
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// By the environment that systemd gives. Connects at once: later the agent may have given up what that takes.
    pub fn of_environment() -> Notify {
        let Ok(name) = env::var("NOTIFY_SOCKET") else { return Notify::default() };
        let micros = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        match connect(&name) {
            // Half of it: one datagram may come late. `WATCHDOG_PID` does not matter: `NotifyAccess=all`.
            Ok(socket) => Notify {
                socket: Some(socket),
                watchdog: micros.filter(|micros| *micros > 0).map(|micros| Duration::from_micros(micros) / 2),
            },
            Err(error) => {
                log::warn!("cannot tell the service manager at {name:?} anything: {error}");
                Notify::default()
            }
        }
    }

    /// How often it wants to hear that the agent lives; `None`: never.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    pub fn say(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            log::debug!("cannot tell the service manager {state}: {error}");
        }
    }
}

/// `@NAME` is an abstract socket.
fn connect(name: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    socket.connect_addr(&address)?;
    // A manager that does not read must not hold the agent up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_in_the_file_system_and_abstract_ones_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("sfgi-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        for (address, name) in [
            (SocketAddr::from_pathname(&path).unwrap(), path.display().to_string()),
            (abstract_address, format!("@{abstract_name}")),
        ] {
            let manager = UnixDatagram::bind_addr(&address).unwrap();
            let notify = Notify { socket: Some(connect(&name).unwrap()), watchdog: None };
            notify.say("READY=1");
            let mut told = [0; 64];
            let length = manager.recv(&mut told).unwrap();
            assert_eq!(&told[..length], b"READY=1");
        }
        assert!(connect("/does/not/exist").is_err());
        Notify::default().say("WATCHDOG=1");
    }
}
