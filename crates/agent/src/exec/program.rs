//! Starts a program as a login of its user would: groups, environment, directory, shell.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    rc::Rc,
};

use banger_proto::{Exec, FailureKind, Stream};
use banger_sys::{Terminal, lead_session};
use tokio::net::unix::pipe;

use super::{
    output::Source,
    shell::{self, Shell},
    stdin::Input,
};
use crate::{
    children::{Child, Children},
    configure::locale,
    failure::Failure,
    users::{self, User},
};

/// `PATH` of root, and below of other users; from Debian's login.defs.
pub(crate) const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const USER_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";

/// Directories in a user's home that precede `PATH` if they exist: programs from mise, rustup and pip.
const HOME_PATH: [&str; 3] = [".local/share/mise/shims", ".cargo/bin", ".local/bin"];

/// A running program.
#[derive(Debug)]
pub(super) struct RunningProgram {
    pub(super) child: Child,
    pub(super) input: Input,
    pub(super) outputs: Vec<(Source, Stream)>,
    pub(super) terminal: Option<Rc<Terminal>>,
}

/// Prepares the program of `request` as a login of its user would, with the image's variables `env`.
pub(crate) fn login(request: &Exec, env: &BTreeMap<String, String>) -> Result<Command, Failure> {
    let user = users::lookup(request.user.as_deref())?;
    let mut command = command(request, env, &user)?;
    lead_session(&mut command, user.credentials(), request.terminal.is_some());
    Ok(command)
}

/// Starts `command`, the program of `request`.
pub(super) fn start(
    request: &Exec,
    mut command: Command,
    children: &Children,
) -> Result<RunningProgram, Failure> {
    let action = format!("run {}", command.get_program().to_string_lossy());
    let (input, outputs, terminal) =
        streams(request, &mut command).map_err(Failure::io("create the program's streams"))?;
    let child = children.spawn(&mut command).map_err(Failure::io(action))?;
    Ok(RunningProgram { child, input, outputs, terminal })
}

fn command(request: &Exec, env: &BTreeMap<String, String>, user: &User) -> Result<Command, Failure> {
    let path = path(user, env.get("PATH"));
    let shell = shell::find(user, &format!("{path}:{ROOT_PATH}"));
    let shell_variable = shell.as_ref().map_or(&user.shell, |shell| &shell.path).clone();
    let mut command = match (&request.command_line, request.argv.as_slice()) {
        (Some(line), _) => {
            let Shell { path, name } = shell?;
            let mut command = Command::new(path);
            command.arg0(name).arg("-c").arg(OsStr::from_bytes(line));
            command
        }
        (None, []) => {
            let Shell { path, name } = shell?;
            let mut command = Command::new(path);
            // A name that begins with a dash makes it a login shell.
            command.arg0(format!("-{name}"));
            command
        }
        (None, [program, arguments @ ..]) => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
    };
    let line = request.command_line.as_deref().unwrap_or_default();
    if request.argv.iter().any(|word| word.contains('\0')) || line.contains(&0) {
        return Err(Failure::new(FailureKind::Invalid, "an argument has a NUL in it"));
    }
    command.env_clear().envs(locale::for_session(Path::new("/")).map(|name| ("LANG", name))).envs(env);
    command.envs(environment(user)).env("SHELL", shell_variable).env("PATH", &path);
    command.envs(checked(&request.env)?);
    let dir = match &request.cwd {
        Some(dir) => {
            let meta = fs::metadata(dir).map_err(Failure::io(format!("change to directory {dir}")))?;
            if !meta.is_dir() {
                return Err(Failure::new(FailureKind::Invalid, format!("{dir} is not a directory")));
            }
            dir.as_str()
        }
        None if Path::new(&user.home).is_dir() => &user.home,
        None => "/",
    };
    command.current_dir(dir);
    Ok(command)
}

fn environment(user: &User) -> [(&'static str, &str); 3] {
    [("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)]
}

/// Returns the `PATH` of `user`; `image_path` is the image's `PATH`.
fn path(user: &User, image_path: Option<&String>) -> String {
    let home = Path::new(&user.home);
    let home_dirs = HOME_PATH.iter().map(|dir| home.join(dir)).filter(|dir| dir.is_dir());
    let system = if user.uid == 0 { ROOT_PATH } else { USER_PATH };
    let system = image_path.map_or(system, String::as_str);
    home_dirs.map(|dir| format!("{}:", dir.display())).chain([system.to_owned()]).collect()
}

fn checked(env: &BTreeMap<String, String>) -> Result<&BTreeMap<String, String>, Failure> {
    let bad = env
        .iter()
        .find(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'));
    match bad {
        Some((name, _)) => Err(Failure::new(FailureKind::Invalid, format!("invalid variable {name:?}"))),
        None => Ok(env),
    }
}

type Streams = (Input, Vec<(Source, Stream)>, Option<Rc<Terminal>>);

fn streams(request: &Exec, command: &mut Command) -> io::Result<Streams> {
    if let Some(size) = request.terminal {
        let (terminal, program_side) = Terminal::open(size.rows, size.cols)?;
        command.stdin(program_side.try_clone()?).stdout(program_side.try_clone()?).stderr(program_side);
        let terminal = Rc::new(terminal);
        let outputs = vec![(Source::Terminal(terminal.clone()), Stream::Stdout)];
        return Ok((Input::Terminal(terminal.clone()), outputs, Some(terminal)));
    }
    let input = if request.stdin {
        let (sender, receiver) = pipe::pipe()?;
        command.stdin(receiver.into_blocking_fd()?);
        Input::Pipe(sender)
    } else {
        command.stdin(Stdio::null());
        Input::Nothing
    };
    let output = |stream| -> io::Result<_> {
        let (sender, receiver) = pipe::pipe()?;
        Ok((sender.into_blocking_fd()?, (Source::Pipe(receiver), stream)))
    };
    let (stdout, out) = output(Stream::Stdout)?;
    let (stderr, err) = output(Stream::Stderr)?;
    command.stdout(stdout).stderr(stderr);
    Ok((input, vec![out, err], None))
}
