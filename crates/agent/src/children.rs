//! The agent's child processes and, when it is PID 1, all orphans.

use std::{cell::RefCell, collections::HashMap, io, process::Command, rc::Rc};

use banger_proto::ExitStatus;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::oom::Unprotected;

/// Starts programs and reports how they end. There is one reaper, because waiting for orphans would also reap the
/// children of other waiters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children(Rc<RefCell<HashMap<i32, oneshot::Sender<ExitStatus>>>>);

/// A started program.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// Receives the exit status when the program ends.
    pub(crate) ended: oneshot::Receiver<ExitStatus>,
}

impl Children {
    /// Starts `command`.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let child = {
            let _unprotected = Unprotected::new();
            command.spawn()?
        };
        let (sender, ended) = oneshot::channel();
        // The reaper cannot run between the spawn and this line: it is a task of the same thread.
        let raw = i32::try_from(child.id()).map_err(io::Error::other)?;
        self.0.borrow_mut().insert(raw, sender);
        Ok(Child { pid: Pid::from_child(&child), ended })
    }

    /// Reaps children forever.
    pub(crate) async fn reap(self) -> io::Result<()> {
        let mut sigchld = signal(SignalKind::child())?;
        loop {
            self.reap_exited();
            if sigchld.recv().await.is_none() {
                return Ok(());
            }
        }
    }

    fn reap_exited(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let sender = self.0.borrow_mut().remove(&pid.as_raw_nonzero().get());
            if let (Some(sender), Some(status)) = (sender, exit_status(status)) {
                // The receiver may have been dropped.
                let _ = sender.send(status);
            }
        }
    }
}

fn exit_status(status: WaitStatus) -> Option<ExitStatus> {
    let code = |code| ExitStatus::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX));
    status.exit_status().map(code).or_else(|| status.terminating_signal().map(ExitStatus::Signal))
}
