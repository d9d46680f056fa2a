//! pasta, the program that connects a namespace to the host's network without privileges.

use std::{
    env,
    ffi::OsString,
    fs::OpenOptions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::addresses::{
    PASTA, PASTA_MAC, PASTA_V6, PREFIX, UPLINK, UPLINK_ADDRESS, UPLINK_ADDRESS_V6, mac_text,
};

/// Name of the program, from the package `passt`.
const PROGRAM: &str = "pasta";

/// The device that creates taps.
const TUN: &str = "/dev/net/tun";

/// Files with limits of namespaces, and the value of each that forbids an ordinary user to create one.
const LIMITS: [(&str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0"),
    ("/proc/sys/user/max_net_namespaces", "0"),
    // Debian's kernels before 6.1, and some others.
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
];

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
    #[error("this kernel lets ordinary users create no namespaces: {file} is 0")]
    Namespaces {
        /// File of the limit.
        file: &'static str,
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
    let program = |name, package| search(name).ok_or(Missing::Program { program: name, package });
    let found = Pasta { program: program(PROGRAM, "passt")?, nft: program("nft", "nftables")? };
    match OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Missing::TunNotPermitted);
        }
        Err(_) => return Err(Missing::NoTun),
    }
    let is_forbidden =
        |(file, value): &(&str, &str)| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == *value);
    // Root's namespaces have a limit, too.
    match LIMITS.iter().find(|limit| is_forbidden(limit)) {
        Some((file, _)) => Err(Missing::Namespaces { file }),
        None => Ok(found),
    }
}

/// Returns the first executable `name` in `PATH` and the usual directories.
fn search(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let all = env::split_paths(&path).chain(usual).filter(|dir| dir.is_absolute());
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    all.map(|dir| dir.join(name)).find(is_program)
}

impl Pasta {
    /// Returns the arguments with which pasta creates the namespaces and runs `command` in them.
    ///
    /// It needs no route of the host: the loopback interface stands for the outside, and everything that pasta would
    /// copy from it is given. So a host that goes offline and returns needs nothing. Nothing is forwarded to the guest,
    /// and pasta's own gateway, which leads to the host's loopback, does not exist.
    pub fn arguments(&self, command: &[&Path]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["--foreground", "--quiet", "--no-map-gw"].map(Into::into).into();
        let mut option = |name: &str, value: String| arguments.extend([name.into(), value.into()]);
        option("--interface", "lo".to_owned());
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
            // pasta would become the user nobody, and create a user namespace without need.
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
        let arguments = pasta.arguments(&[Path::new("/opt/bangerd"), Path::new("namespace")]);
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
