//! What this host has to run VMs with.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    probe::{self, KvmProbe},
    program::{find, version_in, version_line},
};

/// Oldest Firecracker that is used: the first with ACPI on x86, by which Debian's kernel finds its devices (its
/// changelog, 1.8.0).
const FIRECRACKER_SINCE: [u32; 2] = [1, 8];

/// Oldest QEMU that is used: Debian 11's, the first one tried.
const QEMU_SINCE: [u32; 2] = [5, 2];

/// What there is.
#[derive(Debug, Clone)]
pub struct HostVmms {
    /// What the KVM probe found.
    pub kvm: KvmProbe,
    /// Firecracker, or why it cannot be used.
    pub(crate) firecracker: Result<Found, String>,
    /// QEMU, or why it cannot be used.
    pub(crate) qemu: Result<Found, String>,
    /// `vhost-device-vsock`, where it is installed.
    pub(crate) vsock_device: Option<PathBuf>,
    /// Whether the kernel's own vsock can be used.
    pub(crate) vhost_vsock: bool,
    /// What all of this was told by.
    evidence: Vec<(PathBuf, Option<Identity>)>,
}

/// A program that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

/// Which file is at a path: device, inode, change time.
type Identity = (u64, u64, i64);

/// Looks at what is installed, in `folders` and on `PATH`, and probes KVM with a process of `probe_command` that calls
/// [`probe_main`](crate::probe_main).
pub async fn discover(probe_command: &[PathBuf], folders: &[PathBuf]) -> HostVmms {
    let (kvm, firecracker, qemu) = tokio::join!(
        probe::run(probe_command),
        program("firecracker", folders, FIRECRACKER_SINCE),
        program("qemu-system-x86_64", folders, QEMU_SINCE),
    );
    let vhost_vsock = fs::OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock").is_ok();
    HostVmms {
        kvm,
        firecracker,
        qemu,
        vsock_device: find("vhost-device-vsock", folders),
        vhost_vsock,
        evidence: evidence(folders),
    }
}

/// What was looked at, and what was there.
fn evidence(folders: &[PathBuf]) -> Vec<(PathBuf, Option<Identity>)> {
    let programs = ["firecracker", "qemu-system-x86_64", "vhost-device-vsock"];
    let programs = programs.map(|name| find(name, folders).unwrap_or_else(|| name.into()));
    let devices = ["/dev/kvm", "/dev/vhost-vsock"].map(PathBuf::from);
    programs.into_iter().chain(devices).map(|path| (path.clone(), identity(&path))).collect()
}

fn identity(path: &Path) -> Option<Identity> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.ctime()))
}

impl HostVmms {
    /// What each program and device is, or why it cannot be used, by its name.
    pub fn programs(&self) -> [(&'static str, Result<String, String>); 3] {
        let told = |program: &Result<Found, String>| match program {
            Ok(found) => Ok(format!("{}, {}", found.version, found.program.display())),
            Err(why) => Err(why.clone()),
        };
        let vsock = match (&self.vsock_device, self.vhost_vsock) {
            (Some(device), _) => Ok(device.display().to_string()),
            (None, true) => Ok("/dev/vhost-vsock, the host kernel's own".to_owned()),
            (None, false) => {
                Err("vhost-device-vsock is not installed, and /dev/vhost-vsock cannot be opened".to_owned())
            }
        };
        [("firecracker", told(&self.firecracker)), ("qemu", told(&self.qemu)), ("qemu's vsock", vsock)]
    }

    /// Whether the programs and devices are those that were looked at.
    pub fn still_there(&self, folders: &[PathBuf]) -> bool {
        self.evidence == evidence(folders)
    }
}

async fn program(name: &str, folders: &[PathBuf], since: [u32; 2]) -> Result<Found, String> {
    let program = find(name, folders).ok_or_else(|| format!("{name} is not installed"))?;
    let line = version_line(&program).await.unwrap_or_default();
    let (numbers, version) =
        version_in(&line).ok_or_else(|| format!("{} tells no version", program.display()))?;
    if numbers.as_slice() < since.as_slice() {
        let [major, minor] = since;
        return Err(format!("{name} {version} is too old: {major}.{minor} or later is needed"));
    }
    Ok(Found { program: program.clone(), version: version.to_owned() })
}

#[cfg(test)]
impl HostVmms {
    pub(crate) fn for_test(
        kvm: KvmProbe,
        firecracker: Result<Found, String>,
        qemu: Result<Found, String>,
        vsock_device: Option<PathBuf>,
    ) -> Self {
        Self { kvm, firecracker, qemu, vsock_device, vhost_vsock: false, evidence: Vec::new() }
    }
}
