use std::{
    ffi::OsString,
    io::{self, IsTerminal, PipeReader, PipeWriter},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{ffi::OsStringExt, process::ExitStatusExt},
    },
    path::PathBuf,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use banger_api::{ApiError, ErrorKind};
use banger_client::Client;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};
use tokio::{
    process::{Child, Command},
    time::sleep,
};

use crate::{
    commands::reference::reference,
    error::CommandError,
    signals::{self, Forwarded},
    ssh::{self, SUFFIX, SshFiles},
    ui::Ui,
};

/// Exit status of ssh when ssh itself fails; a program may return it too.
const SSH_FAILED: i32 = 255;

/// Name of the ssh program, searched for in PATH.
const SSH: &str = "ssh";

/// Delay before ssh receives an ending signal again. OpenSSH 9.2 checks for signals and then polls: it misses a
/// signal between the two until something else happens, which may be never.
const RESEND_DELAY: Duration = Duration::from_secs(1);

/// Open a shell or run a command in a VM with your own ssh
///
/// This works with any image: banger is the SSH server, and the VM needs neither network nor sshd. The exit status is
/// the command's own, 128+n if signal n ended it, or 125 if ssh or banger failed. A command of one word is a line for
/// the user's shell; several words are a program and its arguments. For `ssh VM.vm`, run `banger ssh-config
/// --install` once.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm ssh box
  banger vm ssh dev@box -- make test
  banger vm ssh box -- 'cd repo && make'
  banger vm ssh box -L 8080:localhost:80 -N
  banger vm ssh box -A -- git pull")]
pub(crate) struct Ssh {
    /// Id, name, or unique prefix of either; USER@ before it sets the user, instead of root
    #[arg(value_parser = reference())]
    vm: String,
    /// Options for ssh, such as -L, -A or -t
    #[arg(allow_hyphen_values = true, value_name = "SSH OPTION")]
    options: Vec<OsString>,
    /// Command and its arguments [default: a login shell]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Ssh {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        self.connect(ui).await.map_err(CommandError::into_session)
    }

    async fn connect(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let program = program()?;
        let banger = SshFiles::program()?;
        let files = SshFiles::prepare(client.dirs(), &banger)?;
        let (user, vm) = match self.vm.rsplit_once('@') {
            Some((user, vm)) => (Some(user), vm),
            None => (None, self.vm.as_str()),
        };
        let vm = client.vm(vm.strip_suffix(SUFFIX).unwrap_or(vm)).await?;
        let vm = ssh::ensure_running(&client, vm, ui).await?;
        let (exit_reader, exit_writer) = io::pipe().map_err(failed("create a pipe"))?;
        let proxy_command_line = SshFiles::proxy_command(&banger, Some(&fd_path(&exit_writer)))?;
        let mut option = b"ProxyCommand=".to_vec();
        option.extend(proxy_command_line);
        let mut ssh = Command::new(program);
        let (options, command) = split(self.options, self.command)?;
        ssh.arg("-F").arg(files.config()).arg("-o").arg(OsString::from_vec(option)).args(options);
        if let Some(user) = user {
            ssh.args(["-l", user]);
        }
        ssh.arg("--").arg(format!("{}{SUFFIX}", vm.name)).args(command_line(&command));
        let mut signals = signals::forward();
        let status = wait(ssh.spawn().map_err(failed("run ssh"))?, &mut signals).await?;
        Ok(exit_code(status, &exit_reader).into())
    }
}

/// Separates ssh's options from the command. After an option that begins with a hyphen, clap takes `--` and what
/// follows for options too.
fn split(
    mut options: Vec<OsString>,
    mut command: Vec<String>,
) -> Result<(Vec<OsString>, Vec<String>), ApiError> {
    if let Some(end) = options.iter().position(|option| option == "--") {
        let not_utf8 = |word| ApiError::new(ErrorKind::Invalid, format!("{word:?} is not UTF-8"));
        for word in options.split_off(end).into_iter().skip(1) {
            command.push(word.into_string().map_err(not_utf8)?);
        }
    }
    Ok((options, command))
}

/// Returns the command as one line for a shell, as ssh sends it.
fn command_line(command: &[String]) -> Option<String> {
    match command {
        [] => None,
        [line] => Some(line.clone()),
        several => Some(several.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")),
    }
}

/// Quotes `word` for a shell.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+:,./-".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn program() -> Result<PathBuf, ApiError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path).map(|dir| dir.join(SSH)).find(|path| path.is_file());
    program.ok_or_else(|| {
        let error = ApiError::new(ErrorKind::MissingProgram, "there is no ssh on PATH");
        error.hint("install OpenSSH's client (Debian: apt install openssh-client), or use `banger vm shell`")
    })
}

/// Returns a path through which another process can write to `pipe` while this process has it open.
fn fd_path(pipe: &PipeWriter) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), pipe.as_raw_fd()).into()
}

/// Waits until ssh exits; forwards signals to it.
async fn wait(mut ssh: Child, signals: &mut Forwarded) -> Result<ExitStatus, ApiError> {
    let mut ending = None;
    let pid = ssh.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let by_terminal = io::stdin().is_terminal();
    loop {
        let signal = tokio::select! {
            status = ssh.wait() => return status.map_err(failed("wait for ssh")),
            signal = signals.next() => signal,
            Some(signal) = async { sleep(RESEND_DELAY).await; ending }, if ending.is_some() => signal,
        };
        if matches!(signal, Signal::TERM | Signal::HUP) {
            ending = Some(signal);
        }
        // The terminal has sent this signal to both processes.
        let already_sent = by_terminal && matches!(signal, Signal::INT | Signal::QUIT);
        if let Some(pid) = pid.filter(|_| !already_sent) {
            // ssh may have just exited.
            let _ = kill_process(pid, signal);
        }
    }
}

fn exit_code(status: ExitStatus, exit_reader: &PipeReader) -> u8 {
    match status.code() {
        Some(SSH_FAILED) if !has_data(exit_reader) => 125,
        Some(code) => u8::try_from(code).unwrap_or(u8::MAX),
        None => u8::try_from(128 + status.signal().unwrap_or_default()).unwrap_or(u8::MAX),
    }
}

/// Returns whether something was written to the pipe.
fn has_data(pipe: &PipeReader) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut pipe = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
    poll(&mut pipe, Some(&now)).is_ok() && pipe[0].revents().contains(PollFlags::IN)
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> ApiError {
    move |error| ApiError::new(ErrorKind::Io, format!("cannot {action}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn one_word_is_sent_unchanged_and_several_words_are_quoted() {
        let command_line =
            |words: &[&str]| command_line(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(command_line(&[]), None);
        assert_eq!(command_line(&["cd repo && make"]).unwrap(), "cd repo && make");
        assert_eq!(command_line(&["sh", "-c", "exit 3"]).unwrap(), "sh -c 'exit 3'");
        assert_eq!(command_line(&["echo", "it's", "", "A=$b"]).unwrap(), r"echo 'it'\''s' '' 'A=$b'");
    }

    #[tokio::test]
    async fn a_signal_is_sent_again_if_ssh_misses_it() {
        let (sender, mut signals) = Forwarded::for_test();
        let mut ssh = Command::new("sh");
        ssh.args(["-c", "trap 'trap \"exit 3\" TERM' TERM; echo; while :; do sleep 0.01; done"]);
        let mut ssh = ssh.stdout(std::process::Stdio::piped()).spawn().unwrap();
        // The shell has set its trap.
        tokio::io::AsyncReadExt::read_u8(&mut ssh.stdout.take().unwrap()).await.unwrap();
        sender.send(Signal::TERM).unwrap();
        assert_eq!(wait(ssh, &mut signals).await.unwrap().code(), Some(3));
    }

    #[test]
    fn status_255_becomes_125_unless_the_proxy_reported_an_exit() {
        let (reader, mut writer) = io::pipe().unwrap();
        let code_for = |code: i32| exit_code(ExitStatus::from_raw(code << 8), &reader);
        assert_eq!((code_for(0), code_for(42), code_for(255)), (0, 42, 125));
        assert_eq!(exit_code(ExitStatus::from_raw(15), &reader), 143);
        writer.write_all(b"\n").unwrap();
        assert_eq!((code_for(0), code_for(255)), (0, 255));
    }
}
