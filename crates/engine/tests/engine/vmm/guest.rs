//! The guest of a fake VMM: its console, its disk, and the real agent's protocol code on its vsock.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::OpenOptions,
    future::pending,
    os::unix::{fs::FileExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use banger_agent::{BootRecord, Failure, Machine, Server};
use banger_proto::{Configure, Exec, FailureKind, MAX_REPLY, READY_PORT};
use tokio::{io::AsyncWriteExt, task::spawn_local};

use super::{
    Switches, console,
    faults::{Faults, Phase},
    reset,
    vsock::Vsock,
};

/// Runs the guest, starting with the first line of its console.
pub(super) async fn boot(mut vsock: Vsock, disks: Vec<PathBuf>, switches: Switches) -> Result<()> {
    let faults = switches.faults;
    console("Linux version 6.1.0-fake");
    let boots = count_boot(disks.last().context("no work disk")?)?;
    console(&format!("boot {boots} of this work disk"));
    faults.reach(Phase::Boot).await;
    let mut booted = BootRecord { ready_port: READY_PORT, ..BootRecord::default() };
    booted.mark("init");
    let server = Server::start(booted, Fake { faults: faults.clone(), hostname: RefCell::default() });
    let mut call = vsock.call(READY_PORT).await?;
    if faults.reach(Phase::Call).await {
        call.write_all(b"SSH-2.0-OpenSSH\r\n").await?;
        return pending().await;
    }
    let first = server.clone();
    spawn_local(async move { first.serve(call).await });
    loop {
        let Ok(stream) = vsock.accept(faults.agent_port).await else {
            // QEMU and the guest keep running without the vsock device.
            return pending().await;
        };
        let server = server.clone();
        spawn_local(async move { server.serve(stream).await });
    }
}

/// Counts boots in the work disk's boot block, which ext4 does not use. A replaced disk starts at 1 again.
fn count_boot(disk: &Path) -> Result<u32> {
    let file = OpenOptions::new().read(true).write(true).open(disk)?;
    let mut number = [0; 4];
    file.read_exact_at(&mut number, 0)?;
    let boots = u32::from_le_bytes(number) + 1;
    file.write_all_at(&boots.to_le_bytes(), 0)?;
    Ok(boots)
}

/// A fake machine that does not change the host.
#[derive(Debug)]
struct Fake {
    faults: Faults,
    hostname: RefCell<String>,
}

impl Machine for Fake {
    async fn configure(&self, settings: &Configure) -> Result<(), Failure> {
        if self.faults.reach(Phase::Configure).await {
            // A hostile guest: a forged line, control characters, and almost as much as a reply can have.
            let rest = "\"\x1b[2J".repeat(MAX_REPLY / 12);
            let message = format!("this guest rejects its configuration\nhint: run this{rest}");
            return Err(Failure::new(FailureKind::Internal, message));
        }
        self.hostname.replace(settings.hostname.clone().unwrap_or_default());
        Ok(())
    }

    /// Prepares a program of the host, which runs as the test's user. Only tests choose it.
    fn command(&self, request: &Exec, env: &BTreeMap<String, String>) -> Result<Command, Failure> {
        let [program, args @ ..] = request.argv.as_slice() else {
            return Err(Failure::new(FailureKind::Invalid, "this guest has no shell"));
        };
        let mut command = Command::new(program);
        command.args(args).env_clear().env("PATH", "/usr/bin:/bin").envs(env).envs(&request.env);
        command.env("HOSTNAME", &*self.hostname.borrow()).current_dir("/").process_group(0);
        Ok(command)
    }

    fn sync(&self) {}

    async fn power_off(&self, _grace: Option<Duration>) {
        self.faults.reach(Phase::PowerOff).await;
        self.faults.reach(Phase::Reset).await;
        reset()
    }
}
