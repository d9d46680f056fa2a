//! Checks whether this host can run VMs: those of `banger doctor`, and those that a start makes first.
//!
//! A check returns a result, or fails with the error that a start would return. `doctor` runs all of them. The
//! preflight of a start runs those that cost no time, and reports all failures together. Nothing here starts a daemon
//! or changes the host; only the KVM verdict is cached.

mod capacity;
mod confinement;
mod files;
mod finding;
mod network;
mod platform;
mod proxy;
mod store;
mod vmm;

use std::sync::Arc;

use banger_api::{Check, Config, Dirs, config::Layer};
use banger_sys::confine::Support;

use crate::{
    catalog::{CatalogFiles, check_signed},
    config::{ConfigFiles, host_size},
    files::file_system,
    layout::store_file,
    programs::Programs,
    store_lock,
    vmms::{self, Vmms},
};
use finding::into_check;

pub(crate) use capacity::check_disk_space;
pub(crate) use files::{check_agent, check_private_dir, check_record};

/// Checks everything that VMs need of this host; `stronger` is a configuration layer above the daemon's own files.
/// KVM is probed again, and the daemon uses the new verdict too.
pub async fn doctor(dirs: &Dirs, programs: &Programs, stronger: Layer) -> Vec<Check> {
    let runtime = store_lock::last_runtime(dirs).unwrap_or_else(|| dirs.runtime.clone());
    let dirs = &Dirs { runtime, ..dirs.clone() };
    let files = Arc::new(ConfigFiles::new(dirs));
    // The CLI, which reads all layers, reports a broken file; here, the other checks run without it.
    let layers = [stronger].into_iter().chain(files.layers().unwrap_or_default());
    let config = Config::new(layers, host_size());
    let vmms = Vmms::new(vmms::search(programs, &dirs.runtime, true), files);
    let store = store::open(&store_file(dirs));
    let mut checks = vec![platform::architecture(), platform::kernel()];
    checks.extend(vmm::all(&vmms.detect().await, config.vmm().copied()));
    let bangerd = programs.bangerd.clone();
    // A panic would be a bug, and leaves the check out.
    checks.extend(tokio::task::spawn_blocking(move || network::check(&bangerd)).await.ok());
    checks.extend(platform::tools());
    checks.extend(confinement::all(Support::of_kernel()));
    checks.extend(files::all(dirs, programs));
    checks.push(into_check("memory", capacity::memory(&config)));
    checks.push(into_check("disk space", capacity::space(dirs)));
    checks.push(overlay(dirs));
    checks.push(into_check("reverse proxy", proxy::port(&config)));
    let catalog = CatalogFiles::new(dirs);
    checks.extend(catalog.check());
    // A broken file was reported above; then the built-in catalog is used.
    let times = store.as_ref().map(|store| store.signed_times.clone()).unwrap_or_default();
    let layers = catalog.layers(config.catalogs(), &times);
    let layers = layers.map_or_else(|_| Arc::new(banger_image::catalog().clone()), |layers| layers.all);
    checks.extend(check_signed(&config, catalog.cache_dir(), &times).await);
    checks.extend(store::all(&store, &config, &layers));
    checks
}

/// Returns the kind of system overlay that VMs use, and the reason.
fn overlay(dirs: &Dirs) -> Check {
    let kind = file_system(&dirs.state).map_or("this file system", |file_system| file_system.name);
    Check::pass(
        "system overlay",
        format!("overlay: a sparse disk for each VM over the image, mounted in the guest; works on {kind}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::Verdict;
    use std::{fs, path::Path};

    fn host(dir: &Path) -> (Dirs, Programs) {
        let dirs = Dirs::find(|name| (name == "HOME").then(|| dir.to_owned())).unwrap();
        let dirs = Dirs { runtime: dir.join("run"), ..dirs };
        (dirs, Programs { bangerd: "/bin/true".into(), agent: "/bin/true".into() })
    }

    #[tokio::test]
    async fn doctor_checks_a_fresh_host_and_creates_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let (dirs, programs) = host(dir.path());
        let checks = doctor(&dirs, &programs, Layer::default()).await;
        let check = |name: &str| checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(
            (check("store").verdict, check("state directory").verdict),
            (Verdict::Pass, Verdict::Pass)
        );
        assert!(check("store").message.contains("first use"), "{:?}", check("store"));
        assert!(check("default image").message.contains("first use"), "{:?}", check("default image"));
        let mut names: Vec<_> = checks.iter().map(|check| &check.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), checks.len());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn doctor_fails_an_invalid_store_and_keeps_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (dirs, programs) = host(dir.path());
        crate::dirs::create_private(&dirs.state).unwrap();
        let path = dirs.state.join("store.db");
        fs::write(&path, [0x5a; 8192]).unwrap();
        let checks = doctor(&dirs, &programs, Layer::default()).await;
        let store = checks.iter().find(|check| check.name == "store").unwrap();
        assert_eq!(store.verdict, Verdict::Fail);
        let remedy = store.error.as_ref().unwrap().remedy.clone();
        assert_eq!(remedy, Some(banger_api::Remedy::MoveStoreAside { path: path.clone() }));
        assert_eq!(fs::read(&path).unwrap(), [0x5a; 8192]);
        assert_eq!(fs::read_dir(&dirs.state).unwrap().count(), 1);
    }
}
