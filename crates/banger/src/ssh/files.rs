//! The files that ssh needs: a host key, the file that pins it, a configuration with both and the ProxyCommand, and a
//! key for an sshd in a guest. banger creates them on first use and rewrites those that differ; it never replaces the
//! keys.

use std::{
    fmt::Display,
    fs,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use banger_api::{ApiError, Dirs, ErrorKind};
use banger_ssh_server::{ClientKey, HostKey};

use crate::steps::Step;

/// Suffix of a VM's name as a host name.
pub(crate) const SUFFIX: &str = ".vm";

/// Excludes host names with a quote, which an old ssh would pass to the shell (CVE-2023-51385): such a name could end
/// the quotes around `%h`. All versions of ssh read this pattern the same way.
const NO_QUOTE: &str = "\"!*'*\"";

/// Bytes that ssh interprets in paths, differently in its versions.
const FORBIDDEN_IN_PATHS: &[u8] = b"\"\\*?[]%$";

/// Paths and key of banger's ssh files.
#[derive(Debug)]
pub(crate) struct SshFiles {
    dir: PathBuf,
    key: HostKey,
}

impl SshFiles {
    /// Creates or updates the files in the state directory; `program` serves as the ProxyCommand.
    pub(crate) fn prepare(dirs: &Dirs, program: &Path) -> Result<Self, ApiError> {
        let dir = dirs.ssh();
        create_private_dir(&dir)?;
        let key = host_key(&dir)?;
        let files = Self { dir, key };
        let known_hosts = format!("*{SUFFIX} {}\n", files.key.public());
        write_if_changed(&files.known_hosts(), known_hosts.as_bytes())?;
        write_if_changed(&files.config(), &config(program, &files.known_hosts())?)?;
        Ok(files)
    }

    /// Returns the path of the key for sshds in guests; it may not exist.
    pub(crate) fn client_key(dirs: &Dirs) -> PathBuf {
        dirs.ssh().join("id_ed25519")
    }

    /// Returns that key's public part as a line of an `authorized_keys` file; also writes the `.pub` file that ssh
    /// looks for.
    pub(crate) fn public_key(dirs: &Dirs) -> Result<String, ApiError> {
        create_private_dir(&dirs.ssh())?;
        let path = Self::client_key(dirs);
        let hint =
            format!("remove {} to create a new key, which VMs receive at their next start", path.display());
        let line = load_or_create(&path, || ClientKey::generate().ok(), ClientKey::read, &hint)?.public();
        write_if_changed(&path.with_extension("pub"), format!("{line}\n").as_bytes())?;
        Ok(line)
    }

    /// Returns the path of this program, for ssh to run.
    pub(crate) fn program() -> Result<PathBuf, ApiError> {
        let cannot = |error| ApiError::new(ErrorKind::Io, format!("cannot find banger's own path: {error}"));
        std::env::current_exe().map_err(cannot)
    }

    /// Returns the ProxyCommand for a VM. With `exit_file`, the proxy writes to that file when the guest's program has
    /// exited by itself.
    pub(crate) fn proxy_command(program: &Path, exit_file: Option<&Path>) -> Result<Vec<u8>, ApiError> {
        let mut command = shell_word(program)?;
        command.extend(b" ssh-proxy ");
        if let Some(file) = exit_file {
            command.extend(b"--ended ");
            command.extend(shell_word(file)?);
            command.push(b' ');
        }
        command.extend(b"'%h'");
        Ok(command)
    }

    /// Returns the path of the configuration to include.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    /// Returns the path of the file with the host key that all VMs share.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    /// Returns the line to add to ssh's own configuration.
    pub(crate) fn include_line(&self) -> Result<Vec<u8>, ApiError> {
        Ok([b"Include ".as_slice(), &config_word(&self.config())?].concat())
    }

    pub(super) fn into_key(self) -> HostKey {
        self.key
    }
}

fn create_private_dir(dir: &Path) -> Result<(), ApiError> {
    banger_durable::create_dir(dir).map_err(failed("create", dir))
}

/// Returns the host key that all VMs share.
fn host_key(dir: &Path) -> Result<HostKey, ApiError> {
    let path = dir.join("host_key");
    let hint = format!("remove {} to create a new key", path.display());
    load_or_create(&path, || HostKey::generate().ok(), HostKey::read, &hint)
}

/// Returns the key at `path`, or creates one. If two processes create one at once, both use the first.
fn load_or_create<K, E: Display>(
    path: &Path,
    generate: impl FnOnce() -> Option<Vec<u8>>,
    read: impl Fn(&[u8]) -> Result<K, E>,
    hint: &str,
) -> Result<K, ApiError> {
    let load = || -> Result<Option<K>, ApiError> {
        match fs::read(path) {
            Ok(bytes) => read(&bytes).map(Some).map_err(|error| {
                let message = format!("cannot use the key {}: {error}", path.display());
                ApiError::new(ErrorKind::Invalid, message).hint(hint)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", path)(error)),
        }
    };
    if let Some(key) = load()? {
        return Ok(key);
    }
    let no_random = || ApiError::new(ErrorKind::Io, "cannot get random numbers for a key");
    let key = generate().ok_or_else(no_random)?;
    Step::Key.around(|| banger_durable::create(path, 0o600, &key)).map_err(failed("write", path))?;
    load()?.ok_or_else(|| failed("read", path)(io::ErrorKind::NotFound.into()))
}

/// Replaces the content of `path` atomically, if it differs.
fn write_if_changed(path: &Path, content: &[u8]) -> Result<(), ApiError> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let written = Step::SshFile.around(|| banger_durable::write(path, 0o600, |out| out.write_all(content)));
    written.map_err(failed("write", path))
}

/// Returns ssh's configuration for VMs. It fixes fast algorithms, whatever else is configured: the bytes never leave
/// the host. For the key exchange, it leaves those of ssh's defaults that the server may have: a name that an older ssh
/// does not know would be an error, and a newer ssh warns if a key exchange is not post-quantum.
fn config(program: &Path, known_hosts: &Path) -> Result<Vec<u8>, ApiError> {
    let mut text =
        format!("# Written by banger; it overwrites changes.\nHost *{SUFFIX} {NO_QUOTE}\n    ProxyCommand ")
            .into_bytes();
    text.extend(SshFiles::proxy_command(program, None)?);
    text.extend(b"\n    UserKnownHostsFile ");
    text.extend(config_word(known_hosts)?);
    text.extend(
        b"
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    CheckHostIP no
    HostKeyAlgorithms ssh-ed25519
    KexAlgorithms -diffie-hellman*,ecdh*,sntrup*
    Ciphers aes256-gcm@openssh.com
    Compression no
    PubkeyAuthentication no
    User root
",
    );
    Ok(text)
}

/// Returns `path` as a word of ssh's configuration.
fn config_word(path: &Path) -> Result<Vec<u8>, ApiError> {
    let bytes = path.as_os_str().as_bytes();
    if let Some(byte) = bytes.iter().find(|byte| FORBIDDEN_IN_PATHS.contains(byte) || byte.is_ascii_control())
    {
        let message = format!(
            "ssh's configuration cannot contain the path {}: it has the character {:?}",
            path.display(),
            char::from(*byte)
        );
        let error = ApiError::new(ErrorKind::Invalid, message);
        return Err(error.hint("set XDG_STATE_HOME to a directory without such characters"));
    }
    Ok([b"\"", bytes, b"\""].concat())
}

/// Returns `path` as a word of the shell that runs a ProxyCommand, where ssh expands percent signs.
fn shell_word(path: &Path) -> Result<Vec<u8>, ApiError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.iter().any(|byte| byte.is_ascii_control()) {
        let message = format!("ssh's configuration cannot contain the path {path:?}");
        return Err(ApiError::new(ErrorKind::Invalid, message).hint("install banger in another directory"));
    }
    let mut word = vec![b'\''];
    for byte in bytes {
        match byte {
            b'\'' => word.extend(b"'\\''"),
            b'%' => word.extend(b"%%"),
            byte => word.push(*byte),
        }
    }
    word.push(b'\'');
    Ok(word)
}

pub(super) fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> ApiError {
    let message = format!("cannot {action} {}", path.display());
    move |error| {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
            io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        ApiError::new(kind, format!("{message}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::fs::PermissionsExt, process::Command, thread};

    use super::*;

    fn dirs(dir: &Path) -> Dirs {
        Dirs::find(|name| (name == "HOME").then(|| dir.to_owned())).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn concurrent_first_uses_share_one_host_key() {
        let home = tempfile::tempdir().unwrap();
        let dirs = dirs(home.path());
        let keys: Vec<_> = thread::scope(|scope| {
            let prepare = || SshFiles::prepare(&dirs, Path::new("/banger")).unwrap().into_key();
            let all: Vec<_> = (0..8).map(|_| scope.spawn(prepare)).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| key.public() == keys[0].public()));
        let dir = dirs.ssh();
        assert_eq!((mode(&dir), mode(&dir.join("host_key"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
        let known = fs::read_to_string(dir.join("known_hosts")).unwrap();
        assert_eq!(known, format!("*.vm {}\n", keys[0].public()));
    }

    #[test]
    fn an_invalid_host_key_is_reported_and_kept() {
        let home = tempfile::tempdir().unwrap();
        let dirs = dirs(home.path());
        fs::create_dir_all(dirs.ssh()).unwrap();
        fs::write(dirs.ssh().join("host_key"), "nonsense").unwrap();
        let error = SshFiles::prepare(&dirs, Path::new("/banger")).unwrap_err();
        assert!(error.message.contains("host_key") && error.hint.is_some(), "{error}");
        assert_eq!(fs::read(dirs.ssh().join("host_key")).unwrap(), b"nonsense");
    }

    #[test]
    fn concurrent_first_uses_share_one_client_key() {
        let home = tempfile::tempdir().unwrap();
        let dirs = dirs(home.path());
        let lines: Vec<_> = thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| SshFiles::public_key(&dirs).unwrap())).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(lines.iter().all(|line| *line == lines[0]), "{lines:?}");
        let path = SshFiles::client_key(&dirs);
        assert_eq!((mode(&dirs.ssh()), mode(&path)), (0o700, 0o600));
        assert_eq!(fs::read_to_string(dirs.ssh().join("id_ed25519.pub")).unwrap(), format!("{}\n", lines[0]));
        assert_eq!(fs::read_dir(dirs.ssh()).unwrap().count(), 2);
        fs::write(&path, "nonsense").unwrap();
        let error = SshFiles::public_key(&dirs).unwrap_err();
        assert!(error.message.contains("id_ed25519") && error.hint.is_some(), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"nonsense");
    }

    #[test]
    fn paths_are_quoted_or_rejected_in_the_configuration() {
        let word = |path: &str| String::from_utf8(shell_word(Path::new(path)).unwrap()).unwrap();
        assert_eq!(word("/a b/$(c)/100%h"), "'/a b/$(c)/100%%h'");
        assert_eq!(word("/it's"), r"'/it'\''s'");
        assert!(shell_word(Path::new(OsStr::from_bytes(b"/a\nb"))).is_err());
        let config = config(Path::new("/bin/banger"), Path::new("/my state/known_hosts")).unwrap();
        let config = String::from_utf8(config).unwrap();
        assert!(config.contains("UserKnownHostsFile \"/my state/known_hosts\"\n"), "{config}");
        assert!(config.contains("ProxyCommand '/bin/banger' ssh-proxy '%h'\n"), "{config}");
        for path in ["/a%b", "/a\"b", "/a*", "/${HOME}"] {
            assert!(super::config_word(Path::new(path)).unwrap_err().message.contains(path));
        }
    }

    /// Returns the value of `key` that ssh uses for `host`.
    fn effective(config: &Path, host: &str, key: &str) -> Option<String> {
        let out = Command::new("ssh").arg("-F").arg(config).args(["-G", host]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').map(str::to_owned))
    }

    #[test]
    fn ssh_passes_the_host_name_to_no_shell_unquoted() {
        let home = tempfile::tempdir().unwrap();
        let files = SshFiles::prepare(&dirs(home.path()), Path::new("/banger")).unwrap();
        let command = effective(&files.config(), "box.vm", "proxycommand").unwrap();
        assert_eq!(command, "'/banger' ssh-proxy '%h'");
        let hosts = ["x;touch marker.vm", "$(touch marker).vm", "`touch marker`.vm", "x\ntouch marker\n.vm"];
        for host in hosts {
            let command = command.replace("'/banger'", "true").replace("%h", host);
            let status = Command::new("sh").args(["-c", &command]).current_dir(&home).status().unwrap();
            assert!(status.success() && !home.path().join("marker").exists(), "{host:?}");
        }
        // A quote is the only character that ends the quotes. ssh itself refuses such names since 9.6.
        let pattern = fs::read_to_string(files.config()).unwrap();
        assert!(pattern.contains("\nHost *.vm \"!*'*\"\n"), "{pattern}");
        let with_other_quote = pattern.replace("!*'*", "!*x*");
        fs::write(files.config(), with_other_quote).unwrap();
        assert_eq!(effective(&files.config(), "box.vm", "proxycommand"), None);
        assert!(effective(&files.config(), "cab.vm", "proxycommand").is_some());
    }

    #[test]
    fn ssh_offers_a_key_exchange_that_the_server_has() {
        let home = tempfile::tempdir().unwrap();
        let files = SshFiles::prepare(&dirs(home.path()), Path::new("/banger")).unwrap();
        let methods = effective(&files.config(), "box.vm", "kexalgorithms").unwrap();
        assert!(methods.split(',').any(|method| method == "curve25519-sha256"), "{methods}");
        assert!(!methods.contains("sntrup"), "{methods}");
    }
}
