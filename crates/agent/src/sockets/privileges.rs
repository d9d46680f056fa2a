//! Runs work of the agent, which is root, with a user's rights.

use std::{io, thread};

use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};
use tokio::sync::oneshot;

use crate::users::User;

/// Runs `work` as `user` in a new thread. In Linux, credentials belong to threads, and a thread that has dropped
/// root's rights cannot regain them.
pub(super) async fn run_as_user<T: Send + 'static>(
    user: &User,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    let user = user.clone();
    thread::Builder::new().spawn(move || {
        // The receiver may have been dropped.
        let _ = sender.send(drop_privileges(&user).and_then(|()| work()));
    })?;
    result.await.unwrap_or_else(|_| Err(io::Error::other("the worker thread ended")))
}

/// Sets the calling thread's credentials to those of `user`, permanently.
pub(super) fn drop_privileges(user: &User) -> io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    set_thread_gid(Gid::from_raw(user.gid))?;
    Ok(set_thread_uid(Uid::from_raw(user.uid))?)
}
