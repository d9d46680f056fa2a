//! Settings of the C library's allocator.

/// Makes the allocator return memory early, for programs that run long and work little. It maps large buffers one by
/// one, and so returns them to the kernel when they are freed; and threads share one heap. By default, glibc keeps
/// the memory that its threads once needed (mallopt(3)).
///
/// Call it before any thread starts.
pub fn configure_malloc() {
    for (option, value) in [(libc::M_MMAP_THRESHOLD, 64 << 10), (libc::M_ARENA_MAX, 1)] {
        // SAFETY: sets a number in the allocator, which locks it. It fails only for values out of range.
        unsafe { libc::mallopt(option, value) };
    }
}
