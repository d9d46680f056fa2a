//! A VM's keeper: the process that writes the console and the VMM's output to logs. They are kept while the daemon is
//! not running, and stay within their caps however much a guest writes.

use std::{
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Rotating;

/// Maximum size of a console log, in bytes: enough for many boots, too small to fill the disk.
pub const CONSOLE_MAX: u64 = 2 << 20;

/// Maximum size of the log of a VMM and its helpers, in bytes.
const VMM_MAX: u64 = 1 << 20;

/// Number of bytes read from a pipe at a time.
const PART: usize = 16 << 10;

/// Copies the console, from standard input, to the log `console`, and the VMM's output, from the pipe in place of
/// standard output, to the log `vmm`, until the console ends. The process `bangerd console CONSOLE VMM` runs only this.
/// Its pipes are standard input and output because a process can be started with no other descriptors.
///
/// # Errors
/// Returns an error if a pipe cannot be read.
pub fn keeper_main(console: &Path, vmm: &Path) -> io::Result<()> {
    let console = (rustix::stdio::stdin(), Rotating::with_times(console, CONSOLE_MAX));
    let words = (rustix::stdio::stdout(), Rotating::with_times(vmm, VMM_MAX));
    keep(console, words)
}

/// Copies until the console ends, as a helper may outlive the VMM; then copies the output written so far.
fn keep(
    mut console: (BorrowedFd<'_>, impl Write),
    mut words: (BorrowedFd<'_>, impl Write),
) -> io::Result<()> {
    let mut buffer = vec![0; PART];
    let (mut runs, mut talks) = (true, true);
    while runs {
        let mut pipes = [PollFd::new(&console.0, PollFlags::IN), PollFd::new(&words.0, PollFlags::IN)];
        // The VMM's pipe comes second, and is not polled after its end.
        let looked_at = pipes.get_mut(..if talks { 2 } else { 1 }).unwrap_or_default();
        match poll(looked_at, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let [has_console, has_words] = pipes.map(|pipe| !pipe.revents().is_empty());
        if has_words {
            talks = copy_part(words.0, &mut words.1, &mut buffer)?;
        }
        if has_console {
            runs = copy_part(console.0, &mut console.1, &mut buffer)?;
        }
    }
    while talks && ready(words.0)? {
        talks = copy_part(words.0, &mut words.1, &mut buffer)?;
    }
    Ok(())
}

/// Copies the available bytes, up to the buffer's size; returns false at the end.
fn copy_part(from: BorrowedFd<'_>, to: &mut impl Write, buffer: &mut [u8]) -> io::Result<bool> {
    let count = match rustix::io::read(from, &mut *buffer) {
        Err(rustix::io::Errno::INTR) => return Ok(true),
        result => result?,
    };
    to.write_all(buffer.get(..count).unwrap_or_default())?;
    Ok(count > 0)
}

fn ready(pipe: BorrowedFd<'_>) -> io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(&pipe.as_fd(), PollFlags::IN)], Some(&now))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_kept_until_the_console_ends_whoever_still_holds_the_other() {
        let (console, console_end) = rustix::pipe::pipe().unwrap();
        let (words, words_end) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&console_end, b"up\n").unwrap();
        rustix::io::write(&words_end, b"a warning\n").unwrap();
        drop(console_end);
        let (mut kept_console, mut kept_words) = (Vec::new(), Vec::new());
        keep((console.as_fd(), &mut kept_console), (words.as_fd(), &mut kept_words)).unwrap();
        assert_eq!((&kept_console[..], &kept_words[..]), (&b"up\n"[..], &b"a warning\n"[..]));
        drop(words_end);
    }

    #[test]
    fn a_vmm_that_closes_its_error_output_keeps_its_console() {
        let (console, console_end) = rustix::pipe::pipe().unwrap();
        let (words, words_end) = rustix::pipe::pipe().unwrap();
        drop(words_end);
        let writer = std::thread::spawn(move || {
            for _ in 0..100 {
                rustix::io::write(&console_end, &[b'x'; 1000]).unwrap();
            }
        });
        let (mut kept, mut none) = (Vec::new(), Vec::new());
        keep((console.as_fd(), &mut kept), (words.as_fd(), &mut none)).unwrap();
        writer.join().unwrap();
        assert_eq!((kept.len(), none.len()), (100_000, 0));
    }
}
