//! Command line: a Linux machine of your own in seconds.
fn main() {}
