//! How the C library's allocator behaves.

/// Large buffers are asked of the kernel one by one, and so given back when they are freed; and threads share one heap.
/// For a program that lives long and works little: glibc otherwise keeps what its threads once needed (mallopt(3)).
///
/// Call it before there are threads.
pub fn give_back_early() {
    for (option, value) in [(libc::M_MMAP_THRESHOLD, 64 << 10), (libc::M_ARENA_MAX, 1)] {
        // SAFETY: sets a number in the allocator, which locks it. It fails only for values out of range.
        unsafe { libc::mallopt(option, value) };
    }
}
