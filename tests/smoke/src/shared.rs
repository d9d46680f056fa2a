//! Hosts that scenarios share: the first scenario that needs one creates it; all are deleted after the last.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::host::{Host, link_tree};

type Shared = Mutex<Option<Arc<Host>>>;

static DEBIAN: Shared = Mutex::new(None);
static TINY: Shared = Mutex::new(None);

/// Returns a host with a running VM `box` of the default image, which has a user `dev`. Scenarios that use it must
/// not change the VM or the host's configuration, and need unique names for their files on the host.
///
/// # Errors
/// Returns an error if the VM does not start.
pub fn debian() -> Result<Arc<Host>> {
    get_or_create(&DEBIAN, Host::with_debian)
}

/// Returns the host whose files are linked into hosts with the image `tiny`.
pub(crate) fn tiny() -> Result<Arc<Host>> {
    get_or_create(&TINY, Host::with_tiny)
}

fn get_or_create(shared: &Shared, create: impl FnOnce() -> Result<Host>) -> Result<Arc<Host>> {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(host) = &*shared {
        return Ok(host.clone());
    }
    let host = Arc::new(create()?);
    *shared = Some(host.clone());
    Ok(host)
}

/// Deletes the shared hosts.
///
/// # Errors
/// Returns an error if a scenario has left something on the shared VM's host.
pub(crate) fn delete() -> Result<()> {
    let take = |shared: &Shared| shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(take(&TINY));
    let Some(host) = take(&DEBIAN) else { return Ok(()) };
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()
}

impl Host {
    /// Returns a host that also has an image `tiny`: busybox without an init, so that the agent stays PID 1 and a
    /// guest boots as fast as possible.
    ///
    /// # Errors
    /// Returns an error as [`new`](Self::new) does, or if the image cannot be created.
    pub fn tiny() -> Result<Self> {
        let (template, host) = (tiny()?, Self::bare()?);
        for name in ["state", "cache", "config"] {
            link_tree(&template.path(name), &host.path(name)).context("cannot link the host with `tiny`")?;
        }
        Ok(host)
    }
}
