//! A VM's console logger: the process that writes the console and the VMM's output to logs. They are kept while the
//! daemon is not running, and stay within their caps however much a guest writes.

use std::{
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use banger_sys::confine::{Access, Confinement, Limits};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::RotatingLog;

/// Maximum size of a console log, in bytes: enough for many boots, too small to fill the disk.
pub const CONSOLE_MAX: u64 = 2 << 20;

/// Maximum size of the log of a VMM and its helpers, in bytes.
const VMM_MAX: u64 = 1 << 20;

/// Number of bytes read from a pipe at a time.
const CHUNK_SIZE: usize = 16 << 10;

/// Returns what the logger may do: write the logs in the VM's directory. It inherits its pipes.
pub(crate) fn confinement(vm_dir: &Path) -> Confinement {
    let limits = Limits { open_files: 64, file_size: Some(CONSOLE_MAX), memory: None };
    Confinement { limits, ..Confinement::default() }.allow(vm_dir, Access::All)
}

/// Copies the console, from standard input, to the log `console`, and the VMM's output, from the pipe in place of
/// standard output, to the log `vmm`, until the console ends. The process `bangerd console CONSOLE VMM` runs only this.
/// Its pipes are standard input and output because a process can be started with no other descriptors.
///
/// # Errors
/// Returns an error if a pipe cannot be read.
pub fn console_logger_main(console: &Path, vmm: &Path) -> io::Result<()> {
    let console = (rustix::stdio::stdin(), RotatingLog::with_times(console, CONSOLE_MAX));
    let vmm_output = (rustix::stdio::stdout(), RotatingLog::with_times(vmm, VMM_MAX));
    copy_all(console, vmm_output)
}

/// Copies until the console ends, as a helper may outlive the VMM; then copies the output written so far.
fn copy_all(
    mut console: (BorrowedFd<'_>, impl Write),
    mut vmm_output: (BorrowedFd<'_>, impl Write),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_SIZE];
    let (mut console_open, mut vmm_open) = (true, true);
    while console_open {
        let mut pipes = [PollFd::new(&console.0, PollFlags::IN), PollFd::new(&vmm_output.0, PollFlags::IN)];
        // The VMM's pipe comes second, and is not polled after its end.
        let polled = pipes.get_mut(..if vmm_open { 2 } else { 1 }).unwrap_or_default();
        match poll(polled, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let [has_console, has_vmm_output] = pipes.map(|pipe| !pipe.revents().is_empty());
        if has_vmm_output {
            vmm_open = copy_chunk(vmm_output.0, &mut vmm_output.1, &mut buffer)?;
        }
        if has_console {
            console_open = copy_chunk(console.0, &mut console.1, &mut buffer)?;
        }
    }
    while vmm_open && ready(vmm_output.0)? {
        vmm_open = copy_chunk(vmm_output.0, &mut vmm_output.1, &mut buffer)?;
    }
    Ok(())
}

/// Copies the available bytes, up to the buffer's size; returns false at the end.
fn copy_chunk(from: BorrowedFd<'_>, to: &mut impl Write, buffer: &mut [u8]) -> io::Result<bool> {
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
    fn both_outputs_are_logged_and_logging_ends_with_the_console() {
        let (console, console_end) = rustix::pipe::pipe().unwrap();
        let (vmm_output, vmm_output_end) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&console_end, b"up\n").unwrap();
        rustix::io::write(&vmm_output_end, b"a warning\n").unwrap();
        drop(console_end);
        let (mut kept_console, mut kept_vmm_output) = (Vec::new(), Vec::new());
        copy_all((console.as_fd(), &mut kept_console), (vmm_output.as_fd(), &mut kept_vmm_output)).unwrap();
        assert_eq!((&kept_console[..], &kept_vmm_output[..]), (&b"up\n"[..], &b"a warning\n"[..]));
        drop(vmm_output_end);
    }

    #[test]
    fn the_console_is_logged_after_the_vmm_closes_its_error_output() {
        let (console, console_end) = rustix::pipe::pipe().unwrap();
        let (vmm_output, vmm_output_end) = rustix::pipe::pipe().unwrap();
        drop(vmm_output_end);
        let writer = std::thread::spawn(move || {
            for _ in 0..100 {
                rustix::io::write(&console_end, &[b'x'; 1000]).unwrap();
            }
        });
        let (mut kept, mut none) = (Vec::new(), Vec::new());
        copy_all((console.as_fd(), &mut kept), (vmm_output.as_fd(), &mut none)).unwrap();
        writer.join().unwrap();
        assert_eq!((kept.len(), none.len()), (100_000, 0));
    }
}
