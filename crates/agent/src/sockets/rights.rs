//! What is done with a user's own rights, by the agent, which is root.

use std::{io, thread};

use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};
use tokio::sync::oneshot;

use crate::users::User;

/// Does `work` as `user`, in a thread of its own: to Linux, users are the threads', and one that has given up root's
/// rights cannot have them again.
pub(super) async fn with_rights_of<T: Send + 'static>(
    user: &User,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (tell, done) = oneshot::channel();
    let user = user.clone();
    thread::Builder::new().spawn(move || {
        // Nobody may wait any more.
        let _ = tell.send(give_up_rights(&user).and_then(|()| work()));
    })?;
    done.await.unwrap_or_else(|_| Err(io::Error::other("its thread has ended")))
}

/// Makes the calling thread one of `user`, for ever.
pub(super) fn give_up_rights(user: &User) -> io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    set_thread_gid(Gid::from_raw(user.gid))?;
    Ok(set_thread_uid(Uid::from_raw(user.uid))?)
}
