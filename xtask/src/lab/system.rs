//! Builds the lab's root disk, kernel and initrd, once for each recipe.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{
    command::{as_root, check, say},
    debian,
};

const DISK: &str = include_str!("disk.sh");
const INITRD_INIT: &str = include_str!("initrd-init.sh");

/// Packages in addition to Debian's minimal variant.
const PACKAGES: &str = "linux-image-cloud-amd64,busybox-static,cpio,curl,dnsmasq-base,e2fsprogs,git,iproute2,kmod,less,nftables,openssh-client,passt,procps,qemu-system-x86,rsync,seabios,strace,vim-tiny";

/// Directory with the system that a lab boots.
#[derive(Debug)]
pub(super) struct System {
    dir: PathBuf,
}

impl System {
    pub(super) fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    pub(super) fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    pub(super) fn root_disk(&self) -> PathBuf {
        self.dir.join("root.ext4")
    }
}

/// Returns the lab's system in `cache`, after building it if needed.
pub(super) fn prepare(cache: &Path) -> Result<System> {
    let suite = debian::suite()?;
    let recipe = [DISK, INITRD_INIT, PACKAGES, &suite].join("\0");
    let hash: String = Sha256::digest(recipe).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let system = System { dir: cache.join(format!("host-{hash}")) };
    if system.dir.exists() {
        return Ok(system);
    }

    say("creating the lab's disk, in about a minute");
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(cache)?;
    let (tar, init) = (partial.path().join("root.tar"), partial.path().join("initrd-init"));
    fs::write(&init, INITRD_INIT)?;
    debian::bootstrap(&suite, PACKAGES, None, &tar)?;
    let out = partial.path().join("host");
    fs::create_dir(&out)?;
    check(as_root("sh")?.args(["-c", DISK, "disk"]).arg(&tar).arg(&init).arg(&out))?;
    // Systems of older recipes waste space. A running lab keeps its files open.
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("host-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    fs::rename(&out, &system.dir).with_context(|| system.dir.display().to_string())?;
    Ok(system)
}
