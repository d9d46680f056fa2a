//! Netlink: requests to the kernel's network configuration, its notifications of changes, and packets that rules log.

mod message;
mod packet_log;
mod route;
mod socket;

pub use packet_log::{LoggedPacket, PacketLog, logged_packets};
pub use route::{AddressChanges, LinkChanges, Route};
