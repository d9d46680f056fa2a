//! One daemon for each store, whatever the environment of the commands that start or use it.
//!
//! The daemon is the real program. A command is this test program, started again as [`command`]: a process of its own
//! with the client library. Each test runs as root, if the tests do, and as an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use banger_api::{ApiError, DaemonStatus};
use banger_client::Client;
use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

/// Variable with the file for a command's result. A test process without it is no command.
const RESULT: &str = "BANGER_TEST_RESULT";

/// An ordinary user's id, without an account's rights.
const USER: u32 = 65534;

/// A user's home directory, with programs. Dropping it kills the daemon.
struct Home {
    dir: TempDir,
    user: u32,
}

impl Home {
    fn new(user: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("banger-").tempdir_in("/tmp").unwrap();
        chown(dir.path(), Some(user), Some(user)).unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::set_permissions(dir.path().join("bin"), fs::Permissions::from_mode(0o755)).unwrap();
        let home = Self { dir, user };
        home.install("bangerd", Path::new(env!("CARGO_BIN_EXE_bangerd")));
        home.install("command", &std::env::current_exe().unwrap());
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Installs a program, in place of an earlier one.
    fn install(&self, name: &str, program: &Path) {
        let partial = self.path("bin/partial");
        // Not written by this process: a program that another thread starts meanwhile would have the file open.
        assert!(Command::new("cp").arg(program).arg(&partial).status().unwrap().success());
        fs::rename(partial, self.path("bin").join(name)).unwrap();
    }

    /// Creates a directory like those of login sessions.
    fn session_dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(self.user), Some(self.user)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// Returns a program with this home's environment and user, not yet started.
    fn program(&self, name: &str, session: Option<&Path>) -> Command {
        let mut command = Command::new(self.path("bin").join(name));
        command.env_clear().env("HOME", self.dir.path()).current_dir("/").uid(self.user).gid(self.user);
        command.env("BANGER_BANGERD", self.path("bin/bangerd"));
        command.envs(session.map(|dir| ("XDG_RUNTIME_DIR", dir)));
        command
    }

    /// Starts a command that starts the daemon if none runs, or replaces it if its program was replaced, and asks for
    /// its status.
    fn start_command(&self, session: Option<&Path>) -> (Child, PathBuf) {
        self.spawn(self.program("command", session))
    }

    fn spawn(&self, mut command: Command) -> (Child, PathBuf) {
        let result = tempfile::Builder::new().tempfile_in("/tmp").unwrap();
        chown(result.path(), Some(self.user), Some(self.user)).unwrap();
        command.args(["--exact", "command"]).env(RESULT, result.path()).stdout(Stdio::null());
        (command.spawn().unwrap(), result.into_temp_path().keep().unwrap())
    }

    /// Returns the status of the daemon that a command uses.
    fn status(&self, session: Option<&Path>) -> Result<DaemonStatus, ApiError> {
        finish(self.start_command(session))
    }

    /// Returns the pid of the daemon that a command uses.
    fn daemon(&self, session: Option<&Path>) -> u32 {
        self.status(session).unwrap().pid
    }

    /// Returns the pids of the running daemons of this home.
    fn daemons(&self) -> Vec<u32> {
        let program = self.path("bin/bangerd");
        let runs = |pid: &u32| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // Not the KVM probe. A replaced program's path has a suffix.
            exe.to_string_lossy().starts_with(&*program.to_string_lossy())
                && line.iter().filter(|byte| **byte == 0).count() == 1
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(runs).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in self.daemons() {
            signal(pid, Signal::KILL);
        }
    }
}

fn finish((mut process, result): (Child, PathBuf)) -> Result<DaemonStatus, ApiError> {
    process.wait().unwrap();
    let text = fs::read_to_string(&result).unwrap();
    fs::remove_file(result).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

fn signal(pid: u32, signal: Signal) {
    // It may have exited.
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
}

/// Runs a test as each user.
fn as_each_user(test: impl Fn(Home)) {
    for user in if getuid().is_root() { vec![0, USER] } else { vec![getuid().as_raw()] } {
        test(Home::new(user));
    }
}

/// The command: see the module's description. As a test, it does nothing.
#[tokio::test]
async fn command() {
    let Some(path) = std::env::var_os(RESULT) else { return };
    let status = async {
        let client = Client::new()?;
        client.ensure_daemon().await?;
        client.daemon_status().await
    };
    let status = status.await.map(|status| status.expect("the daemon runs"));
    fs::write(path, serde_json::to_string(&status).unwrap()).unwrap();
}

#[test]
fn commands_with_and_without_a_login_session_use_one_daemon() {
    as_each_user(|home| {
        let (one, two) = (home.session_dir("one"), home.session_dir("two"));
        let pid = home.daemon(Some(&one));
        assert_eq!([home.daemon(None), home.daemon(Some(&two))], [pid, pid]);
        assert_eq!(home.daemons(), [pid]);
    });
}

#[test]
fn commands_that_start_at_the_same_time_start_one_daemon() {
    as_each_user(|home| {
        let sessions: Vec<_> = (0..4).map(|number| home.session_dir(&number.to_string())).collect();
        let sessions = sessions.iter().map(|dir| Some(dir.as_path())).chain([None]);
        let commands: Vec<_> = sessions.map(|session| home.start_command(session)).collect();
        let pids: Vec<_> = commands.into_iter().map(|command| finish(command).unwrap().pid).collect();
        assert_eq!(home.daemons(), [pids[0]], "{pids:?}");
    });
}

#[test]
fn the_daemon_is_reachable_after_the_login_session_has_ended() {
    as_each_user(|home| {
        let session = home.session_dir("session");
        let pid = home.daemon(Some(&session));
        fs::remove_dir_all(&session).unwrap();
        assert_eq!(home.daemon(None), pid);
        assert_eq!(home.daemon(Some(&home.session_dir("session"))), pid);
        assert_eq!(home.daemons(), [pid]);
    });
}

#[test]
fn a_second_daemon_waits_until_the_first_has_ended() {
    as_each_user(|home| {
        let (one, two) = (home.session_dir("one"), home.session_dir("two"));
        let first = home.daemon(Some(&one));
        let mut second = home.program("bangerd", Some(&two)).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(second.stdout.take().unwrap());
        let first_line = thread::spawn(move || {
            let mut line = String::new();
            output.read_line(&mut line).map(|_| line)
        });
        while !is_blocked(second.id()) {
            assert!(!first_line.is_finished(), "{:?}", first_line.join());
            thread::yield_now();
        }
        assert_eq!(home.daemon(Some(&two)), first);
        signal(first, Signal::TERM);
        let line = first_line.join().unwrap().unwrap();
        assert!(line.contains("ready"), "{line}");
        assert_eq!(home.daemon(Some(&one)), second.id());
        second.kill().unwrap();
        second.wait().unwrap();
    });
}

#[test]
fn a_replaced_program_is_started_once() {
    as_each_user(|home| {
        let (one, two) = (home.session_dir("one"), home.session_dir("two"));
        let first = home.daemon(Some(&one));
        home.install("bangerd", Path::new(env!("CARGO_BIN_EXE_bangerd")));
        let commands = [Some(&*one), None, Some(&*two)].map(|session| home.start_command(session));
        let pids = commands.map(|command| finish(command).unwrap().pid);
        assert_eq!(home.daemons(), [pids[0]], "{pids:?}");
        assert_ne!(pids[0], first);
    });
}

#[test]
fn a_removed_socket_is_created_again() {
    as_each_user(|home| {
        let status = home.status(None).unwrap();
        let socket = Path::new(&status.socket);
        let dir = socket.parent().unwrap();
        let removals: [&dyn Fn(); 3] = [
            &|| fs::remove_file(socket).unwrap(),
            &|| fs::rename(dir, home.path("moved")).unwrap(),
            // The daemon may create its socket again between the removal of the files and of the directory.
            &|| drop(fs::remove_dir_all(dir)),
        ];
        for remove in removals {
            let before = fs::symlink_metadata(socket).unwrap().ino();
            remove();
            while fs::symlink_metadata(socket).map_or(true, |meta| meta.ino() == before) {
                thread::yield_now();
            }
            assert_eq!(home.daemon(None), status.pid);
        }
        assert_eq!(home.daemons(), [status.pid]);
    });
}

#[test]
fn a_state_directory_with_a_long_path_has_its_sockets_elsewhere() {
    as_each_user(|home| {
        let long = home.session_dir(&"x".repeat(90));
        let status = |session: Option<&Path>| {
            let mut command = home.program("command", session);
            command.env("HOME", &long);
            finish(home.spawn(command)).unwrap()
        };
        let first = status(None);
        assert!(first.socket.starts_with("/tmp/banger-"), "{}", first.socket);
        let dir = Path::new(&first.socket).parent().unwrap();
        assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
        let session = home.session_dir("session");
        assert_eq!(status(Some(&session)).pid, first.pid);
        // The next daemon uses the same directory, so that VMs keep their sockets.
        signal(first.pid, Signal::KILL);
        let second = status(None);
        assert_eq!((second.socket, second.pid == first.pid), (first.socket.clone(), false));
        signal(second.pid, Signal::KILL);
        fs::remove_dir_all(dir).unwrap();
    });
}

#[test]
fn a_lock_file_without_a_usable_record_is_no_obstacle() {
    as_each_user(|home| {
        let pid = home.daemon(None);
        let lock = home.path(".local/state/banger/store.lock");
        signal(pid, Signal::KILL);
        let record = fs::read_to_string(&lock).unwrap();
        for text in ["", "nonsense", "\0\0\0\0", &"[".repeat(100_000), &record.replace("\"pid\":", "\"x\":")]
        {
            fs::write(&lock, text).unwrap();
            let pid = home.daemon(None);
            assert_eq!(home.daemon(Some(&home.session_dir(&pid.to_string()))), pid);
            signal(pid, Signal::KILL);
        }
        // A record of an earlier boot, whose sockets are another user's now.
        let earlier = record.replace("\"boot_id\":\"", "\"boot_id\":\"x");
        fs::write(&lock, earlier.replace("/run\"", "/other\"")).unwrap();
        assert!(home.status(None).unwrap().socket.ends_with("/banger/run/bangerd.sock"));
    });
}

#[test]
fn a_lock_file_that_others_control_is_refused() {
    as_each_user(|home| {
        let pid = home.daemon(None);
        let lock = home.path(".local/state/banger/store.lock");
        let refuses = |why: &str| {
            let error = home.status(None).unwrap_err();
            assert!(error.message.contains(why), "{error}");
        };
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o666)).unwrap();
        refuses("can be written by other users");
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o600)).unwrap();
        if getuid().is_root() {
            chown(&lock, Some(12345), None).unwrap();
            if home.user == 0 {
                refuses("belongs to another user");
            } else {
                refuses("Permission denied");
            }
            chown(&lock, Some(home.user), None).unwrap();
        }
        assert_eq!(home.daemon(None), pid);
        signal(pid, Signal::KILL);
        fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(home.path("elsewhere"), &lock).unwrap();
        home.status(None).unwrap_err();
        assert!(!home.path("elsewhere").exists());
    });
}

/// Returns whether process `pid` waits for a file lock (proc_locks(5)).
fn is_blocked(pid: u32) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let mut waiting = locks.lines().filter(|line| line.contains(": -> "));
    waiting.any(|line| line.split_whitespace().any(|word| word == pid.to_string()))
}
