//! The boot initrds: one for each kernel and build of the agent, built when first needed.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use banger_api::{ApiError, Dirs, ErrorKind, Id, Remedy};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OnceCell};

use crate::{
    dirs,
    error::EngineError,
    layout::{KernelDir, initrds},
    operation::Context,
    programs::Programs,
    spans::now_ns,
};

/// The boot initrds in the cache.
#[derive(Debug)]
pub(crate) struct Initrds {
    dirs: Arc<Dirs>,
    programs: Programs,
    /// Digest of the installed agent. Only a new build changes it, and that restarts the daemon.
    agent: OnceCell<String>,
    building: Mutex<()>,
}

impl Initrds {
    pub(crate) fn new(dirs: Arc<Dirs>, programs: Programs) -> Self {
        Self { dirs, programs, agent: OnceCell::new(), building: Mutex::default() }
    }

    /// Returns the path of a kernel's initrd, building it if it is missing.
    pub(crate) async fn ensure(&self, kernel: &Id, context: &Context) -> Result<PathBuf, EngineError> {
        let began = now_ns();
        let path = self.path(kernel, context).await?;
        if !path.exists() {
            let _one_at_a_time = self.building.lock().await;
            if !path.exists() {
                dirs::create_private(&initrds(&self.dirs))?;
                let (kernel, agent) = (KernelDir::new(&self.dirs, kernel), self.programs.agent.clone());
                let out = path.clone();
                context.blocking(move |_| banger_image::build_initrd(kernel.path(), &agent, &out)).await?;
            }
        }
        context.spans.end("initrd", began);
        Ok(path)
    }

    /// Returns the path of a kernel's initrd, which need not exist yet.
    pub(crate) async fn path(&self, kernel: &Id, context: &Context) -> Result<PathBuf, EngineError> {
        let agent = self.programs.agent.clone();
        let digest = self.agent.get_or_try_init(|| context.blocking(move |_| digest(&agent))).await?;
        Ok(initrds(&self.dirs).join(format!("{kernel}-{digest}.cpio")))
    }

    /// Removes the initrds of a deleted kernel.
    pub(super) fn remove(&self, kernel: &Id) {
        let entries = fs::read_dir(initrds(&self.dirs)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(kernel.as_str()))
        {
            if let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove an initrd");
            }
        }
    }
}

/// Returns the first 8 bytes of a file's SHA-256, in hexadecimal: enough to distinguish builds.
fn digest(path: &Path) -> Result<String, EngineError> {
    let unreadable = |source: io::Error| {
        let message = format!("cannot read the guest agent {}: {source}", path.display());
        EngineError::from(ApiError::new(ErrorKind::MissingProgram, message).remedy(Remedy::Reinstall))
    };
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut chunk).map_err(unreadable)? {
            0 => break,
            count => hash.update(chunk.get(..count).unwrap_or_default()),
        }
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}
