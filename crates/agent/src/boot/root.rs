//! Assembles the root file system in the initrd and enters it.

use std::{
    fs::{self, File},
    io::{self, Seek, SeekFrom},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, PermissionsExt},
    },
    path::Path,
};

use banger_sys::grow_ext4;
use rustix::{
    mount::{MountFlags, mount_move},
    process::{chdir, chroot},
};

use super::{
    cmdline::RootKind,
    disks::Disks,
    error::{BootError, failed},
    mounts, seed,
};
use crate::console::log;

const NEW_ROOT: &str = "/new";
const BASE: &str = "/banger/base";
const UPPER: &str = "/banger/upper";
const WORK: &str = "/banger/work";
const HOME: &str = "/root";

/// The root file system, with a descriptor of each writable mount, the last mounted first.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) mounted: Vec<OwnedFd>,
}

/// Assembles the root at `/new`.
pub(super) fn mount(kind: RootKind, disks: &mut Disks) -> Result<Root, BootError> {
    let mut root = Root { mounted: Vec::new() };
    match kind {
        RootKind::Plain => root.mount_disk(&disks.next()?, NEW_ROOT)?,
        RootKind::Overlay => {
            create_dir(BASE)?;
            let base = disks.next()?;
            mount_ext4(&base, BASE, MountFlags::RDONLY)?;
            root.mount_disk(&disks.next()?, UPPER)?;
            let [upper, work] = ["upper", "work"].map(|name| format!("{UPPER}/{name}"));
            create_dir(&upper)?;
            create_dir(&work)?;
            // The upper directory becomes the root directory, so it needs a root directory's permissions.
            fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))
                .map_err(failed("set the permissions of", &upper))?;
            create_dir(NEW_ROOT)?;
            // Set explicitly, whatever the kernel's defaults: `image commit` needs each name's content in one place.
            let plain = "redirect_dir=off,metacopy=off,index=off";
            let options = format!("lowerdir={BASE},upperdir={upper},workdir={work},{plain}\0");
            let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).unwrap_or(c"");
            rustix::mount::mount("overlay", NEW_ROOT, "overlay", MountFlags::empty(), options)
                .map_err(failed("mount the overlay at", NEW_ROOT))?;
            root.keep(NEW_ROOT)?;
        }
    }
    Ok(root)
}

impl Root {
    /// Mounts the work disk, for [`mount_home`].
    pub(super) fn mount_work_disk(&mut self, disk: &Path) -> Result<OwnedFd, BootError> {
        self.mount_disk(disk, WORK)?;
        // The work disk is usable even if its file system cannot grow.
        if let Err(error) = grow_file_system(disk, WORK) {
            log(&format!("cannot grow the work disk's file system: {error}"));
        }
        Ok(File::open(WORK).map_err(failed("open", WORK))?.into())
    }

    /// Makes this the root of the system. Removes the initrd's modules, which occupy memory.
    pub(super) fn enter(&self) -> Result<(), BootError> {
        for name in ["dev", "proc", "sys"] {
            let (from, to) = (format!("/{name}"), format!("{NEW_ROOT}/{name}"));
            // A symbolic link would lead out of the new root.
            let is_dir = fs::symlink_metadata(&to).is_ok_and(|meta| meta.is_dir());
            if !is_dir {
                replace_with_dir(&to)?;
            }
            mount_move(&from, &to).map_err(failed("move a mount to", to))?;
        }
        // Removes only files of the initrd itself: the rest of `/banger` has disks mounted on it.
        let modules = "/banger/modules.d";
        fs::remove_dir_all(modules).map_err(failed("remove", modules))?;
        chdir(NEW_ROOT).map_err(failed("change to", NEW_ROOT))?;
        mount_move(".", "/").map_err(failed("move", NEW_ROOT))?;
        chroot(".").map_err(failed("change the root to", NEW_ROOT))?;
        chdir("/").map_err(failed("change to", "/"))?;
        mounts::prepare_root()
    }

    fn mount_disk(&mut self, disk: &Path, at: &str) -> Result<(), BootError> {
        create_dir(at)?;
        mount_ext4(disk, at, MountFlags::empty())?;
        self.keep(at)
    }

    /// Keeps a descriptor of a mount, so that the power-off can remount it read-only.
    fn keep(&mut self, at: &str) -> Result<(), BootError> {
        self.mounted.insert(0, File::open(at).map_err(failed("open", at))?.into());
        Ok(())
    }
}

/// Mounts the work disk at the root user's home. Copies the image's files there to a fresh disk.
pub(super) fn mount_home(work: &OwnedFd) -> Result<(), BootError> {
    // The image's symbolic links resolve correctly only in the entered root.
    if !Path::new(HOME).is_dir() {
        replace_with_dir(HOME)?;
    }
    let disk = format!("/proc/self/fd/{}", work.as_raw_fd());
    seed::seed(Path::new(HOME), Path::new(&disk))?;
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o700))
        .map_err(failed("set the permissions of", WORK))?;
    mount_move(disk, HOME).map_err(failed("move the work disk to", HOME))
}

fn mount_ext4(disk: &Path, at: &str, flags: MountFlags) -> Result<(), BootError> {
    rustix::mount::mount(disk, at, "ext4", flags | MountFlags::NOATIME, None)
        .map_err(failed("mount the disk", disk))
}

/// Grows the file system on `disk`, mounted at `at`, to the disk's size. The disk may have been enlarged.
fn grow_file_system(disk: &Path, at: &str) -> io::Result<()> {
    let mut disk = File::open(disk)?;
    let size = disk.seek(SeekFrom::End(0))?;
    let root = File::open(at)?;
    let blocks = size / rustix::fs::fstatvfs(&root)?.f_frsize.max(1);
    // The low half of the superblock's block count (ext4's disk layout: 1 KiB in, field 2). Without this check the
    // kernel logs a line even if nothing grows.
    let mut count = [0; 4];
    disk.read_exact_at(&mut count, 1024 + 4)?;
    if u64::from(u32::from_le_bytes(count)) < blocks { grow_ext4(root, blocks) } else { Ok(()) }
}

fn create_dir(path: &str) -> Result<(), BootError> {
    fs::create_dir_all(path).map_err(failed("create", path))
}

/// Creates a directory, replacing a file or a dangling link at `path`.
fn replace_with_dir(path: &str) -> Result<(), BootError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("replace", path)(error)),
        _ => create_dir(path),
    }
}
