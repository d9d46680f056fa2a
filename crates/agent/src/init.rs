//! The image's init: finds its program, and detects the kind of the running one.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use banger_proto::{Executable, InitKind, Root, find_init, kind_of_init};

/// Maximum size of a text that is read, in bytes.
const MAX_TEXT: u64 = 64 << 10;

/// Returns the path of the init of the system at `root`, if it has one.
pub(crate) fn find(root: &Path) -> Option<&'static str> {
    find_init(&System(root))
}

/// Returns the kind of init that runs as PID 1.
pub(crate) fn running() -> InitKind {
    program(Path::new("/proc/1/exe"))
        .map_or(InitKind::Other, |init| kind_of_init(&System(Path::new("/")), &init))
}

/// A system by its root directory; only tests use another than this process's own.
struct System<'a>(&'a Path);

impl System<'_> {
    fn at(&self, path: &str) -> std::path::PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }
}

impl Root for System<'_> {
    fn program(&self, path: &str) -> Option<Executable> {
        program(&self.at(path)).ok()
    }

    fn text(&self, path: &str) -> Option<String> {
        // Anything else than a regular file might block or never end.
        fs::metadata(self.at(path)).ok().filter(fs::Metadata::is_file)?;
        let mut bytes = Vec::new();
        File::open(self.at(path)).ok()?.take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn program(path: &Path) -> io::Result<Executable> {
    let path = fs::canonicalize(path)?;
    let meta = fs::metadata(&path)?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Executable { name, file: meta.ino() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn inits_are_found_through_links_and_busybox_needs_a_boot_script() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let put = |name: &str, mode| {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        assert_eq!(find(root.path()), None);
        put("usr/bin/busybox", 0o755);
        symlink("usr/bin", at("bin")).unwrap();
        symlink("usr/sbin", at("sbin")).unwrap();
        assert_eq!(find(root.path()), None);
        fs::create_dir(at("usr/sbin")).unwrap();
        fs::hard_link(at("usr/bin/busybox"), at("usr/sbin/init")).unwrap();
        assert_eq!(find(root.path()), None);
        put("etc/init.d/rcS", 0o644);
        assert_eq!(find(root.path()), None);
        put("etc/init.d/rcS", 0o755);
        assert_eq!(find(root.path()), Some("/sbin/init"));
        put("etc/inittab", 0o644);
        assert_eq!(find(root.path()), None);
        fs::write(at("etc/inittab"), "::sysinit:/etc/init.d/rcS\n").unwrap();
        assert_eq!(find(root.path()), Some("/sbin/init"));
        fs::remove_file(at("usr/sbin/init")).unwrap();
        symlink("/nowhere", at("usr/sbin/init")).unwrap();
        assert_eq!(find(root.path()), None);
        put("usr/lib/systemd/systemd", 0o755);
        assert_eq!(find(root.path()), Some("/usr/lib/systemd/systemd"));
    }
}
