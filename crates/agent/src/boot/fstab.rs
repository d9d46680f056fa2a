//! Adapts the image's `/etc/fstab`, which may have been written for another machine.
//!
//! systemd waits for missing disks and then aborts the boot; other inits do so too. The VM's own disks are mounted by
//! now, so the agent comments out the lines that need a missing disk. It keeps lines with `nofail` or `noauto`.

use std::{io, path::Path};

use crate::configure::files::{install, read};

const FSTAB: &str = "etc/fstab";

/// Prefix of a line that is commented out.
const COMMENT_PREFIX: &str = "# not in this VM (add nofail to keep the line): ";

/// Tags that name a disk by its content. Such a disk counts as missing: only udev resolves tags.
const BY_CONTENT: [&str; 4] = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="];

/// Comments out the lines that need missing disks.
pub(super) fn comment_out_missing(root: &Path) -> io::Result<()> {
    let path = root.join(FSTAB);
    let Some(old) = read(&path)? else { return Ok(()) };
    let new = without_missing(&old, |device| root.join(device.trim_start_matches('/')).exists());
    if new == old { Ok(()) } else { install(&path, &new, None) }
}

fn without_missing(fstab: &[u8], exists: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut new = Vec::with_capacity(fstab.len());
    for line in fstab.split_inclusive(|byte| *byte == b'\n') {
        if needs_missing(&String::from_utf8_lossy(line), &exists) {
            new.extend(COMMENT_PREFIX.as_bytes());
        }
        new.extend(line);
    }
    new
}

/// Returns whether a line needs a missing disk. Fields by fstab(5): device, mount point, type, options.
fn needs_missing(line: &str, exists: impl Fn(&str) -> bool) -> bool {
    let mut fields = line.split_whitespace();
    let device = fields.next().filter(|device| !device.starts_with('#')).unwrap_or_default();
    let may_be_missing = |options: &str| options.split(',').any(|word| matches!(word, "nofail" | "noauto"));
    if fields.nth(2).is_some_and(may_be_missing) {
        return false;
    }
    let by_content = BY_CONTENT.iter().any(|tag| device.starts_with(tag));
    by_content || device.starts_with("/dev/") && !exists(device)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_for_missing_disks_are_commented_out_once() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["etc", "dev"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        let fstab = root.path().join(FSTAB);
        comment_out_missing(root.path()).unwrap();
        assert!(!fstab.exists());

        fs::write(root.path().join("dev/vda"), "").unwrap();
        let kept = "# /dev/sda1 / ext4\n\n/dev/vda /data ext4 defaults 0 0\ntmpfs /tmp tmpfs\nLABEL=x /x ext4 ro,nofail\n\
            /dev/sdb none swap noauto\nserver:/home /home nfs4 _netdev\n/swapfile none swap sw\n";
        let missing =
            ["LABEL=root\t/ ext4 errors=remount-ro 0 1\n", "UUID=1 /boot ext4\n", "  /dev/sda2 none swap"];
        fs::write(&fstab, format!("{kept}{}", missing.concat())).unwrap();
        let commented: String = missing.iter().map(|line| format!("{COMMENT_PREFIX}{line}")).collect();
        for _ in 0..2 {
            comment_out_missing(root.path()).unwrap();
            assert_eq!(fs::read_to_string(&fstab).unwrap(), format!("{kept}{commented}"));
        }
    }
}
