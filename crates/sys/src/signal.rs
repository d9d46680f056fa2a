//! Converts signal numbers, including those of real-time signals.

use rustix::process::Signal;

/// Returns the signal with this Linux number: 1 to 31, and 34 to 64; the C library reserves 32 and 33.
pub fn signal_of(number: i32) -> Option<Signal> {
    match number {
        1..=31 => Signal::from_named_raw(number),
        // SAFETY: a real-time signal's number, and none that the C library reserves.
        34..=64 => Some(unsafe { Signal::from_raw_unchecked(number) }),
        _ => None,
    }
}
