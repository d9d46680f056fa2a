//! Installs what the project needs on the machine. It only checks for files, so a second run is fast.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::command::{self, check, find_program, is_root, say};

/// Debian packages, each with a program or file that shows it is installed.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("passt", "pasta"),
    ("nftables", "nft"),
    ("dnsmasq-base", "dnsmasq"),
    ("mmdebstrap", "mmdebstrap"),
    ("uidmap", "newuidmap"),
    // The busybox that is not static has a program of the same name.
    ("busybox-static", "/var/lib/dpkg/info/busybox-static.list"),
    ("zstd", "zstd"),
    ("xz-utils", "xz"),
    ("lz4", "lz4"),
    ("rpm", "rpmbuild"),
    ("e2fsprogs", "mke2fs"),
    ("curl", "curl"),
    ("jq", "jq"),
    ("make", "make"),
    ("iproute2", "ip"),
    ("git", "/usr/bin/git"),
    ("openssh-client", "ssh"),
    ("dropbear-bin", "dbclient"),
    ("rsync", "rsync"),
    ("gcc", "gcc"),
    ("libc6-dev", "/usr/include/stdio.h"),
    ("python3-pip", "pip3"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("openssl", "openssl"),
    ("apache2-utils", "htpasswd"),
    ("umoci", "umoci"),
    ("minisign", "minisign"),
    ("attr", "getfattr"),
    ("acl", "setfacl"),
    ("libcap2-bin", "setcap"),
    ("strace", "strace"),
    ("buildah", "buildah"),
];

pub(crate) fn run() -> Result<()> {
    packages()?;
    tun()?;
    subordinate_ids()
}

/// Lets every user open the device of taps, as udev does; a container has no udev.
fn tun() -> Result<()> {
    let tun = Path::new("/dev/net/tun");
    let is_open = |meta: fs::Metadata| meta.permissions().mode() & 0o666 == 0o666;
    if fs::metadata(tun).is_ok_and(is_open) || !tun.exists() {
        return Ok(());
    }
    check(privileged("chmod")?.arg("0666").arg(tun))
}

fn packages() -> Result<()> {
    let is_installed = |probe: &str| {
        if probe.starts_with('/') { Path::new(probe).exists() } else { find_program(probe).is_some() }
    };
    let missing: Vec<_> =
        PACKAGES.iter().filter(|(_, probe)| !is_installed(probe)).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(format_args!("installing {} packages, in about a minute: {}", missing.len(), missing.join(" ")));
    check(privileged("apt-get")?.args(["update", "-qq"]))?;
    check(
        privileged("env")?
            .args([
                "DEBIAN_FRONTEND=noninteractive",
                "apt-get",
                "install",
                "-y",
                "-qq",
                "--no-install-recommends",
            ])
            .args(missing),
    )
}

/// Assigns subordinate ids, which mmdebstrap and the lab's disk need. A user not created by `useradd` may have none.
fn subordinate_ids() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    let user = String::from_utf8(command::output(Command::new("id").arg("-un"))?)?.trim().to_owned();
    let has_range = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| line.split(':').next() == Some(user.as_str()))
    };
    if has_range("/etc/subuid") && has_range("/etc/subgid") {
        return Ok(());
    }
    say(format!("assigning {user} a range of subordinate ids"));
    let range = "200000-265535";
    check(privileged("usermod")?.args(["--add-subuids", range, "--add-subgids", range, &user]))
}

fn privileged(program: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let sudo = find_program("sudo");
    let mut command =
        Command::new(sudo.with_context(|| format!("{program} needs root, and there is no sudo"))?);
    command.arg(program);
    Ok(command)
}
