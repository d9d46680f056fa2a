//! A session with a program in a guest: it gets this process's standard streams, terminal and signals.

mod stdin;

use std::{
    cell::Cell,
    future::pending,
    io::{self, IsTerminal},
    pin::pin,
    time::Duration,
};

use banger_api::{ApiError, ErrorKind, VmState};
use banger_client::{Client, ExecInput, ExecOutput, Output};
use banger_proto::{Exec, ExitStatus, TerminalSize};
use bytes::Bytes;
use rustix::{io::Errno, process::Signal};
use stdin::{MAX_READ, Stdin};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};

use crate::{
    error::CommandError,
    raw_mode::RawMode,
    signals::{self, Forwarded},
    ui::{Console, now_ns},
};

/// Number of INT, TERM and HUP in a row that end the session if the guest sends nothing after them: it may hang.
const MAX_UNANSWERED: u32 = 3;

/// Time for the program to end after its terminal was closed; the agent waits as long after a disconnect.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// The end of a session.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    pub(crate) status: ExitStatus,
    /// Time of the guest's first byte, or of its exit if it wrote none.
    pub(crate) first_byte_ns: u64,
}

/// A command to run in a guest, and its user.
#[derive(Debug, Clone, Default)]
pub(crate) struct GuestCommand {
    /// Program and arguments; if empty, a login shell.
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: Option<String>,
    pub(crate) user: Option<String>,
}

impl GuestCommand {
    fn into_exec(self) -> Exec {
        let Self { argv, env, cwd, user } = self;
        Exec { argv, env: env.into_iter().collect(), cwd, user, ..Exec::default() }
    }
}

/// Runs `command` in VM `reference`; it gets a terminal if all three of this process's streams are terminals, and all
/// signals. A failure has the exit status of a session.
pub(crate) async fn run(
    client: &Client,
    reference: &str,
    command: GuestCommand,
) -> Result<SessionEnd, CommandError> {
    let ended = run_program(client, reference, command).await;
    explained(client, reference, ended).await.map_err(CommandError::into_session)
}

/// Runs `command` in VM `reference` without input. Its output is only shown: it may not control the terminal. A signal
/// ends it.
pub(crate) async fn run_without_input(
    client: &Client,
    reference: &str,
    command: GuestCommand,
) -> Result<ExitStatus, CommandError> {
    let phase = signals::cancellable();
    let program = async {
        let (_input, output) = banger_client::exec(client, reference, command.into_exec()).await?;
        print_output(output, Kind::Shown, &Cell::new(0)).await
    };
    let ended = phase.run(program).await?.map(|end| end.status);
    explained(client, reference, ended).await
}

async fn explained<T>(
    client: &Client,
    reference: &str,
    ended: Result<T, CommandError>,
) -> Result<T, CommandError> {
    match ended {
        Err(CommandError { error: Some(error), .. }) => {
            Err(explain_vm_exit(client, reference, error).await.into())
        }
        ended => ended,
    }
}

async fn run_program(
    client: &Client,
    reference: &str,
    command: GuestCommand,
) -> Result<SessionEnd, CommandError> {
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal();
    let terminal = if is_terminal { Some(terminal_size()?) } else { None };
    let mut exec = Exec { terminal, stdin: true, ..command.into_exec() };
    if is_terminal {
        for name in ["TERM", "COLORTERM"] {
            if let Ok(value) = std::env::var(name) {
                exec.env.entry(name.to_owned()).or_insert(value);
            }
        }
    }
    let phase = signals::cancellable();
    let (input, output) = phase.run(banger_client::exec(client, reference, exec)).await??;
    let mut signals = signals::forward();
    // The program has not got an earlier signal.
    if let Some(signal) = phase.is_cancelled() {
        return Err(signals::interrupted(signal));
    }
    drop(phase);
    // From here on keys go to the guest; dropping this restores the terminal.
    let _raw =
        if is_terminal { Some(RawMode::enter().map_err(cannot("set up the terminal"))?) } else { None };
    let (unanswered, closed) = (Cell::new(0), Notify::new());
    let (to_program, from_user) = mpsc::unbounded_channel();
    let kind = if is_terminal { Kind::Terminal } else { Kind::Streams };
    let mut printing = pin!(print_output(output, kind, &unanswered));
    let source = Source { signals: from_user, closed: &closed, is_terminal };
    tokio::select! {
        end = &mut printing => end,
        // A guest that accepts no more input has sent the reason, or will.
        error = forward_input(input, source) => match error.kind {
            ErrorKind::Guest => printing.await,
            _ => Err(error.into()),
        },
        signal = relay_signals(&mut signals, &to_program, &unanswered, is_terminal.then_some(&closed)) => {
            Err(signals::interrupted(signal))
        }
    }
}

/// Passes signals on to the program until one ends the session: also while a guest that hangs accepts nothing.
/// `closed` reports that the program's terminal is closed, if it has one.
async fn relay_signals(
    signals: &mut Forwarded,
    to_program: &mpsc::UnboundedSender<Signal>,
    unanswered: &Cell<u32>,
    closed: Option<&Notify>,
) -> Signal {
    let mut hang_up: Option<Instant> = None;
    loop {
        let closing = async {
            match closed {
                Some(closed) => closed.notified().await,
                None => pending().await,
            }
        };
        let signal = tokio::select! {
            signal = signals.next() => signal,
            () = closing => Signal::HUP,
            () = sleep_until(hang_up.unwrap_or_else(Instant::now)), if hang_up.is_some() => return Signal::HUP,
        };
        if closed.is_some() && signal == Signal::HUP {
            signals.hang_up();
            if hang_up.is_some() {
                continue;
            }
            hang_up = Some(Instant::now() + HANG_UP_TIMEOUT);
        } else if matches!(signal, Signal::INT | Signal::TERM | Signal::HUP) {
            unanswered.set(unanswered.get() + 1);
        }
        if unanswered.get() >= MAX_UNANSWERED {
            return signal;
        }
        // The receiver is dropped only together with this future.
        let _ = to_program.send(signal);
    }
}

/// Replaces a connection error by the reason why the VM ended, if it has ended.
pub(crate) async fn explain_vm_exit(client: &Client, reference: &str, error: ApiError) -> ApiError {
    if !matches!(error.kind, ErrorKind::Guest | ErrorKind::Io) {
        return error;
    }
    match client.vm_ended(reference).await {
        Ok(Some(vm)) if vm.state != VmState::Running => {
            let last_error = vm.last_error.unwrap_or_else(|| "its guest powered off".to_owned());
            let mut lines = last_error.lines().map(str::to_owned);
            let why = lines.next().unwrap_or_default();
            let message = format!("VM {} ended during the session: {why}", vm.name);
            ApiError { console: lines.collect(), ..ApiError::new(ErrorKind::Guest, message).log(vm.console) }
        }
        _ => error,
    }
}

/// The relation of the guest's program to this process's streams.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// The user runs the program, on this process's terminal.
    Terminal,
    /// The user runs the program, without a terminal.
    Streams,
    /// banger runs the program, and shows its output.
    Shown,
}

/// Writes the guest's output until its program exits. The program that the user runs may control the terminal;
/// a program of banger may not.
async fn print_output(
    mut output: ExecOutput,
    kind: Kind,
    unanswered: &Cell<u32>,
) -> Result<SessionEnd, CommandError> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let console = |is_terminal| Console::text(kind == Kind::Shown && is_terminal);
    let (mut stdout_console, mut stderr_console) =
        (console(io::stdout().is_terminal()), console(io::stderr().is_terminal()));
    let mut first_byte_ns = None;
    loop {
        let event = output.next().await?;
        unanswered.set(0);
        first_byte_ns.get_or_insert_with(now_ns);
        let result = match event {
            Output::Stdout(bytes) => write(&mut stdout, &stdout_console.decode(&bytes)).await,
            Output::Stderr(bytes) => write(&mut stderr, &stderr_console.decode(&bytes)).await,
            Output::Acknowledged(_) => Ok(()),
            Output::Exited(status) => {
                return Ok(SessionEnd { status, first_byte_ns: first_byte_ns.unwrap_or_else(now_ns) });
            }
        };
        match result {
            Ok(()) => {}
            // The reader of the output has closed it: the session ends as by SIGPIPE, like a local program.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                let status = ExitStatus::Signal(Signal::PIPE.as_raw());
                return Ok(SessionEnd { status, first_byte_ns: first_byte_ns.unwrap_or_else(now_ns) });
            }
            // The terminal is closed.
            Err(error) if kind == Kind::Terminal && Errno::from_io_error(&error) == Some(Errno::IO) => {
                return Err(signals::interrupted(Signal::HUP));
            }
            Err(error) => return Err(cannot("write the output")(error).into()),
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// What the guest's program gets from this process.
struct Source<'a> {
    signals: mpsc::UnboundedReceiver<Signal>,
    /// Notified when the program's terminal is closed.
    closed: &'a Notify,
    is_terminal: bool,
}

/// Sends input, signals and the terminal's size until an error occurs.
async fn forward_input(mut input: ExecInput, source: Source<'_>) -> ApiError {
    let Source { mut signals, closed, is_terminal } = source;
    let result: Result<(), ApiError> = async {
        let mut resized = signal(SignalKind::window_change()).map_err(cannot("listen for signals"))?;
        let mut stdin = Some(stdin::read_ahead().map_err(cannot("read standard input"))?);
        loop {
            tokio::select! {
                () = input.wait_for_window(MAX_READ), if stdin.is_some() && input.window() < MAX_READ => {}
                part = next_part(&mut stdin), if stdin.is_some() && input.window() >= MAX_READ => match part {
                    Some(Ok(bytes)) => input.stdin(&bytes).await?,
                    // A terminal in raw mode has no end of input, unless it is closed.
                    Some(Err(_)) | None if is_terminal => {
                        stdin = None;
                        closed.notify_one();
                    }
                    Some(Err(error)) => return Err(cannot("read standard input")(error)),
                    None => {
                        stdin = None;
                        input.end_stdin().await?;
                    }
                },
                Some(signal) = signals.recv() => input.signal(signal.as_raw()).await?,
                Some(()) = resized.recv(), if is_terminal => input.resize(terminal_size()?).await?,
            }
        }
    }
    .await;
    match result {
        Ok(()) => ApiError::new(ErrorKind::Internal, "the session ended without an exit status"),
        Err(error) => error,
    }
}

async fn next_part(stdin: &mut Option<Stdin>) -> Option<io::Result<Bytes>> {
    stdin.as_mut()?.next().await
}

fn terminal_size() -> Result<TerminalSize, ApiError> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout());
    let size = size.map_err(|error| cannot("read the terminal's size")(error.into()))?;
    Ok(TerminalSize { rows: size.ws_row.max(1), cols: size.ws_col.max(1) })
}

fn cannot(action: &'static str) -> impl FnOnce(io::Error) -> ApiError {
    move |error| ApiError::new(ErrorKind::Io, format!("cannot {action}: {error}"))
}
