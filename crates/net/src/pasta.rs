//! pasta, the program that connects a namespace to the host's network without privileges.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
};

use banger_sys::find_program;

use crate::addresses::{
    PASTA, PASTA_MAC, PASTA_V6, PREFIX, UPLINK, UPLINK_ADDRESS, UPLINK_ADDRESS_V6, mac_text,
};

/// Name of the program, from the package `passt`.
const PROGRAM: &str = "pasta";

/// The device that creates taps.
const TUN: &str = "/dev/net/tun";

/// Limits of namespaces: their names, files, and values that allow them. The last one is of Debian's older kernels.
const LIMITS: [(&str, &str, &str); 3] = [
    ("user.max_user_namespaces", "/proc/sys/user/max_user_namespaces", "65536"),
    ("user.max_net_namespaces", "/proc/sys/user/max_net_namespaces", "65536"),
    ("kernel.unprivileged_userns_clone", "/proc/sys/kernel/unprivileged_userns_clone", "1"),
];

/// AppArmor's limit of Ubuntu: a program without a profile cannot use user namespaces. pasta's package has a profile.
const APPARMOR: (&str, &str, &str) = (
    "kernel.apparmor_restrict_unprivileged_userns",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "0",
);

/// The host's IPv6 addresses, with the names of their interfaces.
const IPV6_ADDRESSES: &str = "/proc/net/if_inet6";

/// Directories in which AppArmor's profile of pasta lets it run programs.
const ENV: &str = "/usr/bin/env";

/// A reason why VMs have no network on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// A program is not installed.
    #[error("{program} is not installed (package {package})")]
    Program {
        /// Its name.
        program: &'static str,
        /// The package that most distributions have it in.
        package: &'static str,
    },
    /// `/dev/net/tun` does not exist: the kernel's module `tun` is not loaded.
    #[error("{TUN} does not exist: the kernel module tun is not loaded")]
    NoTun,
    /// This user cannot open `/dev/net/tun`.
    #[error("{TUN} cannot be opened by this user")]
    TunNotPermitted,
    /// A limit forbids namespaces.
    #[error("this kernel lets users create no namespaces: {limit} must be {value}")]
    Namespaces {
        /// Name of the limit.
        limit: &'static str,
        /// A value that allows them.
        value: &'static str,
    },
}

/// The installed programs for a VM's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pasta {
    /// pasta.
    pub program: PathBuf,
    /// nft, which applies the rules.
    pub nft: PathBuf,
}

/// Finds the programs, and checks that this user can use what they need. Starts nothing.
///
/// # Errors
/// Returns the first thing that is missing.
pub fn find() -> Result<Pasta, Missing> {
    let program = |name, package| find_program(name).ok_or(Missing::Program { program: name, package });
    let found = Pasta { program: program(PROGRAM, "passt")?, nft: program("nft", "nftables")? };
    match OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Missing::TunNotPermitted);
        }
        Err(_) => return Err(Missing::NoTun),
    }
    // Root's namespaces have a limit, too.
    match LIMITS.iter().find(|(_, file, _)| is(file, "0")) {
        Some((limit, _, value)) => Err(Missing::Namespaces { limit, value }),
        None => Ok(found),
    }
}

/// Returns the limit that may be the reason why pasta, which [`find`] has found, cannot create namespaces.
pub fn restriction() -> Option<Missing> {
    let (limit, file, value) = APPARMOR;
    is(file, "1").then_some(Missing::Namespaces { limit, value })
}

fn is(file: &str, value: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.trim() == value)
}

/// Returns the interface of the host that stands for the outside: one with a link-local IPv6 address, without which
/// pasta has no IPv6, else loopback. `text` has the host's IPv6 addresses in the format of `/proc/net/if_inet6`.
fn interface(text: &str) -> String {
    let link_local = text.lines().find(|line| line.starts_with("fe80"));
    let name = link_local.and_then(|line| line.split_ascii_whitespace().last());
    name.unwrap_or("lo").to_owned()
}

impl Pasta {
    /// Returns pasta with the namespace process, which inherits the listening socket, not yet started.
    pub fn command(&self, bangerd: &Path, listener: OwnedFd) -> Command {
        let mut command = Command::new(&self.program);
        let interface = interface(&fs::read_to_string(IPV6_ADDRESSES).unwrap_or_default());
        command
            .args(self.arguments(&interface, &[bangerd, Path::new("namespace"), &self.nft]))
            .stdin(listener);
        command
    }

    /// Returns the arguments with which pasta creates the namespaces and runs `command` in them.
    ///
    /// It needs no route of the host: everything that pasta would copy from an interface of the host is given. So a host
    /// that goes offline and returns needs nothing. Nothing is forwarded to the guest, and pasta's own gateway, which
    /// leads to the host's loopback, does not exist.
    fn arguments(&self, interface: &str, command: &[&Path]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["--foreground", "--quiet", "--no-map-gw"].map(Into::into).into();
        let mut option = |name: &str, value: String| arguments.extend([name.into(), value.into()]);
        option("--interface", interface.to_owned());
        option("--mac-addr", mac_text(PASTA_MAC));
        option("--address", UPLINK_ADDRESS.to_string());
        option("--netmask", PREFIX.to_string());
        option("--gateway", PASTA.to_string());
        option("--address", UPLINK_ADDRESS_V6.to_string());
        option("--gateway", PASTA_V6.to_string());
        option("--ns-ifname", UPLINK.to_owned());
        for forward in ["-t", "-u", "-T", "-U"] {
            option(forward, "none".to_owned());
        }
        if rustix::process::geteuid().is_root() {
            // pasta would change to another user, and create a user namespace without need.
            option("--runas", "0".to_owned());
            arguments.push("--netns-only".into());
        }
        arguments.extend(["--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra", "--", ENV].map(Into::into));
        arguments.extend(command.iter().map(|word| word.as_os_str().to_owned()));
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_forwarded_and_nothing_is_copied_from_the_host() {
        let pasta = Pasta { program: "/usr/bin/pasta".into(), nft: "/usr/sbin/nft".into() };
        let addresses = "00000000000000000000000000000001 01 80 10 80       lo\n\
             fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n";
        assert_eq!((interface(addresses), interface("")), ("eth0".to_owned(), "lo".to_owned()));
        let arguments = pasta.arguments("lo", &[Path::new("/opt/bangerd"), Path::new("namespace")]);
        let text = arguments.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
        let text = text.replace("--runas 0 --netns-only ", "");
        assert_eq!(
            text,
            "--foreground --quiet --no-map-gw --interface lo --mac-addr 02:62:61:6e:67:06 --address 192.0.0.5 \
             --netmask 30 --gateway 192.0.0.6 --address fd62:616e:6765:7202::5 --gateway fd62:616e:6765:7202::6 \
             --ns-ifname uplink -t none -u none -T none -U none --no-dhcp --no-dhcpv6 --no-ndp --no-ra -- \
             /usr/bin/env /opt/bangerd namespace"
        );
    }
}
