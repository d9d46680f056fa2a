//! Accepts connections through failures that pass.

use std::{io, time::Duration};

use rustix::io::Errno;
use tokio::{sync::Notify, time::timeout};

use crate::console::log;

/// Pause after a failure, unless something is freed before.
const PAUSE: Duration = Duration::from_millis(500);

/// Returns what `accept` returns, as soon as it succeeds. `freed` reports that a connection has ended, which frees what
/// may have been missing.
///
/// # Errors
/// Returns an error if the listener is broken.
pub(crate) async fn accept_next<T>(
    mut accept: impl AsyncFnMut() -> io::Result<T>,
    freed: &Notify,
) -> io::Result<T> {
    let mut failed = false;
    loop {
        match accept().await {
            Err(error) if !is_broken(&error) => {
                // Once for each series of failures.
                if !std::mem::replace(&mut failed, true) {
                    log(&format!("cannot accept a connection now: {error}"));
                }
                let _ = timeout(PAUSE, freed.notified()).await;
            }
            result => return result,
        }
    }
}

/// Returns whether the listener will never accept a connection again. All other errors concern one connection, or end
/// when resources are free (accept(2)).
fn is_broken(error: &io::Error) -> bool {
    let broken = [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP, Errno::FAULT];
    error.raw_os_error().is_some_and(|code| broken.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_broken_listener_is_an_error() {
        let freed = Notify::new();
        let passing =
            [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::CONNABORTED, Errno::PERM];
        let mut results = passing.into_iter().map(Err).chain([Ok(7), Err(Errno::BADF)]);
        let mut accept = async || {
            // Do not wait for the pause.
            freed.notify_one();
            results.next().unwrap().map_err(io::Error::from)
        };
        assert_eq!(accept_next(&mut accept, &freed).await.unwrap(), 7);
        assert!(accept_next(&mut accept, &freed).await.is_err());
    }
}
