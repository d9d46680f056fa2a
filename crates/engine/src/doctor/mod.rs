//! What this host is like for VMs: the checks of `banger doctor`, and those of them that a start makes first.
//!
//! A check finds something, or fails with the very error that a start would end with. `doctor` tells all of them; the
//! [`preflight`] of a start makes those that cost no time, and tells every failure at once. Nothing here starts a daemon,
//! and nothing on the host is made or changed.

mod files;
mod platform;
pub(crate) mod preflight;
mod store;
mod vmm;

use std::sync::Arc;

use banger_api::{ApiError, Check, Config, Dirs, Size, config::Layer};

use crate::{
    admission,
    catalog::CatalogFiles,
    config::{ConfigFiles, host_size},
    host::Programs,
    signed_catalogs,
    vmms::Vmms,
};

/// What came of a check: its words, or the error of a start that would fail by it.
type Found = Result<Check, ApiError>;

/// Looks at everything that VMs need of this host; `stronger` is what is configured over the daemon's own files.
pub async fn doctor(dirs: &Dirs, programs: &Programs, stronger: Layer) -> Vec<Check> {
    let files = Arc::new(ConfigFiles::of(dirs));
    // A broken file is told by whoever reads all layers; here, the rest is looked at without it.
    let layers = [stronger].into_iter().chain(files.layers().unwrap_or_default());
    let config = Config::new(layers, host_size());
    let vmms = Vmms::new(programs, files);
    let store = store::open(&dirs.state.join("store.db"));
    let mut checks = vec![platform::architecture(), platform::kernel()];
    checks.extend(vmm::all(&vmms.look().await, config.vmm().copied()));
    checks.extend(platform::tools());
    checks.extend(files::all(dirs, programs));
    checks.push(told("memory", memory(&config)));
    checks.push(told("disk space", space(dirs)));
    checks.push(overlay(dirs));
    let catalog = CatalogFiles::of(dirs);
    checks.extend(catalog.check());
    // A broken one has been told; what is built in is there all the same.
    let layers = catalog.layers(config.catalogs());
    let layers = layers.map_or_else(|_| Arc::new(banger_image::catalog().clone()), |layers| layers.all);
    checks.extend(signed_catalogs::check(&config, catalog.copies()).await);
    checks.extend(store::all(&store, &config, &layers));
    checks
}

/// A failure as a check tells it.
fn told(name: &str, found: Found) -> Check {
    found.unwrap_or_else(|error| Check::fail(name, error.message, error.hint.unwrap_or_default()))
}

/// Whether the host has the memory that a VM gets by default.
fn memory(config: &Config) -> Found {
    let wanted = config.memory();
    admission::memory(wanted)?;
    Ok(match admission::host_memory() {
        Some(room) => Check::pass(
            "memory",
            format!("{} available of {}; a VM gets {wanted}", room.available, room.total),
        ),
        None => Check::warn("memory", "/proc/meminfo tells nothing", "VMs start without a look at it"),
    })
}

/// Below this, one more image does not fit.
const LITTLE: Size = Size::gib(2);

/// Whether the state folder's file system has room for a fresh VM's disks.
fn space(dirs: &Dirs) -> Found {
    fresh_disks(dirs)?;
    let folder = dirs.state.display();
    Ok(match admission::disk(&dirs.state) {
        Some(room) => {
            let message = format!("{} free of {} for {folder}", room.available, room.total);
            if room.available < LITTLE {
                Check::warn(
                    "disk space",
                    message,
                    "one image takes about 0.5G, and what a VM writes comes on top",
                )
            } else {
                Check::pass("disk space", message)
            }
        }
        None => Check::pass("disk space", format!("{folder} is on a file system without a size")),
    })
}

/// A fresh VM's disks are sparse: they take no more than the reserve leaves.
fn fresh_disks(dirs: &Dirs) -> Result<(), ApiError> {
    admission::space(&dirs.state, "a VM's disks", Size::bytes(0))
}

/// Which system overlay VMs get, and why.
fn overlay(dirs: &Dirs) -> Check {
    let kind = files::file_system(&dirs.state);
    Check::pass(
        "system overlay",
        format!(
            "overlay: a sparse disk of the VM's own over the image, mounted in the guest; works on {kind} as on any"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::Verdict;
    use std::{fs, path::Path};

    fn host(folder: &Path) -> (Dirs, Programs) {
        let dirs = Dirs::find(|name| (name == "HOME").then(|| folder.to_owned()), 7).unwrap();
        let dirs = Dirs { runtime: folder.join("run"), ..dirs };
        (dirs, Programs { bangerd: "/bin/true".into(), agent: "/bin/true".into() })
    }

    #[tokio::test]
    async fn a_fresh_host_is_looked_at_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let (dirs, programs) = host(dir.path());
        let checks = doctor(&dirs, &programs, Layer::default()).await;
        let of = |name: &str| checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!((of("store").verdict, of("state folder").verdict), (Verdict::Pass, Verdict::Pass));
        assert!(of("store").message.contains("first use"), "{:?}", of("store"));
        assert!(of("default image").message.contains("first use"), "{:?}", of("default image"));
        let mut names: Vec<_> = checks.iter().map(|check| &check.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), checks.len());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_store_that_is_none_fails_and_keeps_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (dirs, programs) = host(dir.path());
        crate::dirs::private(&dirs.state).unwrap();
        let path = dirs.state.join("store.db");
        fs::write(&path, [0x5a; 8192]).unwrap();
        let checks = doctor(&dirs, &programs, Layer::default()).await;
        let store = checks.iter().find(|check| check.name == "store").unwrap();
        assert_eq!(store.verdict, Verdict::Fail);
        assert!(store.hint.as_ref().unwrap().contains("aside"), "{store:?}");
        assert_eq!(fs::read(&path).unwrap(), [0x5a; 8192]);
        assert_eq!(fs::read_dir(&dirs.state).unwrap().count(), 1);
    }
}
