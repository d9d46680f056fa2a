//! Certificates of the user's certificate authorities, in the system's store.
//!
//! They are files in the directories from which a distribution's own program builds its store, so that they stay when
//! the distribution's certificates change. The file with all certificates, which most programs read, gets them at once.
//! The distribution's program then runs in the background, because it can take minutes without KVM: it fills the
//! directory that other programs of OpenSSL read.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::files::{install, read};
use crate::programs::is_program;

/// Directories for additional certificates. The first one is of Debian and Alpine, and created if there is no other;
/// then Fedora's, Arch's and openSUSE's.
const ANCHORS: [&str; 4] = [
    "usr/local/share/ca-certificates",
    "etc/pki/ca-trust/source/anchors",
    "etc/ca-certificates/trust-source/anchors",
    "etc/pki/trust/anchors",
];

/// Programs that build the store, and their places in older distributions.
const PROGRAMS: [&str; 4] = [
    "usr/sbin/update-ca-certificates",
    "usr/bin/update-ca-trust",
    "usr/sbin/update-ca-trust",
    "usr/bin/update-ca-certificates",
];

/// Files with all certificates. The first one is of Debian, Alpine and Arch, and created if there is no other; then
/// Fedora's and openSUSE's, and that of programs with OpenSSL's own default. Some are links to others.
const BUNDLES: [&str; 6] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
    "etc/pki/tls/cert.pem",
];

/// Beginning and end of the names of banger's files.
const PREFIX: &str = "banger-";
const SUFFIX: &str = ".crt";

const BEGIN: &str = "# banger: begin\n";
const END: &str = "# banger: end\n";

/// Where the program finds others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A file that exists until the program has run for the last change.
const PENDING: &str = "var/lib/banger-certificates-pending";

/// Runs the programs, then removes the file that says that they have to.
const SCRIPT: &str = r#"for program do "$program" || exit; done; rm -f "$0""#;

/// Replaces banger's certificates in the system at `root` with these, each a PEM text. Returns a command to run in the
/// background, if the distribution has a program for its store. Changes nothing the second time.
pub(super) fn set(root: &Path, certificates: &[String]) -> io::Result<Option<Command>> {
    let mut dirs: Vec<_> = ANCHORS.map(|dir| root.join(dir)).into_iter().filter(|dir| dir.is_dir()).collect();
    let pending = root.join(PENDING);
    let mut old = Vec::new();
    for path in dirs.iter().map(|dir| own_files(dir)).collect::<io::Result<Vec<_>>>()?.concat() {
        old.push(text(&path)?);
    }
    if certificates.is_empty() && old.is_empty() && !pending.exists() {
        return Ok(None);
    }
    if dirs.is_empty() {
        let [first, ..] = ANCHORS;
        let first = root.join(first);
        fs::create_dir_all(&first)?;
        dirs.push(first);
    }
    let programs = programs(root);
    let is_same =
        old.len() == certificates.len() * dirs.len() && old.iter().all(|one| certificates.contains(one));
    if !is_same && !programs.is_empty() {
        fs::create_dir_all(pending.parent().unwrap_or(root))?;
        install(&pending, b"", Some(0o644))?;
    }
    let mut bundles = bundles(root)?;
    if bundles.is_empty() && !certificates.is_empty() {
        let [first, ..] = BUNDLES;
        let first = root.join(first);
        fs::create_dir_all(first.parent().unwrap_or(root))?;
        bundles.insert(first);
    }
    old.retain(|one| !certificates.contains(one));
    // The directories last: they say what is in the bundles.
    bundles.iter().try_for_each(|bundle| change(bundle, &old, certificates))?;
    dirs.iter().try_for_each(|dir| fill(dir, certificates))?;
    if !pending.exists() {
        return Ok(None);
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SCRIPT]).arg(&pending).args(&programs);
    command.env_clear().env("PATH", PATH).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Some(command))
}

/// Makes `dir` have these certificates of banger's, a file each, and no others.
fn fill(dir: &Path, certificates: &[String]) -> io::Result<()> {
    let mut old: BTreeSet<_> = own_files(dir)?.into_iter().collect();
    for (number, certificate) in certificates.iter().enumerate() {
        let path = dir.join(format!("{PREFIX}{number}{SUFFIX}"));
        old.remove(&path);
        install(&path, certificate.as_bytes(), Some(0o644))?;
    }
    old.iter().try_for_each(fs::remove_file)
}

/// Returns banger's files in a directory.
fn own_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        if number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Returns the files with all certificates, without the links to them.
fn bundles(root: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for bundle in BUNDLES {
        match fs::canonicalize(root.join(bundle)) {
            Ok(path) => found.extend(Some(path).filter(|path| path.is_file())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Removes the `old` certificates from a bundle, and adds those to its end that it lacks.
fn change(bundle: &Path, old: &[String], certificates: &[String]) -> io::Result<()> {
    let text = text(bundle)?;
    let mut new = match text.split_once(BEGIN) {
        Some((before, rest)) => format!("{before}{}", rest.split_once(END).map_or("", |(_, after)| after)),
        None => text,
    };
    for one in old {
        new = new.replace(one, "");
    }
    let missing: String = certificates.iter().filter(|one| !new.contains(one.trim())).cloned().collect();
    if missing.is_empty() && new.is_empty() {
        // It had only banger's.
        return fs::remove_file(bundle);
    }
    if !missing.is_empty() {
        let line_end = if new.is_empty() || new.ends_with('\n') { "" } else { "\n" };
        new.push_str(&format!("{line_end}{BEGIN}{missing}{END}"));
    }
    install(bundle, new.as_bytes(), None)
}

fn text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?.unwrap_or_default()).map_err(io::Error::other)
}

/// Returns the programs of the system that build its store, without links to the same.
fn programs(root: &Path) -> BTreeSet<PathBuf> {
    let found = PROGRAMS.map(|program| root.join(program)).into_iter().filter(|program| is_program(program));
    found.filter_map(|program| fs::canonicalize(program).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    /// Creates a system with these files, and programs where the content is a script.
    fn system(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            let mode = if content.starts_with("#!") { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        root
    }

    fn certificate(body: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    /// Returns all files of a system, with their contents.
    fn contents(root: &TempDir) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut dirs = vec![root.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let name = path.strip_prefix(root.path()).unwrap().to_owned();
                    found.push((name, fs::read_to_string(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    fn file(root: &TempDir, name: &str) -> String {
        fs::read_to_string(root.path().join(name)).unwrap_or_default()
    }

    /// Sets certificates, and runs the programs for them. Returns whether there were any.
    fn set_and_run(root: &TempDir, certificates: &[String]) -> bool {
        let command = set(root.path(), certificates).unwrap();
        command.map(|mut command| command.status().unwrap()).is_some()
    }

    #[test]
    fn a_system_without_a_store_gets_a_file_until_its_certificates_are_removed() {
        let root = system(&[]);
        assert!(!set_and_run(&root, &[]));
        assert!(contents(&root).is_empty());
        let both = [certificate("MIIA"), certificate("MIIB")];
        for _ in 0..2 {
            assert!(!set_and_run(&root, &both));
            assert_eq!(file(&root, "usr/local/share/ca-certificates/banger-1.crt"), both[1]);
            assert_eq!(file(&root, BUNDLES[0]), format!("{BEGIN}{}{END}", both.concat()));
        }
        assert!(!set_and_run(&root, &both[1..]));
        assert_eq!(file(&root, BUNDLES[0]), format!("{BEGIN}{}{END}", both[1]));
        assert!(!set_and_run(&root, &[]));
        assert!(contents(&root).is_empty());
    }

    #[test]
    fn certificates_are_added_to_the_stores_of_distributions_and_removed() {
        let distribution = certificate("MIIsystem");
        // Alpine's and Fedora's, with their links.
        for (bundle, link, target) in [
            (BUNDLES[0], "etc/ssl/cert.pem", "certs/ca-certificates.crt"),
            (BUNDLES[2], BUNDLES[1], "../../ca-trust/extracted/pem/tls-ca-bundle.pem"),
        ] {
            let root = system(&[(bundle, &distribution), ("etc/pki/ca-trust/source/anchors/own.pem", "x")]);
            fs::create_dir_all(root.path().join(link).parent().unwrap()).unwrap();
            symlink(target, root.path().join(link)).unwrap();
            let before = contents(&root);
            for _ in 0..2 {
                assert!(!set_and_run(&root, &[certificate("MIIours")]));
                let expected = format!("{distribution}{BEGIN}{}{END}", certificate("MIIours"));
                assert_eq!((file(&root, bundle), file(&root, link)), (expected.clone(), expected));
                assert!(root.path().join(link).is_symlink());
                assert_eq!(
                    file(&root, "etc/pki/ca-trust/source/anchors/banger-0.crt"),
                    certificate("MIIours")
                );
            }
            assert!(!set_and_run(&root, &[]));
            assert_eq!(contents(&root), before);
        }
    }

    #[test]
    fn the_systems_program_builds_the_store_once_for_a_change() {
        // As Debian's: the distribution's certificates and then those of the directory.
        let script = "#!/bin/sh\ncd \"$(dirname \"$0\")/../..\"\n\
             cat system usr/local/share/ca-certificates/*.crt > etc/ssl/certs/ca-certificates.crt\n";
        let (program, failing) = ("usr/sbin/update-ca-certificates", "#!/bin/sh\nexit 1\n");
        let distribution = certificate("MIIsystem");
        let root = system(&[(program, failing), ("system", &distribution), (BUNDLES[0], &distribution)]);
        let ours = [certificate("MIIours")];
        // Also before the program has run, the bundle is complete; a program that fails runs again.
        for _ in 0..2 {
            assert!(set_and_run(&root, &ours));
            assert_eq!(file(&root, BUNDLES[0]), format!("{distribution}{BEGIN}{}{END}", ours[0]));
        }
        fs::write(root.path().join(program), script).unwrap();
        assert!(set_and_run(&root, &ours));
        assert_eq!(file(&root, BUNDLES[0]), format!("{distribution}{}", ours[0]));
        assert!(!set_and_run(&root, &ours));
        // A certificate that the program has added goes at once.
        fs::write(root.path().join(program), failing).unwrap();
        assert!(set_and_run(&root, &[]) && set_and_run(&root, &[]));
        assert_eq!(file(&root, BUNDLES[0]), distribution);
        fs::write(root.path().join(program), "#!/bin/sh\n").unwrap();
        assert!(set_and_run(&root, &[]) && !set_and_run(&root, &[]));
    }
}
