//! Check of the reverse proxy's port.

use std::net::{Ipv4Addr, TcpListener};

use banger_api::{ApiError, Check, Config, ErrorKind, Remedy};

use super::finding::Finding;
use crate::ports::owner_on_loopback;

/// Checks that the port is free, or that a daemon has it.
pub(super) fn port(config: &Config) -> Finding {
    let name = "reverse proxy";
    let Some(port) = config.proxy().port() else { return Ok(Check::pass(name, "off")) };
    let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else {
        return Ok(Check::pass(name, format!("port {port} is free")));
    };
    let owner = owner_on_loopback(port);
    if let Some(owner) = owner.as_ref().filter(|owner| owner.ends_with("(bangerd)")) {
        return Ok(Check::pass(name, format!("{owner} serves port {port}")));
    }
    let why = owner.map_or_else(|| error.to_string(), |owner| format!("it is used by {owner}"));
    let message = format!("port {port} cannot be used: {why}");
    let error = ApiError::new(ErrorKind::Busy, message).remedy(Remedy::SetProxyPort);
    Ok(Check::warn(name, error))
}
