//! Resolves host names as the guest does. A static program cannot use the C library's resolver.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
    time::Duration,
};

use banger_proto::FailureKind;
use tokio::{io::AsyncReadExt, net::unix::pipe, time::timeout};

use crate::{children::Children, exec::ROOT_PATH, failure::Failure};

/// Maximum length of a name, by the DNS.
const MAX_NAME: usize = 253;

/// Maximum number of a name's addresses to try.
const MAX_ADDRESSES: usize = 8;

/// Maximum size of getent's output, in bytes.
const MAX_OUTPUT: u64 = 4096;

/// Timeout for name servers.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Resolves `host`: an address, `localhost`, or a name by `/etc/hosts` or the guest's own `getent`.
pub(super) async fn resolve(host: &str, children: &Children) -> Result<Vec<IpAddr>, Failure> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    check(host)?;
    let addresses = parse_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), host);
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    let addresses = query_getent(host, children).await?;
    if addresses.is_empty() {
        return Err(Failure::new(FailureKind::NotFound, format!("the guest cannot resolve host {host:?}")));
    }
    Ok(addresses)
}

fn check(host: &str) -> Result<(), Failure> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || host.len() > MAX_NAME || host.starts_with('-') || !host.bytes().all(fits) {
        return Err(Failure::new(FailureKind::Invalid, format!("{host:?} is neither an address nor a name")));
    }
    Ok(())
}

/// Finds `host` in hosts(5): address, names, comment.
fn parse_hosts(file: &str, host: &str) -> Vec<IpAddr> {
    let lines = file.lines().filter_map(|line| line.split('#').next());
    let matching_address = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    };
    lines.filter_map(matching_address).take(MAX_ADDRESSES).collect()
}

async fn query_getent(host: &str, children: &Children) -> Result<Vec<IpAddr>, Failure> {
    let io_error = || Failure::io(format!("look up {host:?} with getent"));
    let (sender, output) = pipe::pipe().map_err(io_error())?;
    let mut getent = Command::new("getent");
    getent.args(["ahosts", host]).env_clear().env("PATH", ROOT_PATH);
    getent.stdin(Stdio::null()).stderr(Stdio::null()).stdout(sender.into_blocking_fd().map_err(io_error())?);
    children.spawn(&mut getent).map_err(io_error())?;
    // Closes its end of the pipe, which would keep the output from ending.
    drop(getent);
    let mut text = String::new();
    match timeout(TIMEOUT, output.take(MAX_OUTPUT).read_to_string(&mut text)).await {
        Ok(read) => read.map_err(io_error())?,
        Err(_) => {
            let message = format!("name lookup in the guest timed out after {} s", TIMEOUT.as_secs());
            return Err(Failure::new(FailureKind::Internal, message));
        }
    };
    Ok(parse_getent(&text))
}

/// Parses getent's output: a line for each address and socket type, with address, type and name.
fn parse_getent(text: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()) {
        if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_by_any_of_their_names() {
        let file = "127.0.0.1 localhost\n10.0.0.2\tdb db.vm # not web\nbroken web\n::2 DB\n";
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(parse_hosts(file, "db"), [address("10.0.0.2"), address("::2")]);
        assert_eq!(parse_hosts(file, "DB.vm"), [address("10.0.0.2")]);
        assert!(parse_hosts(file, "web").is_empty() && parse_hosts(file, "not").is_empty());
    }

    #[test]
    fn getent_output_is_parsed_without_duplicate_addresses() {
        let text = "93.184.215.14   STREAM example.com\n93.184.215.14   DGRAM\n2606::1 STREAM\nnonsense\n";
        let addresses: Vec<String> = parse_getent(text).iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["93.184.215.14", "2606::1"]);
        assert!(parse_getent("").is_empty());
    }

    #[test]
    fn invalid_host_names_are_rejected() {
        for host in ["", "-h", "a b", "a/b", "$(a)", &"a".repeat(254)] {
            assert!(check(host).is_err(), "{host}");
        }
        check("xn--bcher-kva.example_1").unwrap();
    }
}
