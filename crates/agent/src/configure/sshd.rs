//! Configures the image's sshd: root logs in by key only, and banger's key is authorized.
//!
//! Anything unexpected, such as a link in place of a file, is the user's own setup and is not changed.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
    process::Command,
};

use super::files::{install, read, set_owner_and_mode, wrong_type};
use crate::programs::is_program;

const PROGRAMS: [&str; 3] = ["usr/sbin/sshd", "usr/bin/sshd", "usr/local/sbin/sshd"];
const CONFIG: &str = "etc/ssh/sshd_config";
const DROP_INS: &str = "etc/ssh/sshd_config.d";
const DROP_IN: &str = "etc/ssh/sshd_config.d/00-banger.conf";

/// Patterns by which sshd's own configuration may include its drop-ins.
const ALL_DROP_INS: [&str; 2] = ["/etc/ssh/sshd_config.d/*.conf", "sshd_config.d/*.conf"];

/// Settings that override all others: sshd uses the first value that it reads.
const RULES: &str = "# banger: begin
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
# banger: end
";
const BEGIN: &[u8] = b"# banger: begin\n";
const END: &[u8] = b"# banger: end\n";

/// Comment of banger's keys; unlikely for any other key.
const COMMENT: &str = "made-by-banger";

/// Restricts root to logins by key, and disables passwords, where an sshd exists in `root`. Must run before sshd
/// starts.
pub(crate) fn restrict(root: &Path) -> io::Result<()> {
    if !is_installed(root) {
        return Ok(());
    }
    let config = root.join(CONFIG);
    match read(&config)? {
        // Not by an Include: sshd supports it since 8.2, and does not start if it reads an unknown keyword.
        Some(old) if !has_drop_ins(&old) => {
            install(&config, &[RULES.as_bytes(), without_rules(&old)].concat(), None)
        }
        // Without this file, the distribution's own configuration is elsewhere and includes the drop-ins.
        _ => {
            create_dir(&root.join(DROP_INS), 0o755)?;
            install(&root.join(DROP_IN), RULES.as_bytes(), Some(0o644))
        }
    }
}

/// Creates a host key if the system at `root` has an sshd and no host key. Images are committed without host keys, so
/// that no two VMs share one, and most distributions create them only when sshd is installed.
pub(crate) fn make_host_key(root: &Path) -> io::Result<()> {
    let (keygen, key) = (root.join("usr/bin/ssh-keygen"), root.join("etc/ssh/ssh_host_ed25519_key"));
    let Some(dir) = key.parent().filter(|dir| dir.is_dir()) else { return Ok(()) };
    if !is_installed(root) || !is_program(&keygen) || has_host_key(dir)? {
        return Ok(());
    }
    let status = Command::new(keygen).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ssh-keygen failed ({status})"))) }
}

fn has_host_key(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("ssh_host_") && name.ends_with("_key") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Authorizes `keys` for root in place of banger's previous ones, where an sshd exists in `root`.
pub(super) fn authorize(root: &Path, keys: &[String]) -> io::Result<()> {
    if keys.is_empty() || !is_installed(root) {
        return Ok(());
    }
    let home = root.join("root");
    let meta = fs::symlink_metadata(&home)?;
    if !meta.is_dir() {
        return Err(wrong_type("a directory", &home));
    }
    // sshd's StrictModes: a user who can write to one of these could authorize any key.
    set_owner_and_mode(&home, meta.mode() & 0o7777 & !0o022)?;
    let ssh_dir = home.join(".ssh");
    create_dir(&ssh_dir, 0o700)?;
    set_owner_and_mode(&ssh_dir, 0o700)?;
    let path = ssh_dir.join("authorized_keys");
    let old = read(&path)?.unwrap_or_default();
    install(&path, &with_keys(&old, keys), Some(0o600))
}

fn is_installed(root: &Path) -> bool {
    PROGRAMS.iter().any(|name| is_program(root.join(name))) || fs::symlink_metadata(root.join(CONFIG)).is_ok()
}

/// Returns whether `config` includes the drop-ins before any other setting.
fn has_drop_ins(config: &[u8]) -> bool {
    let config = String::from_utf8_lossy(config);
    let mut settings =
        config.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = settings.next().unwrap_or_default();
    let mut words = first.split([' ', '\t', '=', '"']).filter(|word| !word.is_empty());
    words.next().is_some_and(|keyword| keyword.eq_ignore_ascii_case("include"))
        && words.any(|path| ALL_DROP_INS.contains(&path))
}

/// Returns `config` without the rules at its beginning.
fn without_rules(config: &[u8]) -> &[u8] {
    if !config.starts_with(BEGIN) {
        return config;
    }
    let end = config.windows(END.len()).position(|part| part == END);
    end.and_then(|end| config.get(end + END.len()..)).unwrap_or(config)
}

/// Returns the user's lines of `old` unchanged, followed by `keys`.
fn with_keys(old: &[u8], keys: &[String]) -> Vec<u8> {
    let mut new: Vec<u8> =
        old.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_ours(line)).flatten().copied().collect();
    if new.last().is_some_and(|last| *last != b'\n') {
        new.push(b'\n');
    }
    for key in keys.iter().filter(|key| !key.contains(char::is_control)) {
        let mut words = key.split(' ');
        let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        new.extend(format!("{kind} {key} {COMMENT}\n").into_bytes());
    }
    new
}

/// Returns whether `line` is one of banger's keys, unchanged.
fn is_ours(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    let words: Vec<_> = line.split_whitespace().collect();
    matches!(words.as_slice(), [kind, _, COMMENT] if !kind.starts_with('#'))
}

/// Creates a directory if it does not exist; an existing one keeps its permissions.
fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(wrong_type("a directory", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(mode).create(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    /// Creates a system with these files, and a home that others can write to.
    fn system(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("root")).unwrap();
        fs::set_permissions(root.path().join("root"), fs::Permissions::from_mode(0o777)).unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        root
    }

    fn mode(root: &TempDir, name: &str) -> u32 {
        fs::metadata(root.path().join(name)).unwrap().mode() & 0o7777
    }

    fn text(root: &TempDir, name: &str) -> String {
        fs::read_to_string(root.path().join(name)).unwrap()
    }

    fn keys(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    const KEYS: &str = "root/.ssh/authorized_keys";
    const DEBIAN_CONFIG: &str = "\n# as shipped\nInclude /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n";

    #[test]
    fn a_host_key_is_created_if_an_sshd_has_none() {
        let keygen = "#!/bin/sh\nfor last; do :; done\necho made > \"$last\"\n";
        let key = "etc/ssh/ssh_host_ed25519_key";
        let root =
            system(&[("usr/sbin/sshd", ""), ("usr/bin/ssh-keygen", keygen), ("etc/ssh/sshd_config", "")]);
        make_host_key(root.path()).unwrap();
        assert_eq!(text(&root, key), "made\n");
        let other = system(&[
            ("usr/sbin/sshd", ""),
            ("usr/bin/ssh-keygen", keygen),
            ("etc/ssh/ssh_host_rsa_key", ""),
        ]);
        make_host_key(other.path()).unwrap();
        let without_sshd = system(&[("usr/bin/ssh-keygen", keygen), ("etc/ssh/ssh_config", "")]);
        make_host_key(without_sshd.path()).unwrap();
        assert!([other, without_sshd].iter().all(|root| !root.path().join(key).exists()));
    }

    #[test]
    fn nothing_is_written_without_an_sshd() {
        let root = system(&[("usr/sbin/dropbear", "")]);
        restrict(root.path()).unwrap();
        authorize(root.path(), &keys(&["ssh-ed25519 AAAA banger"])).unwrap();
        assert!(!root.path().join("etc").exists() && !root.path().join("root/.ssh").exists());
        assert_eq!(mode(&root, "root"), 0o777);
    }

    #[test]
    fn bangers_key_is_added_once_and_user_lines_are_kept() {
        let root = system(&[("usr/sbin/sshd", "")]);
        authorize(root.path(), &[]).unwrap();
        assert!(!root.path().join("root/.ssh").exists());
        authorize(root.path(), &keys(&["ssh-ed25519 AAAA whatever"])).unwrap();
        assert_eq!(text(&root, KEYS), "ssh-ed25519 AAAA made-by-banger\n");
        assert_eq!(["root", "root/.ssh", KEYS].map(|name| mode(&root, name)), [0o755, 0o700, 0o600]);

        let user_lines = "# a made-by-banger\nfrom=\"10.*\" ssh-ed25519 AAAA made-by-banger\n\nssh-rsa BB banger\nssh-rsa CC mine";
        fs::write(root.path().join(KEYS), format!("ssh-ed25519 AAAA made-by-banger\n{user_lines}")).unwrap();
        fs::set_permissions(root.path().join(KEYS), fs::Permissions::from_mode(0o666)).unwrap();
        fs::set_permissions(root.path().join("root/.ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        let authorize_others =
            || authorize(root.path(), &keys(&["ssh-ed25519 CCCC", "ssh-rsa D\nE"])).unwrap();
        authorize_others();
        assert_eq!(text(&root, KEYS), format!("{user_lines}\nssh-ed25519 CCCC made-by-banger\n"));
        assert_eq!([mode(&root, "root/.ssh"), mode(&root, KEYS)], [0o700, 0o600]);
        let inode = || fs::metadata(root.path().join(KEYS)).unwrap().ino();
        let before = inode();
        authorize_others();
        assert_eq!(inode(), before, "the unchanged file was rewritten");
    }

    #[test]
    fn symbolic_links_are_rejected_and_not_followed() {
        let root = system(&[("usr/bin/sshd", ""), ("elsewhere/file", "mine")]);
        let elsewhere = root.path().join("elsewhere");
        let key = keys(&["ssh-ed25519 AAAA"]);
        symlink(&elsewhere, root.path().join("root/.ssh")).unwrap();
        assert!(
            authorize(root.path(), &key).unwrap_err().to_string().contains("root/.ssh is not a directory")
        );
        fs::remove_file(root.path().join("root/.ssh")).unwrap();
        fs::create_dir(root.path().join("root/.ssh")).unwrap();
        symlink(elsewhere.join("file"), root.path().join(KEYS)).unwrap();
        assert!(authorize(root.path(), &key).unwrap_err().to_string().contains("is not a file"));
        symlink(elsewhere.join("file"), root.path().join(CONFIG)).unwrap_or_else(|_| {
            fs::create_dir_all(root.path().join("etc/ssh")).unwrap();
            symlink(elsewhere.join("file"), root.path().join(CONFIG)).unwrap();
        });
        assert!(restrict(root.path()).is_err());
        assert_eq!(text(&root, "elsewhere/file"), "mine");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
    }

    #[test]
    fn rules_are_in_a_drop_in_if_the_configuration_includes_it_first() {
        let root = system(&[(CONFIG, DEBIAN_CONFIG)]);
        for _ in 0..2 {
            restrict(root.path()).unwrap();
        }
        assert_eq!((text(&root, CONFIG).as_str(), text(&root, DROP_IN).as_str()), (DEBIAN_CONFIG, RULES));
        assert_eq!((mode(&root, CONFIG), mode(&root, DROP_IN)), (0o755, 0o644));
        // As in distributions whose own configuration is in /usr/etc.
        let root = system(&[("usr/sbin/sshd", "")]);
        restrict(root.path()).unwrap();
        assert_eq!(text(&root, DROP_IN), RULES);
        assert!(!root.path().join(CONFIG).exists());
    }

    #[test]
    fn rules_precede_any_other_configuration() {
        for old in [
            "PermitRootLogin yes\nInclude /etc/ssh/sshd_config.d/*.conf\n",
            "Include /etc/other/*.conf",
            "UsePAM yes\r\n\u{ff}",
            "",
        ] {
            let root = system(&[(CONFIG, old)]);
            for _ in 0..2 {
                restrict(root.path()).unwrap();
                assert_eq!(text(&root, CONFIG), format!("{RULES}{old}"));
            }
            assert_eq!(mode(&root, CONFIG), 0o755);
            assert!(!root.path().join(DROP_IN).exists());
        }
        let newer = without_rules(b"# banger: begin\nOlder rules\n# banger: end\nUsePAM yes\n");
        assert_eq!(newer, b"UsePAM yes\n");
        assert_eq!(without_rules(b"# banger: begin\nUsePAM yes\n"), b"# banger: begin\nUsePAM yes\n");
        assert!(has_drop_ins(b"include=\"/etc/ssh/sshd_config.d/*.conf\""));
    }
}
