//! Reads the input formats of kernels, detected by content: Debian packages, RPMs, tars and plain kernels.

use std::io::{self, Cursor, Read};
use std::path::Path;

use super::KernelError;
use super::config::MAX_CONFIG;
use super::container::{self, MAX_VMLINUX};
use super::modules::MAX_MODULE;
use super::store::Destination;
use crate::archive::{ArchiveError, CpioReader, MemberKind, TarReader, ar, fill_holes, rpm};
use crate::codec::{self, ReadError};
use crate::error::PackageError;
use crate::progress;
use crate::{ImageError, Progress};

/// Bytes read to detect a format: a bzImage has its magic at 0x202, a tar at 257.
const HEADER_SIZE: u64 = 1024;

/// A file's format, detected from its first bytes.
enum Kind {
    Deb,
    Rpm,
    Tar,
    Kernel,
}

impl Kind {
    fn of(start: &[u8]) -> Result<Self, KernelError> {
        Ok(match start {
            [] => return Err(KernelError::Empty),
            _ if start.starts_with(ar::MAGIC) => Self::Deb,
            _ if start.starts_with(&rpm::MAGIC) => Self::Rpm,
            _ if start.get(257..262) == Some(b"ustar") => Self::Tar,
            _ if container::may_be_kernel(start) => Self::Kernel,
            _ => return Err(KernelError::NotKernel),
        })
    }
}

/// The role of an archive's file in the import.
enum Part<'a> {
    Kernel,
    Config,
    /// A file of the module tree, with its path there.
    Module(&'a Path),
    /// A package or kernel inside the archive.
    Inner,
    Ignored,
}

/// The parts of one kernel, from one or several files.
pub(super) struct Parts<'a, 'd> {
    pub(super) destination: &'a mut Destination<'d>,
    pub(super) kernel: Option<Vec<u8>>,
    /// The input's format: `deb`, `rpm` or `files`.
    pub(super) source: &'static str,
    /// Release of the modules, from the name of their directory.
    release: Option<String>,
    progress: &'a dyn Progress,
}

impl<'a, 'd> Parts<'a, 'd> {
    pub(super) fn new(destination: &'a mut Destination<'d>, progress: &'a dyn Progress) -> Self {
        Self { destination, kernel: None, source: "files", release: None, progress }
    }

    /// Reads the parts in `input`, named `name` in errors. A tar is accepted only if `inner` is false.
    pub(super) fn read_input(
        &mut self,
        name: &str,
        mut input: impl Read,
        inner: bool,
    ) -> Result<(), ImageError> {
        let mut start = Vec::new();
        let read = input.by_ref().take(HEADER_SIZE).read_to_end(&mut start);
        read.map_err(|error| unreadable(name, error))?;
        let kind = Kind::of(&start).map_err(|error| match error {
            KernelError::NotKernel if inner => refused(name, "is neither a package nor a kernel"),
            error => ImageError::Kernel(error),
        })?;
        let input = Cursor::new(start).chain(input);
        match kind {
            Kind::Deb => self.deb(input),
            Kind::Rpm => self.rpm(input),
            // Boxed, because the type of the nested readers would be infinite.
            Kind::Tar if !inner => self.tar(Box::new(input) as Box<dyn Read + '_>),
            Kind::Tar => Err(refused(name, "is a tar archive; expected a package or a kernel")),
            Kind::Kernel => {
                let bytes = codec::read_limited(input, MAX_VMLINUX).map_err(|error| match error {
                    ReadError::TooLarge => ImageError::Kernel(KernelError::TooLarge { limit: MAX_VMLINUX }),
                    ReadError::Io(error) => unreadable(name, error),
                })?;
                self.kernel(name, bytes)
            }
        }
    }

    fn deb(&mut self, input: impl Read) -> Result<(), ImageError> {
        self.source = "deb";
        let data = ar::member(input, "data.tar").map_err(ImageError::Package)?;
        let mut tar = TarReader::stream(decompressed(data)?);
        while let Some(member) = tar.next().map_err(package_archive)? {
            progress::check(self.progress)?;
            if let MemberKind::File { size, extents } = &member.kind {
                self.add_packaged(&member.path, *size, fill_holes(tar.data(), *size, extents))?;
            }
        }
        Ok(())
    }

    fn rpm(&mut self, mut input: impl Read) -> Result<(), ImageError> {
        self.source = "rpm";
        let files = rpm::header(&mut input).map_err(ImageError::Package)?;
        let mut cpio = CpioReader::new(decompressed(input)?, &files);
        while let Some(entry) = cpio.next().map_err(package_archive)? {
            progress::check(self.progress)?;
            if let Some(size) = entry.size {
                self.add_packaged(&entry.path, size, cpio.data())?;
            }
        }
        Ok(())
    }

    /// Reads a file of a package.
    fn add_packaged(&mut self, path: &str, size: u64, data: impl Read) -> Result<(), ImageError> {
        let relative_path = relative_path(path);
        let below = relative_path.strip_prefix("usr/").unwrap_or(relative_path).strip_prefix("lib/modules/");
        let part = match below.and_then(|below| below.split_once('/')) {
            Some((release, below)) => {
                let part = match below {
                    "vmlinuz" | "vmlinux" => Part::Kernel,
                    "config" => Part::Config,
                    _ => module(below),
                };
                if let Part::Module(_) = part {
                    self.check_release(release)?;
                }
                part
            }
            None => match relative_path.strip_prefix("boot/") {
                Some(name) if name.starts_with("vmlinuz-") || name.starts_with("vmlinux-") => Part::Kernel,
                Some(name) if name.starts_with("config-") => Part::Config,
                _ => Part::Ignored,
            },
        };
        self.add(part, path, size, data, package_archive)
    }

    /// Reads a tar of `kernel`, `config`, `modules/...`, and packages or a kernel in `files/...`.
    fn tar(&mut self, input: impl Read) -> Result<(), ImageError> {
        let mut tar = TarReader::stream(input);
        while let Some(member) = tar.next().map_err(ImageError::KernelArchive)? {
            progress::check(self.progress)?;
            let path = relative_path(&member.path);
            match &member.kind {
                MemberKind::File { size, extents } => {
                    let part = match (path, path.split_once('/')) {
                        ("kernel", _) => Part::Kernel,
                        ("config", _) => Part::Config,
                        (_, Some(("modules", below))) => module(below),
                        (_, Some(("files", _))) => Part::Inner,
                        _ => return Err(refused(&member.path, UNEXPECTED)),
                    };
                    let data = fill_holes(tar.data(), *size, extents);
                    self.add(part, &member.path, *size, data, ImageError::KernelArchive)?;
                }
                // In a real tree, `build` and `source` are symlinks.
                MemberKind::Directory | MemberKind::Symlink(_) if path.starts_with("modules/") => {}
                MemberKind::Directory if matches!(path, "" | "." | "modules" | "files") => {}
                _ => return Err(refused(&member.path, UNEXPECTED)),
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        part: Part<'_>,
        path: &str,
        size: u64,
        data: impl Read,
        archive: fn(ArchiveError) -> ImageError,
    ) -> Result<(), ImageError> {
        let read_all = |data, limit, problem| {
            if size > limit {
                return Err(refused(path, problem));
            }
            match codec::read_limited(data, limit) {
                Ok(bytes) if bytes.len() as u64 == size => Ok(bytes),
                Ok(_) => Err(archive(ArchiveError::Truncated { after: format!("{path:?}") })),
                Err(ReadError::TooLarge) => Err(refused(path, problem)),
                Err(ReadError::Io(source)) => Err(archive(ArchiveError::Read(source))),
            }
        };
        match part {
            Part::Kernel => {
                let bytes = read_all(data, MAX_VMLINUX, "is too large for a kernel")?;
                self.kernel(path, bytes)
            }
            Part::Config => {
                let bytes = read_all(data, MAX_CONFIG, "is too large for a kernel's configuration")?;
                self.destination.write_config(&bytes)
            }
            Part::Module(below) => {
                let bytes = read_all(data, MAX_MODULE, "is too large for a module")?;
                self.destination.add_module_file(below, &bytes)
            }
            Part::Inner => self.read_input(path, Box::new(data) as Box<dyn Read + '_>, true),
            Part::Ignored => Ok(()),
        }
    }

    /// Records the kernel. A package may hold the same kernel in `/boot` and in `/lib/modules`.
    fn kernel(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), ImageError> {
        match &self.kernel {
            Some(kernel) if *kernel != bytes => Err(ImageError::ManyKernels { entry: name.to_owned() }),
            _ => {
                self.kernel = Some(bytes);
                Ok(())
            }
        }
    }

    fn check_release(&mut self, release: &str) -> Result<(), ImageError> {
        match &self.release {
            Some(first) if first != release => {
                Err(ImageError::ManyReleases { first: first.clone(), second: release.to_owned() })
            }
            Some(_) => Ok(()),
            None => {
                self.release = Some(release.to_owned());
                Ok(())
            }
        }
    }
}

const UNEXPECTED: &str =
    "is unexpected: allowed are files \"kernel\" and \"config\", and directories \"modules\" and \"files\"";

fn refused(entry: &str, problem: &'static str) -> ImageError {
    ImageError::KernelEntry { entry: entry.to_owned(), problem }
}

fn unreadable(name: &str, source: io::Error) -> ImageError {
    ImageError::Io { operation: "read", path: name.into(), source }
}

fn package_archive(error: ArchiveError) -> ImageError {
    ImageError::Package(PackageError::Archive(error))
}

/// Decompresses a package's content.
fn decompressed<'a>(content: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ImageError> {
    let content =
        codec::decompressed(content).map_err(|error| ImageError::Package(PackageError::Read(error)))?;
    content.map_err(|compression| ImageError::Compression {
        what: "the package's content".to_owned(),
        compression,
    })
}

/// Removes a leading `./` and outer slashes from a member's path.
fn relative_path(path: &str) -> &str {
    path.trim_start_matches("./").trim_matches('/')
}

/// Classifies a file at `path` below `/lib/modules/<release>`: a module, a list of modules, or ignored.
fn module(path: &str) -> Part<'_> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if name.contains(".ko") || name.starts_with("modules.") {
        Part::Module(Path::new(path))
    } else {
        Part::Ignored
    }
}
