//! Chooses the program that runs a VM. The choice is cached until the installed programs change.
//!
//! A VM that has run keeps its program, and a VM that ran with KVM keeps KVM. Where that is not possible, starting it
//! fails with the reason, and the user can choose another with `vm set --vmm`. A VM that ran in software moves to KVM
//! without asking: it is the same program, only faster.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use banger_api::{
    Accel as ApiAccel, ApiError, ErrorKind, LastRun, Remedy, SubjectKind, VmName, Vmm as ApiVmm,
};
use banger_vmm::{Accel, HostVmms, KvmProbe, KvmSource, Vmm, VmmError, VmmKind, VmmSearch};
use tokio::sync::Mutex;

use crate::{config::ConfigFiles, dirs, error::EngineError, programs::Programs, store::VmRecord};

/// A VMM; for a slower one also the reason, and how to fix it.
type Chosen = (Box<dyn Vmm>, Option<String>);

/// The VMMs of this host.
#[derive(Debug)]
pub(crate) struct Vmms {
    search: VmmSearch,
    config: Arc<ConfigFiles>,
    detected: Mutex<Option<HostVmms>>,
    slow_warning_shown: AtomicBool,
}

impl Vmms {
    pub(crate) fn new(search: VmmSearch, config: Arc<ConfigFiles>) -> Self {
        Self { search, config, detected: Mutex::new(None), slow_warning_shown: AtomicBool::new(false) }
    }

    /// Returns the VMM for a new VM: `requested`, else the configured one.
    pub(crate) async fn choose(&self, requested: Option<ApiVmm>) -> Result<Chosen, EngineError> {
        self.choose_with(requested, |chosen, _| Ok(chosen?)).await
    }

    /// Returns the VMM for the VM of `record`: the one it requests, else the one it last ran with.
    pub(crate) async fn choose_for_vm(&self, record: &VmRecord) -> Result<Chosen, EngineError> {
        let requested = record.vmm.or(record.ran_with.map(|ran| ran.vmm));
        self.choose_with(requested, |chosen, kvm| refuse_move(&record.name, record.ran_with, chosen, kvm))
            .await
    }

    /// Returns the choice as mapped by `accept`. Detects the host's VMMs again before returning an error.
    async fn choose_with(
        &self,
        requested: Option<ApiVmm>,
        accept: impl Fn(Result<Chosen, VmmError>, &KvmProbe) -> Result<Chosen, EngineError>,
    ) -> Result<Chosen, EngineError> {
        let requested = match requested {
            Some(requested) => Some(requested),
            None => self.config.current()?.vmm().copied(),
        }
        .map(kind);
        let choose = |detected: &HostVmms| accept(banger_vmm::choose(requested, detected), &detected.kvm);
        let mut detected = self.detected.lock().await;
        if let Some(cached) = &*detected
            && cached.is_unchanged(&self.search)
            && let Ok(chosen) = choose(cached)
        {
            return Ok(chosen);
        }
        choose(detected.insert(self.detect().await))
    }

    /// Detects the host's VMMs now.
    pub(crate) async fn detect(&self) -> HostVmms {
        banger_vmm::discover(&self.search).await
    }

    /// Returns true only the first time: the warning about a slower VMM is shown once.
    pub(crate) fn mark_slow_warning_shown(&self) -> bool {
        !self.slow_warning_shown.swap(true, Ordering::Relaxed)
    }

    /// Returns the VMM that would run a VM, and the result of the KVM probe, as text.
    pub(crate) async fn describe(&self) -> (String, String) {
        let vmm = match self.choose(None).await {
            Ok((vmm, slower)) => {
                let slower = slower.map(|why| format!(": {why}")).unwrap_or_default();
                format!("{} {}{slower}", vmm.kind(), vmm.version())
            }
            Err(error) => error.to_string(),
        };
        let kvm =
            self.detected.lock().await.as_ref().map(|detected| detected.kvm.to_string()).unwrap_or_default();
        (vmm, kvm)
    }
}

/// Refuses a choice that moves VM `name` from the program it last `ran` with, or from KVM to software.
fn refuse_move(
    name: &VmName,
    ran: Option<LastRun>,
    chosen: Result<Chosen, VmmError>,
    kvm: &KvmProbe,
) -> Result<Chosen, EngineError> {
    let Some(ran) = ran else { return Ok(chosen?) };
    let (error, other) = match chosen {
        Ok((vmm, _)) if ran.accel == ApiAccel::Kvm && vmm.accel() == Accel::Tcg => {
            (ApiError::new(ErrorKind::NoKvm, format!("KVM is {kvm}")), ran.vmm)
        }
        Ok(chosen) => return Ok(chosen),
        Err(error) => {
            let other = match ran.vmm {
                ApiVmm::Firecracker => ApiVmm::Qemu,
                ApiVmm::Qemu => ApiVmm::Firecracker,
            };
            (EngineError::from(error).into(), other)
        }
    };
    let message = format!("VM {name} last ran on {ran}, which is not possible now: {}", error.message);
    let error = ApiError::new(error.kind, message).about(SubjectKind::Vm, name);
    Err(error.remedy(Remedy::SetVmm { vmm: other, in_software: other == ran.vmm }).into())
}

/// Searches beside bangerd, then in `PATH`. bangerd itself is the KVM probe. The verdict is cached in `runtime`, if
/// that is a directory of this user only.
pub(crate) fn search(programs: &Programs, runtime: &Path, reprobe: bool) -> VmmSearch {
    let is_ours = matches!(dirs::is_private(runtime), Ok(true));
    VmmSearch {
        directories: programs.bangerd.parent().map(PathBuf::from).into_iter().collect(),
        use_path: true,
        kvm: KvmSource::Probe {
            command: vec![programs.bangerd.clone(), "kvm-probe".into()],
            cache_file: is_ours.then(|| runtime.join("kvm.json")),
            reprobe,
        },
    }
}

pub(crate) fn kind(vmm: ApiVmm) -> VmmKind {
    match vmm {
        ApiVmm::Firecracker => VmmKind::Firecracker,
        ApiVmm::Qemu => VmmKind::Qemu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::Dirs;
    use banger_vmm::{KvmVerdict, LaunchPlan, VmSpec};
    use std::{fs, os::unix::fs::PermissionsExt};

    #[derive(Debug)]
    struct Fake(VmmKind, Accel);

    impl Vmm for Fake {
        fn kind(&self) -> VmmKind {
            self.0
        }
        fn accel(&self) -> Accel {
            self.1
        }
        fn version(&self) -> &str {
            "1.0"
        }
        fn plan(&self, _: &VmSpec) -> Result<LaunchPlan, VmmError> {
            Err(VmmError::NoVmm { why: "it is a fake".to_owned() })
        }
    }

    const FIRECRACKER: LastRun = LastRun { vmm: ApiVmm::Firecracker, accel: ApiAccel::Kvm };
    const FAST_QEMU: LastRun = LastRun { vmm: ApiVmm::Qemu, accel: ApiAccel::Kvm };
    const SLOW_QEMU: LastRun = LastRun { vmm: ApiVmm::Qemu, accel: ApiAccel::Tcg };

    #[test]
    fn a_vm_never_moves_to_another_program_or_from_kvm_to_software() {
        let slow = || Ok(Fake(VmmKind::Qemu, Accel::Tcg));
        let fast = || Ok(Fake(VmmKind::Qemu, Accel::Kvm));
        let gone = || Err(VmmError::Unusable { vmm: VmmKind::Qemu, why: "gone".to_owned() });
        let no_kvm = || Err(VmmError::NoKvm { why: "broken".to_owned() });
        let unknown = || Err(VmmError::KvmUnknown { why: "busy".to_owned() });
        // Last program, the choice now → the error's kind, and the VMM that its remedy offers
        for (ran, now, refused) in [
            (None, slow(), None),
            (None, no_kvm(), Some((ErrorKind::NoKvm, None))),
            (Some(FAST_QEMU), fast(), None),
            (Some(FAST_QEMU), slow(), Some((ErrorKind::NoKvm, Some(ApiVmm::Qemu)))),
            (Some(SLOW_QEMU), slow(), None),
            (Some(SLOW_QEMU), fast(), None),
            (Some(SLOW_QEMU), gone(), Some((ErrorKind::MissingProgram, Some(ApiVmm::Firecracker)))),
            (Some(FIRECRACKER), no_kvm(), Some((ErrorKind::NoKvm, Some(ApiVmm::Qemu)))),
            (Some(FIRECRACKER), unknown(), Some((ErrorKind::Timeout, Some(ApiVmm::Qemu)))),
        ] {
            let chosen = now.map(|vmm| (Box::new(vmm) as Box<dyn Vmm>, None));
            let case = format!("{ran:?} {chosen:?}");
            let kvm = KvmProbe::new(KvmVerdict::Broken, "a guest died");
            match (refuse_move(&"box".parse().unwrap(), ran, chosen, &kvm), refused) {
                (Ok(_), None) => {}
                (Err(error), Some((kind, offer))) => {
                    let error = ApiError::from(error);
                    assert_eq!(error.kind, kind, "{case}");
                    let offered = match error.remedy {
                        Some(Remedy::SetVmm { vmm, .. }) => Some(vmm),
                        _ => None,
                    };
                    assert!(offer.is_none() || offer == offered, "{case}: {offered:?}");
                }
                (result, _) => panic!("{case}: {result:?}"),
            }
        }
    }

    /// A host with this KVM verdict and only these programs.
    fn host(dir: &Path, verdict: KvmVerdict, programs: &[(&str, &str)]) -> Vmms {
        for (name, version) in programs {
            let path = dir.join(name);
            fs::write(&path, format!("#!/bin/sh\necho {version}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let search = VmmSearch {
            directories: vec![dir.to_owned()],
            use_path: false,
            kvm: KvmSource::Fixed(KvmProbe::new(verdict, "fixed")),
        };
        let dirs = Dirs::find(|name| (name == "HOME").then(|| dir.to_owned())).unwrap();
        let dirs = Dirs { system_config: dir.join("none.toml"), ..dirs };
        Vmms::new(search, Arc::new(ConfigFiles::new(&dirs)))
    }

    #[tokio::test]
    async fn a_start_requires_the_vmm_of_the_last_run() {
        let dir = tempfile::tempdir().unwrap();
        let programs = [("firecracker", "Firecracker v1.12.1")];
        let fast = host(dir.path(), KvmVerdict::Usable, &programs);
        let ran = |ran_with| VmRecord { ran_with, ..VmRecord::for_test() };
        for ran_with in [None, Some(FIRECRACKER)] {
            assert_eq!(fast.choose_for_vm(&ran(ran_with)).await.unwrap().0.kind(), VmmKind::Firecracker);
        }
        let gone = ApiError::from(fast.choose_for_vm(&ran(Some(SLOW_QEMU))).await.unwrap_err());
        assert_eq!(gone.kind, ErrorKind::MissingProgram);
        assert!(gone.message.contains("last ran on qemu without KVM"), "{gone}");
        let slow = host(dir.path(), KvmVerdict::Broken, &programs);
        let error = ApiError::from(slow.choose_for_vm(&ran(Some(FIRECRACKER))).await.unwrap_err());
        assert_eq!(error.kind, ErrorKind::NoKvm);
        assert!(error.message.contains("last ran on firecracker with KVM"), "{error}");
    }
}
