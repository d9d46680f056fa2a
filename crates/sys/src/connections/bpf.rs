//! The system call bpf(2): a table of the kernel, and programs for a cgroup's sockets.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use super::{
    entry::{Key, Value},
    program::{Family, Instruction},
};

/// Commands and kinds of `<linux/bpf.h>`.
const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const LINK_CREATE: libc::c_long = 28;
const MAP_TYPE_LRU_HASH: u32 = 9;
const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;

/// What the kernel shows as the program's licence; it uses no function that needs the GPL.
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// Name of the table and the programs in the kernel's lists.
const NAME: [u8; 16] = *b"banger_connects\0";

/// A point at which the kernel runs a program (`enum bpf_attach_type`).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Attachment {
    Connect4 = 10,
    Connect6 = 11,
    /// A datagram to an address, without a connect.
    Send4 = 14,
    Send6 = 15,
}

impl Attachment {
    pub(super) const ALL: [Self; 4] = [Self::Connect4, Self::Connect6, Self::Send4, Self::Send6];

    pub(super) fn family(self) -> Family {
        match self {
            Self::Connect4 | Self::Send4 => Family::V4,
            Self::Connect6 | Self::Send6 => Family::V6,
        }
    }
}

/// A table in the kernel that forgets the entries that were used least recently.
#[derive(Debug)]
pub(super) struct Table {
    fd: OwnedFd,
    max_entries: u32,
}

impl Table {
    /// Creates a table.
    pub(super) fn new(max_entries: u32) -> io::Result<Self> {
        #[repr(C)]
        struct Arguments {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            map_flags: u32,
            inner_map_fd: u32,
            numa_node: u32,
            name: [u8; 16],
        }
        let mut arguments = Arguments {
            map_type: MAP_TYPE_LRU_HASH,
            key_size: size_of::<Key>() as u32,
            value_size: size_of::<Value>() as u32,
            max_entries,
            map_flags: 0,
            inner_map_fd: 0,
            numa_node: 0,
            name: NAME,
        };
        // SAFETY: this command takes these arguments, which have no pointer.
        let fd = unsafe { create(MAP_CREATE, &mut arguments) }?;
        Ok(Self { fd, max_entries })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Returns all entries.
    pub(super) fn entries(&self) -> io::Result<Vec<(Key, Value)>> {
        #[repr(C)]
        struct Arguments {
            in_batch: u64,
            out_batch: u64,
            keys: u64,
            values: u64,
            count: u32,
            map_fd: u32,
            elem_flags: u64,
            flags: u64,
        }
        let mut keys = vec![Key::default(); self.max_entries as usize];
        let mut values = vec![Value::default(); self.max_entries as usize];
        // Where a further call would go on. There is none: all entries have room.
        let mut rest = 0_u32;
        let mut arguments = Arguments {
            in_batch: 0,
            out_batch: (&raw mut rest) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: self.max_entries,
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: this command takes these arguments. `keys` and `values` have room for `count` entries of the sizes
        // that the table was created with, `rest` for the 32 bits that a hash table writes; the types have no invalid
        // bytes.
        match unsafe { call(MAP_LOOKUP_BATCH, &mut arguments) } {
            Ok(_) => {}
            // The table has no more entries.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
        Ok(keys.into_iter().zip(values).take(arguments.count as usize).collect())
    }
}

/// Loads a program and attaches it to a cgroup, beside those of others, until the returned descriptor is closed.
pub(super) fn attach(
    instructions: &[Instruction],
    attachment: Attachment,
    cgroup: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Arguments {
        prog_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
    }
    let program = load(instructions, attachment)?;
    let mut arguments = Arguments {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type: attachment as u32,
        flags: 0,
    };
    // SAFETY: this command takes these arguments, which have no pointer.
    unsafe { create(LINK_CREATE, &mut arguments) }
}

fn load(instructions: &[Instruction], attachment: Attachment) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Arguments {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let mut arguments = Arguments {
        prog_type: PROG_TYPE_CGROUP_SOCK_ADDR,
        insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        insns: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        name: NAME,
        prog_ifindex: 0,
        expected_attach_type: attachment as u32,
    };
    // SAFETY: this command takes these arguments. It reads `insn_cnt` instructions of 8 bytes and a text that ends with
    // a zero, which outlive the call; the kernel verifies what the instructions do.
    unsafe { create(PROG_LOAD, &mut arguments) }
}

/// Runs a command that returns a new descriptor.
///
/// # Safety
/// As for [`call`]; and the command must return a descriptor that has no other owner.
unsafe fn create<T>(command: libc::c_long, arguments: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as promised by the caller.
    let raw = unsafe { call(command, arguments) }?;
    // SAFETY: as promised by the caller. The kernel closes such descriptors on exec.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Runs a command.
///
/// # Safety
/// `arguments` must have the layout that `<linux/bpf.h>` gives the command, without padding, and its pointers must be
/// valid for what the command reads and writes.
unsafe fn call<T>(command: libc::c_long, arguments: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes at most the given size; for the rest, as promised by the caller.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(arguments), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}
