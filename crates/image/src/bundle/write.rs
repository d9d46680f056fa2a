//! Writes an image's file system as a bundle.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tar::{EntryType, Header};

use super::{BundleImage, BundleManifest, MANIFEST, ROOTFS, VERSION, runs};
use crate::error::IoContext;
use crate::progress::or_cancelled;
use crate::publish::write_error;
use crate::{ImageError, Progress};

/// zstd compression level.
const COMPRESSION_LEVEL: i32 = 3;

/// Size of a tar block, in bytes.
const BLOCK: usize = 512;

/// Writes the bundle of `image` to `out`. `rootfs` is the image's file system; errors use `name` as the name of
/// `out`.
///
/// # Errors
/// Returns an error if a file cannot be read or written, or if `progress` cancels. The output is then incomplete.
pub fn write_bundle(
    image: BundleImage,
    rootfs: &Path,
    out: impl Write,
    name: &Path,
    progress: &dyn Progress,
) -> Result<BundleManifest, ImageError> {
    or_cancelled(progress, write(image, rootfs, out, name, progress))
}

fn write(
    image: BundleImage,
    rootfs: &Path,
    out: impl Write,
    name: &Path,
    progress: &dyn Progress,
) -> Result<BundleManifest, ImageError> {
    let file = File::open(rootfs).during("open", rootfs)?;
    let size = file.metadata().during("stat", rootfs)?.len();
    progress.stage("read the image");
    let scan = runs::scan(&file, size, progress).during("read", rootfs)?;
    let BundleImage { name: image_name, os, init, kernel, config, entries } = image;
    let manifest = BundleManifest {
        version: VERSION,
        name: image_name,
        os,
        arch: "amd64".to_owned(),
        init,
        kernel,
        config,
        entries,
        size,
        sha256: scan.digest,
    };
    progress.stage("write the bundle");
    let failed = |source| write_error(source, name, 0);
    let mut tar = zstd::Encoder::new(out, COMPRESSION_LEVEL).map_err(failed)?;
    tar.include_checksum(true).map_err(failed)?;
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| failed(error.into()))?;
    member(&mut tar, EntryType::Regular, MANIFEST, &text).map_err(failed)?;
    let map = map(&scan.runs, size);
    let stored: u64 = scan.runs.iter().map(|(_, length)| length).sum();
    member(&mut tar, EntryType::XHeader, "PaxHeaders.0/rootfs.ext4", &sparse_records(size))
        .map_err(failed)?;
    let total = map.len() as u64 + stored;
    tar.write_all(header(EntryType::Regular, "GNUSparseFile.0/rootfs.ext4", total).as_bytes())
        .and_then(|()| tar.write_all(&map))
        .map_err(failed)?;
    copy(&file, rootfs, &scan.runs, stored, &mut tar, &failed, progress)?;
    tar.write_all(padding(stored)).and_then(|()| tar.write_all(&[0; 2 * BLOCK])).map_err(failed)?;
    tar.finish().and_then(|mut out| out.flush()).map_err(failed)?;
    Ok(manifest)
}

/// Copies the bytes of all runs, one after another.
fn copy(
    file: &File,
    rootfs: &Path,
    runs: &[(u64, u64)],
    stored: u64,
    tar: &mut impl Write,
    failed: &dyn Fn(io::Error) -> ImageError,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    for (start, length) in runs {
        let mut at = *start;
        while at < start + length {
            let chunk_size = (start + length - at).min(buffer.len() as u64);
            let buffer = &mut buffer[..usize::try_from(chunk_size).unwrap_or_default()];
            file.read_exact_at(buffer, at).during("read", rootfs)?;
            tar.write_all(buffer).map_err(failed)?;
            at += chunk_size;
            done += chunk_size;
            progress.bytes(done, Some(stored));
            crate::progress::check(progress)?;
        }
    }
    Ok(())
}

/// Formats the map of a sparse file, version 1.0: decimal lines in whole blocks, with an empty run at the end.
fn map(runs: &[(u64, u64)], size: u64) -> Vec<u8> {
    let mut text = format!("{}\n", runs.len() + 1);
    for (start, length) in runs.iter().chain([&(size, 0)]) {
        text += &format!("{start}\n{length}\n");
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn sparse_records(size: u64) -> Vec<u8> {
    let size = size.to_string();
    let records = [("major", "1"), ("minor", "0"), ("name", ROOTFS), ("realsize", &size)];
    records.map(|(key, value)| record(&format!("GNU.sparse.{key}"), value)).concat().into_bytes()
}

/// Formats a record of an extended header: its length (which includes its own digits), a key and a value.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + " =\n".len();
    let digits = |number: usize| number.to_string().len();
    let length = rest + digits(rest + digits(rest));
    format!("{length} {key}={value}\n")
}

fn member(tar: &mut impl Write, kind: EntryType, name: &str, content: &[u8]) -> io::Result<()> {
    tar.write_all(header(kind, name, content.len() as u64).as_bytes())?;
    tar.write_all(content)?;
    tar.write_all(padding(content.len() as u64))
}

fn header(kind: EntryType, name: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    // All names are short ASCII.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

/// Returns the padding of the last block.
fn padding(size: u64) -> &'static [u8] {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    let used = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    &ZEROS[..(BLOCK - used) % BLOCK]
}
