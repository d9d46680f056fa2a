//! Finds the files that a program needs to run: its own installation, libraries, and what the C library reads.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::policy::{Access, PathRule, Sockets};

/// Directories of installed programs and libraries. Those of Nix and Guix hold nothing else.
const INSTALLED: [&str; 8] =
    ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/gnu/store"];

/// Files that programs and their libraries read at the start: the loader's, the kernel's description of the machine,
/// and system-wide settings of the libraries. None of them is secret.
const READ: [&str; 19] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/ld-musl-x86_64.path",
    "/etc/localtime",
    "/etc/crypto-policies",
    "/etc/gnutls",
    "/etc/gcrypt",
    "/etc/pki/tls/openssl.cnf",
    "/etc/ssl/openssl.cnf",
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/crypto",
    "/proc/sys/kernel",
    "/proc/sys/vm",
    "/sys/devices/system",
    "/sys/kernel/mm",
    "/sys/module",
];

/// Devices without state.
const DEVICES: [&str; 5] = ["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];

/// Directories below the prefix of an installation, such as `/opt/qemu`, that hold a program's own files.
const BELOW_PREFIX: [&str; 7] =
    ["lib", "lib32", "lib64", "libexec", "share/qemu", "share/qemu-firmware", "share/seabios"];

/// Directories beside a program that was built but not installed: QEMU's firmware.
const BESIDE: [&str; 3] = ["pc-bios", "qemu-bundle", "../pc-bios"];

/// Files with the addresses of name servers.
const RESOLVER: &str = "/etc/resolv.conf";

/// Files that the C library reads to resolve names and to check certificates.
const NAMES: [&str; 10] = [
    "/etc/ca-certificates",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki",
    "/etc/services",
    "/etc/ssl/certs",
];

/// Directories with the sockets of services that resolve names for the C library.
const NAME_SERVICES: [&str; 2] = ["/run/nscd", "/run/systemd/resolve"];

/// Returns the rules for sockets: the files with which names are resolved.
pub(super) fn rules_for_sockets(sockets: Sockets) -> Vec<PathRule> {
    let rule = |access| move |path: &str| PathRule { path: path.into(), access };
    let mut rules = Vec::new();
    if matches!(sockets, Sockets::Internet | Sockets::Names) {
        rules.push(PathRule { path: resolver(), access: Access::Read });
    }
    if sockets == Sockets::Names {
        rules.extend(NAMES.map(rule(Access::Read)));
        rules.extend(NAME_SERVICES.map(rule(Access::Connect)));
    }
    rules
}

/// Returns the directory of the file with the name servers, which is replaced when the network changes. As root, it
/// is only the file if that is in `/etc`, where root can read secrets.
fn resolver() -> PathBuf {
    let file = fs::canonicalize(RESOLVER).unwrap_or_else(|_| RESOLVER.into());
    match file.parent() {
        Some(dir) if dir != Path::new("/etc") || !rustix::process::geteuid().is_root() => dir.to_owned(),
        _ => file,
    }
}

/// Returns the rules for `program`, which every confinement includes.
pub(super) fn rules(program: &Path) -> Vec<PathRule> {
    let installed = INSTALLED.iter().map(PathBuf::from).chain(own(program));
    let rule = |access| move |path| PathRule { path, access };
    installed
        .map(rule(Access::Run))
        .chain(READ.iter().map(PathBuf::from).map(rule(Access::Read)))
        .chain(DEVICES.iter().map(PathBuf::from).map(rule(Access::Write)))
        .collect()
}

/// Returns the program and the directories of its installation, if those of [`INSTALLED`] do not hold it. A directory
/// that holds anything else, such as a home directory, is not among them.
fn own(program: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    // A link in `PATH` often leads to the installation.
    let target = fs::canonicalize(program).ok();
    let programs = [Some(program), target.as_deref()].into_iter().flatten();
    for program in programs.filter(|program| !INSTALLED.iter().any(|dir| program.starts_with(dir))) {
        paths.push(program.to_owned());
        let Some(dir) = program.parent() else { continue };
        paths.extend(BESIDE.iter().map(|name| dir.join(name)));
        if let Some(prefix) = dir.parent() {
            paths.extend(BELOW_PREFIX.iter().map(|name| prefix.join(name)));
        }
        // Homebrew installs each program and library in a directory of its own below this one.
        paths.extend(dir.ancestors().find(|dir| dir.ends_with("Cellar")).map(Path::to_owned));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(program: &str) -> impl Fn(&str) -> bool {
        let paths = own(Path::new(program));
        move |file| paths.iter().any(|path| Path::new(file).starts_with(path))
    }

    #[test]
    fn an_installation_in_an_unusual_place_is_readable_and_its_neighbours_are_not() {
        let opt = readable("/opt/qemu/bin/qemu-system-x86_64");
        assert!(opt("/opt/qemu/bin/qemu-system-x86_64") && opt("/opt/qemu/lib/x86_64/libz.so.1"));
        assert!(opt("/opt/qemu/share/qemu/bios-256k.bin"));
        let home = readable("/home/ann/bin/qemu-system-x86_64");
        assert!(home("/home/ann/bin/qemu-system-x86_64") && home("/home/ann/share/qemu/bios.bin"));
        assert!(!home("/home/ann/.ssh/id_ed25519") && !home("/home/ann/bin/other"));
        let local = readable("/home/ann/.local/bin/firecracker");
        assert!(!local("/home/ann/.local/share/keyrings/login.keyring"));
        let built = readable("/home/ann/qemu/build/qemu-system-x86_64");
        assert!(built("/home/ann/qemu/build/qemu-bundle/usr/share/qemu/bios.bin"));
        let cellar = readable("/home/linuxbrew/.linuxbrew/Cellar/qemu/9.2/bin/qemu-system-x86_64");
        assert!(cellar("/home/linuxbrew/.linuxbrew/Cellar/glib/2.8/lib/libglib-2.0.so.0"));
    }
}
