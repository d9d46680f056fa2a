//! Builds the filter of a confinement's system calls. A system call that is not in the list does not exist for the
//! program: the C library then uses an older one, or the program reports an error.

use std::{collections::BTreeMap, io};

use libc::{
    SYS_accept, SYS_accept4, SYS_access, SYS_alarm, SYS_arch_prctl, SYS_bind, SYS_brk, SYS_capget, SYS_chdir,
    SYS_chmod, SYS_chown, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone, SYS_close,
    SYS_close_range, SYS_connect, SYS_copy_file_range, SYS_creat, SYS_dup, SYS_dup2, SYS_dup3,
    SYS_epoll_create, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_epoll_wait,
    SYS_eventfd, SYS_eventfd2, SYS_execve, SYS_exit, SYS_exit_group, SYS_faccessat, SYS_faccessat2,
    SYS_fadvise64, SYS_fallocate, SYS_fchdir, SYS_fchmod, SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_fcntl,
    SYS_fdatasync, SYS_fgetxattr, SYS_flistxattr, SYS_flock, SYS_fork, SYS_fstat, SYS_fstatfs, SYS_fsync,
    SYS_ftruncate, SYS_futex, SYS_futex_waitv, SYS_futimesat, SYS_get_mempolicy, SYS_get_robust_list,
    SYS_getcpu, SYS_getcwd, SYS_getdents, SYS_getdents64, SYS_getegid, SYS_geteuid, SYS_getgid,
    SYS_getgroups, SYS_getitimer, SYS_getpeername, SYS_getpgid, SYS_getpgrp, SYS_getpid, SYS_getppid,
    SYS_getpriority, SYS_getrandom, SYS_getresgid, SYS_getresuid, SYS_getrlimit, SYS_getrusage, SYS_getsid,
    SYS_getsockname, SYS_getsockopt, SYS_gettid, SYS_gettimeofday, SYS_getuid, SYS_getxattr,
    SYS_inotify_add_watch, SYS_inotify_init1, SYS_inotify_rm_watch, SYS_ioctl, SYS_kill, SYS_lchown,
    SYS_lgetxattr, SYS_link, SYS_linkat, SYS_listen, SYS_listxattr, SYS_llistxattr, SYS_lseek, SYS_lstat,
    SYS_madvise, SYS_mbind, SYS_membarrier, SYS_memfd_create, SYS_mincore, SYS_mkdir, SYS_mkdirat, SYS_mlock,
    SYS_mlock2, SYS_mlockall, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_msync, SYS_munlock, SYS_munlockall,
    SYS_munmap, SYS_nanosleep, SYS_newfstatat, SYS_open, SYS_openat, SYS_openat2, SYS_pause, SYS_pipe,
    SYS_pipe2, SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect, SYS_poll, SYS_ppoll, SYS_prctl, SYS_pread64,
    SYS_preadv, SYS_preadv2, SYS_prlimit64, SYS_pselect6, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_read,
    SYS_readahead, SYS_readlink, SYS_readlinkat, SYS_readv, SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg,
    SYS_rename, SYS_renameat, SYS_renameat2, SYS_restart_syscall, SYS_rmdir, SYS_rseq, SYS_rt_sigaction,
    SYS_rt_sigpending, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_rt_sigtimedwait,
    SYS_sched_get_priority_max, SYS_sched_get_priority_min, SYS_sched_getaffinity, SYS_sched_getparam,
    SYS_sched_getscheduler, SYS_sched_yield, SYS_seccomp, SYS_select, SYS_sendfile, SYS_sendmmsg,
    SYS_sendmsg, SYS_sendto, SYS_set_mempolicy, SYS_set_robust_list, SYS_set_tid_address, SYS_setitimer,
    SYS_setpgid, SYS_setrlimit, SYS_setsid, SYS_setsockopt, SYS_shutdown, SYS_sigaltstack, SYS_signalfd,
    SYS_signalfd4, SYS_socket, SYS_socketpair, SYS_splice, SYS_stat, SYS_statfs, SYS_statx, SYS_symlink,
    SYS_symlinkat, SYS_sync, SYS_sync_file_range, SYS_syncfs, SYS_sysinfo, SYS_tee, SYS_tgkill, SYS_time,
    SYS_timer_create, SYS_timer_delete, SYS_timer_getoverrun, SYS_timer_gettime, SYS_timer_settime,
    SYS_timerfd_create, SYS_timerfd_gettime, SYS_timerfd_settime, SYS_times, SYS_tkill, SYS_truncate,
    SYS_umask, SYS_uname, SYS_unlink, SYS_unlinkat, SYS_utime, SYS_utimensat, SYS_utimes, SYS_vfork,
    SYS_wait4, SYS_waitid, SYS_write, SYS_writev,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::policy::{Sockets, SystemCalls};

/// Files and pipes. Landlock decides which files.
const FILES: &[i64] = &[
    SYS_access,
    SYS_chdir,
    SYS_chmod,
    SYS_chown,
    SYS_close,
    SYS_close_range,
    SYS_copy_file_range,
    SYS_creat,
    SYS_dup,
    SYS_dup2,
    SYS_dup3,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_fchdir,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchown,
    SYS_fchownat,
    SYS_fcntl,
    SYS_fdatasync,
    SYS_fgetxattr,
    SYS_flistxattr,
    SYS_flock,
    SYS_fstat,
    SYS_fstatfs,
    SYS_fsync,
    SYS_ftruncate,
    SYS_futimesat,
    SYS_getcwd,
    SYS_getdents,
    SYS_getdents64,
    SYS_getxattr,
    SYS_inotify_add_watch,
    SYS_inotify_init1,
    SYS_inotify_rm_watch,
    SYS_ioctl,
    SYS_lchown,
    SYS_lgetxattr,
    SYS_link,
    SYS_linkat,
    SYS_listxattr,
    SYS_llistxattr,
    SYS_lseek,
    SYS_lstat,
    SYS_memfd_create,
    SYS_mkdir,
    SYS_mkdirat,
    SYS_newfstatat,
    SYS_open,
    SYS_openat,
    SYS_openat2,
    SYS_pipe,
    SYS_pipe2,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_read,
    SYS_readahead,
    SYS_readlink,
    SYS_readlinkat,
    SYS_readv,
    SYS_rename,
    SYS_renameat,
    SYS_renameat2,
    SYS_rmdir,
    SYS_sendfile,
    SYS_splice,
    SYS_stat,
    SYS_statfs,
    SYS_statx,
    SYS_symlink,
    SYS_symlinkat,
    SYS_sync,
    SYS_sync_file_range,
    SYS_syncfs,
    SYS_tee,
    SYS_truncate,
    SYS_umask,
    SYS_unlink,
    SYS_unlinkat,
    SYS_utime,
    SYS_utimensat,
    SYS_utimes,
    SYS_write,
    SYS_writev,
];

/// Memory and threads. `clone` is in [`filter`], because it also starts processes.
const MEMORY_AND_THREADS: &[i64] = &[
    SYS_arch_prctl,
    SYS_brk,
    SYS_exit,
    SYS_exit_group,
    SYS_futex,
    SYS_futex_waitv,
    SYS_get_mempolicy,
    SYS_get_robust_list,
    SYS_getcpu,
    SYS_madvise,
    SYS_mbind,
    SYS_membarrier,
    SYS_mincore,
    SYS_mlock,
    SYS_mlock2,
    SYS_mlockall,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_msync,
    SYS_munlock,
    SYS_munlockall,
    SYS_munmap,
    SYS_pkey_alloc,
    SYS_pkey_free,
    SYS_pkey_mprotect,
    SYS_rseq,
    SYS_sched_getaffinity,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_sched_yield,
    SYS_set_mempolicy,
    SYS_set_robust_list,
    SYS_set_tid_address,
];

/// The process itself, and the start of the program.
const PROCESS: &[i64] = &[
    SYS_capget,
    SYS_execve,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getgroups,
    SYS_getpgid,
    SYS_getpgrp,
    SYS_getpid,
    SYS_getppid,
    SYS_getpriority,
    SYS_getrandom,
    SYS_getresgid,
    SYS_getresuid,
    SYS_getrlimit,
    SYS_getrusage,
    SYS_getsid,
    SYS_gettid,
    SYS_getuid,
    SYS_prctl,
    SYS_seccomp,
    SYS_setrlimit,
    SYS_sysinfo,
    SYS_times,
    SYS_uname,
];

/// Signals, events and time. `tgkill`, or `tkill` with musl, is how a thread signals another of its process.
const EVENTS_AND_TIME: &[i64] = &[
    SYS_alarm,
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_epoll_create,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_epoll_wait,
    SYS_eventfd,
    SYS_eventfd2,
    SYS_getitimer,
    SYS_gettimeofday,
    SYS_nanosleep,
    SYS_pause,
    SYS_poll,
    SYS_ppoll,
    SYS_pselect6,
    SYS_restart_syscall,
    SYS_rt_sigaction,
    SYS_rt_sigpending,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait,
    SYS_select,
    SYS_setitimer,
    SYS_sigaltstack,
    SYS_signalfd,
    SYS_signalfd4,
    SYS_tgkill,
    SYS_time,
    SYS_timer_create,
    SYS_timer_delete,
    SYS_timer_getoverrun,
    SYS_timer_gettime,
    SYS_timer_settime,
    SYS_timerfd_create,
    SYS_timerfd_gettime,
    SYS_timerfd_settime,
    SYS_tkill,
];

/// Use of sockets that the program has, inherited or not.
const CONNECTED_SOCKETS: &[i64] = &[
    SYS_accept,
    SYS_accept4,
    SYS_getpeername,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_listen,
    SYS_recvfrom,
    SYS_recvmmsg,
    SYS_recvmsg,
    SYS_sendmmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_setsockopt,
    SYS_shutdown,
];

/// Addresses of sockets that the program may create.
const NEW_SOCKETS: &[i64] = &[SYS_bind, SYS_connect];

/// Other processes.
const PROCESSES: &[i64] =
    &[SYS_clone, SYS_fork, SYS_kill, SYS_setpgid, SYS_setsid, SYS_vfork, SYS_wait4, SYS_waitid];

/// Descriptors that the program has open.
const OPEN_DESCRIPTORS: &[i64] = &[
    SYS_close,
    SYS_dup,
    SYS_exit,
    SYS_exit_group,
    SYS_fcntl,
    SYS_fstat,
    SYS_ioctl,
    SYS_lseek,
    SYS_newfstatat,
    SYS_pread64,
    SYS_pwrite64,
    SYS_read,
    SYS_readv,
    SYS_getpid,
    SYS_getrandom,
    SYS_gettid,
    SYS_write,
    SYS_writev,
];

/// Returns the filter of a program that opens nothing more and starts no threads.
pub(super) fn filter_for_open_descriptors() -> io::Result<BpfProgram> {
    let lists = [OPEN_DESCRIPTORS, MEMORY_AND_THREADS, EVENTS_AND_TIME, CONNECTED_SOCKETS];
    compile(lists.into_iter().flatten().map(|call| (*call, Vec::new())).collect())
}

/// Returns the filter, or `None` if the program installs its own.
pub(super) fn filter(calls: SystemCalls, sockets: Sockets) -> io::Result<Option<BpfProgram>> {
    let lists = [FILES, MEMORY_AND_THREADS, PROCESS, EVENTS_AND_TIME, CONNECTED_SOCKETS];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    rules.extend(lists.into_iter().flatten().map(|call| (*call, Vec::new())));
    // The limits of this process only.
    rules.insert(SYS_prlimit64, vec![argument(0, SeccompCmpOp::Eq, 0)?]);
    match calls {
        SystemCalls::OwnFilter => return Ok(None),
        SystemCalls::OneProcess => {
            let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
            rules.insert(SYS_clone, vec![argument(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
        }
        SystemCalls::Processes => rules.extend(PROCESSES.iter().map(|call| (*call, Vec::new()))),
    }
    let families: &[i32] = match sockets {
        Sockets::Denied => &[],
        Sockets::Unix => &[libc::AF_UNIX],
        Sockets::Internet => &[libc::AF_INET, libc::AF_INET6],
        Sockets::Names => &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK],
    };
    if !families.is_empty() {
        let family = |family: &i32| argument(0, SeccompCmpOp::Eq, u64::from(family.unsigned_abs()));
        rules.insert(SYS_socket, families.iter().map(family).collect::<io::Result<_>>()?);
        rules.extend(NEW_SOCKETS.iter().map(|call| (*call, Vec::new())));
        // A pair is connected to itself alone.
        rules.insert(SYS_socketpair, Vec::new());
    }
    compile(rules).map(Some)
}

/// Returns the filter that allows only these system calls.
fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>) -> io::Result<BpfProgram> {
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter =
        SeccompFilter::new(rules, missing, SeccompAction::Allow, TargetArch::x86_64).map_err(failed)?;
    filter.try_into().map_err(failed)
}

/// Returns a rule for the lower half of an argument, which is all that the kernel uses of these.
fn argument(number: u8, operation: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(number, SeccompCmpArgLen::Dword, operation, value);
    condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(failed)
}

fn failed(error: BackendError) -> io::Error {
    io::Error::other(error)
}
