//! What each program of the host may do, as data; `banger-sys` applies it.

use std::path::{Path, PathBuf};

use banger_sys::confine::{Access, Confinement, Limits, Sockets, SystemCalls};

/// Memory of `e2fsck` for the smallest file system, in bytes.
const MIN_MEMORY: u64 = 1 << 30;

/// Maximum size of a file that apt downloads, in bytes; a distribution's packages have under 200 MB.
pub(crate) const MAX_DOWNLOAD: u64 = 1 << 30;

/// Directories of apt's and dpkg's configuration.
const APT: [&str; 3] = ["/etc/apt", "/etc/dpkg", "/var/lib/dpkg"];

/// Returns what each program may do, by its name; `None` is everything that the user may.
pub fn confinements() -> [(&'static str, Option<Confinement>); 3] {
    let example = Path::new("example");
    let e2fsck = e2fsck(example, Access::Write, 1 << 30);
    // mmdebstrap mounts file systems, and creates users or a user namespace.
    [("e2fsck", Some(e2fsck)), ("apt", Some(apt(example, &[]))), ("mmdebstrap", None)]
}

/// `e2fsck`: the file with the file system, of this size, which it does not enlarge. Its memory is limited, because the
/// file system decides how much it needs: bitmaps of a bit for each block, and tables of inodes.
pub(crate) fn e2fsck(path: &Path, access: Access, size: u64) -> Confinement {
    let limits = Limits { open_files: 64, file_size: Some(size), memory: Some(MIN_MEMORY + size / 1024) };
    let confinement = Confinement { limits, ..Confinement::default() };
    confinement.allow(path, access).allow("/etc/e2fsck.conf", Access::Read)
}

/// apt: its own directory, its configuration, keys, and the network. It runs programs: downloaders, gpgv and dpkg.
pub(crate) fn apt(dir: &Path, keys: &[PathBuf]) -> Confinement {
    let confinement = Confinement {
        sockets: Sockets::Names,
        system_calls: SystemCalls::Processes,
        limits: Limits { open_files: 1024, file_size: Some(MAX_DOWNLOAD), memory: None },
        ..Confinement::default()
    };
    let read = APT.iter().map(Path::new).chain(keys.iter().map(PathBuf::as_path));
    read.fold(confinement, |all, path| all.allow(path, Access::Read)).allow(dir, Access::All)
}
