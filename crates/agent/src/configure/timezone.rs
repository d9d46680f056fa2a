//! The guest's time zone: a link to a zone that its image has.

use std::{fs, io, os::unix::fs::symlink, path::Path};

/// Sets zone `name` in the system at `root`. An image without that zone keeps its own.
pub(super) fn set(root: &Path, name: &str) -> io::Result<()> {
    let zone = Path::new("/usr/share/zoneinfo").join(name);
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    if !is_name(name) || !below(&zone).is_file() {
        return Ok(());
    }
    let localtime = below(Path::new("/etc/localtime"));
    if fs::read_link(&localtime).is_ok_and(|old| old == zone) {
        return Ok(());
    }
    let partial = localtime.with_extension("banger-new");
    // Left by a process that was killed.
    let _ = fs::remove_file(&partial);
    symlink(&zone, &partial)?;
    fs::rename(&partial, &localtime)?;
    fs::write(below(Path::new("/etc/timezone")), format!("{name}\n"))
}

/// Returns whether `name` is a relative path that cannot lead out of the zone directory.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-/".contains(&byte);
    !name.is_empty() && name.len() < 64 && !name.starts_with('/') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_zones_in_the_image_are_linked() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("etc")).unwrap();
        fs::create_dir_all(at("usr/share/zoneinfo/Europe")).unwrap();
        fs::write(at("usr/share/zoneinfo/Europe/Berlin"), "TZif").unwrap();
        fs::write(at("usr/share/secret"), "").unwrap();
        let zone = || fs::read_link(at("etc/localtime")).ok();
        for unknown in ["Europe/Nowhere", "../secret", "/usr/share/zoneinfo/Europe/Berlin", ""] {
            set(root.path(), unknown).unwrap();
            assert_eq!(zone(), None, "{unknown}");
        }
        for _ in 0..2 {
            set(root.path(), "Europe/Berlin").unwrap();
        }
        assert_eq!(zone().as_deref(), Some(Path::new("/usr/share/zoneinfo/Europe/Berlin")));
        assert_eq!(fs::read_to_string(at("etc/timezone")).unwrap(), "Europe/Berlin\n");
    }
}
