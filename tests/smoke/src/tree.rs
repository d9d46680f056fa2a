//! Small root file systems, as tars, for guests that must be odd.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

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

/// Writes a tar at `path` of a guest that has the static busybox, by the names of all its commands, and `programs` of this
/// host with their libraries.
///
/// # Errors
/// When a program is not there, or the tar cannot be written.
pub fn tar_with(path: &Path, programs: &[&str]) -> Result<()> {
    let mut files = vec![("bin/busybox".to_owned(), static_busybox()?)];
    let mut libraries = BTreeSet::new();
    for program in programs {
        let there = Path::new("/usr/bin").join(program);
        files.push((
            format!("usr/bin/{program}"),
            fs::read(&there).with_context(|| there.display().to_string())?,
        ));
        libraries.extend(libraries_of(&there)?);
    }
    for library in libraries {
        files.push((library.trim_start_matches('/').to_owned(), fs::read(&library).context(library)?));
    }
    let listed = Command::new("busybox").arg("--list").output()?;
    let commands: Vec<_> =
        String::from_utf8(listed.stdout)?.lines().map(|name| format!("bin/{name}")).collect();
    let links = commands.iter().filter(|name| *name != "bin/busybox").map(|name| (name.as_str(), "busybox"));
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    tar_of(path, &files, &links.collect::<Vec<_>>())
}

/// The libraries that `program` is linked with, and its loader, by the paths that it names.
fn libraries_of(program: &Path) -> Result<BTreeSet<String>> {
    let listed = Command::new("ldd").arg(program).output()?;
    ensure!(
        listed.status.success(),
        "ldd {}: {}",
        program.display(),
        String::from_utf8_lossy(&listed.stderr)
    );
    let listed = String::from_utf8(listed.stdout)?;
    Ok(listed.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

/// The init of a guest that turns against its host (`fixtures/hostile-init.c`), statically linked.
pub const HOSTILE_INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile-init"));
