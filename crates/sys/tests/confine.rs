//! Confines real programs, as root and as another user, and has them try what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests

use std::{
    fs,
    io::{self, Write},
    net::TcpListener,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixListener, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
};

use banger_sys::confine::{
    Access, Confinement, LANDLOCK_SCOPES, LANDLOCK_TCP, Limits, Sockets, Support, SystemCalls, confine,
    detach,
};

/// A user without rights; the tests may run as root.
const OTHER_USER: u32 = 65534;

/// Runs a script of bash, confined, as each user that this process can be. Only its own commands work: it may not
/// start processes. Returns what it wrote, the same for every user.
fn bash(script: &str, confinement: &Confinement) -> String {
    let users: &[Option<u32>] = if is_root() { &[None, Some(OTHER_USER)] } else { &[None] };
    let outputs = users.iter().map(|user| {
        let mut command = Command::new("/bin/bash");
        command.args(["--norc", "-c", script]).env_clear().current_dir("/").stdin(Stdio::null());
        if let Some(user) = user {
            command.uid(*user).gid(*user);
        }
        confine(&mut command, confinement, Vec::new()).unwrap();
        let output = command.output().unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
    });
    let outputs: Vec<_> = outputs.collect();
    assert!(outputs.iter().all(|output| *output == outputs[0]), "{outputs:?}");
    outputs[0].clone()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns a directory that every user may write to.
fn public_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

/// Returns whether the kernel has this version of Landlock; if not, says that the test is skipped.
fn has_landlock(version: u32) -> bool {
    let support = Support::of_kernel();
    if !support.has_landlock(version) {
        // Not through `eprintln!`, whose text is only shown for a failed test.
        let text = format!("SKIPPED: Landlock {version} is not available: {support:?}\n");
        io::stderr().write_all(text.as_bytes()).unwrap();
    }
    support.has_landlock(version)
}

#[test]
fn a_program_writes_only_in_its_directory() {
    if !has_landlock(1) {
        return;
    }
    let (own, other) = (public_dir(), public_dir());
    let confinement = Confinement::default().allow(own.path(), Access::All);
    let script = |dir: &Path| {
        // Each user needs a file of its own.
        let file = dir.join("file.$UID").display().to_string();
        let steps =
            [format!("echo one > {file}"), format!("echo two >> {file}"), format!("read line < {file}")];
        steps.map(|step| format!("{{ {step}; }} 2>/dev/null || echo refused; ")).concat() + "echo $line"
    };
    assert_eq!(bash(&script(own.path()), &confinement), "one\n");
    assert_eq!(bash(&script(other.path()), &confinement), "refused\nrefused\nrefused\n\n");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
}

#[test]
fn a_program_cannot_read_other_files_of_any_owner() {
    if !has_landlock(1) {
        return;
    }
    let (home, own) = (public_dir(), public_dir());
    for name in [home.path().join("id_ed25519"), own.path().join("disk")] {
        fs::write(&name, "secret\n").unwrap();
        fs::set_permissions(&name, fs::Permissions::from_mode(0o666)).unwrap();
    }
    let disk = own.path().join("disk");
    let read = |dir: &Path, name: &str| {
        let path = dir.join(name).display().to_string();
        format!("read line < {path} && echo $line; echo more >> {path} && echo written; ")
    };
    let script = read(home.path(), "id_ed25519") + &read(own.path(), "disk");
    let output = bash(&script, &Confinement::default().allow(&disk, Access::Read));
    assert!(output.contains("secret") && !output.contains("written"), "{output}");
    assert_eq!(output.matches("secret").count(), 1, "{output}");
    let output = bash(&read(own.path(), "disk"), &Confinement::default().allow(&disk, Access::Write));
    assert_eq!(output, "secret\nwritten\n");
    // Files of the system that only root can read.
    assert!(bash("read line < /etc/shadow && echo $line", &Confinement::default()).contains("denied"));
}

#[test]
fn a_linked_file_is_allowed_by_its_link() {
    if !has_landlock(1) {
        return;
    }
    let (dir, elsewhere) = (public_dir(), public_dir());
    let (link, target) = (dir.path().join("link"), elsewhere.path().join("target"));
    fs::write(&target, "text\n").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let confinement = Confinement::default().allow(&link, Access::Read).allow("/no/such/file", Access::Read);
    assert_eq!(bash(&format!("read line < {}; echo $line", link.display()), &confinement), "text\n");
}

#[test]
fn a_program_has_no_privileges_and_starts_no_processes() {
    let script = "while read line; do case $line in NoNewPrivs*|Seccomp:*|Cap[PE]*) echo $line;; esac; \
                  done < /proc/self/status; ulimit -c; ulimit -n; ulimit -f; ulimit -v; (echo started)";
    let limits = Limits { open_files: 77, file_size: Some(4 << 20), memory: Some(1 << 30) };
    let output = bash(script, &Confinement { limits, ..Confinement::default() });
    for line in ["NoNewPrivs: 1", "Seccomp: 2", "CapPrm: 0000000000000000", "CapEff: 0000000000000000"] {
        assert!(output.contains(line), "no {line} in {output}");
    }
    assert!(output.contains("\n0\n77\n4096\n1048576\n"), "{output}");
    assert!(output.contains("Function not implemented") && !output.contains("started"), "{output}");
    let processes = Confinement { system_calls: SystemCalls::Processes, ..Confinement::default() };
    assert_eq!(bash("(echo started)", &processes), "started\n");
}

#[test]
fn a_program_cannot_connect() {
    if !has_landlock(LANDLOCK_TCP) {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let script =
        format!("exec 3<>/dev/tcp/127.0.0.1/{} && echo connected", listener.local_addr().unwrap().port());
    let confinement = |sockets, system_calls| Confinement { sockets, system_calls, ..Confinement::default() };
    // By the filter, and by Landlock for a program that has its own filter.
    for (sockets, calls, refusal) in [
        (Sockets::Denied, SystemCalls::OneProcess, "Function not implemented"),
        (Sockets::Unix, SystemCalls::OneProcess, "Function not implemented"),
        (Sockets::Unix, SystemCalls::OwnFilter, "Permission denied"),
    ] {
        let output = bash(&script, &confinement(sockets, calls));
        assert!(output.contains(refusal) && !output.contains("connected"), "{sockets:?}: {output}");
    }
    for sockets in [Sockets::Internet, Sockets::Names] {
        assert_eq!(bash(&script, &confinement(sockets, SystemCalls::OneProcess)), "connected\n");
    }
}

#[test]
fn a_program_cannot_signal_this_process() {
    if !has_landlock(LANDLOCK_SCOPES) {
        return;
    }
    let user = if is_root() { OTHER_USER } else { rustix::process::getuid().as_raw() };
    let mut victim = Command::new("/bin/sleep").arg("1000").uid(user).spawn().unwrap();
    let confinement = Confinement { system_calls: SystemCalls::Processes, ..Confinement::default() };
    let mut command = Command::new("/bin/bash");
    command.args(["-c", &format!("kill -9 {}", victim.id())]);
    command.uid(user);
    confine(&mut command, &confinement, Vec::new()).unwrap();
    let output = command.output().unwrap();
    let alive = victim.try_wait().unwrap().is_none();
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(alive && String::from_utf8_lossy(&output.stderr).contains("not permitted"), "{output:?}");
}

#[test]
fn only_the_given_descriptors_are_inherited() {
    let dir = public_dir();
    let given: OwnedFd = UnixListener::bind(dir.path().join("given")).unwrap().into();
    // As if a program that started this one had left it open.
    let leaked: OwnedFd = fs::File::open("/etc/passwd").unwrap().into();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let numbers = [given.as_raw_fd(), leaked.as_raw_fd()];
    let script =
        format!("for fd in {} {}; do [[ -e /proc/self/fd/$fd ]] && echo $fd; done", numbers[0], numbers[1]);
    let run = |confined: bool| {
        let mut command = Command::new("/bin/bash");
        command.args(["-c", &script]).stdin(Stdio::null());
        if confined {
            let given = vec![given.try_clone().unwrap()];
            confine(&mut command, &Confinement::default(), given).unwrap();
        } else {
            detach(&mut command, Vec::new());
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(run(false), "");
    assert_eq!(run(true), "");
    let script = "[[ -S /proc/self/fd/$0 ]] && echo socket";
    let mut command = Command::new("/bin/bash");
    let given = vec![given];
    command.args(["-c", script, &given[0].as_raw_fd().to_string()]);
    confine(&mut command, &Confinement::default(), given).unwrap();
    assert_eq!(command.output().unwrap().stdout, b"socket\n");
}

#[test]
fn a_program_leads_a_session_without_a_terminal() {
    let mut command = Command::new("/bin/bash");
    command.args(["-c", "read _ _ _ _ _ session tty _ < /proc/self/stat; echo $$ $session $tty"]);
    detach(&mut command, Vec::new());
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let words: Vec<_> = output.split_whitespace().collect();
    assert!(words[0] == words[1] && words[2] == "0", "{output}");
}

#[test]
fn a_failed_start_is_an_error() {
    let mut command = Command::new("/bin/no-such-program");
    confine(&mut command, &Confinement::default(), Vec::new()).unwrap();
    assert_eq!(command.spawn().unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

/// Returns git in `repository`, which reads no configuration but the repository's.
fn git(repository: &Path, arguments: &[&str]) -> Command {
    let program = ["/usr/local/bin/git", "/usr/bin/git"].into_iter().find(|path| Path::new(path).exists());
    let mut command = Command::new(program.unwrap());
    command.args(["-c", "safe.directory=*"]).args(arguments).env_clear().current_dir(repository);
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command
}

#[test]
fn git_reads_a_hostile_pack_with_no_more_than_its_repository() {
    let dir = public_dir();
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    for repository in [&from, &to] {
        fs::create_dir(repository).unwrap();
        assert!(git(repository, &["init", "--quiet", "--bare"]).status().unwrap().success());
    }
    let run = |mut command: Command, input: &[u8]| {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A git that is refused exits without reading it.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };
    let confined = |repository: &Path, arguments: &[&str]| {
        let mut command = git(repository, arguments);
        let confinement = Confinement::default().allow(&to, Access::All);
        confine(&mut command, &confinement, Vec::new()).unwrap();
        command
    };
    let stream = b"blob\nmark :1\ndata 3\nxy\n\ncommit refs/heads/main\ncommitter A <a@b> 1 +0000\ndata 1\nm\nM 100644 :1 f\n\n";
    let imported = run(git(&from, &["fast-import", "--quiet"]), stream);
    assert!(imported.status.success(), "{imported:?}");
    let pack =
        git(&from, &["pack-objects", "--all", "--stdout", "-q"]).stdin(Stdio::null()).output().unwrap();
    let indexed = run(confined(&to, &["index-pack", "--stdin", "--strict", "--threads=2"]), &pack.stdout);
    assert!(indexed.status.success(), "{indexed:?}");
    let imported = run(confined(&to, &["fast-import", "--quiet"]), stream);
    assert!(imported.status.success(), "{imported:?}");
    if has_landlock(1) {
        let refused = run(confined(&from, &["fast-import", "--quiet"]), stream);
        assert!(!refused.status.success(), "{refused:?}");
    }
}
