//! The processor, the kernel, and the programs of this host that banger runs.

use std::{env, path::PathBuf};

use banger_api::Check;

/// The oldest kernel that VMs can be watched on: `pidfd_open` (its manual page).
const KERNEL_SINCE: (u32, u32) = (5, 3);

pub(super) fn architecture() -> Check {
    match env::consts::ARCH {
        "x86_64" => Check::pass("architecture", "x86_64"),
        other => Check::fail("architecture", other, "banger runs on x86_64 hosts only"),
    }
}

pub(super) fn kernel() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let (major, minor) = KERNEL_SINCE;
    match version(&release) {
        Some(found) if found < KERNEL_SINCE => {
            let message = format!("Linux {release} has no pidfd_open, by which a VM's end is noticed");
            Check::fail("kernel", message, format!("Linux {major}.{minor} or later is needed"))
        }
        _ => Check::pass("kernel", format!("Linux {release}: has what banger needs")),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The programs that some commands need, and what is to be done without them.
pub(super) fn tools() -> impl Iterator<Item = Check> {
    [
        ("e2fsck", "`vm set --disk-size` checks the disk with it", "Debian: apt install e2fsprogs"),
        (
            "mmdebstrap",
            "catalog images are made by it",
            "Debian: apt install mmdebstrap; elsewhere: banger image import",
        ),
        ("apt-get", "catalog kernels come by it", "without it: banger kernel import"),
    ]
    .into_iter()
    .map(|(name, purpose, hint)| match find(name) {
        Some(path) => Check::pass(name, format!("{}: {purpose}", path.display())),
        None => Check::warn(name, format!("not installed: {purpose}"), hint),
    })
}

/// Where a program is, as those who run it look for it.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let folders = env::split_paths(&path).chain(usual).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (release, expected) in
            [("6.1.0-18-amd64", Some((6, 1))), ("5.10", Some((5, 10))), ("x", None), ("", None)]
        {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
