//! Netlink: requests to the kernel's network configuration, and its notifications of changes.

mod message;
mod route;
mod socket;

pub use route::{AddressChanges, LinkChanges, Route};
