//! Kernels from Debian packages, found and verified by apt, which leaves the host's own state alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CatalogKernel, sources};
use crate::error::IoContext;
use crate::program::Program;
use crate::publish::write_error;
use crate::{ImageError, KernelInfo, Progress, import_kernel};

/// Time for each step; the largest download is 30 MB.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// How to get apt.
const HINT: &str =
    "catalog kernels need a Debian or Ubuntu host; elsewhere import a kernel's package or files";

/// Fetches the newest kernel of the package `entry` names into the folder `dest`; `work` holds what is temporary.
///
/// `apt-get` does it, as any user, with indices of its own in `work`: it checks them by Debian's signatures and the
/// package by them. Packages come from where this host gets its own if it runs Debian, of whatever release, else from
/// the environment's `BANGER_DEBIAN_MIRROR`.
///
/// # Errors
/// When there is no apt or no source of Debian packages, or a download fails; else as [`import_kernel`].
pub fn fetch_kernel(
    entry: &CatalogKernel,
    work: &Path,
    dest: &Path,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    let refused = |problem| ImageError::Apt { package: entry.package.clone(), problem };
    let sources = sources::lines(&entry.suite);
    if sources.is_empty() {
        return Err(refused(
            "this host has no Debian package source; set BANGER_DEBIAN_MIRROR to the address of a mirror",
        ));
    }
    let apt = Apt::new(work, &sources, progress)?;
    progress.stage("read the package lists");
    apt.run("apt-get", &["update"])?;
    let depends = apt.run("apt-cache", &["depends", "--important", &entry.package])?;
    let package = real_package(&depends, &entry.package).ok_or_else(|| refused("no such package"))?;
    progress.stage("download the kernel");
    apt.run("apt-get", &["download", package])?;
    let deb = apt.downloaded()?.ok_or_else(|| refused("apt downloaded nothing"))?;
    import_kernel(deb, dest, progress)
}

/// apt with all its state in one folder.
struct Apt<'a> {
    folder: PathBuf,
    progress: &'a dyn Progress,
}

impl<'a> Apt<'a> {
    fn new(work: &Path, sources: &[String], progress: &'a dyn Progress) -> Result<Self, ImageError> {
        // apt reads relative paths from its own folders on.
        let folder = std::path::absolute(work).during("find", work)?.join("apt");
        for name in ["state/lists/partial", "cache/archives/partial", "deb"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(|source| write_error(source, &path, 0))?;
        }
        for (name, text) in [("sources.list", sources.join("\n") + "\n"), ("status", String::new())] {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|source| write_error(source, &path, 0))?;
        }
        Ok(Self { folder, progress })
    }

    /// Runs one of apt's programs, and returns its output.
    fn run(&self, program: &'static str, arguments: &[&str]) -> Result<String, ImageError> {
        let mut program = Program::new(program, HINT, LIMIT)?;
        let command = program.command();
        for (option, name) in [
            ("Dir::State", "state"),
            ("Dir::State::lists", "state/lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::sourcelist", "sources.list"),
        ] {
            let mut value = std::ffi::OsString::from(format!("{option}="));
            value.push(self.folder.join(name));
            command.arg("-o").arg(value);
        }
        for option in [
            // The host's other sources and its preferences among packages are for the host.
            "Dir::Etc::sourceparts=/dev/null",
            "Dir::Etc::preferences=/dev/null",
            "Dir::Etc::preferencesparts=/dev/null",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
            // As root, apt downloads as the user _apt, who may not write to `work`.
            "APT::Sandbox::User=root",
            // A source that can't be reached is an error, not a reason to use what is left.
            "APT::Update::Error-Mode=any",
            "APT::Architecture=amd64",
            "APT::Architectures=amd64",
        ] {
            command.arg("-o").arg(option);
        }
        command.arg("-q").args(arguments).current_dir(self.folder.join("deb"));
        program.output(self.progress)
    }

    /// The package that was downloaded.
    fn downloaded(&self) -> Result<Option<File>, ImageError> {
        let folder = self.folder.join("deb");
        for entry in fs::read_dir(&folder).during("read", &folder)? {
            let path = entry.during("read", &folder)?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                return File::open(&path).during("open", &path).map(Some);
            }
        }
        Ok(None)
    }
}

/// The package with the kernel itself, of what `apt-cache depends` says: the newest that `package` depends on.
fn real_package<'a>(depends: &'a str, package: &'a str) -> Option<&'a str> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let mut kernels = names.filter(|name| name.starts_with("linux-image-"));
    // A package that apt does not know has no lines at all.
    kernels.next().or_else(|| depends.lines().any(|line| line == package).then_some(package))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_package_is_found() {
        let meta = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n";
        assert_eq!(real_package(meta, "linux-image-cloud-amd64"), Some("linux-image-6.1.0-9-cloud-amd64"));
        assert_eq!(real_package("x\n  Depends: kmod\n", "x"), Some("x"));
        assert_eq!(real_package("", "x"), None);
    }
}
