//! Host checks by a process of the daemon's program: they work where the daemon cannot start, and start none.

use std::{process::Stdio, time::Duration};

use banger_api::{ApiError, Check, ErrorKind, Remedy};
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use crate::Client;

/// Timeout for the checks, which limit themselves: two KVM probes have 60 s each, programs 60 s to print their
/// versions, and each catalog's server 15 s. This limit is for a process that hangs in the kernel.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Maximum size of its output, in bytes.
const MAX_OUTPUT: u64 = 1 << 20;

impl Client {
    /// Runs the checks of the host, with `environment` added to this process's own.
    ///
    /// # Errors
    /// Returns an error if the daemon's program cannot be run, or its output is invalid.
    pub async fn doctor(&self, environment: Vec<(&str, String)>) -> Result<Vec<Check>, ApiError> {
        let program = &self.daemon.program;
        let failed = |why: String| {
            ApiError::new(ErrorKind::Io, format!("cannot run {} doctor: {why}", program.display()))
                .remedy(Remedy::InstallOneBuild)
        };
        let mut command = Command::new(program);
        command
            .arg("doctor")
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| failed(error.to_string()))?;
        let mut output = Vec::new();
        let read = async {
            match child.stdout.take() {
                Some(stdout) => stdout.take(MAX_OUTPUT).read_to_end(&mut output).await,
                None => Ok(0),
            }
        };
        match timeout(TIMEOUT, read).await {
            Ok(result) => drop(result.map_err(|error| failed(error.to_string()))?),
            Err(_) => return Err(failed(format!("timed out after {} s", TIMEOUT.as_secs()))),
        }
        serde_json::from_slice(&output).map_err(|error| failed(format!("its output is invalid: {error}")))
    }
}
