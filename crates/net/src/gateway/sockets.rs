//! The sockets and the file that the gateway inherits, as numbers on its command line.

use std::{
    ffi::OsString,
    fs::File,
    io,
    net::{TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use banger_sys::{
    Watched,
    netlink::{AddressChanges, Route},
    take_inherited,
};
use rustix::io::ioctl_fionbio;
use tokio::net::{TcpListener, UdpSocket};

use crate::namespace::{GatewaySockets, RequestConnection, Requests};

/// Names of the sockets on the command line.
const CONTROL: &str = "control";
const REQUESTS: &str = "requests";
const ROUTE: &str = "route";
const CHANGES: &str = "changes";
const LOG: &str = "log";
const RECORD: &str = "record";
const UDP: &str = "udp";
const TCP: &str = "tcp";
const SERVICE: &str = "service";

/// Numbers of the descriptors that the gateway inherits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sockets {
    /// For requests of the daemon, listening.
    pub control: RawFd,
    /// To the namespace process.
    pub requests: RawFd,
    /// The host's network configuration.
    pub route: RawFd,
    /// Notifications of its changes.
    pub changes: RawFd,
    /// Packets that the rules log.
    pub log: RawFd,
    /// The file in which flows are recorded.
    pub record: RawFd,
    /// DNS over UDP.
    pub udp: Vec<RawFd>,
    /// DNS over TCP, listening.
    pub tcp: Vec<RawFd>,
    /// For the host's services, each listening on the service's port.
    pub services: Vec<RawFd>,
}

/// The same, opened.
pub(super) struct OpenSockets {
    pub(super) control: Watched,
    pub(super) requests: Requests,
    pub(super) connection: RequestConnection,
    pub(super) route: Route,
    pub(super) changes: Watched,
    pub(super) log: Watched,
    pub(super) record: File,
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) services: Vec<TcpListener>,
}

impl Sockets {
    /// Parses the arguments that [`arguments`](Self::arguments) returns.
    ///
    /// # Errors
    /// Returns an error for an argument that is not one of them.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut sockets = Self::default();
        for argument in arguments {
            let invalid = || format!("{argument} is not a socket");
            let (name, number) = argument.split_once('=').ok_or_else(invalid)?;
            let number: RawFd = number.parse().map_err(|_| invalid())?;
            match name {
                CONTROL => sockets.control = number,
                REQUESTS => sockets.requests = number,
                ROUTE => sockets.route = number,
                CHANGES => sockets.changes = number,
                LOG => sockets.log = number,
                RECORD => sockets.record = number,
                UDP => sockets.udp.push(number),
                TCP => sockets.tcp.push(number),
                SERVICE => sockets.services.push(number),
                _ => return Err(invalid()),
            }
        }
        Ok(sockets)
    }

    /// Opens the host's sockets. Returns all descriptors, and the arguments that name them.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses a socket.
    pub fn arguments(
        control: OwnedFd,
        record: File,
        gateway: GatewaySockets,
    ) -> io::Result<(Vec<OsString>, Vec<OwnedFd>)> {
        let GatewaySockets { requests, log, udp, tcp, services } = gateway;
        let (route, changes) = (Route::open()?.into(), AddressChanges::subscribe()?.into_fd());
        let named = [(CONTROL, control), (REQUESTS, requests), (ROUTE, route), (CHANGES, changes)];
        let named = named.into_iter().chain([(LOG, log), (RECORD, record.into())]);
        let named = named.chain(udp.into_iter().map(|fd| (UDP, fd)));
        let named = named.chain(tcp.into_iter().map(|fd| (TCP, fd)));
        let named = named.chain(services.into_iter().map(|fd| (SERVICE, fd)));
        Ok(named.map(|(name, fd)| (format!("{name}={}", fd.as_raw_fd()).into(), fd)).unzip())
    }

    /// Takes the descriptors, in a tokio runtime.
    pub(super) fn open(&self) -> io::Result<OpenSockets> {
        let (requests, connection) = Requests::new(take_inherited(self.requests)?)?;
        let udp = self.udp.iter().map(|number| {
            let socket = StdUdpSocket::from(take_inherited(*number)?);
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        });
        let listeners = |numbers: &[RawFd]| {
            let listener = |number: &RawFd| {
                let listener = StdTcpListener::from(take_inherited(*number)?);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            };
            numbers.iter().map(listener).collect::<io::Result<_>>()
        };
        let (control, log) = (take_inherited(self.control)?, take_inherited(self.log)?);
        for socket in [&control, &log] {
            ioctl_fionbio(socket, true)?;
        }
        Ok(OpenSockets {
            control: Watched::new(control)?,
            requests,
            connection,
            route: take_inherited(self.route)?.into(),
            changes: Watched::new(take_inherited(self.changes)?)?,
            log: Watched::new(log)?,
            record: take_inherited(self.record)?.into(),
            udp: udp.collect::<io::Result<_>>()?,
            tcp: listeners(&self.tcp)?,
            services: listeners(&self.services)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_parsed_from_their_arguments() {
        let arguments = [
            "control=3",
            "requests=4",
            "route=5",
            "changes=6",
            "log=7",
            "record=8",
            "udp=9",
            "tcp=10",
            "service=11",
        ];
        let sockets = Sockets::parse(&arguments.map(str::to_owned)).unwrap();
        let expected = Sockets {
            control: 3,
            requests: 4,
            route: 5,
            changes: 6,
            log: 7,
            record: 8,
            udp: vec![9],
            tcp: vec![10],
            services: vec![11],
        };
        assert_eq!(sockets, expected);
        for bad in ["udp", "udp=", "udp=x", "x=1"] {
            assert!(Sockets::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
