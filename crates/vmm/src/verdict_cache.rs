//! The cached KVM verdict: a file that is valid for this boot, this device and this probe program.
//!
//! A daemon's start then needs no probe, and a busy host cannot change an earlier verdict. If the file is missing,
//! unreadable or from other conditions, the probe runs.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    identity::{Identity, identity},
    verdict::KvmProbe,
};

/// The kernel's id of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

const KVM_DEVICE: &str = "/dev/kvm";

/// Conditions under which a verdict is valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conditions {
    boot: String,
    device: Identity,
    probe: Identity,
}

#[derive(Serialize, Deserialize)]
struct CachedVerdict {
    conditions: Conditions,
    #[serde(rename = "found")]
    verdict: KvmProbe,
}

impl Conditions {
    /// Returns the current conditions for the probe `program`, or `None` if this process cannot open the device:
    /// another process of the same user may be able to.
    pub(crate) fn current(program: &Path) -> Option<Self> {
        fs::OpenOptions::new().read(true).write(true).open(KVM_DEVICE).ok()?;
        Some(Self {
            boot: fs::read_to_string(BOOT_ID).ok()?.trim_end().to_owned(),
            device: identity(Path::new(KVM_DEVICE))?,
            probe: identity(program)?,
        })
    }
}

/// Returns the verdict in `file` if it is valid under `conditions`.
pub(crate) fn read(file: &Path, conditions: &Conditions) -> Option<KvmProbe> {
    let cached: CachedVerdict = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    (cached.conditions == *conditions).then_some(cached.verdict)
}

/// Writes a verdict to `file`, whose directory must exist. A failure, or a concurrent write by another process, only
/// costs the next process a probe.
pub(crate) fn write(file: &Path, conditions: Conditions, verdict: &KvmProbe) {
    let Ok(text) = serde_json::to_vec(&CachedVerdict { conditions, verdict: verdict.clone() }) else {
        return;
    };
    let partial = file.with_extension("partial");
    let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, file));
    if written.is_err() {
        // The file may not exist.
        let _ = fs::remove_file(&partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::KvmVerdict;

    #[test]
    fn a_cached_verdict_is_valid_only_for_its_boot_device_and_probe() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kvm.json");
        let current = Conditions { boot: "b".into(), device: (1, 2, 3, 4), probe: (5, 6, 7, 8) };
        assert_eq!(read(&file, &current), None);
        let verdict = KvmProbe::new(KvmVerdict::Usable, "fine");
        write(&file, current.clone(), &verdict);
        assert_eq!(read(&file, &current), Some(verdict.clone()));
        for other in [
            Conditions { boot: "c".into(), ..current.clone() },
            Conditions { device: (1, 2, 3, 5), ..current.clone() },
            Conditions { probe: (5, 0, 7, 8), ..current.clone() },
        ] {
            assert_eq!(read(&file, &other), None);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        for garbage in ["", "{}", "[1, 2"] {
            fs::write(&file, garbage).unwrap();
            assert_eq!(read(&file, &current), None);
        }
        write(&dir.path().join("missing/kvm.json"), current, &verdict);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
