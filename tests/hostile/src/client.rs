//! The client: a process that runs command lines, and what it did.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    future::Future,
    io::{self, BufRead, BufReader, Read, Seek},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixListener, net::UnixStream, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::fcntl_dupfd_cloexec,
    process::{Pid, Signal},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    stdio,
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

use crate::{
    Promise, Step,
    daemon::Daemon,
    limits::GUARD,
    orders::{Ended, Order},
    remote::Remote,
    sandbox::{Sandbox, environment},
    worker::{END_OF_OUTPUT, SOCKET_VARIABLE},
};

/// Shell script that runs a program with limits: 64 MiB for a file, 2 GiB of address space.
const LIMITED: &str = "ulimit -f 131072; ulimit -v 2097152; exec \"$0\" \"$@\"";

/// Exit status of a Rust program that panicked.
const PANICKED: i32 = 101;

/// A function that runs a command line.
pub type Entry = fn(Vec<OsString>) -> Pin<Box<dyn Future<Output = ExitCode>>>;

/// A client, and how it is started.
#[derive(Debug)]
pub enum Client {
    /// A worker process of this program, which runs many command lines; see [`crate::serve_worker`].
    Worker,
    /// A program that runs one command line, with a terminal as its three streams.
    Program(PathBuf),
    /// This process, whose environment is the sandbox's. Its guests are never silent, and memory is not measured.
    InProcess(Entry),
}

/// What a command line did.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// What it wrote to standard output.
    pub(crate) stdout: Vec<u8>,
    /// What it wrote to standard error, unless that is the same terminal.
    pub(crate) stderr: Vec<u8>,
    /// Whether banger may have redrawn parts of the output.
    pub(crate) is_redrawn: bool,
    /// Peak of allocated memory in bytes, if it was measured.
    pub(crate) peak_memory: Option<usize>,
    /// Number of bytes that the guest has sent.
    pub(crate) bytes_sent: u64,
    /// A promise that was broken while it ran.
    pub(crate) failure: Option<(Promise, String)>,
}

/// Runs a command line in this process: its standard output is a terminal, its standard error a file.
pub(crate) fn run_in_process(entry: Entry, step: &Step) -> Run {
    let (mut terminal, slave) = open_terminal();
    let mut file = tempfile::tempfile().unwrap();
    let saved = [stdio::stdout(), stdio::stderr()].map(|stream| fcntl_dupfd_cloexec(stream, 3).unwrap());
    stdio::dup2_stdout(&slave).and_then(|()| stdio::dup2_stderr(&file)).unwrap();
    let mut run = Run::default();
    thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut output = Vec::new();
            // At the end, no descriptor of the other side is open.
            let _ = terminal.read_to_end(&mut output);
            output
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(entry(step.command.arguments()));
        runtime.shutdown_timeout(GUARD);
        stdio::dup2_stdout(&saved[0]).and_then(|()| stdio::dup2_stderr(&saved[1])).unwrap();
        drop(slave);
        run.stdout = reading.join().unwrap();
    });
    file.rewind().and_then(|()| file.read_to_end(&mut run.stderr)).unwrap();
    run
}

/// The running process of a client.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    remote: Arc<Remote>,
    terminal: File,
    /// Standard error, if it is not the terminal.
    stderr: Option<File>,
    answers: Option<BufReader<UnixStream>>,
}

impl Process {
    /// Starts a worker.
    pub(crate) fn worker(sandbox: &Sandbox) -> Self {
        let socket = sandbox.root().join("worker.sock");
        let listener = UnixListener::bind(&socket).expect("the socket is new");
        // Appended to, so that it can be emptied after each command.
        let stderr = tempfile::Builder::new().append(true).tempfile().unwrap().into_file();
        let (terminal, output) = open_terminal();
        let mut command = command(&std::env::current_exe().unwrap(), sandbox);
        command.stdin(Stdio::null()).stdout(output).stderr(stderr.try_clone().unwrap());
        command.env(SOCKET_VARIABLE, &socket);
        let child = command.spawn().expect("the worker starts");
        let limit = Timespec::try_from(GUARD).unwrap();
        assert_eq!(
            poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&limit)),
            Ok(1),
            "no worker connects"
        );
        let (orders, _) = listener.accept().expect("the worker connects");
        fs::remove_file(socket).unwrap();
        let answers = Some(BufReader::new(orders.try_clone().unwrap()));
        let remote = Remote::new(pid(&child), Some(orders));
        Self { child, remote: Arc::new(remote), terminal, stderr: Some(stderr), answers }
    }

    /// Starts `program` with `arguments`.
    pub(crate) fn program(program: &Path, arguments: &[OsString], sandbox: &Sandbox) -> Self {
        let (terminal, slave) = open_terminal();
        let mut command = command(Path::new("sh"), sandbox);
        command.args(["-c", LIMITED]).arg(program).args(arguments.iter().skip(1));
        let copy = || slave.try_clone().unwrap();
        command.stdin(copy()).stdout(copy()).stderr(copy());
        let child = command.spawn().expect("the program starts");
        let remote = Arc::new(Remote::new(pid(&child), None));
        Self { child, remote, terminal, stderr: None, answers: None }
    }

    pub(crate) fn remote(&self) -> Arc<Remote> {
        self.remote.clone()
    }

    /// Runs `step`, for which `daemon` is prepared, to its end. Returns false if the process has ended.
    pub(crate) fn run(&mut self, step: &Step, daemon: &Daemon, run: &mut Run) -> bool {
        run.is_redrawn = self.stderr.is_none();
        let arguments = step.command.arguments().into_iter().filter_map(|word| word.into_string().ok());
        self.remote.order(&Order::Run(arguments.collect()));
        let start = Instant::now();
        let ended = loop {
            match self.wait(&mut run.stdout) {
                Some(ended) => break ended,
                None if start.elapsed() > 2 * GUARD => {
                    run.failure = Some((Promise::Time, "it does not end".to_owned()));
                    self.remote.kill();
                    break None;
                }
                // It waits for something that is not the guest.
                None if start.elapsed() > daemon.patience() && !daemon.is_busy() => self.remote.tick(),
                None => {}
            }
        };
        run.peak_memory = ended.as_ref().map(|ended| ended.peak_memory);
        if let Some(output) = run.stdout.strip_suffix(END_OF_OUTPUT) {
            run.stdout.truncate(output.len());
        }
        if ended.is_none() {
            while self.read_output(&mut run.stdout) {}
        }
        if let Some(stderr) = &mut self.stderr {
            stderr.rewind().and_then(|()| stderr.read_to_end(&mut run.stderr)).unwrap();
            stderr.set_len(0).unwrap();
        }
        if ended.is_none() {
            self.reap(step, run);
        }
        ended.is_some()
    }

    /// Reads output for up to 10 ms. Returns the worker's answer, or `None` within, once the command has ended.
    fn wait(&mut self, stdout: &mut Vec<u8>) -> Option<Option<Ended>> {
        let limit = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let answers = self.answers.as_ref().map(|answers| answers.get_ref().as_fd());
        let mut fds = vec![PollFd::new(&self.terminal, PollFlags::IN)];
        fds.extend(answers.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        poll(&mut fds, Some(&limit)).unwrap();
        let (has_output, has_answer) =
            (!fds[0].revents().is_empty(), fds.len() > 1 && !fds[1].revents().is_empty());
        if has_output && !self.read_output(stdout) {
            return Some(None);
        }
        if !has_answer {
            return None;
        }
        let mut line = String::new();
        let answer = self.answers.as_mut().and_then(|answers| answers.read_line(&mut line).ok());
        if answer.unwrap_or(0) == 0 {
            return Some(None);
        }
        while !stdout.ends_with(END_OF_OUTPUT) && self.read_output(stdout) {}
        Some(serde_json::from_str(&line).ok())
    }

    /// Reads what the terminal has received; returns false at its end, when no process has it open.
    fn read_output(&mut self, stdout: &mut Vec<u8>) -> bool {
        let mut part = [0; 16 << 10];
        match self.terminal.read(&mut part) {
            Ok(0) => false,
            Ok(count) => {
                stdout.extend_from_slice(&part[..count]);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        }
    }

    /// Waits for the process, which has ended or is about to.
    fn reap(&mut self, step: &Step, run: &mut Run) {
        let status = self.child.wait().unwrap();
        let is_expected = match status.signal() {
            // A worker ends only with a signal; a program has always ended.
            None => (self.stderr.is_none() || step.is_interrupted()) && status.code() != Some(PANICKED),
            Some(signal) if signal == Signal::XFSZ.as_raw() => {
                run.failure = Some((Promise::Resources, "it filled the disk".to_owned()));
                true
            }
            Some(_) => step.is_interrupted(),
        };
        if !is_expected && run.failure.is_none() {
            let stderr = String::from_utf8_lossy(&run.stderr);
            run.failure = Some((Promise::Resources, format!("it crashed: {status}: {stderr:?}")));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.remote.kill();
        // It may have been waited for.
        let _ = self.child.wait();
    }
}

/// Returns a command that runs `program` in the sandbox. No signal is ignored, wherever the tests run.
fn command(program: &Path, sandbox: &Sandbox) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP,INT,QUIT,TERM").arg(program);
    command.env_clear().envs(environment(sandbox.root())).current_dir(sandbox.home());
    command
}

fn pid(child: &Child) -> Pid {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process has an id")
}

/// Returns the two ends of a terminal that passes all bytes on unchanged.
fn open_terminal() -> (File, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let path = Path::new(OsStr::new(name.to_str().unwrap()));
    let slave =
        rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut attributes = tcgetattr(&slave).unwrap();
    attributes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &attributes).unwrap();
    (master.into(), slave)
}
