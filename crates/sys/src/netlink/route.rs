//! Interfaces, addresses, routes and neighbours (rtnetlink).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use rustix::{io::Errno, net::netdevice::name_to_index};

use super::{
    message::{CREATE, DUMP, Message, REPLACE, attribute, attributes},
    socket::Socket,
};

// Constants from linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h and linux/neighbour.h.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const LINK_ADDRESS: u16 = 1;
const LINK_MTU: u16 = 4;
const LINK_QUEUE: u16 = 13;
const ADDRESS: u16 = 1;
const LOCAL_ADDRESS: u16 = 2;
const BROADCAST_ADDRESS: u16 = 4;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_LINK_ADDRESS: u16 = 2;
const INTERFACE_UP: u32 = 1;
const NO_DUPLICATE_DETECTION: u8 = 2;
const PERMANENT: u16 = 0x80;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const MAIN_TABLE: u8 = 254;
const LOCAL_TABLE: u8 = 255;
const STATIC_ROUTE: u8 = 4;
const UNICAST: u8 = 1;
const ADDRESS_EVENTS: u32 = 0x10 | 0x100;
const ROUTE_EVENTS: u32 = 0x40 | 0x400;

/// Lengths of the fixed parts of messages, in bytes.
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

/// A socket to the kernel's network configuration, in the namespace where it was opened.
#[derive(Debug)]
pub struct Route(Socket);

/// Properties of an interface to change; unset ones stay.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChanges {
    /// Maximum size of a packet in bytes.
    pub mtu: Option<u32>,
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
    /// Maximum number of packets that wait to be sent.
    pub queue: Option<u32>,
}

impl Route {
    /// Opens a socket.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses one.
    pub fn open() -> io::Result<Self> {
        Socket::open(None).map(Self)
    }

    /// Returns an interface's index, or `None` if there is no interface with this name.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot be asked.
    pub fn interface(&self, name: &str) -> io::Result<Option<u32>> {
        match name_to_index(self.0.fd(), name) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::NODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings an interface up, with these changes.
    ///
    /// # Errors
    /// Returns the kernel's refusal.
    pub fn bring_up(&mut self, interface: u32, changes: LinkChanges) -> io::Result<()> {
        let mut body = vec![0; 4];
        for word in [interface, INTERFACE_UP, INTERFACE_UP] {
            body.extend(word.to_ne_bytes());
        }
        if let Some(mtu) = changes.mtu {
            attribute(&mut body, LINK_MTU, &mtu.to_ne_bytes());
        }
        if let Some(queue) = changes.queue {
            attribute(&mut body, LINK_QUEUE, &queue.to_ne_bytes());
        }
        if let Some(mac) = changes.mac {
            attribute(&mut body, LINK_ADDRESS, &mac);
        }
        self.0.change(NEW_LINK, 0, &body)
    }

    /// Adds an address to an interface. An IPv6 address is used at once, without a search for duplicates.
    ///
    /// # Errors
    /// Returns the kernel's refusal.
    pub fn add_address(&mut self, interface: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let (family, flags) = match address {
            IpAddr::V4(_) => (IPV4, 0),
            IpAddr::V6(_) => (IPV6, NO_DUPLICATE_DETECTION),
        };
        let mut body = vec![family, prefix, flags, 0];
        body.extend(interface.to_ne_bytes());
        let octets = octets(address);
        attribute(&mut body, LOCAL_ADDRESS, &octets);
        attribute(&mut body, ADDRESS, &octets);
        if let IpAddr::V4(address) = address {
            let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or_default();
            let broadcast = Ipv4Addr::from_bits(address.to_bits() | hosts);
            attribute(&mut body, BROADCAST_ADDRESS, &broadcast.octets());
        }
        self.0.change(NEW_ADDRESS, REPLACE | CREATE, &body)
    }

    /// Makes `gateway` the default route of its family.
    ///
    /// # Errors
    /// Returns the kernel's refusal.
    pub fn set_default_route(&mut self, interface: u32, gateway: IpAddr) -> io::Result<()> {
        // Destination and source prefixes have 0 bits, the scope is 0: everywhere.
        let mut body = vec![family(gateway), 0, 0, 0, MAIN_TABLE, STATIC_ROUTE, 0, UNICAST, 0, 0, 0, 0];
        attribute(&mut body, ROUTE_INTERFACE, &interface.to_ne_bytes());
        attribute(&mut body, ROUTE_GATEWAY, &octets(gateway));
        self.0.change(NEW_ROUTE, REPLACE | CREATE, &body)
    }

    /// Sets the hardware address of `address` for good, so that the interface's peers cannot claim another.
    ///
    /// # Errors
    /// Returns the kernel's refusal.
    pub fn add_neighbour(&mut self, interface: u32, address: IpAddr, mac: [u8; 6]) -> io::Result<()> {
        let mut body = vec![family(address), 0, 0, 0];
        body.extend(interface.to_ne_bytes());
        body.extend(PERMANENT.to_ne_bytes());
        body.extend([0, UNICAST]);
        attribute(&mut body, NEIGHBOUR_ADDRESS, &octets(address));
        attribute(&mut body, NEIGHBOUR_LINK_ADDRESS, &mac);
        self.0.change(NEW_NEIGHBOUR, REPLACE | CREATE, &body)
    }

    /// Returns all addresses of this namespace's interfaces.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot be asked.
    pub fn addresses(&mut self) -> io::Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        self.0.exchange(GET_ADDRESS, DUMP, &[0; ADDRESS_HEADER], |message| {
            found.extend(address_in(message));
        })?;
        Ok(found)
    }

    /// Returns the destinations that this namespace has routes to, as addresses with the lengths of their prefixes: the
    /// default route has length 0. Its own addresses are not among them.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot be asked.
    pub fn destinations(&mut self) -> io::Result<Vec<(IpAddr, u8)>> {
        let mut found = Vec::new();
        self.0
            .exchange(GET_ROUTE, DUMP, &[0; ROUTE_HEADER], |message| found.extend(destination_in(message)))?;
        Ok(found)
    }
}

/// Notifications that this namespace's interfaces, addresses or routes have changed.
#[derive(Debug)]
pub struct AddressChanges(OwnedFd);

impl From<Route> for OwnedFd {
    fn from(route: Route) -> Self {
        route.0.into()
    }
}

/// Uses a socket that another process opened; it stays in the namespace of that process.
impl From<OwnedFd> for Route {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl AddressChanges {
    /// Subscribes to changes of addresses and routes.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses the subscription.
    pub fn subscribe() -> io::Result<Self> {
        Socket::subscribe(ADDRESS_EVENTS | ROUTE_EVENTS).map(Self)
    }

    /// Returns the descriptor, which is readable when something has changed.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Returns the address in a message about one. On a point-to-point link, ADDRESS is the peer's.
fn address_in(message: Message<'_>) -> Option<IpAddr> {
    let found = (message.kind == NEW_ADDRESS).then(|| message.body.get(ADDRESS_HEADER..))??;
    let value = |wanted| attributes(found).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    match value(LOCAL_ADDRESS).or_else(|| value(ADDRESS))? {
        value if value.len() == 4 => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        value => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
    }
}

/// Returns the destination of a route to other machines.
fn destination_in(message: Message<'_>) -> Option<(IpAddr, u8)> {
    let header = (message.kind == NEW_ROUTE).then(|| message.body.get(..ROUTE_HEADER))??;
    let (family, prefix, table, kind) = (*header.first()?, *header.get(1)?, *header.get(4)?, *header.get(7)?);
    if kind != UNICAST || table == LOCAL_TABLE {
        return None;
    }
    let destination =
        attributes(message.body.get(ROUTE_HEADER..)?).find(|(kind, _)| *kind == ROUTE_DESTINATION);
    let address = match (family, destination) {
        (IPV4, None) => Ipv4Addr::UNSPECIFIED.into(),
        (IPV6, None) => Ipv6Addr::UNSPECIFIED.into(),
        (IPV4, Some((_, value))) => Ipv4Addr::from(*value.first_chunk::<4>()?).into(),
        (IPV6, Some((_, value))) => Ipv6Addr::from(*value.first_chunk::<16>()?).into(),
        _ => return None,
    };
    Some((address, prefix))
}
