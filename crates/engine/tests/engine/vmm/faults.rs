//! The fault that a test injects into the VMs of its host, in a file that the fake VMMs read.

use std::{
    future::pending,
    os::unix::net::UnixDatagram as StdDatagram,
    path::{Path, PathBuf},
    process::exit,
};

use anyhow::Result;
use banger_proto::{AGENT_PORT, UNPRIVILEGED_AGENT_PORT};
use serde::{Deserialize, Serialize};
use tokio::net::UnixDatagram;

use super::{console, die};

/// A phase of a VM's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// The vsock device is about to create its socket.
    Device,
    /// The VMM is about to create its control socket.
    Launch,
    /// The guest's kernel runs; the agent has not connected yet.
    Boot,
    /// The agent has connected, but not sent its greeting.
    Call,
    /// The agent has received its configuration.
    Configure,
    /// The VMM's control socket receives a request.
    Control,
    /// The agent has received a power-off request; Ctrl-Alt-Del still works.
    PowerOff,
    /// Same as `PowerOff`, but Ctrl-Alt-Del does not work either.
    Reset,
}

/// Effect of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// The process exits with status 1.
    Dies,
    /// The guest's kernel panics, which causes a reset.
    Panics,
    /// The process stops responding.
    Hangs,
    /// The response is garbage, or a refusal.
    Garbles,
}

/// The fault of all VMs of a host, if any.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    fault: Option<(Phase, Fault)>,
    /// Vsock port of the agent.
    pub(super) agent_port: u32,
    reached: PathBuf,
}

/// The file with the fault, and the socket to which a VM sends a datagram when it begins to hang.
const FILE: &str = "fault";
const REACHED: &str = "reached.sock";

/// A file that gives guests an agent of an earlier build.
const OLD_AGENT: &str = "old-agent";

impl Faults {
    pub(super) fn of(root: &Path) -> Self {
        let text = std::fs::read(root.join(FILE)).unwrap_or_default();
        let is_old = root.join(OLD_AGENT).exists();
        Self {
            fault: serde_json::from_slice(&text).unwrap_or(None),
            agent_port: if is_old { UNPRIVILEGED_AGENT_PORT } else { AGENT_PORT },
            reached: root.join(REACHED),
        }
    }

    /// Returns whether the fault is `fault` in `phase`.
    pub(super) fn is(&self, phase: Phase, fault: Fault) -> bool {
        self.fault == Some((phase, fault))
    }

    /// Applies the fault of `phase`, if any. Returns true if the response must be wrong.
    pub(super) async fn reach(&self, phase: Phase) -> bool {
        match self.fault {
            Some((at, fault)) if at == phase => match fault {
                Fault::Dies => die(&format!("failed: {phase:?}")),
                Fault::Panics => {
                    console("Kernel panic - not syncing: Attempted to kill init!");
                    exit(0)
                }
                Fault::Hangs => {
                    let sent = StdDatagram::unbound().and_then(|socket| socket.send_to(&[0], &self.reached));
                    // The test may not be listening.
                    drop(sent);
                    pending().await
                }
                Fault::Garbles => true,
            },
            _ => false,
        }
    }
}

/// Sets the fault of the VMs in `root` that start afterwards.
pub(crate) fn set(root: &Path, fault: Option<(Phase, Fault)>) -> Result<()> {
    Ok(std::fs::write(root.join(FILE), serde_json::to_vec(&fault)?)?)
}

/// Gives the VMs in `root` that start afterwards an agent of an earlier build.
pub(crate) fn use_old_agent(root: &Path) -> Result<()> {
    Ok(std::fs::write(root.join(OLD_AGENT), "")?)
}

/// Returns the socket to which the VMs in `root` send a datagram when they begin to hang.
pub(crate) fn hanging(root: &Path) -> Result<UnixDatagram> {
    let path = root.join(REACHED);
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    Ok(UnixDatagram::bind(path)?)
}
