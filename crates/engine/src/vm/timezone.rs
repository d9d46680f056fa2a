//! The host's time zone, which guests use too.

use std::{fs, path::Path};

/// Returns the time zone that the link `localtime` points to, such as `Europe/Berlin`, or `None` if it is no such link.
pub(super) fn timezone(localtime: &Path) -> Option<String> {
    let target = fs::read_link(localtime).ok()?;
    let (_, name) = target.to_str()?.split_once("/zoneinfo/")?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_time_zone_is_read_from_the_localtime_link() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("localtime");
        assert_eq!(timezone(&link), None);
        symlink("/usr/share/zoneinfo/Europe/Berlin", &link).unwrap();
        assert_eq!(timezone(&link).as_deref(), Some("Europe/Berlin"));
        fs::remove_file(&link).unwrap();
        symlink("/etc/other", &link).unwrap();
        assert_eq!(timezone(&link), None);
    }
}
