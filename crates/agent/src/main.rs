//! The program inside every guest: init, exec, identity.
fn main() {}
