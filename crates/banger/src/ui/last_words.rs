//! A message before this process ends at once.

use banger_api::visible_line;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    stdio::stderr,
};

/// Prints `message`, unless that would block: standard error may be a terminal that is stopped, or a full pipe.
/// Another thread may be blocked while it holds the lock of standard error, so this does not lock it.
pub(crate) fn last_words(message: &str) {
    let mut stderr_ready = [PollFd::from_borrowed_fd(stderr(), PollFlags::OUT)];
    let ready = poll(&mut stderr_ready, Some(&Timespec::default()));
    if ready == Ok(1) && stderr_ready[0].revents().contains(PollFlags::OUT) {
        // This process ends in any case.
        let _ = rustix::io::write(stderr(), format!("{}\n", visible_line(message)).as_bytes());
    }
}
