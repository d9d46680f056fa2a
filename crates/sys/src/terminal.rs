//! Pseudo-terminals for programs.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

/// The side of a pseudo-terminal that programs use.
pub type TerminalSide = OwnedFd;

/// The controlling side of a pseudo-terminal. Reads end once no program has the other side open.
#[derive(Debug)]
pub struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// Opens a pseudo-terminal of this size, and returns it with the side for its program.
    ///
    /// # Errors
    /// Returns an error if there is no `devpts`, or too many pseudo-terminals are open.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    pub fn open(rows: u16, cols: u16) -> io::Result<(Self, TerminalSide)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        let status = rustix::fs::fcntl_getfl(&ours)?;
        rustix::fs::fcntl_setfl(&ours, status | rustix::fs::OFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` is open and the same until it is dropped, and this type never lets it be replaced.
        let ours = unsafe { AsyncFd::register(ours) };
        let terminal = Self(ours?);
        terminal.resize(rows, cols)?;
        Ok((terminal, theirs))
    }

    /// Sets the terminal's size; the kernel notifies its foreground program.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.0.get_ref(), size)?)
    }

    /// Reads available data, without waiting.
    ///
    /// # Errors
    /// Returns `WouldBlock` if no data is available.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        end_of_file(rustix::io::read(self.0.get_ref(), buffer))
    }
}

/// Converts `EIO`: Linux returns it when no program has the other side open (tty_ldisc, `n_tty_read`).
fn end_of_file(read: rustix::io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(Errno::IO) => Ok(0),
        read => Ok(read?),
    }
}

impl AsyncRead for &Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            match ready.try_io(|fd| end_of_file(rustix::io::read(fd.get_ref(), unfilled))) {
                Ok(read) => {
                    buffer.advance(read?);
                    return Poll::Ready(Ok(()));
                }
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for &Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::session::{Credentials, lead_session};

    #[tokio::test]
    async fn a_program_uses_a_terminal_of_the_requested_size() {
        let (terminal, theirs) = Terminal::open(30, 100).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "stty size; read line; echo got $line; exit 3"]);
        command
            .stdin(theirs.try_clone().unwrap())
            .stdout(theirs.try_clone().unwrap())
            .stderr(Stdio::from(theirs));
        let own = rustix::process::getuid().as_raw();
        if own == 0 {
            lead_session(&mut command, Credentials { uid: 0, gid: 0, groups: vec![] }, true);
        }
        let mut child = command.spawn().unwrap();
        drop(command);
        (&terminal).write_all(b"hello\n").await.unwrap();
        let mut output = String::new();
        (&terminal).read_to_string(&mut output).await.unwrap();
        assert!(output.contains("30 100") && output.contains("got hello"), "{output:?}");
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
}
