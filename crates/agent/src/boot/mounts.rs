//! The kernel's own file systems, in the initrd and where there is no init to mount them.

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
use crate::console::say;

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What the boot itself needs; the new root takes them over.
pub(super) fn kernel_file_systems() -> Result<(), BootError> {
    for (kind, path, flags) in [
        ("devtmpfs", "/dev", MountFlags::NOSUID),
        ("proc", "/proc", NO_PROGRAMS),
        ("sysfs", "/sys", NO_PROGRAMS),
    ] {
        match mount(kind, path, kind, flags, None) {
            // The kernel mounts devtmpfs itself where it is built so.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(failed("mount", path)(error)),
        }
    }
    Ok(())
}

/// Terminals, shared memory, a process's own descriptors, a place for temporary files: wanted before the init comes to it, and taken over by every init as they are.
pub(super) fn for_every_root() -> Result<(), BootError> {
    for (path, kind, flags, options) in [
        ("/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, c"gid=5,mode=620,ptmxmode=666"),
        ("/dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777"),
    ] {
        fs::create_dir_all(path).map_err(failed("make", path))?;
        mount(kind, path, kind, flags, options).map_err(failed("mount", path))?;
    }
    for (name, target) in
        [("fd", "self/fd"), ("stdin", "self/fd/0"), ("stdout", "self/fd/1"), ("stderr", "self/fd/2")]
    {
        if let Err(error) = symlink(format!("/proc/{target}"), format!("/dev/{name}"))
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            say(&format!("cannot make /dev/{name}: {error}"));
        }
    }
    let tmp = Path::new("/tmp");
    if !tmp.exists() {
        let made =
            fs::create_dir(tmp).and_then(|()| fs::set_permissions(tmp, Permissions::from_mode(0o1777)));
        made.map_err(failed("make", tmp))?;
    }
    Ok(())
}

/// The rest of what an init does, as far as programs rely on it. Nothing of it keeps a guest from being of use.
pub(super) fn for_no_init() {
    let unmountable = |path: &str, error: io::Error| say(&format!("cannot mount {path}: {error}"));
    for (path, kind, flags, options) in [
        ("/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755")),
        ("/sys/fs/cgroup", "cgroup2", NO_PROGRAMS, None),
    ] {
        // An image may lack the folder; sysfs has its own.
        let made = fs::create_dir_all(path).map_err(|error| unmountable(path, error));
        if made.is_ok()
            && let Err(error) = mount(kind, path, kind, flags, options)
        {
            unmountable(path, error.into());
        }
    }
}
