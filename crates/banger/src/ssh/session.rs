//! A session: a program in the guest that uses a channel as its streams.

use std::{collections::BTreeMap, fs, sync::Arc};

use banger_api::{ApiError, visible_line};
use banger_client::{ExecInput, ExecOutput, Output};
use banger_proto::{Exec, ExitStatus, Sftp, TerminalSize};
use banger_ssh_server::{Channel, Exit, Link, Stream, Writer};
use rustix::process::Signal;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    forward,
    relay::{closed, forward_input, join_directions},
    shared::Shared,
};
use crate::{hints::hint_for, session::explain_vm_exit};

/// Exit status of banger's own failure, in place of the program's.
const FAILED: u32 = 125;

/// Values that OpenSSH's server sets when it has no addresses; some programs test whether the variables are set.
const CONNECTION: [(&str, &str); 2] =
    [("SSH_CLIENT", "UNKNOWN 65535 65535"), ("SSH_CONNECTION", "UNKNOWN 65535 UNKNOWN 65535")];

/// A session's settings before ssh says what to run.
#[derive(Debug)]
pub(super) struct PendingSession {
    pub(super) channel: Channel,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) user: Option<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) terminal: Option<TerminalSize>,
    /// Whether to forward the user's ssh-agent.
    pub(super) agent: bool,
}

/// The program that a session runs (RFC 4254, 6.5).
#[derive(Debug)]
pub(super) enum SessionRequest {
    Shell,
    Line(Vec<u8>),
    Sftp,
}

/// Runs `program` and reports its exit status to ssh.
pub(super) async fn run(shared: Arc<Shared>, link: Link, pending: PendingSession, program: SessionRequest) {
    let PendingSession {
        channel: Channel { reader, writer, controls },
        permit,
        user,
        mut env,
        terminal,
        agent,
    } = pending;
    // A terminal in raw mode needs a carriage return for each line.
    let line_end = if terminal.is_some() { "\r\n" } else { "\n" };
    let result = async {
        env.extend(CONNECTION.map(|(name, value)| (name.to_owned(), value.to_owned())));
        if agent {
            match forward::agent_socket(&shared, &link, user.as_deref()).await {
                Ok(path) => {
                    env.insert("SSH_AUTH_SOCK".to_owned(), String::from_utf8_lossy(path).into_owned());
                }
                Err(error) => {
                    print_error(
                        &writer,
                        line_end,
                        "cannot forward the ssh-agent",
                        &shared.with_vm_name(error),
                    )
                    .await
                }
            }
        }
        let (input, output) = start(&shared, user, env, terminal, program).await?;
        join_directions(forward_output(output, &writer), forward_input(input, reader, controls)).await
    };
    match result.await {
        Ok(status) => {
            let hung_up = ExitStatus::Signal(Signal::PIPE.as_raw());
            report_exit(&shared, &writer, status.unwrap_or(hung_up)).await;
        }
        Err(error) => {
            let error = shared.with_vm_name(explain_vm_exit(&shared.client, shared.vm_id(), error).await);
            print_error(&writer, line_end, "banger", &error).await;
            // ssh may have disconnected.
            let _ = writer.exit(Exit::Status(FAILED)).await;
        }
    }
    // As above.
    let _ = writer.end().await;
    writer.close().await;
    drop(permit);
}

async fn start(
    shared: &Shared,
    user: Option<String>,
    env: BTreeMap<String, String>,
    terminal: Option<TerminalSize>,
    program: SessionRequest,
) -> Result<(ExecInput, ExecOutput), ApiError> {
    let command_line = match program {
        SessionRequest::Sftp => return shared.connect().await?.sftp(Sftp { user }).await,
        SessionRequest::Shell => None,
        SessionRequest::Line(line) => Some(line),
    };
    let exec = Exec { command_line, env, user, terminal, stdin: true, ..Exec::default() };
    shared.connect().await?.exec(exec).await
}

/// Sends the guest's output to ssh until the program exits.
async fn forward_output(mut output: ExecOutput, writer: &Writer) -> Result<ExitStatus, ApiError> {
    loop {
        match output.next().await? {
            Output::Stdout(bytes) => writer.write(bytes, Stream::Output).await.map_err(closed)?,
            Output::Stderr(bytes) => writer.write(bytes, Stream::Error).await.map_err(closed)?,
            Output::Acknowledged(_) => {}
            Output::Exited(status) => return Ok(status),
        }
    }
}

/// Reports to ssh how the program ended. OpenSSH ignores a signal, so it gets an exit status too.
async fn report_exit(shared: &Shared, writer: &Writer, status: ExitStatus) {
    if let Some(file) = &shared.exit_file {
        // This distinguishes the program's exit status from ssh's own.
        let _ = fs::write(file, "\n");
    }
    // ssh may have disconnected.
    if let ExitStatus::Signal(signal) = status {
        let _ = writer.exit(Exit::Signal(signal)).await;
    }
    let _ = writer.exit(Exit::Status(status.shell_code().into())).await;
}

/// Prints an error to the user, on standard error.
async fn print_error(writer: &Writer, line_end: &str, context: &str, error: &ApiError) {
    let hint = hint_for(error).map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    let text = format!("{context}: {}\n{hint}", visible_line(&error.message)).replace('\n', line_end);
    // ssh may have disconnected.
    let _ = writer.write(text.into(), Stream::Error).await;
}
