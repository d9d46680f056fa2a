//! A session with a program in a guest: it gets this process's standard streams, terminal and signals.

mod raw_mode;
mod stdin;

use std::{
    io::{self, IsTerminal},
    pin::pin,
};

use banger_api::{ApiError, ErrorKind, VmState};
use banger_client::{Client, ExecInput, ExecOutput, Output};
use banger_proto::{Exec, ExitStatus, TerminalSize};
use bytes::Bytes;
use raw_mode::RawMode;
use rustix::process::Signal;
use stdin::{MAX_READ, Stdin};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::ui::{Console, now_ns};

/// Signals that are forwarded to the guest program.
const FORWARDED: [Signal; 6] =
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

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
    /// Leaves standard input and the terminal to the next command: the program's output is only shown.
    pub(crate) no_stdin: bool,
}

/// Runs `command` in VM `reference`; it gets a terminal if all three of this process's streams are terminals.
pub(crate) async fn run(
    client: &Client,
    reference: &str,
    command: GuestCommand,
) -> Result<SessionEnd, ApiError> {
    let reads_stdin = !command.no_stdin;
    let is_terminal =
        reads_stdin && io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal();
    let mut exec = Exec {
        argv: command.argv,
        env: command.env.into_iter().collect(),
        cwd: command.cwd,
        user: command.user,
        terminal: if is_terminal { Some(terminal_size()?) } else { None },
        stdin: reads_stdin,
        ..Exec::default()
    };
    if is_terminal {
        for name in ["TERM", "COLORTERM"] {
            if let Ok(value) = std::env::var(name) {
                exec.env.entry(name.to_owned()).or_insert(value);
            }
        }
    }
    let (input, output) = match banger_client::exec(client, reference, exec).await {
        Ok(streams) => streams,
        Err(error) => return Err(explain_vm_exit(client, reference, error).await),
    };
    // From here on keys go to the guest; dropping this restores the terminal.
    let _raw =
        if is_terminal { Some(RawMode::enter().map_err(cannot("set up the terminal"))?) } else { None };
    let mut printing = pin!(print_output(output, command.no_stdin));
    let session = tokio::select! {
        end = &mut printing => end,
        // A guest that accepts no more input has sent the reason, or will.
        error = forward_input(input, reads_stdin, is_terminal) => match error.kind {
            ErrorKind::Guest => printing.await,
            _ => Err(error),
        },
    };
    match session {
        Err(error) => Err(explain_vm_exit(client, reference, error).await),
        session => session,
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

/// Writes the guest's output until its program exits. The program that the user runs may control the
/// terminal; a program of banger's, if `filtered`, may not.
async fn print_output(mut output: ExecOutput, filtered: bool) -> Result<SessionEnd, ApiError> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let console = |is_terminal| Console::text(filtered && is_terminal);
    let (mut stdout_console, mut stderr_console) =
        (console(io::stdout().is_terminal()), console(io::stderr().is_terminal()));
    let mut first_byte_ns = None;
    loop {
        let event = output.next().await?;
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
            Err(error) => return Err(cannot("write the output")(error)),
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Sends input, signals and the terminal's size until an error occurs.
async fn forward_input(mut input: ExecInput, reads_stdin: bool, is_terminal: bool) -> ApiError {
    let result: Result<(), ApiError> = async {
        let mut signals = signals(&FORWARDED)?;
        let mut resized = signal(SignalKind::window_change()).map_err(cannot("listen for signals"))?;
        let read_ahead = || stdin::read_ahead().map_err(cannot("read standard input"));
        let mut stdin = reads_stdin.then(read_ahead).transpose()?;
        loop {
            tokio::select! {
                () = input.wait_for_window(MAX_READ), if stdin.is_some() && input.window() < MAX_READ => {}
                part = next_part(&mut stdin), if stdin.is_some() && input.window() >= MAX_READ => match part {
                    Some(Ok(bytes)) => input.stdin(&bytes).await?,
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

/// Returns a channel that receives the signals in `kinds`.
pub(crate) fn signals(kinds: &'static [Signal]) -> Result<mpsc::UnboundedReceiver<Signal>, ApiError> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for kind in kinds {
        let mut stream = signal(SignalKind::from_raw(kind.as_raw())).map_err(cannot("listen for signals"))?;
        let sender = sender.clone();
        tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(*kind).is_ok() {} });
    }
    Ok(receiver)
}

fn terminal_size() -> Result<TerminalSize, ApiError> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout());
    let size = size.map_err(|error| cannot("read the terminal's size")(error.into()))?;
    Ok(TerminalSize { rows: size.ws_row.max(1), cols: size.ws_col.max(1) })
}

fn cannot(action: &'static str) -> impl FnOnce(io::Error) -> ApiError {
    move |error| ApiError::new(ErrorKind::Io, format!("cannot {action}: {error}"))
}
