//! Starts the agent's server, and starts it again whenever it ends: killed by the guest's users, or by a fault of its
//! own. It does nothing else, so that there is little in it that could end it, which as PID 1 is a kernel panic.

use std::{
    convert::Infallible,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use tokio::{
    task::{LocalSet, spawn_local},
    time::{Instant, sleep},
};

use crate::{
    boot_record::BootRecord,
    children::Children,
    console::{fail, log},
    oom,
    power::{self, Power},
    saved::Saved,
    vsock,
};

/// Pause before the server is started again; it doubles up to the maximum while the server ends early.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Time after which a server that ends has not ended early.
const HEALTHY: Duration = Duration::from_secs(60);

/// A name with which systemd does not kill a process until the very end (its "Root storage daemons" page).
pub(crate) const PROCESS_NAME: &str = "@banger-agent";

/// The first arguments of the supervisor's and the server's processes, before the boot record.
pub(crate) const SUPERVISE: &str = "supervise";
pub(crate) const SERVE: &str = "serve";

/// Supervises the server beside the image's init, until the guest ends. The first server uses the connection to the
/// host that this process has inherited.
pub(crate) fn run(record: &BootRecord) -> ExitCode {
    oom::protect();
    let served = block_on(async {
        let call = vsock::take_call()?;
        let children = Children::default();
        spawn_local(children.clone().reap());
        supervise(&children, servers(record, call)?).await
    });
    match served {
        Ok(never) => match never {},
        Err(error) => fail(&format!("cannot serve the host: {error}")),
    }
}

/// Supervises the server as PID 1: reaps orphans too, and ends the guest on Ctrl-Alt-Del, also when the server asks.
pub(crate) fn run_as_init(record: &BootRecord, call: Option<OwnedFd>, power: &Power) -> io::Result<()> {
    block_on(async {
        let children = Children::default();
        spawn_local(children.clone().reap());
        let servers = servers(record, call)?;
        tokio::select! {
            pressed = power::ctrl_alt_del() => pressed?,
            never = supervise(&children, servers) => match never? {},
        }
        power.off(None).await;
        Ok(())
    })
}

fn block_on<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work)
}

/// Returns the command of each server in turn. A server inherits what its predecessors have saved, and the first one
/// the connection to the host.
fn servers(record: &BootRecord, call: Option<OwnedFd>) -> io::Result<impl FnMut() -> io::Result<Command>> {
    let record = serde_json::to_string(record)?;
    let saved: File = Saved::create()?;
    let mut call = call;
    Ok(move || {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(PROCESS_NAME).arg(SERVE).arg(&record).process_group(0);
        command.stdin(saved.try_clone()?).stdout(call.take().map_or_else(Stdio::null, Stdio::from));
        Ok(command)
    })
}

/// Starts a server, and the next one when it has ended.
async fn supervise(
    children: &Children,
    mut next: impl FnMut() -> io::Result<Command>,
) -> io::Result<Infallible> {
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let started = next().and_then(|mut command| children.spawn(&mut command));
        let why = match started {
            Ok(child) => match child.ended.await {
                Ok(status) => format!("{status:?}"),
                Err(_) => "its status is unknown".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        if began.elapsed() > HEALTHY {
            pause = FIRST_PAUSE;
        }
        log(&format!("the agent has ended ({why}) and starts again in {pause:?}"));
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        thread,
    };

    use tokio::task::spawn_blocking;

    use super::*;
    use crate::testing::in_own_process;

    #[test]
    fn a_server_that_ends_or_cannot_start_is_started_again() {
        in_own_process(|| {
            let (reader, writer) = io::pipe().unwrap();
            let mut commands = [Some("echo 1"), Some("echo 2; kill -9 $$"), None, Some("echo 3")].into_iter();
            let next = move || {
                let Some(script) = commands.next() else { return Err(io::ErrorKind::NotFound.into()) };
                let mut command = Command::new(script.map_or("/no/such/program", |_| "/bin/sh"));
                command.args(["-c", script.unwrap_or_default()]).stdout(writer.try_clone()?);
                Ok(command)
            };
            let lines =
                thread::spawn(|| BufReader::new(reader).lines().take(3).map(Result::unwrap).collect());
            let served = block_on(async move {
                let children = Children::default();
                spawn_local(children.clone().reap());
                tokio::select! {
                    lines = spawn_blocking(|| lines.join().unwrap()) => Ok(lines.unwrap()),
                    never = supervise(&children, next) => match never? {},
                }
            });
            let lines: Vec<String> = served.unwrap();
            assert_eq!(lines, ["1", "2", "3"]);
        });
    }
}
