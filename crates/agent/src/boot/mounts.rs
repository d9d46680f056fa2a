//! Mounts the kernel's file systems, in the initrd and in guests without an init.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
};

use super::error::{BootError, failed};
use crate::console::log;

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts `/dev`, `/proc` and `/sys` for the boot; the new root receives them later.
pub(super) fn kernel_file_systems() -> Result<(), BootError> {
    for (kind, path, flags) in [
        ("devtmpfs", "/dev", MountFlags::NOSUID),
        ("proc", "/proc", NO_PROGRAMS),
        ("sysfs", "/sys", NO_PROGRAMS),
    ] {
        match mount(kind, path, kind, flags, None) {
            // Some kernels mount devtmpfs themselves.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(failed("mount", path)(error)),
        }
    }
    Ok(())
}

/// Sets up terminals, shared memory, a process's own descriptors and `/tmp`. Programs need them before the init
/// mounts them, and every init keeps existing ones.
pub(super) fn prepare_root() -> Result<(), BootError> {
    for (path, kind, flags, options) in [
        ("/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, c"gid=5,mode=620,ptmxmode=666"),
        ("/dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777"),
    ] {
        fs::create_dir_all(path).map_err(failed("create", path))?;
        mount(kind, path, kind, flags, options).map_err(failed("mount", path))?;
    }
    for (name, target) in
        [("fd", "self/fd"), ("stdin", "self/fd/0"), ("stdout", "self/fd/1"), ("stderr", "self/fd/2")]
    {
        if let Err(error) = symlink(format!("/proc/{target}"), format!("/dev/{name}"))
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            log(&format!("cannot create /dev/{name}: {error}"));
        }
    }
    let tmp = Path::new("/tmp");
    if !tmp.exists() {
        let created =
            fs::create_dir(tmp).and_then(|()| fs::set_permissions(tmp, Permissions::from_mode(0o1777)));
        created.map_err(failed("create", tmp))?;
    }
    Ok(())
}

/// Mounts the other file systems that an init mounts and programs need. Failures are only logged.
pub(super) fn mount_without_init() {
    let log_error = |path: &str, error: io::Error| log(&format!("cannot mount {path}: {error}"));
    for (path, kind, flags, options) in [
        ("/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755")),
        ("/sys/fs/cgroup", "cgroup2", NO_PROGRAMS, None),
    ] {
        // An image may lack `/run`; sysfs provides `/sys/fs/cgroup`.
        let created = fs::create_dir_all(path).map_err(|error| log_error(path, error));
        if created.is_ok()
            && let Err(error) = mount(kind, path, kind, flags, options)
        {
            log_error(path, error.into());
        }
    }
}
