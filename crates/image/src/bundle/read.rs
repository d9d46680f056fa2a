//! Extracts an image's file system from a bundle. Bundles are untrusted: everything is checked before use.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use banger_api::Digest;
use sha2::{Digest as _, Sha256};

use super::{BundleError, BundleManifest, MANIFEST, MAX_MANIFEST, ROOTFS, runs};
use crate::archive::{ArchiveError, Extent, Member, MemberKind, TarReader};
use crate::codec::Compression;
use crate::error::IoContext;
use crate::progress::{ProgressReader, check, or_cancelled};
use crate::publish::{self, parent_dir, write_error};
use crate::rootfs::verify_ext4;
use crate::{ImageError, Progress, RootfsInfo};

/// Buffer size for copies, in bytes.
const CHUNK_SIZE: usize = 1 << 20;

/// A bundle whose manifest has been read.
pub struct BundleReader<'a> {
    tar: TarReader<Box<dyn Read + 'a>>,
    /// Hash of the compressed bytes read so far.
    file_hash: Rc<RefCell<Sha256>>,
    manifest: BundleManifest,
    progress: &'a dyn Progress,
}

impl std::fmt::Debug for BundleReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BundleReader").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

/// Reads the manifest of the bundle `input`, from its start.
///
/// # Errors
/// Returns an error if the file cannot be read or is not a bundle, or if `progress` cancels.
pub fn open_bundle(input: File, progress: &dyn Progress) -> Result<BundleReader<'_>, ImageError> {
    or_cancelled(progress, open(input, progress))
}

fn open(mut input: File, progress: &dyn Progress) -> Result<BundleReader<'_>, ImageError> {
    let read = |error| ImageError::Bundle(ArchiveError::Read(error).into());
    input.rewind().map_err(read)?;
    let mut start = Vec::with_capacity(6);
    input.by_ref().take(6).read_to_end(&mut start).map_err(read)?;
    if Compression::of(&start) != Compression::Zstd {
        return Err(ImageError::Bundle(BundleError::NotZstd));
    }
    input.rewind().map_err(read)?;
    let length = input.metadata().map_err(read)?.len();
    progress.stage("read the bundle");
    let file_hash = Rc::new(RefCell::new(Sha256::new()));
    let input =
        HashingReader { input: ProgressReader::new(input, Some(length), progress), hash: file_hash.clone() };
    let decompressed =
        zstd::Decoder::with_buffer(BufReader::with_capacity(CHUNK_SIZE, input)).map_err(read)?;
    let mut tar = TarReader::stream(Box::new(decompressed) as Box<dyn Read>);
    let (size, _) = next(&mut tar, MANIFEST)?;
    if size > MAX_MANIFEST {
        let problem = format!("it has {size} bytes; the limit is {MAX_MANIFEST}");
        return Err(ImageError::Bundle(BundleError::Manifest(problem)));
    }
    let mut text = Vec::new();
    tar.data().read_to_end(&mut text).map_err(read)?;
    let manifest = BundleManifest::parse(&text).map_err(ImageError::Bundle)?;
    Ok(BundleReader { tar, file_hash, manifest, progress })
}

/// A reader that hashes what it reads.
struct HashingReader<R> {
    input: R,
    hash: Rc<RefCell<Sha256>>,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hash.borrow_mut().update(&buffer[..read]);
        Ok(read)
    }
}

/// Returns the size and extents of the next member, which must be the file `expected`.
fn next<R: Read>(tar: &mut TarReader<R>, expected: &'static str) -> Result<(u64, Vec<Extent>), ImageError> {
    let refused = |found| ImageError::Bundle(BundleError::UnexpectedEntry { expected, found });
    match tar.next().map_err(|error| ImageError::Bundle(error.into()))? {
        Some(Member { path, kind: MemberKind::File { size, extents }, .. }) if path == expected => {
            Ok((size, extents))
        }
        Some(member) => Err(refused(format!("{:?}", member.path))),
        None => Err(refused("the end of the archive".to_owned())),
    }
}

/// Rejects bytes after the archive, except the zeros that fill a tar's last record.
///
/// Reading to the end also makes zstd verify its checksum.
fn check_padding(rest: impl Read) -> Result<(), ImageError> {
    /// Maximum length of a record: 10 KiB in GNU tar, up to 20 KiB in others.
    const RECORD: u64 = 20 << 10;
    let read = |error| ImageError::Bundle(ArchiveError::Read(error).into());
    let mut bytes = Vec::new();
    rest.take(RECORD + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > RECORD || bytes.iter().any(|byte| *byte != 0) {
        return Err(ImageError::Bundle(BundleError::ExtraEntry(
            "data after the end of the archive".to_owned(),
        )));
    }
    Ok(())
}

impl BundleReader<'_> {
    /// Returns the bundle's manifest.
    pub fn manifest(&self) -> &BundleManifest {
        &self.manifest
    }

    /// Writes the image's file system to `out`, and checks that the whole bundle has the digest `expected`, if given.
    ///
    /// # Errors
    /// Returns an error if the digest differs; if the content does not match the manifest or is not a valid ext4 file
    /// system; if space or `e2fsck` is missing; if `progress` cancels. `out` is then unchanged.
    pub fn write(self, expected: Option<Digest>, out: &Path) -> Result<RootfsInfo, ImageError> {
        let progress = self.progress;
        or_cancelled(progress, self.write_file(expected, out))
    }

    fn write_file(mut self, expected: Option<Digest>, out: &Path) -> Result<RootfsInfo, ImageError> {
        let BundleManifest { size, sha256, .. } = self.manifest;
        let (found, extents) = next(&mut self.tar, ROOTFS)?;
        if found != size {
            return Err(ImageError::Bundle(BundleError::Size { expected: size, found }));
        }
        let stored = extents.iter().map(|extent| extent.length).sum();
        publish::require_space(parent_dir(out), stored)?;
        let (file, temporary) = publish::create_temporary(out)?;
        file.set_len(size).map_err(|source| write_error(source, out, stored))?;
        self.copy(&extents, &file, out)?;
        if let Some(member) = self.tar.next().map_err(|error| ImageError::Bundle(error.into()))? {
            return Err(ImageError::Bundle(BundleError::ExtraEntry(format!("{:?}", member.path))));
        }
        check_padding(self.tar.into_inner())?;
        let file_hash = self.file_hash.borrow().clone().finalize();
        let found = Digest::sha256(file_hash.into());
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(ImageError::Digest { what: "the bundle", expected, found });
        }
        self.progress.stage("check the file system");
        let scan = runs::scan(&file, size, self.progress).during("read", out)?;
        if scan.digest != sha256 {
            let found = scan.digest;
            return Err(ImageError::Digest { what: "the bundle's file system", expected: sha256, found });
        }
        verify_ext4(&file, &temporary, self.progress).map_err(|error| match error {
            ImageError::Program { output, .. } => {
                ImageError::Bundle(BundleError::FileSystem(output.join("; ")))
            }
            error => error,
        })?;
        publish::publish(&file, temporary, out)?;
        let BundleManifest { entries, init, os, config, .. } = self.manifest;
        Ok(RootfsInfo { size, entries, init, os, config, digest: None })
    }

    /// Writes the stored runs to their positions; the gaps stay holes.
    fn copy(&mut self, extents: &[Extent], file: &File, out: &Path) -> Result<(), ImageError> {
        let mut data = self.tar.data();
        let mut buffer = vec![0; CHUNK_SIZE];
        for extent in extents {
            let mut at = extent.at;
            let end = extent.at + extent.length;
            while at < end {
                check(self.progress)?;
                let chunk = usize::try_from(end - at).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE);
                let buffer = &mut buffer[..chunk];
                data.read_exact(buffer)
                    .map_err(|error| ImageError::Bundle(ArchiveError::Read(error).into()))?;
                file.write_all_at(buffer, at).map_err(|source| write_error(source, out, extent.length))?;
                at += chunk as u64;
            }
        }
        Ok(())
    }
}
