//! Discovers the programs and devices on this host that can run VMs.

use std::{fs, path::PathBuf};

use banger_sys::{find_program, find_program_in};

use crate::{
    identity::{Identity, identity},
    probe::{self, KvmSource},
    program::{version_in, version_line},
    verdict::KvmProbe,
};

/// Oldest supported Firecracker: the first with ACPI on x86, which Debian's kernel uses to find its devices
/// (Firecracker's changelog, 1.8.0).
const MIN_FIRECRACKER: [u32; 2] = [1, 8];

/// Oldest supported QEMU: Debian 11's, the oldest one tested.
const MIN_QEMU: [u32; 2] = [5, 2];

/// Program of the vsock device (crates/vsock-device).
const VSOCK_DEVICE: &str = "banger-vsock-device";

/// Reason why QEMU's guests have no vsock.
pub(crate) const NO_VSOCK: &str =
    "banger-vsock-device is missing beside bangerd: the installation is incomplete";

/// Search path for VMM programs, and source of the KVM verdict.
#[derive(Debug, Clone)]
pub struct VmmSearch {
    /// Directories that are searched first.
    pub directories: Vec<PathBuf>,
    /// True to search `PATH` and the usual directories, too.
    pub use_path: bool,
    /// Source of the KVM verdict.
    pub kvm: KvmSource,
}

impl VmmSearch {
    fn find(&self, name: &str) -> Option<PathBuf> {
        let first = find_program_in(name, self.directories.iter().cloned());
        first.or_else(|| if self.use_path { find_program(name) } else { None })
    }
}

/// VMMs and devices found on this host.
#[derive(Debug, Clone)]
pub struct HostVmms {
    /// Verdict of the KVM probe.
    pub kvm: KvmProbe,
    /// Firecracker, or why it cannot be used.
    pub(crate) firecracker: Result<InstalledProgram, String>,
    /// QEMU, or why it cannot be used.
    pub(crate) qemu: Result<InstalledProgram, String>,
    /// Program of the vsock device, which is installed beside bangerd.
    pub(crate) vsock_device: Option<PathBuf>,
    /// True if the host kernel's vsock can be used.
    pub(crate) vhost_vsock: bool,
    /// Identity of each file that the result depends on.
    evidence: Vec<(PathBuf, Option<Identity>)>,
}

/// A program that was found, with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstalledProgram {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

/// Finds the VMM programs and determines whether KVM works.
pub async fn discover(search: &VmmSearch) -> HostVmms {
    let (kvm, firecracker, qemu) = tokio::join!(
        probe::verdict(&search.kvm),
        program("firecracker", search, MIN_FIRECRACKER),
        program("qemu-system-x86_64", search, MIN_QEMU),
    );
    let vhost_vsock = fs::OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock").is_ok();
    let timed_out = [&firecracker, &qemu]
        .iter()
        .any(|program| program.as_ref().is_err_and(|unusable| unusable.timed_out));
    HostVmms {
        kvm,
        firecracker: firecracker.map_err(|unusable| unusable.why),
        qemu: qemu.map_err(|unusable| unusable.why),
        vsock_device: search.find(VSOCK_DEVICE),
        vhost_vsock,
        // If a program timed out, no evidence is kept, so that the next choice discovers again.
        evidence: if timed_out { Vec::new() } else { evidence(search) },
    }
}

/// Returns the identity of each file that the result of [`discover`] depends on.
fn evidence(search: &VmmSearch) -> Vec<(PathBuf, Option<Identity>)> {
    let programs = ["firecracker", "qemu-system-x86_64", VSOCK_DEVICE];
    let programs = programs.map(|name| search.find(name).unwrap_or_else(|| name.into()));
    let devices = ["/dev/kvm", "/dev/vhost-vsock"].map(PathBuf::from);
    // `banger doctor` replaces the cached verdict.
    let cache_file = match &search.kvm {
        KvmSource::Probe { cache_file, .. } => cache_file.clone(),
        KvmSource::Fixed(_) => None,
    };
    programs
        .into_iter()
        .chain(devices)
        .chain(cache_file)
        .map(|path| (path.clone(), identity(&path)))
        .collect()
}

impl HostVmms {
    /// Returns each program or device with its version and path, or the reason why it cannot be used.
    pub fn programs(&self) -> [(&'static str, Result<String, String>); 3] {
        let describe = |program: &Result<InstalledProgram, String>| match program {
            Ok(installed) => Ok(format!("{}, {}", installed.version, installed.program.display())),
            Err(why) => Err(why.clone()),
        };
        let vsock = match (&self.vsock_device, self.vhost_vsock) {
            (Some(device), _) => Ok(device.display().to_string()),
            (None, true) => Ok("/dev/vhost-vsock, of the host kernel".to_owned()),
            (None, false) => Err(NO_VSOCK.to_owned()),
        };
        [
            ("firecracker", describe(&self.firecracker)),
            ("qemu", describe(&self.qemu)),
            ("qemu's vsock", vsock),
        ]
    }

    /// Returns whether the programs and devices are unchanged since [`discover`].
    pub fn is_unchanged(&self, search: &VmmSearch) -> bool {
        self.evidence == evidence(search)
    }
}

/// Reason why a program cannot be used.
struct UnusableProgram {
    why: String,
    /// True if the program only timed out.
    timed_out: bool,
}

async fn program(name: &str, search: &VmmSearch, min: [u32; 2]) -> Result<InstalledProgram, UnusableProgram> {
    let unusable = |why| UnusableProgram { why, timed_out: false };
    let program = search.find(name).ok_or_else(|| unusable(format!("{name} is not installed")))?;
    let shown = program.display();
    let line = version_line(&program).await.map_err(|timed_out| UnusableProgram {
        why: format!("{shown} did not print its version within {} s", timed_out.0.as_secs()),
        timed_out: true,
    })?;
    let (numbers, version) =
        version_in(&line).ok_or_else(|| unusable(format!("{shown} prints no version: {line:?}")))?;
    if numbers.as_slice() < min.as_slice() {
        let [major, minor] = min;
        return Err(unusable(format!("{name} {version} is too old: {major}.{minor} or later is needed")));
    }
    Ok(InstalledProgram { program: program.clone(), version: version.to_owned() })
}

#[cfg(test)]
impl HostVmms {
    pub(crate) fn for_test(
        kvm: KvmProbe,
        firecracker: Result<InstalledProgram, String>,
        qemu: Result<InstalledProgram, String>,
        vsock_device: Option<PathBuf>,
    ) -> Self {
        Self { kvm, firecracker, qemu, vsock_device, vhost_vsock: false, evidence: Vec::new() }
    }
}
