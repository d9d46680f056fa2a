//! Which program runs a VM: found once, and again when something about the programs has changed.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use banger_api::Vmm as ApiVmm;
use banger_vmm::{HostVmms, KvmSource, Vmm, VmmKind, VmmSearch};
use tokio::sync::Mutex;

use crate::{config::ConfigFiles, dirs, error::EngineError, programs::Programs};

/// What there is on this host to run VMs with.
#[derive(Debug)]
pub(crate) struct Vmms {
    search: VmmSearch,
    config: Arc<ConfigFiles>,
    found: Mutex<Option<HostVmms>>,
    said_slower: AtomicBool,
}

impl Vmms {
    pub(crate) fn new(search: VmmSearch, config: Arc<ConfigFiles>) -> Self {
        Self { search, config, found: Mutex::new(None), said_slower: AtomicBool::new(false) }
    }

    /// The VMM for a VM that asked for `wanted`, else as configured; and, when it is a slower one, why, and what to do about it.
    pub(crate) async fn choose(
        &self,
        wanted: Option<ApiVmm>,
    ) -> Result<(Box<dyn Vmm>, Option<String>), EngineError> {
        let wanted = match wanted {
            Some(wanted) => Some(wanted),
            None => self.config.now()?.vmm().copied(),
        }
        .map(kind);
        let mut found = self.found.lock().await;
        if let Some(known) = &*found
            && known.still_there(&self.search)
            && let Ok(chosen) = banger_vmm::choose(wanted, known)
        {
            return Ok(chosen);
        }
        let now = self.look().await;
        let chosen = banger_vmm::choose(wanted, &now);
        *found = Some(now);
        Ok(chosen?)
    }

    /// What there is, looked at now.
    pub(crate) async fn look(&self) -> HostVmms {
        banger_vmm::discover(&self.search).await
    }

    /// Whether nobody has been told yet that a slower one is used; told once, it is known.
    pub(crate) fn first_to_say_slower(&self) -> bool {
        !self.said_slower.swap(true, Ordering::Relaxed)
    }

    /// What would run a VM, and what the KVM probe found, in words.
    pub(crate) async fn describe(&self) -> (String, String) {
        let vmm = match self.choose(None).await {
            Ok((vmm, slower)) => {
                let slower = slower.map(|why| format!(": {why}")).unwrap_or_default();
                format!("{} {}{slower}", vmm.kind(), vmm.version())
            }
            Err(error) => error.to_string(),
        };
        let kvm = self.found.lock().await.as_ref().map(|found| found.kvm.to_string()).unwrap_or_default();
        (vmm, kvm)
    }
}

/// Searches beside bangerd, then in `PATH`; bangerd itself is the KVM probe, and its verdict is kept in `runtime`, if that is
/// a directory of this user's alone.
pub(crate) fn search(programs: &Programs, runtime: &Path, again: bool) -> VmmSearch {
    let is_ours = matches!(dirs::is_private(runtime), Ok(true));
    VmmSearch {
        directories: programs.bangerd.parent().map(PathBuf::from).into_iter().collect(),
        use_path: true,
        kvm: KvmSource::Probe {
            command: vec![programs.bangerd.clone(), "kvm-probe".into()],
            kept: is_ours.then(|| runtime.join("kvm.json")),
            again,
        },
    }
}

pub(crate) fn kind(vmm: ApiVmm) -> VmmKind {
    match vmm {
        ApiVmm::Firecracker => VmmKind::Firecracker,
        ApiVmm::Qemu => VmmKind::Qemu,
    }
}
