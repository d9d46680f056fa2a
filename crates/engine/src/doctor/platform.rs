//! Checks of the architecture, the kernel, and the host's programs that banger runs.

use std::env;

use banger_api::{ApiError, Check, ErrorKind, Remedy};
use banger_sys::find_program;

use crate::error::EngineError;

/// The oldest kernel with `pidfd_open`, which banger needs to notice a VM's end (pidfd_open(2)).
const MIN_KERNEL: (u32, u32) = (5, 3);

pub(super) fn architecture() -> Check {
    match env::consts::ARCH {
        "x86_64" => Check::pass("architecture", "x86_64"),
        other => {
            let message = format!("{other}; banger runs on x86_64 hosts only");
            Check::fail("architecture", ApiError::new(ErrorKind::Invalid, message))
        }
    }
}

pub(super) fn kernel() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let (major, minor) = MIN_KERNEL;
    match version(&release) {
        Some(found) if found < MIN_KERNEL => {
            let message = format!(
                "Linux {release} has no pidfd_open, which banger needs; Linux {major}.{minor} or later has it"
            );
            Check::fail("kernel", ApiError::new(ErrorKind::VersionSkew, message))
        }
        _ => Check::pass("kernel", format!("Linux {release} is supported")),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Checks the programs that some requests need.
pub(super) fn tools() -> impl Iterator<Item = Check> {
    [
        installed("e2fsck", "checks a work disk before it grows"),
        mmdebstrap(),
        installed("apt-get", "downloads catalog kernels"),
    ]
    .into_iter()
}

fn installed(name: &'static str, purpose: &str) -> Check {
    match find_program(name) {
        Some(path) => Check::pass(name, format!("{}: {purpose}", path.display())),
        None => {
            let error = ApiError::new(ErrorKind::MissingProgram, format!("not installed; it {purpose}"));
            Check::warn(name, error.remedy(Remedy::InstallProgram { program: name.to_owned() }))
        }
    }
}

/// Checks that this user can build catalog images.
fn mmdebstrap() -> Check {
    match banger_image::find_mmdebstrap() {
        Ok(path) => Check::pass("mmdebstrap", format!("{}: builds catalog images", path.display())),
        Err(error) => Check::warn("mmdebstrap", EngineError::from(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_parsed() {
        for (release, expected) in
            [("6.1.0-18-amd64", Some((6, 1))), ("5.10", Some((5, 10))), ("x", None), ("", None)]
        {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
