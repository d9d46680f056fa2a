//! Small root file systems, as tars, for unusual guests.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

/// Returns the host's statically linked busybox (Debian's `busybox-static`).
///
/// # Errors
/// Returns an error if it is not installed.
pub fn static_busybox() -> Result<Vec<u8>> {
    ["/usr/bin/busybox", "/bin/busybox"]
        .iter()
        .find_map(|path| fs::read(path).ok())
        .context("busybox is not installed: install the package busybox-static")
}

/// Returns a host's program and its shared libraries: their paths in a root file system, and their contents.
///
/// # Errors
/// Returns an error if it is not installed.
pub fn with_libraries(program: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let linked = Command::new("ldd").arg(program).output()?;
    ensure!(linked.status.success(), "ldd cannot read {program}: is it installed?");
    let text = String::from_utf8(linked.stdout)?;
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    let files = std::iter::once(program).chain(words);
    files.map(|path| Ok((path.trim_start_matches('/').to_owned(), fs::read(path)?))).collect()
}

/// Writes a tar at `path` with these files (mode 0755) and symbolic links.
///
/// # Errors
/// Returns an error if it cannot be written.
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

/// Writes a tar at `path` with the static busybox, by the names of all its commands, and with `programs` of this
/// host, named by their paths, and their libraries.
///
/// # Errors
/// Returns an error if a program is missing, or if the tar cannot be written.
pub fn tar_with(path: &Path, programs: &[&str]) -> Result<()> {
    let mut files = BTreeMap::from([("bin/busybox".to_owned(), static_busybox()?)]);
    for program in programs {
        files.extend(with_libraries(program)?);
    }
    let listed = Command::new("busybox").arg("--list").output()?;
    let commands: Vec<_> =
        String::from_utf8(listed.stdout)?.lines().map(|name| format!("bin/{name}")).collect();
    let links = commands.iter().filter(|name| *name != "bin/busybox").map(|name| (name.as_str(), "busybox"));
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    tar_of(path, &files, &links.collect::<Vec<_>>())
}

/// The init of a guest that attacks its host (`fixtures/hostile-init.c`), statically linked.
pub const HOSTILE_INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile-init"));
