//! Small root file systems, as tars, for guests that must be odd.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// The statically linked busybox of the host (Debian's `busybox-static`).
///
/// # Errors
/// When it is not installed.
pub fn static_busybox() -> Result<Vec<u8>> {
    ["/usr/bin/busybox", "/bin/busybox"]
        .iter()
        .find_map(|path| fs::read(path).ok())
        .context("there is no busybox: install the package busybox-static")
}

/// Writes a tar at `path` with these files (mode 0755) and symbolic links.
///
/// # Errors
/// When it cannot be written.
pub fn tar_of(path: &Path, files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Result<()> {
    let mut tar = tar::Builder::new(fs::File::create(path)?);
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, *bytes)?;
    }
    for (name, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, name, target)?;
    }
    Ok(tar.finish()?)
}

/// The init of a guest that turns against its host (`fixtures/hostile-init.c`), statically linked.
pub const HOSTILE_INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile-init"));
